"""What leaving work out costs by the judges: exact and accelerated videos, compared by prompt."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from t2v.acceleration.table import Row, Setting
from t2v.config.calibrate import CalibrateConfig
from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.evaluation.compare import compare
from t2v.evaluation.run import evaluate

logger = logging.getLogger(__name__)

WORLD_ORACLE = "assets/world-oracle"
SHOWN = ("a", "b", "difference", "low", "high", "chance_of_all", "verdict")


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


def worth_it(rows: Sequence[Row]) -> list[int]:
    """The rows faster than the exact path whose bounds no faster one has: by their place."""
    chosen: list[int] = []
    least = float("inf")
    ran = [(each.measured, index) for index, each in enumerate(rows) if each.measured]
    for measured, index in sorted(ran, key=lambda each: -each[0].speed_low):
        if measured.speed_low > 1 and measured.most_error < least:
            least = measured.most_error
            chosen.append(index)
    return chosen


def _evaluation(config: CalibrateConfig, output: Path, setting: Setting | None) -> EvalConfig:
    names = ("model", "height", "width", "num_frames", "guidance_scale", "device", "dtype")
    same: dict[str, Any] = {name: getattr(config, name) for name in names}
    left_out = {} if setting is None else asdict(setting)
    left_out.setdefault("num_inference_steps", config.num_inference_steps)
    oracle = WORLD_ORACLE if Path(WORLD_ORACLE, "config.json").is_file() else None
    return EvalConfig(
        **same, **left_out, output=str(output), suites=("world",), count=config.quality,
        oracle=oracle, page_videos=1,
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
