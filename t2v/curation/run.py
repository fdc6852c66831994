"""`t2v curate`: footage in, a manifest out; it goes on where it was stopped."""

from __future__ import annotations

import hashlib
import json
import logging
import shlex
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from t2v.config.captions import CaptionConfig
from t2v.config.curation import CurateConfig
from t2v.config.load import save_config
from t2v.curation import engine
from t2v.curation.analyze import FAILED, examine
from t2v.curation.frames.text_recognition import require_ocr
from t2v.curation.journal import (
    THUMBS,
    WORK,
    ClipLog,
    Examined,
    load_examined,
    save_examined,
)
from t2v.curation.output import write_files
from t2v.curation.provenance import looked_for, model_hashes, provenance
from t2v.curation.report import write_report
from t2v.curation.sources import Source, find_sources
from t2v.curation.stages import STAGES, Stage
from t2v.curation.text.caption import NO_ANSWER, UNANSWERED
from t2v.errors import UserError
from t2v.io.files import remove_partials, write_text
from t2v.io.manifest import MANIFEST, Clip, write_manifest
from t2v.io.workers import Failure
from t2v.outputs import output_folder

logger = logging.getLogger(__name__)
STATS = "stats.json"
RULES = 3  # to be raised when the same settings judge the same film differently


def curate(config: CurateConfig) -> Path:
    """Judge all footage of `config.input`; returns the path of the manifest.

    `output` gets `manifest.jsonl` (every clip, kept or dropped, and why), `report.html` (the
    page about it), `DATA.md` (for a model card), `stats.json` (the funnel, the seconds by
    stage, and the versions and hashes of what judged), `thumbs/`, `config.yaml`, and in `work/`
    what is done so far: the same command goes on from there, and its manifest is the same to
    the byte.

    Raises:
        UserError: no footage, an unknown stage to skip, OCR that is not installed, or another run
            works in this output.
    """
    known = ["probe", "scenes", *(stage.name for stage in STAGES)]
    if unknown := [name for name in config.skip if name not in known]:
        raise UserError(f"skip={unknown}: there are no such stages. Allowed: {', '.join(known)}.")
    if config.overlay.ocr != "none" and "overlay" not in config.skip:
        require_ocr()
    start = time.monotonic()
    folder = Path(config.output)
    sources = find_sources(config.input, folder)
    with output_folder(config) as config:
        for name in (WORK, THUMBS):
            (folder / name).mkdir(exist_ok=True)
            remove_partials(folder / name)
        save_config(config, folder / "config.yaml")
        clips, seconds = _examined(sources, config, folder)
        for stage in STAGES:
            if stage.kind != "take" and stage.name not in config.skip:
                began = time.monotonic()
                clips = _apply(stage, clips, config, folder)
                took = time.monotonic() - began
                seconds[stage.name] = seconds.get(stage.name, 0.0) + took
        clips = write_files(clips, config, folder)
        manifest = folder / MANIFEST
        write_manifest(manifest, clips)
        stats = statistics(clips, seconds, len(sources))
        stats["judges"] = provenance(config, RULES)
        stats["wall_seconds"] = round(time.monotonic() - start, 3)
        write_text(folder / STATS, json.dumps(stats, indent=2) + "\n")
        page = write_report(folder, clips, stats, config)
    for line in in_words(stats):
        logger.info("%s", line)
    if stats["unanswered"]:
        words = "%s. To ask again, and only for these: t2v curate --config %s"
        logger.warning(words, stats["unanswered"], shlex.quote(str(folder / "config.yaml")))
    logger.info("look at %s", page)
    return manifest


def _settings(config: CurateConfig, hashes: dict[str, str]) -> str:
    """What the examination of a source depends on; other settings may change and keep it.

    A model counts by its files: other weights judge again.
    """
    names = ["probe", "scenes", *(stage.name for stage in STAGES if stage.kind == "take")]
    groups = {name: asdict(getattr(config, name)) for name in names}
    skipped = sorted(set(config.skip) & set(names))
    return json.dumps([RULES, groups, skipped, hashes], sort_keys=True)


def _limits(settings: str, config: CurateConfig) -> str:
    return f"{settings} {config.seconds_per_file} {config.memory_gb}"


def _examined(
    sources: list[Source], config: CurateConfig, folder: Path
) -> tuple[list[Clip], dict[str, float]]:
    """The clips of all sources in order, and seconds by stage; what is on disk is not redone.

    What failed is tried again under other limits, and what crashed in every run: it may have been
    for want of memory that others took.
    """
    hashes = model_hashes(config, "quality")
    settings = _settings(config, hashes)
    limits = _limits(settings, config)
    found = [
        load_examined(folder, source.key(settings)) or load_examined(folder, source.key(limits))
        for source in sources
    ]
    todo = [number for number, entry in enumerate(found) if entry is None]
    if len(todo) < len(sources):
        logger.info("%d of %d files are done already", len(sources) - len(todo), len(sources))
    items = [sources[number] for number in todo]
    for number, result in engine.run("looking", partial(examine, config=config), items, config):
        hashes = looked_for(hashes)
        settings = _settings(config, hashes)
        limits = _limits(settings, config)
        found[todo[number]] = _noted(items[number], result, settings, limits, folder)
    clips: list[Clip] = []
    seconds: dict[str, float] = {}
    for source, entry in zip(sources, found, strict=True):
        assert entry is not None
        clips += [replace(clip, path=source.path) for clip in entry.clips]
        for name, value in entry.seconds.items():
            seconds[name] = seconds.get(name, 0.0) + value
    return clips, seconds


