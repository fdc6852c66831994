"""One training run to its end: resumes, logs, validates, saves and stops."""

from __future__ import annotations

import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import asdict, replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

from torch import Tensor

from t2v.config.data import Precision
from t2v.config.load import load_config, save_config
from t2v.config.training import TrainConfig
from t2v.distributed import rank, world_size
from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint, save_checkpoint, verify_checkpoint
from t2v.io.files import write_text
from t2v.io.tensor_files import Shape, TensorFile, TensorWriter
from t2v.models.device import check_memory, pick_device
from t2v.models.kernels.precision import picked_precision
from t2v.outputs import FAILED, output_folder
from t2v.training.engine.collectives import (
    any_rank,
    exhaust,
    first_rank_first,
    on_first_rank,
    process_group,
    wholes,
)
from t2v.training.engine.initialize import resume_from, start_from
from t2v.training.engine.loop import TrainState, fit, start_state
from t2v.training.engine.metrics_logger import METRICS, MetricsLogger
from t2v.training.engine.task import Task
from t2v.training.engine.trackers import check_tracker

logger = logging.getLogger(__name__)
Config = TypeVar("Config", bound=TrainConfig)

# A resumed run may change these; anything else would make it another run.
FREE_TO_CHANGE = {
    *("steps", "output", "overwrite", "save_every", "validate_every", "keep_checkpoints"),
    *("device", "attention", "accumulate", "parallel", "tracker"),
    *("gradient_checkpointing", "checkpointing"),
    *("save", "base_dtype", "swap_blocks", "loader_workers"),
    *("clips.cache", "clips.workers", "clips.seconds_per_clip", "clips.gigabytes_per_worker"),
    *("sheet.height", "sheet.width", "sheet.num_frames", "sheet.steps"),
}
SHARDS = "batch_size x (accumulate * processes)"


def train(task_of: Callable[[Config], Task], config: Config) -> Path:
    """Build the task in every process of the launcher, or in this one alone, and `run` it.

    Raises:
        UserError: the device is not to be had, or what `task_of` and `run` raise.
    """
    check_tracker(config.tracker)
    with process_group(pick_device(config.device)) as device, ExitStack() as stack:
        on_first_rank(lambda: _hold(stack, config))
        config = replace(config, overwrite=False)
        config = replace(config, device=str(device))
        config = replace(config, precision=on_first_rank(lambda: _precision(config)))
        check_resumable(config, {})
        with first_rank_first():
            task = task_of(config)
        return run(task, config)


@contextmanager
def _failure_kept(output: Path) -> Iterator[None]:
    """Keep why a training fails beside its metrics, for those who look in the morning."""
    path = output / FAILED
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:  # whatever it is, it goes on from here
        about = {"time": time.time(), "message": str(error) or type(error).__name__}
        if (output / METRICS).exists():  # one that never began leaves nothing
            with suppress(OSError):  # a full disk may be the very reason
                write_text(path, json.dumps(about))
        raise


def _precision(config: TrainConfig) -> Precision:
    """The number format of a run: as told, or as it began, or the faster one of this machine."""
    if config.precision != "auto":
        return config.precision
    if checkpoint := newest_checkpoint(config.output):
        return load_config(type(config), checkpoint / "training" / "config.yaml", ()).precision
    if getattr(config, "base_dtype", "auto") == "bf16":  # a base that only goes with it
        return "bf16"
    name = picked_precision("auto", pick_device(config.device))
    logger.info("%s: precision=%s, in which this machine trains faster", config.output, name)
    return name


def _hold(stack: ExitStack, config: TrainConfig) -> None:
    stack.enter_context(output_folder(config))
    stack.enter_context(_failure_kept(Path(config.output)))


def run(task: Task, config: TrainConfig) -> Path:
    """Train `task` to `config.steps` and return its last checkpoint.

    Writes `config.yaml`, checkpoints and what `MetricsLogger` keeps to `config.output`; an output
    that holds a checkpoint is continued. A new run is validated before its first step as well.
    SIGTERM and Ctrl-C save and exit with 130. Of several processes the first one writes.

    Raises:
        UserError: the settings differ from those of the run to be continued, a checkpoint is
            damaged, the loss is not finite, the disk is full.
    """
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    check_memory(
        f"batch_size={config.batch_size}",
        config.batch_size * task.sample_bytes(),
        pick_device(config.device),
        "Give less; accumulate=N makes a step of N batches.",
    )
    checkpoint = newest_checkpoint(output)
    if checkpoint:
        check_checkpoint(checkpoint, task, config)
        resume_from(checkpoint, task)
    elif config.start_from:
        start_from(Path(config.start_from), task)
        if config.average_with:
            start_from(Path(config.average_with), task, 0.5, "average_with")
    with first_rank_first():
        task.prepare()
    state = start_state(task, config)
    if checkpoint:
        load_state(checkpoint, state)
        logger.info("%s: resuming at step %d of %d", output, state.step, config.steps)
    begun = state.step if checkpoint else None
    with _stop_requests() as stopped, MetricsLogger(config, begun) as log:
        if begun is None and config.steps:
            _validate(task, state, log)
        for metrics in fit(task, config, state):
            done = state.step == config.steps
            validates = done or state.step % config.validate_every == 0
            log.add(metrics, _validate(task, state, log) if validates else {})
            stop = any_rank(bool(stopped))
            if done or stop or state.step % config.save_every == 0:
                save_state(output, task, config, state)
            if stop:
                logger.warning("%s: stopped and saved at step %d", output, state.step)
                sys.exit(130)
    return save_state(output, task, config, state)


