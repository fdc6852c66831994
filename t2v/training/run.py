"""One training run to its end: goes on where it stopped, logs, saves, validates, stops."""

from __future__ import annotations

import json
import logging
import math
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from safetensors.torch import load_file, save_file
from torch import Tensor
from tqdm import tqdm

from t2v.config import TrainConfig
from t2v.distributed import rank
from t2v.errors import UserError
from t2v.models.placement import pick_device
from t2v.settings import load_config, save_config
from t2v.training.checkpoint import newest_checkpoint, save_checkpoint, verify_checkpoint
from t2v.training.loop import StepMetrics, Task, TrainState, fit, start_state
from t2v.training.parallel import (
    any_rank,
    first_rank_first,
    is_split,
    on_first_rank,
    process_group,
    split_like,
    whole,
)
from t2v.training.start import start_from

logger = logging.getLogger(__name__)
Config = TypeVar("Config", bound=TrainConfig)

# A resumed run may change these; anything else would make it another run.
FREE_TO_CHANGE = {
    *("steps", "output", "save_every", "validate_every", "keep_checkpoints"),
    *("device", "attention", "accumulate", "parallel", "gradient_checkpointing"),
}
SHARDS = "batch_size x (accumulate * processes)"
SECONDS_BETWEEN_LINES = 30  # without a terminal


def train(task_of: Callable[[Config], Task], config: Config) -> Path:
    """Build the task in every process of the launcher, or in this one alone, and `run` it.

    Raises:
        UserError: the device is not to be had, or what `task_of` and `run` raise.
    """
    with process_group(pick_device(config.device)) as device:
        config = replace(config, device=str(device))
        with first_rank_first():
            task = task_of(config)
        return run(task, config)


def run(task: Task, config: TrainConfig) -> Path:
    """Train `task` to `config.steps` and return its last checkpoint.

    Writes `config.yaml`, `metrics.jsonl`, `sheets/` and checkpoints to `config.output`; an output
    that holds a checkpoint is continued. SIGTERM and Ctrl-C save and exit with 130. Of several
    processes the first one writes.

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
    with _stop_requests() as stopped, _Record(config, state.step) as record:
        for metrics in fit(task, config, state):
            done = state.step == config.steps
            judged = done or state.step % config.validate_every == 0
            record.add(metrics, _validate(task, state, output) if judged else {})
            stop = any_rank(bool(stopped))
            if done or stop or state.step % config.save_every == 0:
                save_state(output, task, config, state)
            if stop:
                logger.warning("%s: stopped and saved at step %d", output, state.step)
                sys.exit(130)
    return save_state(output, task, config, state)


def save_state(output: Path, task: Task, config: TrainConfig, state: TrainState) -> Path:
    """Save what the task makes of the average weights, and `training/` to go on from.

    The files are those of one process, whatever the number of processes.
    """
    kept = {kind: _in_one_piece(each) for kind, each in _state_tensors(task, state).items()}
    averaged = state.worker.averaged(state.ema)

    def write(folder: Path) -> None:
        with averaged:
            task.save(folder)
        training = folder / "training"
        training.mkdir()
        for kind, tensors in kept.items():
            save_file(tensors, training / f"{kind}.safetensors")
        record = {"step": state.step, "sources": task.sources, "shards": state.worker.shards}
        (training / "state.json").write_text(json.dumps(record))
        save_config(config, training / "config.yaml")

    return on_first_rank(
        lambda: save_checkpoint(output, state.step, write, config.keep_checkpoints)
    )


def load_state(checkpoint: Path, task: Task, config: TrainConfig, state: TrainState) -> None:
    """Put the weights, optimizer and average of `checkpoint` into `task` and `state`.

    Raises:
        UserError: a file is damaged, or a setting that matters was changed; each is named.
    """
    verify_checkpoint(checkpoint)
    training = checkpoint / "training"
    record = json.loads((training / "state.json").read_text())
    saved = asdict(load_config(type(config), training / "config.yaml", ()))
    saved |= record.get("sources", task.sources) | {SHARDS: record.get("shards", 1)}
    now = asdict(config) | task.sources | {SHARDS: state.worker.shards}
    _refuse_changes(now, saved, checkpoint)
    weights = load_file(training / "weights.safetensors")
    for name, parameter in task.model.named_parameters():
        parameter.data.copy_(split_like(weights[name], parameter))
    state.optimizer.load_state_tensors(load_file(training / "optimizer.safetensors"))
    state.ema.load_tensors(load_file(training / "ema.safetensors"))
    state.step = record["step"]


def _state_tensors(task: Task, state: TrainState) -> dict[str, dict[str, Tensor]]:
    return {
        "weights": dict(task.model.named_parameters()),
        "optimizer": state.optimizer.state_tensors(),
        "ema": state.ema.tensors(),
    }


def _in_one_piece(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors unsplit, on the first rank alone; gathered ones move to the CPU one by one."""
    kept = {}
    for name, tensor in tensors.items():
        value = whole(tensor.detach())
        if rank() == 0:
            kept[name] = (value.cpu() if is_split(tensor) else value).contiguous()
    return kept


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
    averaged = state.worker.averaged(state.ema)

    def judge() -> dict[str, float]:
        with averaged:
            figures, sheet = task.validate()
        (output / "sheets").mkdir(exist_ok=True)
        sheet.save(output / "sheets" / f"{state.step:06d}.png")
        return figures

    return on_first_rank(judge)


def _drop_metrics_after(path: Path, step: int) -> None:
    # A killed run has logged steps that no checkpoint holds; they are about to be taken again.
    if path.is_file():
        lines = path.read_text().splitlines(keepends=True)
        kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept))


class _Record:
    """What the first rank writes of a run beside its checkpoints, and its progress."""

    def __init__(self, config: TrainConfig, step: int) -> None:
        self.writes, output = rank() == 0, Path(config.output)
        if self.writes:
            save_config(config, output / "config.yaml")
            _drop_metrics_after(output / "metrics.jsonl", step)
            self.log = (output / "metrics.jsonl").open("a")
            self.bar = _Progress(config, step)

    def __enter__(self) -> _Record:
        return self

    def __exit__(self, *error: object) -> None:
        if self.writes:
            self.log.close()
            self.bar.close()

    def add(self, metrics: StepMetrics, figures: dict[str, float]) -> None:
        if self.writes:
            record = asdict(metrics)
            record |= record.pop("extra") | figures
            self.log.write(json.dumps(record) + "\n")
            self.log.flush()
            self.bar.advance(metrics, record)


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
