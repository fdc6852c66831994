"""`t2v calibrate`: a model is measured, judged where asked, and its table kept and shown."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from t2v.acceleration.bounds import CONFIDENCE, NO_BOUND, SHARE
from t2v.acceleration.candidates import candidates
from t2v.acceleration.measure import measure
from t2v.acceleration.table import (
    FILE,
    Row,
    Setting,
    Table,
    exact_of,
    read_tables,
    worth_it,
    write_table,
)
from t2v.config.calibrate import CalibrateConfig
from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.errors import UserError
from t2v.evaluation.compare import compare
from t2v.evaluation.run import evaluate
from t2v.evaluation.suites import load_suite
from t2v.families.load import load_generator
from t2v.io.files import EMBEDDED_MODELS
from t2v.io.prompts import read_prompts
from t2v.io.shipped import shipped
from t2v.models.device import DTYPES, pick_device, pick_dtype
from t2v.models.folder import model_folder, scheduler_hash, weights_hash
from t2v.pipelines.generator import Generator, Request
from t2v.sampling.versions import versions
from t2v.world.prompts import random_prompts

logger = logging.getLogger(__name__)

COMMAND = "t2v calibrate"
WORLD_ORACLE = "world-oracle"  # in a clone, which a wheel is not
SHOWN = ("a", "b", "difference", "low", "high", "chance_of_all", "verdict")


def calibrate(config: CalibrateConfig) -> str:
    """Measure what a model's videos may leave out; keeps the table with the model, and returns it.

    Raises:
        UserError: the model, a prompt file or a device is not there, or the table has no place.
    """
    folder = model_folder(config.model)
    path = _place(config, folder)
    read_tables(path)  # one that is damaged is no place, which is better told at once
    prompts = _prompts(config)
    device = pick_device(config.device)
    dtype = pick_dtype(config.dtype, device)
    generator = load_generator(config.model, folder, device, dtype, COMMAND)
    generator.pipeline.set_progress_bar_config(disable=True)
    asked = request_of(generator, config)
    if hasattr(type(generator.pipeline.components.get("scheduler")), "objective"):
        raise UserError(
            f"model={config.model}: draws codes, and caches are for steps that take noise out of "
            "latents. Compare its steps: t2v eval MODEL versus=num_inference_steps=6"
        )
    generator.check(prompts[0], asked)
    rows = measure(generator, asked, candidates(asked, config.caches), prompts, config.seed)
    if config.quality:
        rows = judged(config, rows)
    name = next(name for name, each in DTYPES.items() if each == generator.pipeline.dtype)
    table = Table(
        exact=exact_of(asked, weights_hash(folder), scheduler_hash(folder)),
        prompts=len(prompts),
        share=SHARE,
        confidence=CONFIDENCE,
        on=f"{device.type} {name}",
        versions=versions(device.type, getattr(generator.pipeline, "transformer", None)),
        rows=tuple(rows),
    )
    write_table(path, table)
    return f"{shown(table)}\n\n{path}"


def judged(config: CalibrateConfig, rows: Sequence[Row]) -> list[Row]:
    """The rows, the fastest of those worth their price with columns of `t2v eval compare`.

    The exact videos and those of each such row are evaluated on the same prompts, and each row is
    compared with the exact videos alone: p-values are adjusted for its own columns.

    Raises:
        UserError: see `evaluate`.
    """
    chosen = worth_it(rows)[: config.judged]
    with TemporaryDirectory(prefix="t2v-calibrate-") as folder:
        exact = Path(folder, "exact")
        evaluate(_evaluation(config, exact, None))
        found = {}
        for number, index in enumerate(chosen, 1):
            logger.info("quality %d/%d: %s", number, len(chosen), rows[index].setting)
            own = Path(folder, f"row-{index}")
            evaluate(_evaluation(config, own, rows[index].setting))
            found[index] = _columns(exact, own, Path(folder, f"compare-{index}"))
    return [replace(row, quality=found.get(index, {})) for index, row in enumerate(rows)]


def request_of(generator: Generator, config: CalibrateConfig) -> Request:
    """The exact video of the settings: the model's own, but for what is set."""
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")
    given = {name: getattr(config, name) for name in names}
    given = {name: value for name, value in given.items() if value is not None}
    return replace(generator.defaults, upscale=1, negative_prompt=config.negative_prompt, **given)


