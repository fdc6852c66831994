"""The page about a curation, one HTML file that needs nothing else, and the card of its data."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from t2v.config.curation import CurateConfig
from t2v.curation.journal import THUMBS
from t2v.curation.text.balance import entropies
from t2v.curation.text.caption import tidy
from t2v.io.files import write_bytes
from t2v.io.manifest import Clip
from t2v.io.model_card import DATA_CARD, UNKNOWN, table

PAGE = "report.html"
BINS = 24
BAR, PLOT = 10, 60  # of a histogram: width of a bar, height of the plot
ID = re.compile(r"[0-9a-f]{8,64}")
NO_LIMIT = (None, -1.0)
# What a score means, and the settings below and above which it drops a clip.
SCORES = {
    "seconds": ("length", "scenes.min_seconds", ""),
    "motion": ("% of the shorter side a second", "motion.min_motion", "motion.max_motion"),
    "camera_motion": ("of the motion, what moves the whole picture", "", ""),
    "object_motion": ("of the motion, what the camera does not explain", "", ""),
    "frozen": ("share of the time in which nothing moves", "", "motion.max_frozen"),
    "chaos": ("share of the change that no motion explains", "", "motion.max_chaos"),
    "brightness": ("mean, of 255", "quality.min_brightness", ""),
    "contrast": ("deviation of the brightness, of 255", "quality.min_contrast", ""),
    "clipped": ("share of all black or all white pixels", "", "quality.max_clipped"),
    "sharpness": ("logarithm of the strength of edges", "quality.min_sharpness", ""),
    "noise": ("deviation where the picture is flat, of 255", "", "quality.max_noise"),
    "blockiness": ("steps at 8-pixel blocks; 1: none", "", "quality.max_blockiness"),
    "aesthetic": ("of 10, by the model named", "quality.min_aesthetic", ""),
    "bars": ("share of the picture that black bars take; cropped", "", ""),
    "text": ("share of the picture; more is cropped, or dropped", "", "overlay.max_text"),
    "caption_words": ("words of the caption", "", ""),
    "caption_tokens": ("tokens of the caption", "", "caption.max_tokens"),
    "caption_match": ("cosine of caption and pictures", "caption.min_match", ""),
    "caption_agreement": ("words shared with other authors' captions, F1", "", ""),
    "topic_match": ("cosine with the clip's topic", "topics.min_match", ""),
}


def write_report(
    folder: Path, clips: Sequence[Clip], stats: dict[str, Any], config: CurateConfig
) -> Path:
    """Write `report.html` and `DATA.md` into the output folder; returns the page's path.

    The page holds its pictures and no script, and forbids itself to load anything. File names,
    captions and whatever else comes with the footage are text in it, never markup.

    Args:
        clips: all of them, kept and dropped.
        stats: what `t2v.curation.run.statistics` says.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"tidy": tidy, "number": number, "span": span, "title": title}
    facts = {
        "stats": stats,
        "funnel": funnel(stats),
        "reasons": reasons(clips),
        "histograms": [each | _meaning(each["name"], config) for each in histograms(clips)],
        "galleries": galleries(clips, stats, folder, config.report.pictures),
        "duplicates": duplicates(clips, folder, config.report.pictures),
        "authors": authors(clips),
        "spoken": _sample([c for c in clips if c.extra.get("candidates")], config.report.pictures),
        "shared": shared_captions(clips),
        "topics": topics(clips),
        "made_by": judges(stats),
        "judges": sorted({str(c.extra["topic_judge"]) for c in clips if "topic_judge" in c.extra}),
        "entropies": _entropies(clips, config),
        "balance": config.balance,
        "rights": rights(clips),
        "hours": sum(map(seconds_of, _kept(clips))) / 3600,
        "settings": (folder / "config.yaml").read_text(encoding="utf-8"),
    }
    page = environment.get_template("report.html.j2").render(facts)
    write_bytes(folder / DATA_CARD, data_card(clips, stats, config).encode(errors="replace"))
    write_bytes(folder / PAGE, page.encode(errors="replace"))
    return folder / PAGE


