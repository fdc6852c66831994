"""The tables that the page and the data card show: funnel, reasons, captions, topics, rights."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import Any

from t2v.curation.text.caption import tidy
from t2v.io.manifest import Clip
from t2v.io.model_card import UNKNOWN


def funnel(stats: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages from the input to the clips kept; each row starts with the rest of the one before.

    Args:
        stats: the result of `t2v.curation.run.statistics`.
    """
    readable = stats["clips"] - stats["failed"]
    first = {"stage": "read", "in": stats["clips"], "dropped": stats["failed"], "out": readable}
    decoding = first | {"seconds": stats["decode_seconds"]}
    total = max(stats["clips"], 1)
    rows = []
    for row in [decoding, *stats["stages"]]:
        passed = row["out"] / row["in"] if row["in"] else 1.0
        rate = row["in"] / row["seconds"] if row["seconds"] else None
        bars = {"kept_share": row["out"] / total, "lost_share": row["dropped"] / total}
        rows.append(row | bars | {"passed": passed, "rate": rate})
    return rows


def reasons(clips: Iterable[Clip]) -> list[tuple[str, str, int]]:
    """Stage, reason without its numbers, and count; the most frequent first."""
    found = Counter(
        (clip.dropped, re.sub(r"\d[\d.,:x -]*(?<! )", "…", tidy(clip.reason))[:160])
        for clip in clips
        if clip.dropped
    )
    return [(stage, reason, count) for (stage, reason), count in found.most_common(40)]


def authors(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """The authors of captions: how many each wrote, how many were used, why others were not."""
    written: dict[str, Counter[str]] = {}
    used = Counter(_author(str(clip.extra.get("caption_author", ""))) for clip in clips)
    for clip in clips:
        for row in clip.extra.get("candidates", []):
            verdict = re.sub(r"\d+(?:\.\d+)?", "…", row.get("verdict", ""))
            written.setdefault(_author(row["author"]), Counter())[verdict] += 1
    return [
        {
            "name": name,
            "written": counts.total(),
            "used": used[name],
            "refused": [(why, count) for why, count in counts.most_common() if why],
        }
        for name, counts in written.items()
    ]


def _author(name: str) -> str:
    return name.partition(" @ ")[0]  # without the time of the frame it describes


def shared_captions(clips: Iterable[Clip]) -> int:
    """The number of kept clips that share their caption with another clip of the same file."""
    counts = Counter((origin(c)["path"], c.caption) for c in kept(clips) if c.caption)
    return sum(count for count in counts.values() if count > 1)


def topics(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """Every topic with its number of clips, of those kept, and of those that fit another better."""
    found: dict[str, Counter[str]] = {}
    for clip in clips:
        if topic := clip.extra.get("topic"):
            counts = found.setdefault(str(topic), Counter())
            counts["all"] += 1
            counts["kept"] += not clip.dropped
            counts["off"] += "off-topic" in clip.tags
    rows = [{"name": name, **counts} for name, counts in found.items()]
    return sorted(rows, key=lambda row: (-row["all"], row["name"]))


def rights(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """Source and licence of the footage: files, clips and seconds kept, and clips in all."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for clip in clips:
        key = clip.source or UNKNOWN, clip.license or UNKNOWN
        row = found.setdefault(key, {"files": set(), "clips": 0, "kept": 0, "seconds": 0.0})
        row["files"].add(origin(clip)["path"])
        row["clips"] += 1
        row["kept"] += not clip.dropped
        row["seconds"] += 0.0 if clip.dropped else seconds_of(clip)
    return [
        {"source": source, "license": license, **row, "files": len(row["files"])}
        for (source, license), row in sorted(found.items())
    ]


def provenance_rows(stats: dict[str, Any]) -> list[tuple[str, str]]:
    """Everything that decided, with its version or hash: libraries, rules, settings, models."""
    facts = stats.get("judges", {})
    rows = list(facts.get("versions", {}).items())
    rows += [(f"{name} of t2v curate", str(facts[name])) for name in ("rules", "settings") if facts]
    return rows + list(facts.get("models", {}).items())


def kept(clips: Iterable[Clip]) -> list[Clip]:
    """The clips that no stage dropped."""
    return [clip for clip in clips if not clip.dropped]


def seconds_of(clip: Clip) -> float:
    """The length of a clip; 0 where it is not known."""
    return 0.0 if clip.end is None else clip.end - clip.start


def origin(clip: Clip) -> dict[str, Any]:
    """The footage of a clip: `path`, `start` and `end`; its own file where a row tells nonsense."""
    own = {"path": clip.path, "start": clip.start, "end": clip.end}
    found = clip.extra.get("cut_from")
    if not isinstance(found, dict) or not own.keys() <= found.keys():
        return own
    times = found["start"], 0 if found["end"] is None else found["end"]
    is_sound = isinstance(found["path"], str) and all(type(each) in (int, float) for each in times)
    return found if is_sound else own
