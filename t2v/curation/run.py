"""`t2v curate`: footage in, a manifest out; an interrupted run continues where it stopped."""

from __future__ import annotations

import json
import logging
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from t2v.config.captions import CaptionConfig
from t2v.config.curation import ALL_STAGES, CurateConfig
from t2v.config.load import save_config
from t2v.curation.analyze import FAILED, analyze
from t2v.curation.frames.text_recognition import require_ocr
from t2v.curation.journal import (
    THUMBS,
    WORK,
    Analysis,
    ClipLog,
    load_analysis,
    save_analysis,
)
from t2v.curation.output import write_files
from t2v.curation.provenance import model_hashes, provenance, updated
from t2v.curation.report.page import write_report
from t2v.curation.sources import Source, find_sources
from t2v.curation.stages import Stage, load_stages
from t2v.curation.stories import STORIES, find_stories
from t2v.curation.text.caption import NO_ANSWER, UNANSWERED
from t2v.curation.text.demand import demand, demand_line
from t2v.curation.text.details import detail_shares
from t2v.curation.text.style import style_of
from t2v.curation.text.subtitles import AUTHOR as SUBTITLES
from t2v.curation.text.subtitles import subtitle_files
from t2v.io import engine
from t2v.io.files import KEY, file_sha256, remove_partials, sha256, write_text
from t2v.io.manifest import MANIFEST, Clip, write_manifest
from t2v.io.prompts import read_prompts
from t2v.io.workers import Failure
from t2v.outputs import output_folder

logger = logging.getLogger(__name__)
STATS = "stats.json"
# settings that old journals do not know of: where one is off, the key has none
LATER = ("window", "parts", "writer", "style", "style_within")
RULES = 3  # raise it when the same settings come to score or drop the same film differently


def curate(config: CurateConfig) -> Path:
    """Run every stage over the footage of `config.input`; return the path of the manifest.

    `output` gets `manifest.jsonl` (every clip, kept or dropped, and why), `report.html`, `DATA.md`
    (for a model card), `stats.json` (the funnel, the seconds by stage, and the versions and hashes
    of everything that decided), `thumbs/`, `config.yaml`, and in `work/` the finished part: the
    same command continues from there, and its manifest is the same to the byte.

    Raises:
        UserError: there is no footage, OCR is not installed, or another run is using this output.
    """
    if config.overlay.ocr != "none" and "overlay" not in config.skip:
        require_ocr()
    engine.require_engine(config)
    if config.topics.prompts:  # told before the work, not after it
        read_prompts(Path(config.topics.prompts), "topics.prompts")
    if config.caption.style and "caption" not in config.skip:
        style_of(config.caption.style)
    start = time.monotonic()
    folder = Path(config.output)
    sources = find_sources(config.input, folder)
    with output_folder(config) as config:
        for name in (WORK, THUMBS):
            (folder / name).mkdir(exist_ok=True)
            remove_partials(folder / name)
        save_config(config, folder / "config.yaml")
        clips, seconds = _analyzed(sources, config, folder)
        for name, stage in load_stages("all", "clip").items():
            if name not in config.skip:
                began = time.monotonic()
                clips = _apply(name, stage, clips, config, folder)
                seconds[name] = seconds.get(name, 0.0) + time.monotonic() - began
        if config.stories:
            write_manifest(folder / STORIES, find_stories(clips, config.stories))
        clips = write_files(clips, config, folder)
        manifest = folder / MANIFEST
        write_manifest(manifest, clips)
        stats = statistics(clips, seconds, len(sources))
        stats["judges"] = provenance(config, RULES)
        if config.topics.prompts:
            stats["demand"] = demand(clips, config.topics)
        stats["wall_seconds"] = round(time.monotonic() - start, 3)
        write_text(folder / STATS, json.dumps(stats, indent=2) + "\n")
        page = write_report(folder, clips, stats, config)
    for line in funnel_lines(stats):
        logger.info("%s", line)
    if "demand" in stats:
        logger.info("%s", demand_line(stats["demand"]))
    if stats["unanswered"]:
        message = "%s. To ask again, for these clips only: t2v curate --config %s"
        logger.warning(message, stats["unanswered"], shlex.quote(str(folder / "config.yaml")))
    logger.info("report: %s", page)
    return manifest


