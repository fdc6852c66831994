"""Training a CLIP-style video-text scorer."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence, Set
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.config.scorer import ScorerConfig
from t2v.data.rng import keyed_generator, step_indices
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.evaluation.captioned import Captioned
from t2v.evaluation.foils import TIME_KINDS, foil, has_direction, restated
from t2v.evaluation.hard_negatives import counterfactual, differs, meaning, rests, shuffled
from t2v.evaluation.scorer_benchmark import benchmark, benchmark_table
from t2v.io.video import contact_sheet
from t2v.models.device import pick_device, sent
from t2v.models.folder import EMBEDDED, embedded_model
from t2v.models.load import load_text
from t2v.nets.scorer import TOKENS, Scorer, ScorerTowers, load_scorer
from t2v.training.engine.example import Size
from t2v.training.engine.loop import autocast
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.significance import HELD_OUT, TRAINING
from t2v.training.engine.task import SHEET_FRAMES, ParameterGroup, Validation
from t2v.training.tasks.captioned import train_on_captioned
from t2v.world.grammar import pick

VALIDATED = 256  # clips of each kind
SHEET_CLIPS = 6
PARTS = ("towers", "text_encoder")


class ScorerBatch(NamedTuple):
    """Clips, one caption of each, and the shares of tokens and words left out."""

    video: Tensor  # b t h w c, uint8
    captions: list[str]
    masked: float
    masked_words: float = 0.0
    rejected: tuple[tuple[str, ...], ...] = ()  # candidates of each clip that were not taken


def train_scorer(config: ScorerConfig) -> str:
    """Train on captioned clips and test; the report, also in `report.json` in `config.output`.

    Every checkpoint is a scorer folder.

    Raises:
        UserError: there are too few clips, some have no caption, or what `run` raises.
    """
    report = train_on_captioned(config, build_task, _tested, PARTS)
    return benchmark_table(report) if report else ""


def _tested(config: ScorerConfig, checkpoint: Path, test: Captioned) -> dict[str, Any]:
    scorer, captions = load_scorer(str(checkpoint)), [each[0] for each in test.captions]
    return {"scorer": str(checkpoint), **benchmark(scorer, test.video, captions, config.seed)}


def build_task(config: ScorerConfig, data: Captioned) -> ScorerTask:
    """The task of `config`, with a new scorer."""
    return ScorerTask(config, build_scorer(config), data)


class ScorerTask:
    """Say of every pair of clip and caption in a batch whether they belong together (Zhai et al.
    2023, SigLIP, arXiv 2303.15343).

    Each caption must also beat itself with one phrase exchanged, and candidates of its clip that
    were not taken, and some clips themselves in
    disorder or backwards. Most steps attend to a part of a video's tokens, the last ones to all of
    them (InternVid's ViCLIP, arXiv 2307.06942).
    """

    attention: str | None = None
    leaves_unused = False

    def __init__(self, config: ScorerConfig, scorer: Scorer, data: Captioned) -> None:
        self.config = config
        count = len(data.video) - config.held_out
        if count < config.batch_size:
            raise UserError(
                f"{config.data}: {len(data.video)} clips less held_out={config.held_out} leave "
                f"{count}, under batch_size={config.batch_size}. Give more clips or smaller "
                "numbers."
            )
        self.trained, self.held_out = data[:count], data[count:]
        digest = hashlib.sha256(repr(data.captions).encode())
        self.sources = {"captions": digest.hexdigest()[:16]}
        self.model = scorer
        self.model.encoder.requires_grad_(config.text_lr > 0)
        self.model.towers.stem.requires_grad_(config.train_stem)
        self.parts = dict(zip(PARTS, (self.model.towers, self.model.encoder), strict=True))

    def prepare(self) -> None:
        """Nothing is made of frozen weights."""

    def parameter_groups(self) -> list[ParameterGroup]:
        optim, named = self.config.optim, dict(self.model.named_parameters())
        text = {name: p for name, p in named.items() if name.startswith("encoder.")}
        logit = {name: named[name] for name in ("towers.scale", "towers.bias")}
        groups = split_parameters(
            {name: p for name, p in named.items() if name not in text | logit},
            optim,
            is_matrix=lambda name: ".stem." in name or ".blocks." in name,
        )
        # scale and bias have a long way to go, and AdamW steps of one size
        groups.append(ParameterGroup(logit, "adamw", 10 * optim.adam_lr))
        if self.config.text_lr:
            groups.append(ParameterGroup(text, "adamw", self.config.text_lr))
        return groups

    def sample_bytes(self) -> int:
        """The clip, shown as it is."""
        return 4 * self.trained.video[0].numel()

    def place(self, batch: ScorerBatch) -> ScorerBatch:
        """The batch as it is: the loss exchanges frames and captions before it sends them."""
        return batch

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> ScorerBatch:
        """Clips in the epoch's order, each with one of its captions, the order of events in it
        told in any way."""
        config = self.config
        chosen = step_indices(
            len(self.trained.video), config.batch_size, config.seed, step, rank, world_size
        )
        generator = keyed_generator(config.seed, step, rank, "captions")
        captions = [
            restated(pick(self.trained.captions[i], generator), generator) for i in chosen.tolist()
        ]
        is_masked = step < config.unmasked_from * config.steps
        masks = (config.masked, config.masked_words) if is_masked else (0.0, 0.0)
        rejected = tuple(self.trained.rejected[i] for i in chosen.tolist() if self.trained.rejected)
        return ScorerBatch(self.trained.video[chosen], captions, *masks, rejected)

    def example_batch(self, size: Size) -> ScorerBatch:
        """Black clips with empty captions."""
        shape = size.batch, size.frames, size.height, size.width, 3
        return ScorerBatch(torch.zeros(shape, dtype=torch.uint8), [""] * size.batch, 0.0)

    def loss(
        self, batch: ScorerBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        means = {name: each.mean() for name, each in self.losses(batch, generator).items()}
        metrics = {f"loss_{name}": mean.detach() for name, mean in means.items()}
        return torch.stack(list(means.values())).sum(), metrics

    def losses(self, batch: ScorerBatch, generator: torch.Generator) -> dict[str, Tensor]:
        """The loss of each clip of a batch: of `pairs`, wrong `captions` and wrong `clips`.

        Pairs of a clip with another caption that means the same do not count.
        """
        config, scorer, captions = self.config, self.model, batch.captions
        device = pick_device(config.device)
        video, n = batch.video, len(batch.video)
        wrong = [
            (i, text)
            for i, caption in enumerate(captions)
            for text in _wrong_captions(caption, batch.rejected[i : i + 1], config, generator)
        ]
        rows, mixed = wrong_clips(video, captions, config.wrong_clips, generator)
        shown = torch.cat((video, mixed))
        keep = None
        if batch.masked:
            kept = max(1, round(TOKENS * (1 - batch.masked)))
            keep = torch.rand(len(shown), TOKENS, generator=generator).argsort(1)[:, :kept]
            keep = sent(keep, device)
        with autocast(config):
            videos = scorer.towers.embed_video(pixels(sent(shown, device)), keep).float()
            texts = scorer.embed_text(_shown_texts(batch, wrong, generator)).float()
        logits = scorer.towers.logits(videos, texts)
        meanings = [meaning(caption) for caption in captions]
        same = torch.tensor([[one == other for other in meanings] for one in meanings])
        sign = torch.full((n, n), -1.0).masked_fill(same, 0).fill_diagonal_(1)
        sign = sent(sign, device)
        pairs = -(F.logsigmoid(sign * logits[:n, :n]) * sign.abs()).sum(1)
        of = sent(torch.tensor([i for i, _ in wrong], dtype=torch.long), device)
        rows, own = sent(rows, device), logits.diagonal()
        exchanged = -F.logsigmoid(own[of] - logits[of, n + torch.arange(len(of), device=device)])
        behind = n + torch.arange(len(rows), device=device)
        disordered = -F.logsigmoid(own[rows] - logits[behind, rows])
        return {
            "pairs": pairs,
            "captions": torch.zeros_like(pairs).index_add(0, of, exchanged),
            "clips": torch.zeros_like(pairs).index_add(0, rows, disordered),
        }

    @torch.no_grad()
    def validate(self) -> Validation:
        """The `benchmark` of some held-out clips, and a sheet of those that fit worst."""
        clips = self.held_out[:VALIDATED]
        captions = [each[0] for each in clips.captions]
        self.model.eval()
        report = benchmark(self.model, clips.video, captions, self.config.seed)
        worst = self.model.score(clips.video, captions).argsort()[:SHEET_CLIPS]
        losses = {
            HELD_OUT: self._losses_of(clips),
            TRAINING: self._losses_of(self.trained[: len(captions)]),
        }
        self.model.train()
        figures = {"val_loss": losses[HELD_OUT].mean().item()}
        figures |= {
            f"val_{name}": report[name]["share"]
            for name in ("video_r1", "counterfactual", "shuffle", "reverse")
            if report[name]["n"]
        }
        sheet = contact_sheet(clips.video[worst.cpu()].numpy(), columns=SHEET_FRAMES)
        return Validation(figures, sheet, losses)

    def _losses_of(self, clips: Captioned) -> Tensor:
        found = []
        for first in range(0, len(clips.video), self.config.batch_size):
            part = clips[first : first + self.config.batch_size]
            batch = ScorerBatch(part.video, [each[0] for each in part.captions], 0.0)
            generator = keyed_generator(self.config.seed, first, "validation")
            found.append(torch.stack(list(self.losses(batch, generator).values())).sum(0))
        return torch.cat(found).cpu()

    def save(self, folder: Path) -> None:
        self.model.save(folder)


def _wrong_captions(
    caption: str,
    rejected: Sequence[tuple[str, ...]],
    config: ScorerConfig,
    generator: torch.Generator,
) -> list[str]:
    """Captions that are wrong of a clip, at most `wrong_captions`: candidates that were not taken
    first (Panda-70M, arXiv 2402.19479), then its caption with one phrase exchanged; where there are
    foils of time, every second one is of these."""
    known = [text for texts in rejected for text in texts]
    order = torch.randperm(len(known), generator=generator).tolist() if known else []
    found = [known[i] for i in order[: config.wrong_captions]]
    for number in range(config.wrong_captions - len(found)):
        text = _untimely(caption, generator) if number % 2 == 0 else None
        if (text := text or counterfactual(caption, generator)) is not None:
            found.append(text)
    return found


def _untimely(caption: str, generator: torch.Generator) -> str | None:
    """A foil of time of any kind that the caption has."""
    foils = [text for kind in TIME_KINDS if (text := foil(caption, kind, generator))]
    return pick(foils, generator) if foils else None


def _shown_texts(
    batch: ScorerBatch, wrong: Sequence[tuple[int, str]], generator: torch.Generator
) -> list[str]:
    """The captions of a batch, and wrong ones with the clips they are wrong of, as they are read.

    Where words are left out (SimVTP's text masks, arXiv 2212.03490), what makes a caption wrong
    stays: without it nobody could tell, and length alone would if only true ones were cut.
    """
    if not batch.masked_words:
        return [*batch.captions, *(text for _, text in wrong)]
    share = batch.masked_words
    own = [set(caption.split()) for caption in batch.captions]
    shown = [fewer_words(caption, share, generator) for caption in batch.captions]
    return shown + [
        fewer_words(text, share, generator, set(text.split()) - own[i]) for i, text in wrong
    ]


def fewer_words(
    text: str, share: float, generator: torch.Generator, spared: Set[str] = frozenset()
) -> str:
    """A text without a share of its words, in their order; at least one is left.

    Args:
        spared: words that stay.
    """
    words = text.split()
    kept = (torch.rand(len(words), generator=generator) >= share).tolist()
    chosen = [word for word, keep in zip(words, kept, strict=True) if keep or word in spared]
    return " ".join(chosen or words[:1])


def build_scorer(config: ScorerConfig) -> Scorer:
    """Fresh towers on the text encoder of `config.text`."""
    folder = embedded_model() if config.text == EMBEDDED else config.text
    tokenizer, encoder = load_text(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        towers = ScorerTowers(**asdict(config.model), text_dim=encoder.config.hidden_size)
    return Scorer(towers, tokenizer, encoder.float()).train()


def wrong_clips(
    video: Tensor, captions: Sequence[str], ratio: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """The first `ratio` of some clips with their frames in disorder; half of those whose caption is
    false of it backwards (HiTeA's shuffling test, arXiv 2212.14546, used for training).

    Returns:
        Which clips these are, `k`, and their frames, `k t h w c`; without those that look the same
        or whose captions describe rest.
    """
    count = math.ceil(ratio * len(video))
    few = video[:count]
    backwards = torch.rand(count, generator=generator) < 0.5
    backwards &= torch.tensor([has_direction(caption) for caption in captions[:count]])
    mixed = torch.where(
        rearrange(backwards, "k -> k 1 1 1 1"), few.flip(1), shuffled(few, generator)
    )
    usable = differs(few, mixed) & ~torch.tensor([rests(caption) for caption in captions[:count]])
    rows = usable.nonzero().squeeze(1)
    return rows, mixed[rows]
