"""`t2v eval`: suites of prompts drawn, measured beside real clips, told in a file and a page."""

from __future__ import annotations

import json
import logging
import math
import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from t2v.config.evaluation import EvalConfig
from t2v.config.load import save_config
from t2v.data.rng import keyed_generator
from t2v.data.world_shards import read_rendered
from t2v.errors import UserError
from t2v.evaluation.intervals import Interval, summary
from t2v.evaluation.metrics import sanity_checks
from t2v.evaluation.metrics.alignment import alignment
from t2v.evaluation.metrics.attributes import (
    attributes,
    columns,
    most_common,
    oracle_features,
)
from t2v.evaluation.metrics.caption_back import caption_back, teller_of
from t2v.evaluation.metrics.dynamics import dynamics
from t2v.evaluation.metrics.fidelity import fidelity
from t2v.evaluation.metrics.reconstruction import reconstruction
from t2v.evaluation.report.page import write_page
from t2v.evaluation.report.table import markdown
from t2v.evaluation.samples import load_model, protocol, recipes, sampled, through_vae
from t2v.evaluation.suites import Suite, load_suite
from t2v.evaluation.types import (
    Column,
    Figure,
    Findings,
    Nets,
    NotRun,
    Videos,
    blurred_copy,
    still_copy,
)
from t2v.io.files import write_text
from t2v.io.hashes import digest
from t2v.nets.aligner import Aligner
from t2v.nets.clip import ClipModel
from t2v.nets.features import load_frame_net, load_video_net, vae_frames
from t2v.nets.scorer import load_scorer
from t2v.outputs import output_folder
from t2v.pipelines.generator import Generator, require
from t2v.world.oracle import load_oracle

logger = logging.getLogger(__name__)

MODEL, CEILING, REAL = "model", "real clips through the VAE", "real clips"
CHANCE, GUESS = "another real clip", "most common answer"
STILL, BLUR = "real clips standing still", "real clips blurred"
ROWS = {
    MODEL: "what the model drew",
    CEILING: "the clips that the prompts describe, through the model's VAE: the ceiling",
    REAL: "those clips as they are",
    CHANCE: "the clip of another prompt: chance",
    GUESS: "one and the same answer for every prompt, the best there is: chance",
    STILL: "the first frame of each real clip over and over: what standing still would earn",
    BLUR: "real clips under a mean of 5 x 5 pixels: what blur would earn",
}
WORST_TOPICS = 3
ENDS = (10, 50)  # topics that BenchUFO averages at either end


@dataclass(frozen=True)
class Family:
    """Metrics of one kind, and the rows they are shown for."""

    measure: Callable[[Videos, Nets], Findings]
    rows: tuple[str, ...]


METRICS = {
    "world": Family(attributes, (MODEL, CEILING, REAL)),
    "alignment": Family(alignment, (MODEL, CEILING, REAL, CHANCE)),
    "caption back": Family(caption_back, (MODEL, REAL, CHANCE)),
    "dynamics": Family(dynamics, (MODEL, CEILING, REAL, STILL, BLUR)),
    "fidelity": Family(fidelity, (MODEL, CEILING, REAL, STILL, BLUR)),
    "reconstruction": Family(reconstruction, (CEILING, BLUR, CHANCE)),
}
# by which the page sorts its videos, the first that was run
RANKING = (
    "world.all",
    "caption back.similarity",
    "alignment.sim_weighed",
    "alignment.sim",
    "dynamics.subject",
)


def evaluate(config: EvalConfig) -> str:
    """Measure a model on every suite; returns the tables, as in `eval.md`.

    Writes `eval.json` (protocol, tables, every video's values), `eval.md`, `page.html` and the
    drawn videos. Rows of real clips stand beside the model wherever prompts have any. The same
    command again draws nothing and gives the same figures.

    Raises:
        UserError: a model or a file is missing or of another kind.
    """
    with output_folder(config) as config:
        return _evaluate(config)


def _evaluate(config: EvalConfig) -> str:
    suites = [load_suite(name, config.count, config.seed) for name in config.suites]
    _check_asked(suites, config)
    generator = load_model(config, "t2v eval")
    _check_room(suites, generator)
    nets = load_nets(config, generator)
    output = Path(config.output)
    save_config(config, output / "config.yaml")
    report: dict[str, Any] = {"protocol": protocol(config, generator), "suites": {}}
    videos = {}
    for suite in suites:
        logger.info("suite %s: %d prompts", suite.name, len(suite.prompts))
        keys = recipes(generator, suite.prompts, config)
        made = sampled(generator, suite.prompts, keys, config)
        rows = rows_of(suite, made, generator, config.seed)
        report["suites"][suite.name] = judge(suite, rows, nets, keys, config)
        shown = {name: rows[name].video for name in (MODEL, REAL) if name in rows}
        videos[suite.name] = shown
    tables = [rows for suite in report["suites"].values() for rows in suite["tables"].values()]
    report["rows"] = {
        row: text for row, text in ROWS.items() if any(row in rows for rows in tables)
    }
    text = json.dumps(report, indent=1, allow_nan=False)
    write_text(output / "eval.json", text)
    write_text(output / "eval.md", markdown(report))
    write_page(output / "page.html", report, videos, generator.defaults.fps, config.page_videos)
    return markdown(report)


