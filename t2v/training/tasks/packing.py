"""Batches whose clips have any shape, learned from as one sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import attention_backend
from einops import reduce
from torch import Tensor

from t2v.models.device import sent
from t2v.models.diffusion import add_noise, random_times
from t2v.models.known import transformer_inputs
from t2v.models.packing import predict_packed
from t2v.training.tasks.dit_parts import DiTBatch


class PackedBatch(NamedTuple):
    """The clips of a step, those of each shape together."""

    parts: tuple[DiTBatch, ...]

    def on(self, device: torch.device) -> PackedBatch:
        """The batch with its latents and embeddings on `device`."""
        return PackedBatch(tuple(part.on(device) for part in self.parts))


def packed_losses(task: Any, batch: PackedBatch, generator: torch.Generator) -> Tensor:
    """The loss of each clip of a batch, `b`, those of one shape after the other.

    Args:
        task: a `DiTTask`.
    """
    samples, weights, inputs = [], [], []
    for part in batch.parts:
        t = random_times(task.objective, len(part.latents), task.shift, generator)
        noise = torch.randn(part.latents.shape, generator=generator)
        noise = sent(noise, part.latents.device)
        conditions, weight, t = task.prepared(part, noise, t)
        t = sent(t, part.latents.device)
        sample = add_noise(task.objective, part.latents, noise, t, task.schedule)
        transformer = task.model["transformer"]
        inputs.append(transformer_inputs(transformer, sample.latents, sample.timestep, conditions))
        samples.append(sample)
        weights.append(weight)
    with attention_backend(task.config.attention):
        found = predict_packed(task.model["transformer"], inputs)
    losses = []
    for prediction, sample, weight in zip(found, samples, weights, strict=True):
        error = (prediction.float() - sample.target).square()
        if weight is not None:
            error = error * weight / reduce(weight, "b ... -> b 1 1 1 1", "mean")
        losses.append(reduce(error, "b ... -> b", "mean"))
    return torch.cat(losses)
