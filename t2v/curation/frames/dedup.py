"""The dedup stage: clips whose pictures change in the same way over time are copies."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from t2v.config.curation import DedupConfig
from t2v.curation.copies.candidates import candidates
from t2v.curation.copies.prints import Print
from t2v.curation.copies.summaries import Summaries
from t2v.curation.journal import load_prints
from t2v.curation.stages import Stage
from t2v.io.manifest import Clip

HELD = 512  # fingerprints in memory at a time


def dedup(clips: list[Clip], config: DedupConfig, folder: Path) -> list[Clip]:
    """Return the clips, of each set of copies all but one dropped.

    The longest stays, then the largest, then the cleanest (no text or logo), then the sharpest.
    Two clips are copies when the changes of their pictures correlate at one offset in time, as they
    are, mirrored, or with a tenth cropped off. Static parts do not count: two films of one place
    are no copies. Clips in which nothing changes are compared as pictures.
    """
    copies = find_copies(len(clips), lambda number: load_prints(folder, clips[number]), config)
    result = list(clips)
    for group in copies:
        stays = min(group, key=lambda number: _rank(clips[number]))
        for number in group.keys() - {stays}:
            result[number] = _copy_of(clips[number], clips[stays], group[number])
    return result


STAGE = Stage("all", dedup)


def find_copies(
    count: int, read: Callable[[int], np.ndarray], config: DedupConfig
) -> list[dict[int, float]]:
    """Return the groups of copies among clips, each with the best correlation of its clips.

    Args:
        read: gives the fingerprint of a clip by its number, `t h w` uint8.
    """
    prints = lru_cache(HELD)(lambda number: Print(read(number)))
    best = list(range(count))  # union-find
    correlations: dict[int, float] = {}
    summaries = Summaries.of(map(read, range(count)))
    for a, b, _ in candidates(summaries, None, config.overlap):
        first, second = _root(best, a), _root(best, b)
        if first == second:
            continue  # copies of one film already: of a thousand, half a million pairs
        found = prints(a).match(prints(b), config.overlap).correlation
        if found >= config.correlation:
            best[max(first, second)] = min(first, second)
            for one in (a, b):
                correlations[one] = max(correlations.get(one, 0.0), found)
    groups: dict[int, dict[int, float]] = {}
    for number, correlation in correlations.items():
        groups.setdefault(_root(best, number), {})[number] = correlation
    return list(groups.values())


def _copy_of(clip: Clip, stays: Clip, correlation: float) -> Clip:
    span = f"{stays.start:.2f}-{stays.end:.2f} s" if stays.end else "all of it"
    reason = f"shows what {Path(stays.path).name} shows, {span} (correlation {correlation:.2f})"
    clip = replace(clip, extra=clip.extra | {"duplicate_of": stays.extra["id"]})
    return clip.drop("dedup", reason)


def _rank(clip: Clip) -> tuple[float, float, int, float, float, str, float]:
    """The sort key of copies, the one to keep first; text is sharp, so sharpness comes after it."""
    length = (clip.end or 0.0) - clip.start
    area = (clip.width or 0) * (clip.height or 0)
    return (
        -round(2 * length),  # a few frames more are not worth a smaller picture
        -area,
        sum(mark in clip.tags for mark in ("text", "logo")),
        clip.scores.get("text", 0.0),
        -clip.scores.get("sharpness", 0.0),
        clip.path,
        clip.start,
    )


def _root(best: list[int], number: int) -> int:
    while best[number] != number:
        best[number] = best[best[number]]
        number = best[number]
    return number
