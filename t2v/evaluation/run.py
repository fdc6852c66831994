"""`t2v eval`: sample suites of prompts, measure the videos beside real clips, write the report."""

from __future__ import annotations

import json
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from t2v.config.evaluation import EvalConfig
from t2v.config.load import save_config
from t2v.errors import UserError
from t2v.evaluation.compare import compare
from t2v.evaluation.measure import check_metrics, load_networks, measure
from t2v.evaluation.plain import Maker, check_plain, load_teacher, make_plain, rows_beside, teaching
from t2v.evaluation.report.page import write_page
from t2v.evaluation.report.suite import suite_report
from t2v.evaluation.report.table import markdown
from t2v.evaluation.rows import MODEL, REAL, ROWS
from t2v.evaluation.samples import (
    load_model,
    protocol,
    request_of,
    sampling_workers,
)
from t2v.evaluation.sanity_checks import suspicions
from t2v.evaluation.stories import check_tells, make_story
from t2v.evaluation.suites import Suite, load_suite
from t2v.evaluation.types import Videos
from t2v.evaluation.versus import comparison, variants
from t2v.evaluation.visuals import check_takes, make_given
from t2v.io.engine import require_engine
from t2v.io.files import write_text
from t2v.models.upscaler import check_scale
from t2v.outputs import output_folder
from t2v.pipelines.generator import Generator, Request, rate_of

if TYPE_CHECKING:
    from t2v.evaluation.copies import TrainingClips

logger = logging.getLogger(__name__)


def evaluate(config: EvalConfig) -> str:
    """Measure a model on every suite; returns the tables, as in `eval.md`.

    Writes `eval.json` (protocol, tables, every video's values), `eval.md`, `page.html` and the
    sampled videos. Rows of real clips stand beside the model wherever prompts have any. The same
    command again samples nothing and gives the same figures. With `versus` the evaluations of other
    settings go into folders of the output, the comparison into `compared`, and its tables are
    returned.

    Raises:
        UserError: a model or a file is missing or of another kind.
    """
    require_engine(config)
    others = variants(config)
    with output_folder(config) as kept:
        text = _evaluate(kept)
        for other in others:
            with output_folder(other) as each:
                _evaluate(each)
    return compare(comparison(config, others)) if others else text


def _evaluate(config: EvalConfig) -> str:
    suites = [load_suite(name, config.count, config.seed) for name in config.suites]
    _check_settings(suites, config)
    check_plain(suites, config)
    generator = load_model(config, "t2v eval")
    _check_scale(suites, generator, config.upscale)
    check_takes(generator, suites)
    check_tells(generator, suites, config)
    own = request_of(generator, config)
    _check_memory(suites, own, type(generator.pipeline).__name__, config)
    teacher = load_teacher(config, generator)
    nets = load_networks(config, generator)
    save_config(config, Path(config.output, "config.yaml"))
    report: dict[str, Any] = {"protocol": protocol(config, generator), "suites": {}}
    videos: dict[str, dict[str, Tensor]] = {}
    weights = list(report["protocol"]["weights"].values())
    with (
        sampling_workers(config, generator, weights) as workers,
        teaching(config, generator, teacher) as teacher_maker,
    ):
        maker = Maker(generator, config, tuple(weights), workers)
        if teacher_maker is not None:
            report["protocol"]["teacher"] = teacher_maker.told()
        for suite in suites:
            logger.info("suite %s: %d prompts", suite.name, len(suite.prompts))
            if suite.kind == "plain":
                made = make_plain(suite, maker, teacher_maker)
            else:
                make = make_story if suite.scene_prompts else make_given
                made = make(suite, generator, config, weights, workers)
            report["suites"][suite.name] = measure_suite(suite, made.rows, nets, made.keys, config)
            videos[suite.name] = made.films
    return _write_report(report, videos, generator, config)