def shown(table: Table) -> str:
    """The table as Markdown, the fastest row on top and those that do not run at the end."""
    lines = [
        f"{table.exact}; {table.prompts} prompts, {table.on}. At most, at least: for "
        f"{table.share:.0%} of unseen prompts, with a confidence of {table.confidence:.0%}. Speed: "
        "of denoising, times the exact one's.",
        "",
        "| setting | error | at most | dB | at least | speed | interval | worse by the judges |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join((*lines, *map(_line, table.rows)))


def _line(row: Row) -> str:
    if row.measured is None:
        return f"| {row.setting} | {row.reason} | | | | | | |"
    found = row.measured
    worse = [name for name, cell in row.quality.items() if cell["verdict"] == "A is better"]
    judged = ", ".join(worse) or ("none" if row.quality else "")
    most = "no bound" if found.most_error >= NO_BOUND else f"{found.most_error:.4f}"
    return (
        f"| {row.setting} | {found.error:.4f} | {most} | {found.psnr:.1f} "
        f"| {found.least_psnr:.1f} | {found.speed:.2f} "
        f"| {found.speed_low:.2f}-{found.speed_high:.2f} | {judged} |"
    )


def _place(config: CalibrateConfig, folder: Path) -> Path:
    """The file of the table.

    Raises:
        UserError: it has to be named: the model is a Hub id, or its folder cannot be written.
    """
    if config.output is not None:
        return Path(config.output)
    is_here = config.model in EMBEDDED_MODELS or Path(config.model).is_dir()
    if not is_here or not os.access(folder, os.W_OK):
        why = "its folder cannot be written" if is_here else "it is no folder here"
        raise UserError(
            f"model={config.model}: {why}, so the table has no place beside it. Give "
            f"output=FILE.json, and to `t2v sample` calibration=FILE.json."
        )
    return folder / FILE


def _prompts(config: CalibrateConfig) -> list[str]:
    """The prompts to measure: of the file, of the world, or of a suite, as many as are asked for.

    Raises:
        UserError: the file holds fewer.
    """
    if config.prompts is not None:
        found = read_prompts(Path(config.prompts), "prompts", config.count)
        return list(dict.fromkeys(found))[: config.count]
    if config.model in EMBEDDED_MODELS:
        return random_prompts(config.count, config.seed)
    suite = load_suite("general", 10**6, config.seed).prompts
    return [suite[i * len(suite) // config.count] for i in range(config.count)]


def _evaluation(config: CalibrateConfig, output: Path, setting: Setting | None) -> EvalConfig:
    names = ("model", "height", "width", "num_frames", "guidance_scale", "device", "dtype")
    same: dict[str, Any] = {name: getattr(config, name) for name in names}
    left_out = {} if setting is None else asdict(setting)
    left_out.setdefault("num_inference_steps", config.num_inference_steps)
    oracle = shipped(WORLD_ORACLE, "config.json")
    if oracle is None and setting is None:  # once, of the exact videos
        logger.warning("quality: this installation has no %s, so no attributes", WORLD_ORACLE)
    return EvalConfig(
        **same, **left_out, output=str(output), suites=("world",), count=config.quality,
        oracle=None if oracle is None else str(oracle), page_videos=1,
    )  # fmt: skip


def _columns(exact: Path, own: Path, output: Path) -> dict[str, dict[str, Any]]:
    """The columns of each suite, those of a row as B beside the exact ones as A."""
    compare(CompareConfig(runs=(str(exact), str(own)), output=str(output), page_videos=1))
    report = json.loads((output / "compare.json").read_text())
    return {
        f"{suite}.{name}": {key: cell[key] for key in SHOWN}
        for suite, about in report["suites"].items()
        for name, cell in about["columns"]["B"].items()
    }