def _noted(
    source: Source, result: Examined | Failure, settings: str, limits: str, folder: Path
) -> Examined | None:
    """What came of a source, as it is read back from disk; a crash is not kept there."""
    key = source.key(settings)
    if isinstance(result, Failure):
        kind, result, key = result.kind, _failure(source, result), source.key(limits)
        if kind == "crash":
            return result
    save_examined(folder, key, result)
    return load_examined(folder, key)


def _failure(source: Source, failure: Failure) -> Examined:
    name = hashlib.sha256(source.path.encode(errors="surrogateescape")).hexdigest()[:32]
    clip = Clip(path=source.path, source=source.source, license=source.license, extra={"id": name})
    return Examined([clip.drop(FAILED, failure.reason)])


def _apply(stage: Stage, clips: list[Clip], config: CurateConfig, folder: Path) -> list[Clip]:
    """The clips in their order after a stage that sees only those still kept."""
    kept = [number for number, clip in enumerate(clips) if not clip.dropped]
    given = [clips[number] for number in kept]
    settings = getattr(config, stage.name)
    if stage.kind == "all":
        done = stage.run(given, settings, folder)
    else:
        done = _one_by_one(stage, given, settings, config, folder)
    assert len(done) == len(given), stage.name
    result = list(clips)
    for number, clip in zip(kept, done, strict=True):
        result[number] = clip
    return result


def _one_by_one(
    stage: Stage, clips: Sequence[Clip], settings: Any, config: CurateConfig, folder: Path
) -> list[Clip]:
    log = ClipLog(folder / WORK / f"{stage.name}.jsonl")
    unkept: dict[str, Clip] = {}  # without an answer: the next run asks again
    hashes = model_hashes(config, stage.name) if clips else {}
    names = [_name(clip, settings, hashes) for clip in clips]
    todo = [number for number, name in enumerate(names) if name not in log.done]
    results = engine.run(
        stage.name,
        partial(stage.run, config=settings),
        [clips[number] for number in todo],
        config,
        device=_device(settings),
    )
    try:
        for number, result in results:
            clip = clips[todo[number]]
            hashes = looked_for(hashes)
            name = names[todo[number]] = _name(clip, settings, hashes)
            if isinstance(result, Failure):
                result = _unanswered(clip, stage.name, result)
            if UNANSWERED in result.extra:
                unkept[name] = result
            else:
                log.add(name, result)
    finally:
        log.close()
    return [unkept.get(name) or log.done[name] for name in names]


def _name(clip: Clip, settings: Any, hashes: dict[str, str]) -> str:
    """The key of a clip's answer: by the clip, what is asked, and the files of who is asked."""
    # the device is not part of what is asked: as the key of every journal has it
    told = asdict(settings) | ({"device": "cpu"} if hasattr(settings, "device") else {})
    words = json.dumps([RULES, told, hashes, asdict(clip)], sort_keys=True)
    return hashlib.sha256(words.encode()).hexdigest()


def _device(settings: Any) -> str:
    """Where the models of a stage compute; a stage without one starts no torch to find out."""
    if not isinstance(settings, CaptionConfig) or not settings.names_models():
        return "cpu"
    from t2v.models.device import pick_device

    return str(pick_device(settings.device))


def _unanswered(clip: Clip, stage: str, failure: Failure) -> Clip:
    clip = replace(clip, extra=clip.extra | {UNANSWERED: [stage]})
    return clip.drop(stage, f"{NO_ANSWER}: {failure.reason}")


def statistics(clips: list[Clip], seconds: dict[str, float], files: int) -> dict[str, Any]:
    """The funnel: what came to each stage, what it dropped, what went on; and where time went."""
    failed = sum(clip.dropped == FAILED for clip in clips)
    left, rows = len(clips) - failed, []
    for name in ["probe", "scenes", *(stage.name for stage in STAGES)]:
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
        "unanswered": missing(clips),
        "decode_seconds": round(seconds.get("decode", 0.0), 3),
        "stages": rows,
    }


def missing(clips: Sequence[Clip]) -> str:
    """How many clips each author left without an answer; empty: none."""
    silent = [clip for clip in clips if UNANSWERED in clip.extra]
    counts = Counter(author for clip in silent for author in set(clip.extra[UNANSWERED]))
    said = "; ".join(f"{author}: no answer for {count}" for author, count in sorted(counts.items()))
    lost = sum(clip.dropped == "caption" for clip in silent)
    return f"{said} ({lost} of {len(clips)} clips dropped for it)" if said else ""


def in_words(stats: dict[str, Any]) -> Iterator[str]:
    """The funnel in lines."""
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
