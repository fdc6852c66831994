"""Batches whose clips have any shape, learned from as one sequence."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from diffusers.models.attention_dispatch import attention_backend
from einops import reduce
from torch import Tensor

from t2v.config.training import DiffusionConfig
from t2v.errors import UserError
from t2v.models.device import sent
from t2v.models.diffusion import add_noise, random_times
from t2v.models.known import transformer_inputs
from t2v.models.packing import predict_packed
from t2v.training.tasks.dit_parts import DiTBatch, DiTParts

TOKENS = ("learned_tokens", "memory_tokens", "prefix_tokens")  # that belong to no clip of a pack


class PackedBatch(NamedTuple):
    """The clips of a step, those of each shape together."""

    parts: tuple[DiTBatch, ...]

    def on(self, device: torch.device) -> PackedBatch:
        """The batch with its latents and embeddings on `device`."""
        return PackedBatch(tuple(part.on(device) for part in self.parts))


def check_packing(config: DiffusionConfig, parts: DiTParts) -> None:
    """Raise `UserError` for `pack=true` with a model whose clips cannot be packed."""
    if not config.pack:
        return
    settings: Any = parts.transformer.config
    learned = {name: settings.get(name, 0) for name in TOKENS}
    is_one = settings.get("attention") == "full" and parts.transformer_2 is None
    if not is_one or settings.conditioning == "channels" or any(learned.values()):
        told = {"attention": "its own", "conditioning": "none", **settings, **learned}
        raise UserError(
            "pack=true: clips are packed for one transformer of ours with attention=full that "
            "takes no frames as channels and has no tokens of its own, and this is a "
            f"{type(parts.transformer).__name__} with "
            f"{' '.join(f'{name}={told[name]}' for name in ('attention', 'conditioning', *TOKENS))}"
            ". Leave pack out."
        )


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
