"""Training a captioner of videos."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerFast
from transformers.modeling_outputs import BaseModelOutput

from t2v.config.captioner import CaptionerConfig
from t2v.data.cache import weights_digest
from t2v.data.rng import keyed_generator, step_indices
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.evaluation.captioned import Captioned
from t2v.evaluation.captioner_benchmark import benchmark, benchmark_table
from t2v.io.progress import progress
from t2v.io.shipped import shipped
from t2v.io.video import contact_sheet
from t2v.io.words import content_words, overlap
from t2v.models.device import pick_device, sent
from t2v.nets.captioner import PART, Captioner
from t2v.nets.sentences import SentenceEncoder
from t2v.nets.video_tower import (
    VideoTower,
    build_captioner,
    build_processor,
    build_tokenizer,
    load_tower,
)
from t2v.training.engine.example import Size
from t2v.training.engine.loop import autocast
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.significance import HELD_OUT, TRAINING
from t2v.training.engine.task import SHEET_FRAMES, ParameterGroup, Validation
from t2v.training.tasks.captioned import train_on_captioned
from t2v.world.grammar import pick

VALIDATED = 128  # clips
SHEET_CLIPS = 6
CHUNK = 32  # clips that are described, or looked at for the last time, at once
UNREAD = -100  # a token that the loss passes over


class CaptionerBatch(NamedTuple):
    """Clips, as they are or as the tower sees them, and the tokens of a caption of each."""

    seen: Tensor  # b t h w c uint8, or b j d
    tokens: Tensor  # b m
    mask: Tensor  # b m, 1 where there is text


@dataclass(frozen=True)
class Seen:
    """Clips, and what the network is given of them: their frames, or what the tower sees."""

    clips: Captioned
    given: Tensor  # n t h w c uint8, or n j d

    def __len__(self) -> int:
        return len(self.given)


def train_captioner(config: CaptionerConfig) -> str:
    """Train on captioned clips and test; the report, also in `report.json` in `config.output`.

    Every checkpoint holds `captioner/`, a folder that transformers, `caption.authors=[model:...]`
    and `captioner=` load.

    Raises:
        UserError: there are too few clips, some have no caption, or what `run` raises.
    """
    report = train_on_captioned(config, build_task, _tested, (PART,))
    return benchmark_table(report) if report else ""


def _tested(config: CaptionerConfig, checkpoint: Path, test: Captioned) -> dict[str, Any]:
    folder = checkpoint / PART
    device = str(pick_device(config.device))
    saved = Captioner(str(folder), device, f"output={folder}")
    said = [
        text
        for chunk in progress(test.video.split(CHUNK), "describe", "batches")
        for text in describe(
            saved.model,
            saved.processor.tokenizer,
            {"pixel_values": _shown(sent(chunk, saved.model.device))},
            config.model.max_tokens,
        )
    ]
    sentences = SentenceEncoder(config.sentences, device) if config.sentences else None
    return {"captioner": str(folder), **benchmark(said, test.captions, config.seed, sentences)}


def build_task(config: CaptionerConfig, data: Captioned) -> CaptionerTask:
    """The task of `config`, with a new decoder on the tower of its encoder.

    Raises:
        UserError: the encoder is no scorer, or see `CaptionerTask`.
    """
    place = shipped(config.encoder, "towers/config.json") or config.encoder
    tower = load_tower(str(place))
    count = max(0, len(data.captions) - config.held_out)
    texts = (text for captions in data.captions[:count] for text in captions)
    sizes = config.model
    tokenizer = build_tokenizer(texts, sizes.vocabulary, sizes.max_tokens)
    return CaptionerTask(config, tower, tokenizer, data)


class CaptionerTask:
    """Say each next word of a clip's caption, from what a video tower sees and the words before.

    CLIP4Caption (arXiv 2110.06615): the tower has learned beforehand which text belongs to which
    video. It is kept as it is, and what it sees is computed once, unless `encoder_lr` is given.
    """

    attention: str | None = None
    leaves_unused = False

    def __init__(
        self,
        config: CaptionerConfig,
        tower: VideoTower,
        tokenizer: PreTrainedTokenizerFast,
        data: Captioned,
    ) -> None:
        self.config, self.tokenizer = config, tokenizer
        count = len(data.video) - config.held_out
        if count < config.batch_size:
            raise UserError(
                f"{config.data}: {len(data.video)} clips less held_out={config.held_out} leave "
                f"{count}, under batch_size={config.batch_size}. Give more clips or smaller "
                "numbers."
            )
        self.longest = _check_lengths(config, tokenizer, data)
        self.trained, self.held_out = (
            Seen(part, part.video) for part in (data[:count], data[count:])
        )
        captions = hashlib.sha256(repr(data.captions).encode())
        self.sources = {"captions": captions.hexdigest()[:16], "encoder": weights_digest(tower)}
        self.captioner = build_captioner(tower, tokenizer, config.model, config.seed)
        self.model: nn.Module = self.captioner
        self.captioner.encoder.requires_grad_(config.encoder_lr > 0)
        self.parts = {PART: self.captioner}

    def prepare(self) -> None:
        """See all clips once, where the tower is kept as it is."""
        if self.config.encoder_lr == 0:
            self.trained, self.held_out = (
                Seen(part.clips, self._look(part.clips.video))
                for part in (self.trained, self.held_out)
            )

    @torch.no_grad()
    def _look(self, video: Tensor) -> Tensor:
        device = pick_device(self.config.device)
        encoder = self.captioner.encoder.to(device).eval()
        chunks = progress(video.split(CHUNK), "see", "batches", -(-len(video) // CHUNK))
        with autocast(self.config):
            found = [encoder(_shown(sent(each, device))).last_hidden_state.cpu() for each in chunks]
        return torch.cat(found).float()

    def parameter_groups(self) -> list[ParameterGroup]:
        optim, named = self.config.optim, dict(self.model.named_parameters())
        tower = {name: p for name, p in named.items() if name.startswith("encoder.")}
        groups = split_parameters(
            {name: p for name, p in named.items() if name not in tower},
            optim,
            is_matrix=lambda name: ".h." in name,
        )
        if self.config.encoder_lr:
            groups.append(ParameterGroup(tower, "adamw", self.config.encoder_lr))
        return groups

    def sample_bytes(self) -> int:
        """The clip as it is shown, or as it is seen."""
        if self.config.encoder_lr:
            return 4 * self.trained.given[0].numel()
        return 4 * self.longest * self.config.model.width

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> CaptionerBatch:
        """Clips in the epoch's order, each with one of its captions."""
        config = self.config
        chosen = step_indices(
            len(self.trained), config.batch_size, config.seed, step, rank, world_size
        )
        generator = keyed_generator(config.seed, step, rank, "captions")
        texts = [pick(self.trained.clips.captions[i], generator) for i in chosen.tolist()]
        return self._batch(self.trained, chosen, texts)

    def _batch(self, part: Seen, chosen: Tensor, texts: Sequence[str]) -> CaptionerBatch:
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        return CaptionerBatch(part.given[chosen], tokens.input_ids, tokens.attention_mask)

    def place(self, batch: CaptionerBatch) -> CaptionerBatch:
        device = pick_device(self.config.device)
        return CaptionerBatch(*(sent(each, device) for each in batch))

    def example_batch(self, size: Size) -> CaptionerBatch:
        """Black clips with captions of two marks."""
        shape = size.batch, size.frames, size.height, size.width, 3
        tokens = self.tokenizer([""] * size.batch, return_tensors="pt")
        video = torch.zeros(shape, dtype=torch.uint8)
        return self.place(CaptionerBatch(video, tokens.input_ids, tokens.attention_mask))

    def loss(
        self, batch: CaptionerBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        losses = self.losses(batch)
        return losses.mean(), {}

    def losses(self, batch: CaptionerBatch) -> Tensor:
        """The mean cross-entropy of the tokens of each caption, `b`."""
        with autocast(self.config):
            logits = self.model(
                **self._given(batch.seen),
                decoder_input_ids=batch.tokens[:, :-1],
                decoder_attention_mask=batch.mask[:, :-1],
            ).logits
        wanted = batch.tokens[:, 1:].masked_fill(batch.mask[:, 1:] == 0, UNREAD)
        each = F.cross_entropy(
            rearrange(logits.float(), "b m v -> b v m"), wanted, reduction="none"
        )
        return each.sum(1) / batch.mask[:, 1:].sum(1)

    def _given(self, seen: Tensor) -> dict[str, Any]:
        """The arguments of the captioner for clips as they are, or as the tower sees them."""
        if seen.dtype == torch.uint8:
            return {"pixel_values": _shown(seen)}
        return {"encoder_outputs": BaseModelOutput(last_hidden_state=seen)}

    @torch.no_grad()
    def validate(self) -> Validation:
        """The F1 of words of some held-out clips' captions, and a sheet of those that fit worst."""
        self.model.eval()
        clips = self.held_out.clips
        count = min(VALIDATED, len(self.held_out))
        said = self._said(self.held_out, count)
        truth = [each[0] for each in clips.captions[:count]]
        pairs = zip(said, truth, strict=True)
        fits = torch.tensor([overlap(content_words(a), content_words(b)) for a, b in pairs])
        losses = {
            HELD_OUT: self._losses_of(self.held_out, count),
            TRAINING: self._losses_of(self.trained, count),
        }
        self.model.train()
        figures = {"val_loss": losses[HELD_OUT].mean().item(), "val_words": fits.mean().item()}
        worst = fits.argsort()[:SHEET_CLIPS]
        sheet = contact_sheet(clips.video[worst].numpy(), columns=SHEET_FRAMES)
        return Validation(figures, sheet, losses)

    def _said(self, part: Seen, count: int) -> list[str]:
        said = []
        for chosen in torch.arange(count).split(CHUNK):
            batch = self.place(self._batch(part, chosen, [""] * len(chosen)))
            given = self._given(batch.seen)
            said += describe(self.captioner, self.tokenizer, given, self.longest)
        return said

    def _losses_of(self, part: Seen, count: int) -> Tensor:
        found = []
        for chosen in torch.arange(min(count, len(part))).split(CHUNK):
            texts = [part.clips.captions[i][0] for i in chosen.tolist()]
            found.append(self.losses(self.place(self._batch(part, chosen, texts))).cpu())
        return torch.cat(found)

    def save(self, folder: Path) -> None:
        """Write `captioner/`, with what prepares frames and words."""
        self.captioner.save_pretrained(folder / PART)
        build_processor(self.tokenizer).save_pretrained(str(folder / PART))


@torch.no_grad()
def describe(
    captioner: Any, tokenizer: PreTrainedTokenizerFast, given: dict[str, Any], max_length: int
) -> list[str]:
    """Return a caption of each clip, by the likeliest word each time.

    Args:
        given: `pixel_values`, `b t c h w` in [-1, 1], or `encoder_outputs`.
        max_length: most tokens of a caption, with the mark at its beginning.
    """
    tokens = captioner.generate(**given, max_length=max_length, do_sample=False)
    return [text.strip() for text in tokenizer.batch_decode(tokens, skip_special_tokens=True)]


def _shown(video: Tensor) -> Tensor:
    """Frames `b t h w c` uint8 as the tower is given them, `b t c h w` in [-1, 1]."""
    return rearrange(pixels(video), "b c t h w -> b t c h w")


def _check_lengths(
    config: CaptionerConfig, tokenizer: PreTrainedTokenizerFast, data: Captioned
) -> int:
    """Return the tokens of the longest caption.

    Raises:
        UserError: it is longer than the decoder takes.
    """
    texts = [text for captions in data.captions for text in captions]
    lengths = [len(each) for each in tokenizer(texts)["input_ids"]]
    longest = max(lengths)
    if longest > config.model.max_tokens:
        text = texts[lengths.index(longest)]
        raise UserError(
            f"{config.data}: a caption has {longest} tokens, and model.max_tokens="
            f"{config.model.max_tokens} ({text[:60]!r}...). Shorten it, or give model.max_tokens="
            f"{longest}."
        )
    return longest