def save_state(output: Path, task: Task, config: TrainConfig, state: TrainState) -> Path:
    """Save what the task makes of the average weights, and `training/` to resume from.

    The files are those of one process, whatever the number of processes. The first one holds the
    average whole while the task saves it; what is resumed from goes to the disk tensor by tensor.
    """
    averaged = state.worker.averaged(state.ema)
    kept = _state_tensors(task, state)
    writers = {kind: TensorWriter(_shapes(tensors)) for kind, tensors in kept.items()}
    pieces = wholes(kept[kind][name] for kind, writer in writers.items() for name in writer.names)
    if rank():  # takes part in making them whole
        exhaust(pieces)

    def write(folder: Path) -> None:
        nonlocal averaged
        with averaged:
            task.save(folder)
        averaged = nullcontext()  # lets go of the average
        training = folder / "training"
        training.mkdir()
        for kind, writer in writers.items():
            writer.write(training / f"{kind}.safetensors", pieces)
        record = {"step": state.step, "sources": task.sources, "shards": state.worker.shards}
        (training / "state.json").write_text(json.dumps(record))
        save_config(config, training / "config.yaml")

    def save() -> Path:
        try:
            return save_checkpoint(output, state.step, write, config.keep_checkpoints)
        finally:  # where writing failed the others wait in the middle
            exhaust(pieces)

    return on_first_rank(save)


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: Shape(each.dtype, tuple(each.shape)) for name, each in tensors.items()}


def check_resumable(config: TrainConfig, sources: Mapping[str, str]) -> None:
    """Check that a run may go on in its output, before the long work of a task's data.

    Args:
        sources: of the task's, those that are known.

    Raises:
        UserError: a setting that matters, or one of these sources, is not what the run began with;
            each is named.
    """
    if checkpoint := newest_checkpoint(config.output):
        _refuse_changes(*_now_and_then(config, sources, checkpoint, all_known=False), checkpoint)


def check_checkpoint(checkpoint: Path, task: Task, config: TrainConfig) -> None:
    """Check that `config` may resume from `checkpoint`.

    Raises:
        UserError: a file is damaged, or a setting that matters was changed; each is named.
    """
    verify_checkpoint(checkpoint)
    now_and_then = _now_and_then(config, task.sources, checkpoint, all_known=True)
    _refuse_changes(*now_and_then, checkpoint)


def _now_and_then(
    config: TrainConfig, sources: Mapping[str, str], checkpoint: Path, *, all_known: bool
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings and sources of a run as they are, and as its checkpoint has them."""
    training = checkpoint / "training"
    record = json.loads((training / "state.json").read_text())
    saved = asdict(load_config(type(config), training / "config.yaml", ()))
    then = dict(record.get("sources", sources))
    if not all_known:
        then = {name: value for name, value in then.items() if name in sources}
    now = asdict(config) | {**sources, SHARDS: world_size() * config.accumulate}
    return now, saved | then | {SHARDS: record.get("shards", 1)}


def load_state(checkpoint: Path, state: TrainState) -> None:
    """Put the optimizer, average and step of `checkpoint` into `state`."""
    training = checkpoint / "training"
    state.optimizer.load_state_tensors(TensorFile(training / "optimizer.safetensors"))
    state.ema.load_tensors(TensorFile(training / "ema.safetensors"))
    state.step = json.loads((training / "state.json").read_text())["step"]


def _state_tensors(task: Task, state: TrainState) -> dict[str, dict[str, Tensor]]:
    saved = {id(p) for part in task.parts.values() for p in part.parameters()}
    weights = task.model.named_parameters()
    return {
        # the task saves frozen weights of its parts as they are
        "weights": {name: p for name, p in weights if p.requires_grad or id(p) not in saved},
        "optimizer": state.optimizer.state_tensors(),
        "ema": state.ema.tensors(),
    }


def _refuse_changes(now: dict[str, Any], then: dict[str, Any], checkpoint: Path) -> None:
    now, then = _flat(now), _flat(then)
    changed = [
        f"{name}: {then.get(name)} -> {now.get(name)}"
        for name in {**now, **then}
        if now.get(name) != then.get(name) and name not in FREE_TO_CHANGE
    ]
    if changed:
        raise UserError(
            f"{checkpoint} was trained with other settings ({'; '.join(changed)}). A resumed run "
            f"may change only {', '.join(sorted(FREE_TO_CHANGE))}. Give the old values, or a new "
            "output."
        )


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, object]:
    flat: dict[str, object] = {}
    for name, value in values.items():
        name = f"{prefix}{name}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return flat


def _validate(task: Task, state: TrainState, log: MetricsLogger) -> dict[str, Any]:
    averaged = state.worker.averaged(state.ema)

    def validate() -> dict[str, Any]:
        with averaged, state.worker.eager():
            validation = task.validate()
        return log.validated(state.step, validation)

    return on_first_rank(validate)


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
