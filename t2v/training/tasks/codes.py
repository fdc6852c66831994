"""The steps of token generators within the transformer's task."""

from __future__ import annotations

from dataclasses import replace
from pkgutil import resolve_name
from typing import Any

from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor

from t2v.config.codes import CODES
from t2v.models.device import sent
from t2v.models.diffusion import Objective
from t2v.training.losses.codes import masked_losses, next_losses, total
from t2v.training.tasks.dit_parts import DiTBatch

# by whether they make codes; each is loaded where there is such a model
GENERATORS = {False: "t2v_generator:T2VGenerator", True: "token_generator:TokenGenerator"}


def code_losses(task: Any, batch: DiTBatch, noise: Tensor, t: Tensor) -> dict[str, Tensor]:
    """The losses of a batch by name, `b` each, see `masked_losses` and `next_losses`.

    Args:
        task: a `DiTTask` of codes.
        t: uniform in [0, 1], `b`.
    """
    transformer = task.model["transformer"]
    head, patch = transformer.code_head, tuple(transformer.config.patch_size)
    noise = sent(noise, batch.latents.device)
    conditions, _, _ = task.prepared(batch, noise, t)
    known = None
    if conditions.known is not None:
        known = conditions.known, conditions.known_mask
        conditions = replace(conditions, known=None, known_mask=None)

    def predict(latents: Tensor, timestep: Tensor) -> Tensor:
        return task.experts.predict(task.model, latents, timestep, conditions, t)

    with attention_backend(task.config.attention):
        if task.objective == "autoregressive":
            return next_losses(head, predict, batch.latents, patch)
        return masked_losses(head, predict, batch.latents, noise, t, patch, known)


def code_step(
    task: Any, batch: DiTBatch, noise: Tensor, t: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """The loss of a training step, and its parts where there are several."""
    losses = code_losses(task, batch, noise, t)
    parts = {name: each.detach().mean() for name, each in losses.items()} if len(losses) > 1 else {}
    return total(losses).mean(), parts


def code_loss(task: Any, batch: DiTBatch, noise: Tensor, t: Tensor) -> Tensor:
    """The loss of each sample, `b`."""
    return total(code_losses(task, batch, noise, t))


def generator_of(objective: Objective) -> Any:
    """The class of the generators whose models are trained by an objective."""
    return resolve_name(f"t2v.pipelines.{GENERATORS[objective in CODES]}")
