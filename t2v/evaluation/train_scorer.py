"""`t2v scorer`: training of the scorer, and the tests of what it sees."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from t2v.config import ScorerConfig
from t2v.data.buckets import Unfit
from t2v.data.clips import pixels, read_rows, read_shards
from t2v.data.dataset import is_world
from t2v.data.decode import Transform, read_clip
from t2v.data.order import keyed_generator, step_indices
from t2v.errors import UserError
from t2v.evaluation.alignment import hits
from t2v.evaluation.contrast import counterfactual, differs, goes_somewhere, shuffled
from t2v.evaluation.intervals import wilson
from t2v.evaluation.nets import spread
from t2v.evaluation.scorer import FRAMES, SIDE, TOKENS, Scorer, ScorerTowers
from t2v.manifest import read_manifest
from t2v.models.folder import EMBEDDED, embedded_model
from t2v.models.load import load_text
from t2v.settings import save_config

logger = logging.getLogger(__name__)

WRONG_CLIPS = 4  # one in so many clips of a batch is also shown with its frames in disorder
FOOTAGE = Transform(
    fps=8,
    sizes=((SIDE, SIDE),),
    lengths=(5, 9, 13, 17),
    sampling="sparse",
    max_upscale=8,
    max_repeat=8,
)


def train_scorer(config: ScorerConfig) -> str:
    """Train on captioned clips; leaves a scorer folder with `report.json`, returns the report.

    The loss asks of every pair of clip and caption in a batch whether they belong together (Zhai et
    al. 2023, sigmoid). Each caption also comes with one phrase exchanged, and some clips with their
    frames in disorder, as pairs that do not. Most steps look at part of a video's tokens, the last
    ones at all (ViCLIP).

    Raises:
        UserError: there are too few clips, or some have no caption.
    """
    video, captions = read_captioned(config)
    count = len(video) - config.held_out
    if count < config.batch_size:
        raise UserError(
            f"{config.data}: {len(video)} clips less held_out={config.held_out} leave {count}, "
            f"under batch_size={config.batch_size}. Give more clips or smaller numbers."
        )
    scorer = build_scorer(config)
    optimizer = torch.optim.AdamW(scorer.parameters(), lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    bar = tqdm(range(config.steps), unit="step", disable=None)
    for step in bar:
        chosen = step_indices(count, config.batch_size, config.seed, step)
        generator = keyed_generator(config.seed, step, "scorer")
        masked = config.masked if step < config.unmasked_from * config.steps else 0.0
        said = [_one(captions[i], generator) for i in chosen.tolist()]
        loss = batch_loss(scorer, video[chosen], said, masked, generator)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(scorer.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 25 == 0 or step == config.steps - 1:
            bar.set_postfix(loss=f"{loss.item():.3f}")
            if bar.disable:  # no terminal
                logger.info("step %d loss %.3f", step, loss.item())
    scorer.eval().save(config.output)
    save_config(config, Path(config.output) / "config.yaml")
    report = examine(scorer, video[count:], [each[0] for each in captions[count:]], config.seed)
    (Path(config.output) / "report.json").write_text(json.dumps(report, indent=1))
    return told(report)


def build_scorer(config: ScorerConfig) -> Scorer:
    """Fresh towers on the text encoder of `config.text`."""
    folder = embedded_model() if config.text == EMBEDDED else config.text
    tokenizer, encoder = load_text(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        towers = ScorerTowers(
            width=config.width,
            layers=config.layers,
            heads=config.heads,
            dim=config.dim,
            text_dim=encoder.config.hidden_size,
        )
    return Scorer(towers, tokenizer, encoder).train()


def read_captioned(config: ScorerConfig) -> tuple[Tensor, list[tuple[str, ...]]]:
    """At most `config.count` clips of one size, `n t h w c` uint8, and the captions of each.

    Raises:
        UserError: no such data, or clips without captions.
    """
    if is_world(config.data):
        rows, shards, read = read_rows(config.data)[: config.count], [], 0
        for shard, _ in read_shards(config.data):
            shards.append(shard[: config.count - read])
            read += len(shards[-1])
            if read == config.count:
                break
        return torch.cat(shards), [tuple(row["captions"]) for row in rows]
    clips = [clip for clip in read_manifest(config.data) if not clip.dropped][: config.count]
    if mute := [clip.path for clip in clips if not clip.texts()]:
        raise UserError(f"{mute[0]}: has no caption, like {len(mute) - 1} more of {config.data}.")
    videos, captions = [], []
    for clip in tqdm(clips, unit="clip", disable=None):
        try:
            frames = torch.from_numpy(read_clip(clip, FOOTAGE))
        except Unfit as reason:
            logger.warning("%s is left out: %s", clip.path, reason)
            continue
        if len(frames) == 1:
            raise UserError(f"{clip.path}: is a picture. Give videos only.")
        videos.append(spread(frames[None], FRAMES)[0])
        captions.append(clip.texts())
    if not videos:
        raise UserError(f"{config.data}: none of its {len(clips)} clips can be used.")
    return torch.stack(videos), captions


def _one(captions: tuple[str, ...], generator: torch.Generator) -> str:
    return captions[int(torch.randint(len(captions), (), generator=generator))]


def batch_loss(
    scorer: Scorer, video: Tensor, captions: list[str], masked: float, generator: torch.Generator
) -> Tensor:
    """The sigmoid loss of a batch, a sum over pairs divided by its clips.

    Args:
        video: `b t h w c`, uint8.
        captions: one for each clip; pairs of a clip with an equal caption of another do not count.
        masked: the share of tokens left out.
    """
    wrong = [counterfactual(text, generator) for text in captions]
    swapped = [i for i, text in enumerate(wrong) if text is not None]
    texts = [*captions, *(text for text in wrong if text is not None)]
    few = video[:: min(WRONG_CLIPS, len(video))]
    mixed = shuffled(few, generator)
    changed = differs(few, mixed).nonzero().squeeze(1)
    clips = torch.cat((video, mixed[changed]))
    keep = None
    if masked:
        kept = max(1, round(TOKENS * (1 - masked)))
        keep = torch.rand(len(clips), TOKENS, generator=generator).argsort(1)[:, :kept]
    with torch.autocast("cpu", torch.bfloat16):
        seen = scorer.towers.see(pixels(clips), keep)
        said = scorer.read(texts)
    logits = scorer.towers.logits(seen.float(), said.float())
    n = len(captions)
    same = torch.tensor([[one == other for other in captions] for one in captions])
    sign = torch.full((n, n), -1.0).masked_fill(same, 0).fill_diagonal_(1)
    loss = -(F.logsigmoid(sign * logits[:n, :n]) * sign.abs()).sum()
    rows = torch.arange(0, n, min(WRONG_CLIPS, n))[changed]
    loss = loss - F.logsigmoid(-logits[n + torch.arange(len(rows)), rows]).sum()
    hard = logits[torch.tensor(swapped, dtype=torch.long), n + torch.arange(len(swapped))]
    return (loss - F.logsigmoid(-hard).sum()) / n


def examine(scorer: Scorer, video: Tensor, captions: list[str], seed: int) -> dict[str, Any]:
    """What the scorer tells apart on clips it did not learn from; chance is 50 % but for R@k.

    R@1 and R@5 both ways; the share of clips whose own caption beats it with one phrase exchanged
    (`counterfactual`, of any kind; `motion_swap`, the motion), and whose clip beats itself with its
    frames in disorder (`shuffle`) or backwards (`reverse`, motions that go somewhere).

    Args:
        video: `n t h w c`, uint8.
    """
    generator = keyed_generator(seed, "examine")
    own = scorer.score(video, captions)
    with torch.inference_mode():
        seen = torch.cat([scorer.towers.see(pixels(chunk)) for chunk in video.split(32)])
        table = scorer.read(captions) @ seen.mT
    report: dict[str, Any] = {"n": len(video)}
    for name, scores in (("video", table), ("text", table.mT)):
        for k in (1, 5):
            found = hits(scores, tuple(captions), k)
            report[f"{name}_r{k}"] = _share(found.bool()) | {"chance": k / len(video)}
    for name, kinds in (("counterfactual", None), ("motion_swap", ("motion",))):
        wrong = [counterfactual(text, generator, kinds) for text in captions]
        asked = torch.tensor([i for i, text in enumerate(wrong) if text is not None]).long()
        texts = [text for text in wrong if text is not None]
        beaten = own[asked] > scorer.score(video[asked], texts) if len(texts) else asked.bool()
        report[name] = _share(beaten) | {"chance": 0.5}
    moves = torch.tensor(
        [counterfactual(text, generator, ("motion",)) is not None for text in captions]
    )
    there = torch.tensor([goes_somewhere(text) for text in captions])
    for name, other, asked in (
        ("shuffle", shuffled(video, generator), moves),
        ("reverse", video.flip(1), there),
    ):
        asked = asked & differs(video, other)
        report[name] = _share((own > scorer.score(other, captions))[asked]) | {"chance": 0.5}
    return report


def _share(right: Tensor) -> dict[str, float | int | None]:
    n = len(right)
    if n == 0:
        return {"share": None, "low": None, "high": None, "n": 0}
    low, high = wilson(int(right.sum()), n)
    return {"share": right.float().mean().item(), "low": low, "high": high, "n": n}


def told(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
    lines = ["| test | right, % | chance, % | n |", "| --- | --- | --- | --- |"]
    for name, each in report.items():
        if isinstance(each, dict) and each["share"] is not None:
            share, low, high, chance = (
                100 * each[key] for key in ("share", "low", "high", "chance")
            )
            lines.append(
                f"| {name} | {share:.1f} [{low:.0f}, {high:.0f}] | {chance:.1f} | {each['n']} |"
            )
    return "\n".join(lines) + "\n"