def _settings(config: CurateConfig, hashes: dict[str, str]) -> str:
    """The part of the settings that the analysis of a source depends on, as text.

    A model counts by its files: with other weights, sources are analyzed again.
    """
    names = ["probe", "scenes", *load_stages("shot")]
    groups = {name: asdict(getattr(config, name)) for name in names}
    skipped = sorted(set(config.skip) & set(names))
    return json.dumps([RULES, groups, skipped, hashes], sort_keys=True)


def _limits(settings: str, config: CurateConfig) -> str:
    return f"{settings} {config.seconds_per_file} {config.memory_gb}"


def _analyzed(
    sources: list[Source], config: CurateConfig, folder: Path
) -> tuple[list[Clip], dict[str, float]]:
    """The clips of all sources in order, and seconds by stage; what is on disk is not redone.

    A source that failed is tried again under other limits, one that crashed in every run: other
    processes may have used up the memory.
    """
    hashes = model_hashes(config, load_stages("shot"))
    settings = _settings(config, hashes)
    limits = _limits(settings, config)
    found = [
        load_analysis(folder, source.key(settings)) or load_analysis(folder, source.key(limits))
        for source in sources
    ]
    todo = [number for number, entry in enumerate(found) if entry is None]
    if len(todo) < len(sources):
        logger.info("%d of %d files are done already", len(sources) - len(todo), len(sources))
    items = [sources[number] for number in todo]
    results = engine.run("analyze", "files", partial(analyze, config=config), items, config)
    for number, result in results:
        hashes = updated(hashes)
        settings = _settings(config, hashes)
        limits = _limits(settings, config)
        found[todo[number]] = _stored(items[number], result, settings, limits, folder)
    clips: list[Clip] = []
    seconds: dict[str, float] = {}
    for source, entry in zip(sources, found, strict=True):
        assert entry is not None
        clips += [replace(clip, path=source.path) for clip in entry.clips]
        for name, value in entry.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return clips, seconds


def _stored(
    source: Source, result: Analysis | Failure, settings: str, limits: str, folder: Path
) -> Analysis | None:
    """The result for a source as it reads back from disk; crashes are not kept there."""
    key = source.key(settings)
    if isinstance(result, Failure):
        kind, result, key = result.kind, _failed(source, result), source.key(limits)
        if kind == "crash":
            return result
    save_analysis(folder, key, result)
    return load_analysis(folder, key)


def _failed(source: Source, failure: Failure) -> Analysis:
    name = sha256(source.path)[:KEY]
    clip = Clip(path=source.path, source=source.source, license=source.license, extra={"id": name})
    return Analysis([clip.drop(FAILED, failure.reason)])


def _apply(
    name: str, stage: Stage, clips: list[Clip], config: CurateConfig, folder: Path
) -> list[Clip]:
    """The clips in their order after a stage, which sees only those still kept."""
    kept = [number for number, clip in enumerate(clips) if not clip.dropped]
    given = [clips[number] for number in kept]
    if stage.kind == "all":
        done = stage.run(given, getattr(config, name), folder)
    else:
        done = _one_by_one(name, stage, given, config, folder)
    assert len(done) == len(given), name
    result = list(clips)
    for number, clip in zip(kept, done, strict=True):
        result[number] = clip
    return result


def _one_by_one(
    name: str, stage: Stage, clips: Sequence[Clip], config: CurateConfig, folder: Path
) -> list[Clip]:
    settings = getattr(config, name)
    log = ClipLog(folder / WORK / f"{name}.jsonl")
    silent: dict[str, Clip] = {}  # not journaled: the next run asks again
    hashes = model_hashes(config, [name]) if clips else {}
    keys = [_key(clip, settings, hashes) for clip in clips]
    todo = [number for number, key in enumerate(keys) if key not in log.done]
    results = engine.run(
        name,
        "clips",
        partial(stage.run, config=settings),
        [clips[number] for number in todo],
        config,
        device=_device(settings),
    )
    try:
        for number, result in results:
            clip = clips[todo[number]]
            hashes = updated(hashes)
            key = keys[todo[number]] = _key(clip, settings, hashes)
            if isinstance(result, Failure):
                result = _unanswered(clip, name, result)
            if UNANSWERED in result.extra:
                silent[key] = result
            else:
                log.add(key, result)
    finally:
        log.close()
    return [silent.get(key) or log.done[key] for key in keys]


