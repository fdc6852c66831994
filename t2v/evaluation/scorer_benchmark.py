"""What a scorer tells apart on clips it did not learn from, each figure with its interval."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2v.data.rng import keyed_generator
from t2v.evaluation.hard_negatives import (
    KINDS,
    MOVES,
    counterfactual,
    differs,
    goes_somewhere,
    meaning,
    moves,
    shuffled,
)
from t2v.evaluation.intervals import wilson
from t2v.evaluation.metrics.alignment import RANKS, hits
from t2v.nets.scorer import Scorer

GALLERY = 256  # clips among which the own one is sought


@torch.inference_mode()
def examine(scorer: Scorer, video: Tensor, captions: Sequence[str], seed: int) -> dict[str, Any]:
    """Shares of clips that the scorer gets right, each with a 95 % interval, n and chance.

    `video_r1`, ...: the clip of a caption (the caption of a clip: `text_r1`) is the best of its
    gallery of `GALLERY`; the ceiling is what can be had where several captions mean the same.
    `counterfactual`: the caption beats itself with one phrase exchanged, of any kind and of each.
    `shuffle`, `reverse`: the clip beats itself with its frames in disorder, or backwards. Only
    captions are asked that tell of motion, `reverse` those that are false of the reversed clip (a
    thing that bounces or spins does so backwards too); and clips that look different.

    Args:
        video: `n t h w c`, uint8.
    """
    seen, said = scorer.embed_video(video).squeeze(1).cpu(), scorer.embed_text(captions).cpu()
    own = (seen * said).sum(-1)
    report: dict[str, Any] = {"n": len(video)} | _retrieval(seen, said, captions)
    for name, kinds in [("counterfactual", KINDS), *((kind, (kind,)) for kind in KINDS)]:
        generator = keyed_generator(seed, "examine", name)
        wrong = [counterfactual(text, generator, kinds) for text in captions]
        asked = [i for i, text in enumerate(wrong) if text is not None]
        beaten = torch.tensor([], dtype=torch.bool)
        if asked:
            texts = scorer.embed_text([text for text in wrong if text is not None]).cpu()
            beaten = own[asked] > (seen[asked] * texts).sum(-1)
        name = name if kinds is KINDS else f"counterfactual: {name}"
        report[name] = share(beaten) | {"chance": 0.5}
    there = torch.tensor([goes_somewhere(caption) for caption in captions])
    moving = torch.tensor([bool(moves(caption)) for caption in captions])
    mixed = shuffled(video, keyed_generator(seed, "examine", "shuffle"))
    for test, other, told in (("shuffle", mixed, moving), ("reverse", video.flip(1), there)):
        fair = told & differs(video, other)
        beaten = own > (scorer.embed_video(other).squeeze(1).cpu() * said).sum(-1)
        report[test] = share(beaten[fair]) | {"chance": 0.5}
        for group, names in MOVES.items():
            tells = torch.tensor([bool(moves(caption) & set(names)) for caption in captions])
            report[f"{test}: {group}"] = share(beaten[fair & tells]) | {"chance": 0.5}
    return report


def _retrieval(seen: Tensor, said: Tensor, captions: Sequence[str]) -> dict[str, Any]:
    """R@k both ways; the last clips that fill no gallery are left out."""
    size = min(GALLERY, len(seen))
    names = tuple(map(str, range(size)))  # all different: even an equal caption is a rival,
    found: dict[str, list[Tensor]] = {}  # and the ceiling allows for it
    same: list[int] = []
    for first in range(0, len(seen) - size + 1, size):
        span = slice(first, first + size)
        table = said[span] @ seen[span].mT
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
    """The share of `n` answers that is right with Wilson's interval; None of no answers."""
    n = len(right)
    if n == 0:
        return {"share": None, "low": None, "high": None, "n": 0}
    low, high = wilson(int(right.sum()), n)
    return {"share": right.float().mean().item(), "low": low, "high": high, "n": n}


def told(report: dict[str, Any]) -> str:
    """The report as a Markdown table."""
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
