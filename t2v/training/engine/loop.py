"""Training steps, and nothing about what is trained."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from t2v.config.training import TrainConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.models.device import pick_device
from t2v.models.kernels.precision import picked_precision
from t2v.training.engine.collectives import mean_over_ranks, whole
from t2v.training.engine.ema import EMA
from t2v.training.engine.loader import batches
from t2v.training.engine.optim import Optimizer, lr_factor
from t2v.training.engine.parallel import Worker
from t2v.training.engine.task import StepMetrics, Task


@dataclass
class TrainState:
    """The state of a run beside its weights; `step` counts finished steps."""

    worker: Worker
    optimizer: Optimizer
    ema: EMA
    step: int = 0


def start_state(task: Task, config: TrainConfig) -> TrainState:
    """A run that has taken no step; under several processes the model is split or wrapped here."""
    worker = Worker(task, config)
    optimizer = Optimizer(task.parameter_groups(), config.optim.weight_decay)
    return TrainState(worker, optimizer, EMA(task.model, config.optim.ema_decay))


def fit(task: Task, config: TrainConfig, state: TrainState) -> Iterator[StepMetrics]:
    """Train from `state.step` to `config.steps`, yielding after each step; `state` moves along.

    All that is random in a step is keyed by (seed, step, shard), so that a resumed run equals an
    uninterrupted one, bit for bit on a CPU.

    Raises:
        UserError: the loss or a gradient is not finite. The weights are those before the step.
    """
    trained = [p for p in task.model.parameters() if p.requires_grad]
    worker = state.worker
    shards = [worker.shard(micro) for micro in range(config.accumulate)]
    ahead = batches(task, config, state.step, shards, worker.shards)
    while state.step < config.steps:
        started = time.perf_counter()
        names, means = _gradients(task, config, state, ahead)
        norm = nn.utils.get_total_norm([p.grad for p in trained if p.grad is not None])
        # the only time that a step waits for the device
        *values, grad_norm = torch.cat([means, whole(norm).to(means)[None]]).tolist()
        figures = dict(zip(names, values, strict=True))
        if not (math.isfinite(figures["loss"]) and math.isfinite(grad_norm)):
            raise UserError(_not_finite(task.model, config, state.step, figures["loss"]))
        nn.utils.clip_grads_with_norm_(trained, config.optim.clip_norm, norm)
        factor = lr_factor(state.step, config.steps, config.optim)
        state.optimizer.step(factor)
        state.ema.update(state.step)
        state.step += 1
        yield StepMetrics(
            step=state.step,
            loss=figures.pop("loss"),
            grad_norm=grad_norm,
            lr_factor=factor,
            seconds=time.perf_counter() - started,
            extra=figures,
        )


def _gradients(
    task: Task, config: TrainConfig, state: TrainState, ahead: Iterator[Any]
) -> tuple[list[str], Tensor]:
    """Leave the gradients of a step on the parameters; return names and means of its metrics."""
    worker, metrics = state.worker, []
    names: list[str] = []
    for micro in range(config.accumulate):
        generator = keyed_generator(config.seed, state.step, worker.shard(micro), "noise")
        batch = task.place(next(ahead))
        loss, extra = worker.backward(batch, generator, last=micro == config.accumulate - 1)
        figures = {"loss": loss, **extra}
        names = [*figures]
        metrics.append(torch.stack([value.detach().float() for value in figures.values()]))
    return names, mean_over_ranks(torch.stack(metrics).mean(dim=0))


def autocast(config: TrainConfig) -> torch.autocast:
    """The precision of forward passes: bfloat16 where it is safe, or plain float32."""
    device = pick_device(config.device)
    is_half = picked_precision(config.precision, device) == "bf16"
    return torch.autocast(device.type, torch.bfloat16, enabled=is_half)


def _not_finite(model: nn.Module, config: TrainConfig, step: int, loss: float) -> str:
    gradients = ((name, p.grad) for name, p in model.named_parameters() if p.grad is not None)
    bad = next((name for name, grad in gradients if not whole(grad).isfinite().all()), "none")
    return (
        f"Step {step + 1} of {config.output}: loss {loss}, first gradient that is not "
        f"finite: {bad}. Training stopped before the weights changed. Last complete checkpoint: "
        f"{newest_checkpoint(config.output) or 'none'}. Lower optim.lr or optim.adam_lr, "
        "or try precision=fp32, with a new output."
    )
