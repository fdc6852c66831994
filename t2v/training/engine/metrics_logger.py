"""The records of a run beside its checkpoints: metrics, validations, sheets; and its progress."""

from __future__ import annotations

import logging
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from t2v.config.load import save_config
from t2v.config.training import TrainConfig
from t2v.distributed import rank
from t2v.io.checkpoint import not_written
from t2v.io.files import Lines, read_lines, write_lines
from t2v.io.video import save_image
from t2v.training.engine.significance import trend
from t2v.training.engine.task import StepMetrics, Validation
from t2v.training.engine.trackers import open_tracker

logger = logging.getLogger(__name__)

METRICS, VALIDATIONS = "metrics.jsonl", "validations.jsonl"
SECONDS_BETWEEN_LINES = 30  # without a terminal


class MetricsLogger:
    """Writes, on the first rank alone, into `config.output`.

    `config.yaml`; `metrics.jsonl`, a line a step; `validations.jsonl`, the losses clip by clip that
    the verdicts rest on; `sheets/`; and what `config.tracker` shows.

    Args:
        step: of the checkpoint the run resumes from, None for a new run. Lines of later steps are
            dropped: a killed run has logged steps that no checkpoint holds, to be taken again.
    """

    def __init__(self, config: TrainConfig, step: int | None) -> None:
        self.output, self.writes = Path(config.output), rank() == 0
        if not self.writes:
            return
        save_config(config, self.output / "config.yaml")
        _drop_after(self.output / METRICS, -1 if step is None else step)
        _drop_after(self.output / VALIDATIONS, -1 if step is None else step)
        self.tracker = open_tracker(config, step or 0)
        self.log = Lines(self.output / METRICS)
        self.progress = _Progress(config, step or 0)

    def __enter__(self) -> MetricsLogger:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writes:
            self.progress.close()
            with suppress(OSError):  # `add` has reported what the disk refused
                self.log.close()
            if self.tracker is not None:
                with suppress(OSError):
                    self.tracker.close()

    def validated(self, step: int, validation: Validation) -> dict[str, Any]:
        """Keep a validation; return its figures, those from before any step, and the verdict.

        Raises:
            UserError: the disk refused, as in `add`.
        """
        with self._writing(VALIDATIONS):
            return self._validated(step, validation)

    def _validated(self, step: int, validation: Validation) -> dict[str, Any]:
        (self.output / "sheets").mkdir(exist_ok=True)
        save_image(self.output / "sheets" / f"{step:06d}.png", validation.sheet)
        if self.tracker is not None:
            self.tracker.image(step, "sheet", validation.sheet)
        losses = {name: values.tolist() for name, values in validation.losses.items()}
        line = {"step": step, "figures": validation.figures, "losses": losses}
        with Lines(self.output / VALIDATIONS) as file:
            file.add(line)
        lines = read_lines(self.output / VALIDATIONS, *line)
        shown: dict[str, Any] = dict(validation.figures)
        if lines[0]["step"] == 0 < step:
            shown |= {f"{name}_untuned": value for name, value in lines[0]["figures"].items()}
        if len(lines) > 1:
            found = trend([_tensors(line["losses"]) for line in lines])
            shown |= found.figures | {"verdict": found.sentence}
        return shown

    def add(self, metrics: StepMetrics, validated: dict[str, Any]) -> None:
        """Write the line of a step, with what `validated` gave at this step or nothing.

        Raises:
            UserError: the disk refused; the last checkpoint is named.
        """
        if not self.writes:
            return
        record = asdict(metrics)
        record |= record.pop("extra") | validated
        with self._writing(METRICS):
            self.log.add(record)
            if self.tracker is not None:
                figures = {name: value for name, value in record.items() if name != "step"}
                self.tracker.log(metrics.step, figures)
        self.progress.advance(metrics, record)

    @contextmanager
    def _writing(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise not_written(self.output / name, self.output, error) from error


def _tensors(losses: dict[str, list[float]]) -> dict[str, Tensor]:
    return {name: torch.tensor(values) for name, values in losses.items()}


def _drop_after(path: Path, step: int) -> None:
    if path.is_file():
        rows = read_lines(path, "step")
        write_lines(path, [row for row in rows if _is_until(row["step"], step)])


def _is_until(step: Any, last: int) -> bool:
    return isinstance(step, int) and step <= last


class _Progress:
    """A bar in a terminal, a plain line now and then without one."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        self.batch_size = config.batch_size
        self.plain = not sys.stderr.isatty()
        self.spoke = -math.inf
        self.loss = math.nan
        self.bar = tqdm(
            total=config.steps * config.batch_size,
            initial=step * config.batch_size,
            unit=" samples",
            unit_scale=True,
            smoothing=0.05,
            disable=self.plain,
            dynamic_ncols=True,
        )
        self.steps = config.steps
        self.first_step, self.started = step, time.monotonic()

    def advance(self, metrics: StepMetrics, record: dict[str, Any]) -> None:
        first = math.isnan(self.loss)
        self.loss = metrics.loss if first else 0.98 * self.loss + 0.02 * metrics.loss
        self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
        self.bar.update(self.batch_size)
        shown = [f"{k}={v:.4g}" for k, v in record.items() if k.startswith("val_")]
        figures = " ".join([*shown, record.get("verdict", "")]).strip()
        if figures and not self.plain:
            self.bar.write(f"step {metrics.step}: {figures}", file=sys.stderr)
        if self.plain and (figures or time.monotonic() - self.spoke > SECONDS_BETWEEN_LINES):
            self.spoke = time.monotonic()
            pace = (self.spoke - self.started) / (metrics.step - self.first_step)
            logger.info(
                "step %d/%d loss %.4f, %.1f samples/s, %.0f min left %s",
                *(metrics.step, self.steps, self.loss, self.batch_size / pace),
                *(pace * (self.steps - metrics.step) / 60, figures),
            )

    def close(self) -> None:
        self.bar.close()