def funnel(stats: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages from the input to what is kept; each row begins with what the last one left."""
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
    """Stage, reason with its numbers left out, and how often; the most frequent first."""
    found = Counter(
        (clip.dropped, re.sub(r"\d[\d.,:x -]*(?<! )", "…", tidy(clip.reason))[:160])
        for clip in clips
        if clip.dropped
    )
    return [(stage, reason, count) for (stage, reason), count in found.most_common(40)]


def histograms(clips: Sequence[Clip]) -> list[dict[str, Any]]:
    """Of the duration and of every score: where kept and dropped clips lie."""
    names = sorted({name for clip in clips for name in clip.scores})
    found = [_histogram("seconds", clips, lambda clip: seconds_of(clip) or None)]
    found += [_histogram(name, clips, partial(_score, name)) for name in names]
    return [each for each in found if each]


def _meaning(name: str, config: CurateConfig) -> dict[str, str]:
    words, *limits = SCORES.get(name, ("", "", ""))
    bounds = [attrgetter(limit)(config) if limit else None for limit in limits]
    for word, bound in zip(("at least", "at most"), bounds, strict=False):
        if bound not in NO_LIMIT:
            words += f"; {word} {number(bound)}"
    return {"words": words}


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
    """Clips to look at, spread over all: those kept, then those each stage dropped."""
    stages = ["", "failed", *(row["stage"] for row in stats["stages"])]
    found = []
    for stage in stages:
        members = [clip for clip in clips if clip.dropped == stage]
        if members:
            shown = [(clip, picture(folder, clip)) for clip in _sample(members, most)]
            found.append({"stage": stage, "count": len(members), "shown": shown})
    return found


def duplicates(clips: Sequence[Clip], folder: Path, most: int) -> list[dict[str, Any]]:
    """Each dropped copy beside the clip that stays for it."""
    by_id = {clip.extra.get("id"): clip for clip in clips}
    copies = [clip for clip in clips if clip.extra.get("duplicate_of") in by_id]
    return [
        {
            "copy": (clip, picture(folder, clip)),
            "stays": (by_id[of], picture(folder, by_id[of])),
        }
        for clip in _sample(copies, most)
        if (of := clip.extra["duplicate_of"]) is not None
    ]


def authors(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """Who wrote captions: how many, how many were taken, and why the others were not."""
    said: dict[str, Counter[str]] = {}
    taken = Counter(_who(str(clip.extra.get("caption_author", ""))) for clip in clips)
    for clip in clips:
        for row in clip.extra.get("candidates", []):
            verdict = re.sub(r"\d+(?:\.\d+)?", "…", row.get("verdict", ""))
            said.setdefault(_who(row["author"]), Counter())[verdict] += 1
    return [
        {
            "name": name,
            "said": counts.total(),
            "taken": taken[name],
            "refused": [(why, count) for why, count in counts.most_common() if why],
        }
        for name, counts in said.items()
    ]


def shared_captions(clips: Iterable[Clip]) -> int:
    """Kept clips whose caption also stands at another clip of the same file: it tells of both."""
    counts = Counter((origin(c)["path"], c.caption) for c in _kept(clips) if c.caption)
    return sum(count for count in counts.values() if count > 1)


def topics(clips: Iterable[Clip]) -> list[dict[str, Any]]:
    """Every topic with its clips, those kept, and those that fit another one better."""
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


def data_card(clips: Sequence[Clip], stats: dict[str, Any], config: CurateConfig) -> str:
    """What a model card says of the data, as Markdown: counts, rights, captions, topics."""
    kept = _kept(clips)
    lines = [
        "# Data",
        "",
        f"{len(kept)} clips, {sum(map(seconds_of, kept)) / 60:.1f} minutes, kept of "
        f"{stats['clips']} from {stats['files']} files by `t2v curate` "
        f"({stats['dropped']} dropped, {stats['failed']} failed).",
        "",
        *table(
            ("source", "licence", "files", "clips kept", "minutes kept"),
            [
                (row["source"], row["license"], row["files"], row["kept"], row["seconds"] / 60)
                for row in rights(clips)
                if row["kept"]
            ],
        ),
        *table(
            ("stage", "clips in", "dropped", "out"),
            [(row["stage"], row["in"], row["dropped"], row["out"]) for row in funnel(stats)],
        ),
        *table(
            ("captions by", "written", "taken"),
            [(row["name"], row["said"], row["taken"]) for row in authors(clips)],
        ),
        *table(
            ("topic", "clips kept"),
            [(row["name"], row["kept"]) for row in topics(clips) if row["kept"]],
        ),
        *table(("judged by", "version or hash"), judges(stats)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def judges(stats: dict[str, Any]) -> list[tuple[str, str]]:
    """What decided, with its version or hash: libraries, rules, settings, models."""
    told = stats.get("judges", {})
    rows = list(told.get("versions", {}).items())
    rows += [(f"{name} of t2v curate", str(told[name])) for name in ("rules", "settings") if told]
    return rows + list(told.get("models", {}).items())


def picture(folder: Path, clip: Clip) -> str:
    """The strip of a clip's pictures as a data URI; empty where there is none."""
    name = str(clip.extra.get("id", ""))
    path = folder / THUMBS / f"{name}.jpg"
    if not ID.fullmatch(name) or not path.is_file():
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def seconds_of(clip: Clip) -> float:
    """How long a clip is; 0 where that is not known."""
    return 0.0 if clip.end is None else clip.end - clip.start


def number(value: float) -> str:
    """A number as a reader wants it: 12,345 and 0.0123, not 0.012345678."""
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def origin(clip: Clip) -> dict[str, Any]:
    """The footage that a clip is of: `path`, `start` and `end`."""
    own = {"path": clip.path, "start": clip.start, "end": clip.end}
    return clip.extra.get("cut_from", own)


def title(clip: Clip) -> str:
    """What its footage is called."""
    return tidy(Path(origin(clip)["path"]).name)


def span(clip: Clip) -> str:
    """From when to when in its footage, in seconds."""
    start, end = origin(clip)["start"], origin(clip)["end"]
    return "all of it" if end is None else f"{start:.2f} to {end:.2f} s"


def _entropies(clips: Sequence[Clip], config: CurateConfig) -> list[dict[str, Any]]:
    before = entropies([c for c in clips if c.dropped in ("", "balance")], config.balance)
    after = entropies(_kept(clips), config.balance)
    return [{"axis": axis, "before": before[axis], "after": after[axis]} for axis in before]


def _kept(clips: Iterable[Clip]) -> list[Clip]:
    return [clip for clip in clips if not clip.dropped]


def _sample(clips: Sequence[Clip], most: int) -> list[Clip]:
    if len(clips) <= most:
        return list(clips)
    return [clips[place * len(clips) // most] for place in range(most)]


def _who(author: str) -> str:
    return author.partition(" @ ")[0]