def measure_suite(
    suite: Suite, rows: dict[str, Videos], nets: dict[str, Any], keys: list[str], config: EvalConfig
) -> dict[str, Any]:
    """Return the report of one suite.

    Args:
        rows: as `rows_of` gives them.
        nets: as `load_networks` gives them.
        keys: the key of each of the model's videos in the cache.
    """
    found = measure(rows, nets)
    training = training_clips(config.training) if config.training is not None else None
    suspicious = suspicions(rows[MODEL], rows.get(REAL), found.get("dynamics"), training)
    return suite_report(suite, found, suspicious, keys, config.seed)


@lru_cache(1)
def training_clips(training: str) -> TrainingClips:
    """Return the fingerprints of training clips, which several suites are compared with."""
    from t2v.evaluation.copies import TrainingClips  # it loads OpenCV: few evaluations ask for it

    return TrainingClips(training)


def _write_report(
    report: dict[str, Any],
    videos: dict[str, dict[str, Tensor]],
    generator: Generator,
    config: EvalConfig,
) -> str:
    output = Path(config.output)
    tables = [rows for suite in report["suites"].values() for rows in suite["tables"].values()]
    report["rows"] = {
        row: meaning for row, meaning in ROWS.items() if any(row in rows for rows in tables)
    }
    text = markdown(report)
    write_text(output / "eval.json", json.dumps(report, indent=1, allow_nan=False))
    write_text(output / "eval.md", text)
    write_page(output / "page.html", report, videos, rate_of(generator), config.page_videos)
    return text


def _check_settings(suites: list[Suite], config: EvalConfig) -> None:
    """Raise UserError for what could not be measured, before anything is sampled."""
    for suite in suites:
        check_metrics(config.metrics, suite.name, suite.kind)
    if config.training is not None and config.metrics and "dynamics" not in config.metrics:
        raise UserError(
            f"training={config.training}: copies are looked for beside the dynamics. Add dynamics "
            "to metrics, or leave training out."
        )
    if config.oracle is not None and not any(suite.scenes for suite in suites):
        raise UserError(
            f"oracle={config.oracle}: the oracle reads scenes of the world, and suites="
            f"{list(config.suites)} describes none. Add world, or leave the oracle out."
        )
    if config.training is not None:
        training_clips(config.training)


def _check_scale(suites: list[Suite], generator: Generator, upscale: int) -> None:
    check_scale(upscale, getattr(generator.pipeline, "upscaler", None), "upscale")
    given = [suite.name for suite in suites if suite.task or suite.scene_prompts]
    if upscale != 1 and given:
        raise UserError(
            f"suites=[{given[0]}] upscale={upscale}: its videos are compared at the size that the "
            "model makes. Give upscale=1, or leave the suite out."
        )


def _check_memory(suites: list[Suite], own: Request, pipeline: str, config: EvalConfig) -> None:
    if own.num_frames is None or own.height is None or own.width is None:
        raise UserError(
            f"A {pipeline} does not say how many frames it makes and of "
            "what size, which t2v eval needs. Name another model."
        )
    if own.num_frames < 3:
        raise UserError(f"num_frames={own.num_frames}: dynamics need at least 3.")
    if not hasattr(os, "sysconf"):
        return  # Windows does not say how much memory there is
    frame = own.height * own.width * own.upscale**2 * 3
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for suite in suites:
        # where there are real clips: those, their copies, masks and others
        rows = 16 if suite.task else 9 if suite.scenes else 1
        rows += rows_beside(suite, config)
        frames = suite.story_frames if suite.scene_prompts else own.num_frames
        need = frame * frames * len(suite.prompts) * rows
        if need > room:
            raise UserError(
                f"{len(suite.prompts)} prompts of suite {suite.name} at {frames} frames "
                f"{own.height}x{own.width}, with the clips beside them, take {need / 1e9:.0f} GB; "
                f"this machine has {room / 1e9:.0f}. Give a smaller count."
            )
