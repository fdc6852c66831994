"""`report.html`, one page about a curation that needs no other file."""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from t2v.config.curation import CurateConfig
from t2v.curation.journal import THUMBS
from t2v.curation.report import tables
from t2v.curation.report.card import data_card
from t2v.curation.stages import Score, load_stages
from t2v.curation.text.balance import entropies
from t2v.curation.text.caption import tidy
from t2v.io.files import write_bytes
from t2v.io.manifest import Clip
from t2v.io.model_card import DATA_CARD

PAGE = "report.html"
BINS = 24
BAR, PLOT = 10, 60  # of a histogram: width of a bar, height of the plot
ID = re.compile(r"[0-9a-f]{8,64}")
NO_LIMIT = (None, -1.0)


def write_report(
    folder: Path, clips: Sequence[Clip], stats: dict[str, Any], config: CurateConfig
) -> Path:
    """Write `report.html` and `DATA.md` into the output folder; return the page's path.

    The page holds its pictures and no script, and forbids itself to load anything. File names,
    captions and all other text that comes with the footage are shown as text, never as markup.

    Args:
        clips: all of them, kept and dropped.
        stats: the result of `t2v.curation.run.statistics`.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"tidy": tidy, "number": number, "duration": duration}
    environment.filters |= {"span": span, "title": title}
    most, meanings = config.report.pictures, score_meanings(config)
    facts = {
        "stats": stats,
        "funnel": tables.funnel(stats),
        "reasons": tables.reasons(clips),
        "histograms": [
            each | {"meaning": meanings.get(each["name"], "")} for each in histograms(clips)
        ],
        "galleries": galleries(clips, stats, folder, most),
        "duplicates": duplicates(clips, folder, most),
        "authors": tables.authors(clips),
        "captioned": _spread([c for c in clips if c.extra.get("candidates")], most),
        "details": stats.get("details", {}),
        "shared": tables.shared_captions(clips),
        "topics": tables.topics(clips),
        "demand": stats.get("demand"),
        "provenance": tables.provenance_rows(stats),
        "scorers": sorted({str(c.extra["topic_judge"]) for c in clips if "topic_judge" in c.extra}),
        "entropies": _entropies(clips, config),
        "balance": config.balance,
        "rights": tables.rights(clips),
        "kept_seconds": sum(map(tables.seconds_of, tables.kept(clips))),
        "settings": (folder / "config.yaml").read_text(encoding="utf-8"),
    }
    page = environment.get_template("report.html.j2").render(facts)
    write_bytes(folder / DATA_CARD, data_card(clips, stats).encode(errors="replace"))
    write_bytes(folder / PAGE, page.encode(errors="replace"))
    return folder / PAGE


def score_meanings(config: CurateConfig) -> dict[str, str]:
    """The meaning of the length and of every score, with its limits where they are set."""
    length = Score("length in seconds", at_least="min_seconds")
    meanings = {"seconds": _meaning(length, config.scenes)}
    for name, stage in load_stages().items():
        for score, about in stage.scores.items():
            meanings[score] = _meaning(about, getattr(config, name))
    return meanings


def _meaning(score: Score, settings: Any) -> str:
    parts = [score.meaning]
    for words, name in (("at least", score.at_least), ("at most", score.at_most)):
        limit = getattr(settings, name) if name else None
        if limit is not None and limit not in NO_LIMIT:
            parts.append(f"{words} {number(limit)}")
    return "; ".join(parts)


def histograms(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """The distributions of the duration and of every score, kept and dropped clips apart."""
    names = sorted({name for clip in clips for name in clip.scores})
    found = [_histogram("seconds", clips, lambda clip: tables.seconds_of(clip) or None)]
    found += [_histogram(name, clips, partial(_score, name)) for name in names]
    return [each for each in found if each]


def _score(name: str, clip: Clip) -> float | None:
    return clip.scores.get(name)


def _histogram(
    name: str, clips: Sequence[Clip], value: Callable[[Clip], float | None]
) -> dict[str, Any] | None:
    known = [(found, not clip.dropped) for clip in clips if (found := value(clip)) is not None]
    if not known:
        return None
    values = np.array([each for each, _ in known], dtype=float)
    stays = np.array([stay for _, stay in known])
    edges = np.linspace(values.min(), values.max() or 1.0, BINS + 1)
    if edges[0] == edges[-1]:
        edges = np.linspace(edges[0] - 0.5, edges[0] + 0.5, BINS + 1)
    kept, lost = (np.histogram(values[mask], edges)[0] for mask in (stays, ~stays))
    scale = PLOT / max((kept + lost).max(), 1)
    bars = [
        {
            "x": place * BAR,
            "kept": float(up * scale),
            "lost": float(down * scale),
            "title": f"{low:.4g} to {high:.4g}: {up} kept, {down} dropped",
        }
        for place, (up, down, low, high) in enumerate(
            zip(kept, lost, edges[:-1], edges[1:], strict=True)
        )
        if up + down
    ]
    facts = {"low": edges[0], "high": edges[-1], "median": float(np.median(values))}
    return facts | {"name": name, "count": len(known), "bars": bars}


def galleries(
    clips: Sequence[Clip], stats: dict[str, Any], folder: Path, most: int
) -> list[dict[str, Any]]:
    """A selection of clips with their pictures: those kept, then those that each stage dropped."""
    stages = ["", "failed", *(row["stage"] for row in stats["stages"])]
    found = []
    for stage in stages:
        members = [clip for clip in clips if clip.dropped == stage]
        if members:
            shown = [(clip, picture(folder, clip)) for clip in _spread(members, most)]
            found.append({"stage": stage, "count": len(members), "shown": shown})
    return found


def duplicates(clips: Sequence[Clip], folder: Path, most: int) -> list[dict[str, Any]]:
    """Each dropped copy beside the clip that is kept instead."""
    by_id = {clip.extra.get("id"): clip for clip in clips}
    copies = [clip for clip in clips if clip.extra.get("duplicate_of") in by_id]
    return [
        {
            "copy": (clip, picture(folder, clip)),
            "stays": (by_id[of], picture(folder, by_id[of])),
        }
        for clip in _spread(copies, most)
        if (of := clip.extra["duplicate_of"]) is not None
    ]


def picture(folder: Path, clip: Clip) -> str:
    """The picture strip of a clip as a data URI; empty where there is none."""
    name = str(clip.extra.get("id", ""))
    path = folder / THUMBS / f"{name}.jpg"
    if not ID.fullmatch(name) or not path.is_file():
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def number(value: float) -> str:
    """A number for people: 12,345 and 0.0123, not 0.012345678."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def duration(seconds: float) -> str:
    """A duration for people, in seconds, minutes or hours."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{number(seconds / length)} {unit}"
    return f"{number(seconds)} seconds"


def title(clip: Clip) -> str:
    """The name of its footage."""
    return tidy(Path(tables.origin(clip)["path"]).name)


def span(clip: Clip) -> str:
    """Its start and end in the footage, in seconds."""
    start, end = tables.origin(clip)["start"], tables.origin(clip)["end"]
    return "all of it" if end is None else f"{start:.2f} to {end:.2f} s"


def _entropies(clips: Sequence[Clip], config: CurateConfig) -> list[dict[str, Any]]:
    before = entropies([c for c in clips if c.dropped in ("", "balance")], config.balance)
    after = entropies(tables.kept(clips), config.balance)
    return [{"axis": axis, "before": before[axis], "after": after[axis]} for axis in before]


def _spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    if len(clips) <= most:
        return list(clips)
    return [clips[place * len(clips) // most] for place in range(most)]