def _check_asked(suites: list[Suite], config: EvalConfig) -> None:
    """Raise UserError for what could not be measured, before anything is drawn."""
    if config.oracle is not None and not any(suite.scenes for suite in suites):
        raise UserError(
            f"oracle={config.oracle}: the judge reads scenes of the world, and suites="
            f"{list(config.suites)} describes none. Add world, or leave the oracle out."
        )
    if config.training is not None:
        read_rendered(config.training)


def _check_room(suites: list[Suite], generator: Generator) -> None:
    saved = generator.defaults
    if saved.num_frames is None or saved.height is None or saved.width is None:
        raise UserError(
            f"A {type(generator.pipeline).__name__} does not say how many frames it makes and of "
            "what size, which t2v eval needs. Name another model."
        )
    if saved.num_frames < 3:
        raise UserError(f"The model makes {saved.num_frames} frames; dynamics need at least 3.")
    if not hasattr(os, "sysconf"):
        return  # Windows does not say how much memory there is
    one = saved.num_frames * saved.height * saved.width * 3
    rows = {True: 9, False: 1}  # where there are real clips: those, their copies, masks and others
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for suite in suites:
        need = one * len(suite.prompts) * rows[suite.scenes is not None]
        if need > room:
            raise UserError(
                f"{len(suite.prompts)} prompts of suite {suite.name} at {saved.num_frames} frames "
                f"{saved.height}x{saved.width}, with the clips beside them, take {need / 1e9:.0f} "
                f"GB; this machine has {room / 1e9:.0f}. Give a smaller count."
            )


def load_nets(config: EvalConfig, generator: Generator) -> Nets:
    """Every network that the settings name.

    Raises:
        UserError: one cannot be loaded.
    """
    device = generator.pipeline.device.type
    oracle = load_oracle(config.oracle).to(device) if config.oracle else None
    match config.perceptual:
        case None:
            perceptual = None
        case "vae":
            require(generator, "vae", f"model={config.model}", "perceptual=vae")
            perceptual = vae_frames(generator.vae)
        case name:
            perceptual = load_frame_net(name, device)
    features = oracle_features(oracle) if oracle else None
    aligners: list[Aligner] = [ClipModel(config.clip, device=device)] if config.clip else []
    if config.scorer:
        aligners.append(load_scorer(config.scorer).to(device))
    teller = None
    if config.captioner:
        teller = teller_of(config.captioner, config.sentences, device)
    vae = generator.vae
    strides = {}
    if vae is not None:  # without one nothing measures seams
        strides["strides"] = vae.config.scale_factor_spatial, vae.config.scale_factor_temporal
    return Nets(
        **strides,
        perceptual=perceptual,
        features=load_video_net(config.features, device) if config.features else features,
        aligners=tuple(aligners),
        oracle=oracle,
        teller=teller,
    )


def rows_of(suite: Suite, made: Tensor, generator: Generator, seed: int) -> dict[str, Videos]:
    """The model's videos, and where the prompts have real clips, the rows beside them."""
    prompts, fps = suite.prompts, float(generator.defaults.fps)
    known = suite.real(*made.shape[1:4])
    if known is None:
        return {MODEL: Videos(made, prompts, fps)}
    real, mask = known
    size = (int(real.shape[1]), int(real.shape[2]), int(real.shape[3]))
    others = load_suite("world", len(prompts), seed + 1_000).real(*size)
    assert others is not None
    model = Videos(made, prompts, fps, real, mask, others[0], suite.truths())
    ceiling = {}
    if generator.vae is not None:
        ceiling[CEILING] = model.showing(through_vae(generator.vae, real))
    return {
        MODEL: model,
        **ceiling,
        REAL: model.showing(real),
        CHANCE: model.showing(real.roll(1, 0)),
        STILL: model.showing(still_copy(real)),
        BLUR: model.showing(blurred_copy(real)),
    }