def _key(clip: Clip, settings: Any, hashes: dict[str, str]) -> str:
    """The journal key of a clip's result: a hash of clip, settings and models' files."""
    # the device does not change the result: journals have always been keyed as of the CPU
    values = asdict(settings) | ({"device": "cpu"} if hasattr(settings, "device") else {})
    values = {name: each for name, each in values.items() if each or name not in LATER}
    known = [RULES, values, hashes, asdict(clip), *_read_beside(clip, settings)]
    return sha256(json.dumps(known, sort_keys=True))


def _read_beside(clip: Clip, settings: Any) -> list[str]:
    """Hashes of the files of subtitles and prompts that a caption depends on: where one is edited,
    it is not taken from the journal."""
    if not isinstance(settings, CaptionConfig):
        return []
    found = [file_sha256(Path(settings.style))] if settings.style else []
    if SUBTITLES not in settings.authors:
        return found
    for path in subtitle_files(Path(clip.path)):
        with suppress(OSError):  # its candidate tells that it cannot be read
            found.append(f"{path.name} {file_sha256(path)}")
    return found


def _device(settings: Any) -> str:
    """The device of a stage's models; a stage without any starts no torch to find out."""
    if not isinstance(settings, CaptionConfig) or not settings.uses_device():
        return "cpu"
    from t2v.models.device import pick_device

    return str(pick_device(settings.device))


def _unanswered(clip: Clip, stage: str, failure: Failure) -> Clip:
    clip = replace(clip, extra=clip.extra | {UNANSWERED: [stage]})
    return clip.drop(stage, f"{NO_ANSWER}: {failure.reason}")


def statistics(clips: list[Clip], seconds: dict[str, float], files: int) -> dict[str, Any]:
    """The funnel: the clips that enter each stage, those dropped, those passed on, and seconds."""
    failed = sum(clip.dropped == FAILED for clip in clips)
    left, rows = len(clips) - failed, []
    for name in ALL_STAGES:
        dropped = sum(clip.dropped == name for clip in clips)
        row = {"stage": name, "in": left, "dropped": dropped, "out": left - dropped}
        rows.append(row | {"seconds": round(seconds.get(name, 0.0), 3)})
        left -= dropped
    return {
        "files": files,
        "clips": len(clips),
        "kept": left,
        "dropped": len(clips) - left - failed,
        "failed": failed,
        "unanswered": unanswered(clips),
        "details": detail_shares(clip.caption for clip in clips if not clip.dropped),
        "decode_seconds": round(seconds.get("decode", 0.0), 3),
        "stages": rows,
    }


def unanswered(clips: Sequence[Clip]) -> str:
    """The number of clips that each author left without an answer, as text; empty: none."""
    silent = [clip for clip in clips if UNANSWERED in clip.extra]
    counts = Counter(author for clip in silent for author in set(clip.extra[UNANSWERED]))
    parts = [f"{author}: no answer for {count}" for author, count in sorted(counts.items())]
    lost = sum(clip.dropped == "caption" for clip in silent)
    return f"{'; '.join(parts)} ({lost} of {len(clips)} clips dropped for it)" if parts else ""


def funnel_lines(stats: dict[str, Any]) -> Iterator[str]:
    """The funnel as lines of text."""
    yield (
        f"{stats['files']} files, {stats['clips']} clips = {stats['kept']} kept "
        f"+ {stats['dropped']} dropped + {stats['failed']} failed"
    )
    for row in stats["stages"]:
        passed = row["out"] / row["in"] if row["in"] else 1.0
        yield (
            f"{row['stage']:<8} {row['in']:>6} in {row['dropped']:>6} dropped {passed:>5.0%} pass "
            f"{row['seconds']:>8.1f} s"
        )
