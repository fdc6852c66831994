"""The benchmark of a scorer on clips it was not trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2v.curation.shares import wilson
from t2v.data.rng import keyed_generator
from t2v.evaluation.foils import TIME_KINDS, foil, has_direction, restated
from t2v.evaluation.hard_negatives import (
    KINDS,
    MOVES,
    counterfactual,
    differs,
    meaning,
    moves,
    shuffled,
)
from t2v.evaluation.metrics.alignment import RANKS, hits
from t2v.nets.scorer import Scorer

GALLERY = 256  # clips among which the right one is searched


@torch.inference_mode()
def benchmark(scorer: Scorer, video: Tensor, captions: Sequence[str], seed: int) -> dict[str, Any]:
    """Return the shares of clips that a scorer gets right, each with a 95 % interval, n and chance.

    `video_r1`, ...: the clip of a caption (the caption of a clip: `text_r1`) is the best of its
    gallery of `GALLERY`; the ceiling allows for captions that mean the same. `counterfactual`: the
    caption beats itself with one phrase exchanged, of any kind and of each. `time_tests` come where
    a caption has what they ask. `shuffle`, `reverse`:
    the clip beats itself with its frames shuffled or reversed, where the two look different and
    the caption describes motion; for `reverse`, motion that is false of the reversed clip (a thing
    that bounces or spins does so backwards too).

    Args:
        video: `n t h w c`, uint8, clips that the scorer was not trained on.
    """
    videos, texts = scorer.embed_video(video).squeeze(1).cpu(), scorer.embed_text(captions).cpu()
    own = (videos * texts).sum(-1)
    report: dict[str, Any] = {"n": len(video)} | _retrieval(videos, texts, captions)
    report |= time_tests(scorer, videos, captions, seed)
    for name, kinds in [("counterfactual", KINDS), *((kind, (kind,)) for kind in KINDS)]:
        generator = keyed_generator(seed, "examine", name)  # a key: other words, other captions
        wrong = [counterfactual(text, generator, kinds) for text in captions]
        asked = [i for i, text in enumerate(wrong) if text is not None]
        beaten = torch.tensor([], dtype=torch.bool)
        if asked:
            others = scorer.embed_text([text for text in wrong if text is not None]).cpu()
            beaten = own[asked] > (videos[asked] * others).sum(-1)
        name = name if kinds is KINDS else f"counterfactual: {name}"
        report[name] = share(beaten) | {"chance": 0.5}
    directed = torch.tensor([has_direction(caption) for caption in captions])
    moving = torch.tensor([bool(moves(caption)) for caption in captions])
    mixed = shuffled(video, keyed_generator(seed, "examine", "shuffle"))
    for test, other, applies in (
        ("shuffle", mixed, moving),
        ("reverse", video.flip(1), directed),
    ):
        fair = applies & differs(video, other)
        beaten = own > (scorer.embed_video(other).squeeze(1).cpu() * texts).sum(-1)
        report[test] = share(beaten[fair]) | {"chance": 0.5}
        for group, names in MOVES.items():
            of_group = torch.tensor([bool(moves(caption) & set(names)) for caption in captions])
            report[f"{test}: {group}"] = share(beaten[fair & of_group]) | {"chance": 0.5}
    return report


@torch.inference_mode()
def time_tests(
    scorer: Scorer, videos: Tensor, captions: Sequence[str], seed: int
) -> dict[str, dict[str, float | int | None]]:
    """Return how often captions beat their foils of time, `foil: KIND`, of each kind that applies.

    `blind: KIND` is the same with another clip, the next one that is asked: chance is .5, and what
    is above it the scorer has from the text alone. Orders are told in any way that is true.

    Args:
        videos: `n d`, unit vectors of the clips of the captions.
    """
    report = {}
    for kind in TIME_KINDS:
        generator = keyed_generator(seed, "examine", kind)
        right = [restated(text, generator) for text in captions]
        wrong = [foil(text, kind, generator) for text in right]
        asked = [i for i, text in enumerate(wrong) if text is not None]
        if not asked:
            continue
        true = scorer.embed_text([right[i] for i in asked]).cpu()
        false = scorer.embed_text([text for text in wrong if text is not None]).cpu()
        margin = videos[asked] @ (true - false).mT  # clips by pairs of texts
        report[f"foil: {kind}"] = share(margin.diagonal() > 0) | {"chance": 0.5}
        if len(asked) > 1:
            other = margin.roll(-1, 0).diagonal()
            report[f"blind: {kind}"] = share(other > 0) | {"chance": 0.5}
    return report


def _retrieval(videos: Tensor, texts: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """R@k both ways; clips at the end that do not fill a gallery are left out."""
    size = min(GALLERY, len(videos))
    names = tuple(map(str, range(size)))  # all different: even an equal caption is a rival,
    found: dict[str, list[Tensor]] = {}  # and the ceiling allows for it
    same: list[int] = []
    for first in range(0, len(videos) - size + 1, size):
        span = slice(first, first + size)
        table = texts[span] @ videos[span].mT
        for name, scores in (("video", table), ("text", table.mT)):
            for k in RANKS:
                found.setdefault(f"{name}_r{k}", []).append(hits(scores, names, k))
        meanings = [meaning(caption) for caption in captions[span]]
        same += [Counter(meanings)[each] for each in meanings]
    return {
        name: share(torch.cat(right).bool())
        | {
            "chance": min(1.0, int(name[-1]) / size),
            "ceiling": sum(min(1.0, int(name[-1]) / n) for n in same) / len(same),
        }
        for name, right in found.items()
    }


def share(right: Tensor) -> dict[str, float | int | None]:
    """Return the share of `n` right answers, with Wilson's interval; None where there are none."""
    n = len(right)
    if n == 0:
        return {"share": None, "low": None, "high": None, "n": 0}
    low, high = wilson(int(right.sum()), n)
    return {"share": right.float().mean().item(), "low": low, "high": high, "n": n}


def benchmark_table(report: dict[str, Any]) -> str:
    """Return the report of `benchmark` as a Markdown table."""
    lines = ["| test | right, % | chance, % | ceiling, % | n |", "| --- | --- | --- | --- | --- |"]
    for name, each in report.items():
        if isinstance(each, dict) and each["share"] is not None:
            right, low, high, chance, ceiling = (
                100 * each.get(key, 1.0) for key in ("share", "low", "high", "chance", "ceiling")
            )
            lines.append(
                f"| {name} | {right:.1f} [{low:.1f}, {high:.1f}] | {chance:.1f} | {ceiling:.1f} "
                f"| {each['n']} |"
            )
    return "\n".join(lines) + "\n"
