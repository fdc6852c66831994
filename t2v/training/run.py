"""One training run to its end: goes on where it stopped, logs, saves, validates, stops."""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from t2v.config import TrainConfig
from t2v.distributed import world_size
from t2v.errors import UserError
from t2v.settings import load_config, save_config
from t2v.training.checkpoint import newest_checkpoint, save_checkpoint, verify_checkpoint
from t2v.training.loop import StepMetrics, Task, TrainState, fit, start_state
from t2v.training.start import start_from

logger = logging.getLogger(__name__)

# A resumed run may change these; anything else would make it another run.
FREE_TO_CHANGE = {
    *("steps", "output", "save_every", "validate_every", "keep_checkpoints"),
    *("device", "attention"),
}
SECONDS_BETWEEN_LINES = 30  # without a terminal


def run(task: Task, config: TrainConfig) -> Path:
    """Train `task` to `config.steps` and return its last checkpoint.

    Writes `config.yaml`, `metrics.jsonl`, `sheets/` and checkpoints to `config.output`; an output
    that holds a checkpoint is continued. SIGTERM and Ctrl-C save and exit with 130.

    Raises:
        UserError: the settings differ from those of the run to be continued, a checkpoint is
            damaged, the loss is not finite, the disk is full.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    checkpoint = newest_checkpoint(output)
    if config.start_from and not checkpoint:
        start_from(Path(config.start_from), task)
    state = start_state(task, config)
    if checkpoint:
        load_state(checkpoint, task, config, state)
        logger.info("%s: going on from step %d of %d", output, state.step, config.steps)
    save_config(config, output / "config.yaml")
    _drop_metrics_after(output / "metrics.jsonl", state.step)
    with _stop_requests() as stopped, (output / "metrics.jsonl").open("a") as log:
        bar = _Progress(config, state.step)
        for metrics in fit(task, config, state):
            record = asdict(metrics)
            record |= record.pop("extra")
            done = state.step == config.steps
            if done or state.step % config.validate_every == 0:
                record |= _validate(task, state, output)
            log.write(json.dumps(record) + "\n")
            log.flush()
            bar.advance(metrics, record)
            if done or stopped or state.step % config.save_every == 0:
                save_state(output, task, config, state)
            if stopped:
                logger.warning("%s: stopped and saved at step %d", output, state.step)
                sys.exit(130)
        bar.close()
    return save_state(output, task, config, state)


def refuse_many_processes() -> None:
    """Raise `UserError` where a launcher started several, which would write into one output."""
    if (count := world_size()) > 1:
        raise UserError(
            f"WORLD_SIZE={count}: training takes one process so far. Start it without a launcher "
            "such as torchrun: t2v train, or t2v train-vae."
        )


def save_state(output: Path, task: Task, config: TrainConfig, state: TrainState) -> Path:
    """Save what the task makes of the average weights, and `training/` to go on from."""

    def write(folder: Path) -> None:
        with state.ema.applied():
            task.save(folder)
        training = folder / "training"
        training.mkdir()
        for name, tensors in _state_tensors(task, state).items():
            contiguous = {key: value.detach().contiguous() for key, value in tensors.items()}
            save_file(contiguous, training / f"{name}.safetensors")
        record = {"step": state.step, "sources": task.sources}
        (training / "state.json").write_text(json.dumps(record))
        save_config(config, training / "config.yaml")

    return save_checkpoint(output, state.step, write, config.keep_checkpoints)


def load_state(checkpoint: Path, task: Task, config: TrainConfig, state: TrainState) -> None:
    """Put the weights, optimizer and average of `checkpoint` into `task` and `state`.

    Raises:
        UserError: a file is damaged, or a setting that matters was changed; each is named.
    """
    verify_checkpoint(checkpoint)
    training = checkpoint / "training"
    record = json.loads((training / "state.json").read_text())
    saved = asdict(load_config(type(config), training / "config.yaml", ()))
    saved |= record.get("sources", task.sources)
    _refuse_changes(asdict(config) | task.sources, saved, checkpoint)
    weights = load_file(training / "weights.safetensors")
    for name, parameter in task.model.named_parameters():
        parameter.data.copy_(weights[name])
    state.optimizer.load_state_tensors(load_file(training / "optimizer.safetensors"))
    state.ema.load_tensors(load_file(training / "ema.safetensors"))
    state.step = record["step"]


def _state_tensors(task: Task, state: TrainState) -> dict[str, dict[str, Tensor]]:
    return {
        "weights": dict(task.model.named_parameters()),
        "optimizer": state.optimizer.state_tensors(),
        "ema": state.ema.tensors(),
    }


def _refuse_changes(now: dict[str, Any], then: dict[str, Any], checkpoint: Path) -> None:
    now, then = _flat(now), _flat(then)
    changed = [
        f"{name}: {then.get(name)} -> {now[name]}"
        for name in now
        if now[name] != then.get(name) and name not in FREE_TO_CHANGE
    ]
    if changed:
        raise UserError(
            f"{checkpoint} was trained with other settings ({'; '.join(changed)}). Going on may "
            f"change only {', '.join(sorted(FREE_TO_CHANGE))}. Give the old ones, or a new output."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        name = f"{prefix}{name}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _validate(task: Task, state: TrainState, output: Path) -> dict[str, float]:
    with state.ema.applied():
        figures, sheet = task.validate()
    (output / "sheets").mkdir(exist_ok=True)
    sheet.save(output / "sheets" / f"{state.step:06d}.png")
    return figures


def _drop_metrics_after(path: Path, step: int) -> None:
    # A killed run has logged steps that no checkpoint holds; they are about to be taken again.
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept))


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """A list that fills when SIGTERM or Ctrl-C arrives; a second Ctrl-C interrupts at once."""
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if received and number == signal.SIGINT:
            raise KeyboardInterrupt
        received.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


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

    def advance(self, metrics: StepMetrics, record: dict[str, float]) -> None:
        first = math.isnan(self.loss)
        self.loss = metrics.loss if first else 0.98 * self.loss + 0.02 * metrics.loss
        self.bar.set_postfix(loss=f"{self.loss:.4f}", refresh=False)
        self.bar.update(self.batch_size)
        figures = " ".join(f"{k}={v:.4g}" for k, v in record.items() if k.startswith("val_"))
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