def judge(
    suite: Suite, rows: dict[str, Videos], nets: Nets, keys: list[str], config: EvalConfig
) -> dict[str, Any]:
    """The tables of one suite, the values of every video of the model, and what is suspicious."""
    found: dict[str, dict[str, Findings]] = {
        family: {row: metric.measure(rows[row], nets) for row in metric.rows if row in rows}
        for family, metric in METRICS.items()
    }
    truths = suite.truths()
    if truths is not None and nets.oracle is not None:
        guess = columns(list(truths), most_common(list(truths)), "one answer for all")
        found["world"][GUESS] = guess
    marks, told, nearest = _suspicions(rows, found["dynamics"], config.training)
    columns_of_model = {
        f"{family}.{name}": column
        for family, by_row in found.items()
        for name, column in by_row.get(MODEL, {}).items()
        if isinstance(column, Column)
    }
    values = {name: column.values.tolist() for name, column in columns_of_model.items()}
    said = {name: column.texts for name, column in columns_of_model.items() if column.texts}
    said |= {"nearest training clip": tuple(nearest)} if nearest else {}
    beyond = {name: c.off for name, c in columns_of_model.items() if c.off is not None}
    ranking = next((name for name in RANKING if name in values), None)
    videos = [
        {
            "prompt": prompt,
            "topic": suite.topics[i],
            "seed": config.seed + i,
            "key": keys[i],
            "values": {name: _finite(column[i]) for name, column in values.items()},
            "marks": [name for name, mark in marks.items() if mark[i]],
            "off_scale": [name for name, off in beyond.items() if off[i]],
            "said": {by: texts[i] for by, texts in said.items()},
        }
        for i, prompt in enumerate(suite.prompts)
    ]
    return {
        "prompts": len(videos),
        "prompts_hash": digest(*suite.prompts),
        "warnings": told,
        "ranking": ranking,
        **_by_topic(videos, ranking),
        "tables": {
            family: {row: _cells(findings) for row, findings in by_row.items()}
            for family, by_row in found.items()
        },
        "videos": videos,
    }


def _suspicions(
    rows: dict[str, Videos], moving: dict[str, Findings], training: str | None
) -> tuple[sanity_checks.Marks, list[str], list[str]]:
    def column(row: str, name: str) -> Tensor:
        found = moving[row][name]
        assert isinstance(found, Column)
        return found.values

    motion, frozen = column(MODEL, "motion"), column(MODEL, "frozen")
    if REAL not in rows:
        marks = {"still": sanity_checks.still(motion, frozen, None)}
        return marks, sanity_checks.warnings(marks, len(motion)), []
    real = column(REAL, "motion")
    marks = {
        "still": sanity_checks.still(motion, frozen, real),
        "blurred": sanity_checks.blurred(column(MODEL, "sharpness"), column(REAL, "sharpness")),
    }
    captions: list[str] = []
    if training is not None:
        distance, captions = sanity_checks.nearest_training(rows[MODEL].video, training)
        new, _ = sanity_checks.nearest_training(rows[REAL].video, training)
        marks["copied"] = sanity_checks.copied(distance, new)
        captions = [
            f"{far:.1f} grey levels from '{caption}'; new clips are {new.min():.1f} or more away"
            for far, caption in zip(distance.tolist(), captions, strict=True)
        ]
    return marks, sanity_checks.warnings(marks, int((real > sanity_checks.MOVES).sum())), captions


def _cells(findings: Findings) -> dict[str, Any]:
    """Each metric with its interval, in numbers that JSON knows."""
    cells: dict[str, Any] = {}
    for name, found in findings.items():
        match found:
            case NotRun():
                cells[name] = {"not_run": found.reason}
            case Column():
                generator = keyed_generator(0, "bootstrap")
                interval = summary(found.values, generator, found.is_share, found.is_part)
                cells[name] = _plain(interval) | {"better": found.better, "method": found.method}
                if found.off is not None and found.off.any():
                    cells[name]["off_scale"] = int(found.off.sum())
            case Figure():
                figures = Interval(found.value, found.low, found.high, found.n)
                cells[name] = _plain(figures) | {"better": found.better, "method": found.method}
    return cells


def _plain(interval: Interval) -> dict[str, Any]:
    return {name: _finite(value) for name, value in asdict(interval).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _by_topic(videos: list[dict[str, Any]], ranking: str | None) -> dict[str, Any]:
    """The topics in which the model is worst, and the means of the worst and of the best ones.

    BenchUFO (VideoUFO, arXiv 2503.01739, section 5): a mean for each topic, then over the 10 and
    50 lowest and highest; over a quarter of the topics where there are fewer than 20.
    """
    topics = defaultdict(list)
    for video in videos:
        value = video["values"].get(ranking)
        if video["topic"] and value is not None:
            topics[video["topic"]].append(value)
    means = [
        {"topic": topic, "value": sum(values) / len(values), "n": len(values)}
        for topic, values in topics.items()
    ]
    means.sort(key=lambda each: each["value"])
    ends: dict[str, float] = {"n": len(means)}
    if len(means) > 1:
        for count in [k for k in ENDS if len(means) >= 2 * k] or [max(1, len(means) // 4)]:
            for name, some in (("low", means[:count]), ("top", means[-count:])):
                ends[f"{name}_{count}"] = sum(each["value"] for each in some) / count
    return {"worst_topics": means[:WORST_TOPICS] if len(means) > 1 else [], "topics": ends}
