"""The balance stage: a selection of clips with topics, sources and durations spread evenly."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from t2v.config.captions import BalanceConfig
from t2v.curation.stages import Stage
from t2v.io.files import sha256
from t2v.io.manifest import Clip

UNKNOWN = "unknown"


def balance(clips: list[Clip], config: BalanceConfig, folder: Path) -> list[Clip]:
    """Return the clips, all but a share `config.keep` of them dropped, from crowded groups first.

    The target: all groups of an axis (a topic, a source, a range of durations) are equally large,
    as far as they have enough clips. Clips are picked one by one from the cell of groups with the
    fewest picks so far (as VidGen-1M samples its categories), within a cell in the order of a hash,
    so that the selection does not depend on the order of the clips.
    """
    wanted = max(1, round(config.keep * len(clips))) if clips else 0
    if wanted == len(clips):
        return list(clips)
    picked = _evenly(clips, wanted, config)
    places = [groups(clip, config) for clip in clips]
    before = [Counter(place[axis] for place in places) for axis in range(len(config.by))]
    after = [Counter(places[number][axis] for number in picked) for axis in range(len(config.by))]
    result = list(clips)
    for number in set(range(len(clips))) - picked:
        axis = max(range(len(config.by)), key=lambda axis: before[axis][places[number][axis]])
        group = places[number][axis]
        result[number] = clips[number].drop(
            "balance",
            f"{config.by[axis]} {group!r} has {before[axis][group]} of {len(clips)} clips; "
            f"{after[axis][group]} of them stay to keep {wanted} evenly",
        )
    return result


STAGE = Stage("all", balance)


def groups(clip: Clip, config: BalanceConfig) -> tuple[str, ...]:
    """The group of a clip on each axis of `config.by`."""
    group = {
        "topic": str(clip.extra.get("topic") or UNKNOWN),
        "source": clip.source or UNKNOWN,
        "duration": _duration_group(clip, config.durations),
    }
    return tuple(group[axis] for axis in config.by)


def entropies(clips: Sequence[Clip], config: BalanceConfig) -> dict[str, tuple[float, float]]:
    """The Shannon entropy of the groups of each axis in bits, and its maximum for that many."""
    found = {}
    for axis, name in enumerate(config.by):
        counts = Counter(groups(clip, config)[axis] for clip in clips)
        shares = [count / counts.total() for count in counts.values()]
        bits = sum(share * math.log2(1 / share) for share in shares)
        found[name] = (bits, math.log2(max(len(counts), 1)))
    return found


def _evenly(clips: Sequence[Clip], wanted: int, config: BalanceConfig) -> set[int]:
    cells: dict[tuple[str, ...], list[int]] = {}
    keys = [_shuffle_key(clip) for clip in clips]
    for number in sorted(range(len(clips)), key=lambda number: keys[number], reverse=True):
        cells.setdefault(groups(clips[number], config), []).append(number)
    sizes = [len({cell[axis] for cell in cells}) for axis in range(len(config.by))]
    counts: list[Counter[str]] = [Counter() for _ in config.by]
    picked: set[int] = set()
    while len(picked) < wanted:
        cell = min(
            cells,
            key=lambda cell: (
                sum(
                    size * count[group]
                    for size, count, group in zip(sizes, counts, cell, strict=True)
                ),
                cell,
            ),
        )
        picked.add(cells[cell].pop())
        for count, group in zip(counts, cell, strict=True):
            count[group] += 1
        if not cells[cell]:
            del cells[cell]
    return picked


def _shuffle_key(clip: Clip) -> str:
    """A pseudo-random sort key that depends on the clip alone."""
    return sha256(repr((clip.sha256 or clip.path, clip.start, clip.end)))


def _duration_group(clip: Clip, edges: Sequence[float]) -> str:
    if clip.end is None:
        return UNKNOWN
    place = bisect_right(edges, clip.end - clip.start)
    low = f"{edges[place - 1]:g}" if place else "0"
    return f"{low} to {edges[place]:g} s" if place < len(edges) else f"{low} s and more"
