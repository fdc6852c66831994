"""The schedulers of token generators: scores of codes become codes, many at once or one by one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import diffusers
import torch
from diffusers import AmusedScheduler, ConfigMixin, SchedulerMixin
from diffusers.configuration_utils import register_to_config
from torch import Tensor

CodeObjective = Literal["masked", "autoregressive"]


class MaskedCodeScheduler(AmusedScheduler):
    """The steps of a masked generator (MaskGIT, arXiv 2202.04200; MAGVIT, arXiv 2212.05199).

    Each step draws a code for every masked place, and masks again those that are least sure, as
    many as the cosine schedule says. All of it is diffusers' `AmusedScheduler`; here each video
    draws from a generator of its own, and codes that are given stay.

    Args:
        mask_token_id: stands for a masked place; the size of the table.
        temperature: of the choice of the surest codes in the first step; it falls to 0.
        code_temperature, top_k, top_p: see `narrowed`.
    """

    objective: CodeObjective = "masked"

    @register_to_config
    def __init__(
        self,
        mask_token_id: int,
        masking_schedule: Literal["cosine", "linear"] = "cosine",
        temperature: float = 4.5,
        code_temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> None:
        # as the constructor above does, which would register these settings as its defaults
        self.temperatures = self.timesteps = None

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Prepare so many steps, the last of which is number 0."""
        super().set_timesteps(num_inference_steps, (self.config.temperature, 0), device)

    def step_all(
        self,
        scores: Tensor,
        timestep: int,
        codes: Tensor,
        given: Tensor,
        generators: Sequence[torch.Generator],
    ) -> Tensor:
        """The codes of all videos after a step, `b n`.

        Args:
            scores: `b n codes`.
            codes: before the step, `b n`.
            given: true for codes that are no part of the video to be made, `b n`.
            generators: of each video.
        """
        scores = narrowed(scores, self.config)
        stepped = []
        for row, generator in enumerate(generators):
            share = (~given[row]).float().mean()
            which = slice(row, row + 1)
            options = {"starting_mask_ratio": share, "generator": generator, "return_dict": False}
            stepped.append(self.step(scores[which], timestep, codes[which], **options)[0])
        return torch.where(given, codes, torch.cat(stepped))


class NextCodeScheduler(SchedulerMixin, ConfigMixin):
    """The steps of an autoregressive generator: each draws the next code of every video.

    Args:
        mask_token_id: stands for a place that was not read; the size of the table.
        code_temperature, top_k, top_p: see `narrowed`.
    """

    objective: CodeObjective = "autoregressive"
    order = 1

    @register_to_config
    def __init__(
        self,
        mask_token_id: int,
        code_temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
    ) -> None:
        self.timesteps = torch.arange(0)

    def set_timesteps(
        self, num_inference_steps: int, device: str | torch.device | None = None
    ) -> None:
        """Prepare a step for each patch of codes."""
        self.timesteps = torch.arange(num_inference_steps, device=device)

    def step(self, scores: Tensor, uniform: Tensor) -> Tensor:
        """The codes `b` that numbers in [0, 1), `b`, draw by scores `b codes`."""
        shares = narrowed(scores, self.config).double().softmax(dim=-1)
        reached = shares.cumsum(dim=-1)
        wanted = uniform.to(reached).unsqueeze(-1) * reached[:, -1:]  # sums may be a bit under 1
        return torch.searchsorted(reached, wanted, right=True)[:, 0].clamp(max=scores.shape[-1] - 1)


def narrowed(scores: Tensor, config: Any) -> Tensor:
    """Scores `... codes` as they are drawn by, in float32.

    Args:
        config: has `code_temperature`, by which they are divided (0: the best alone), `top_k`, the
            most codes that may be drawn (0: all), and `top_p`, the share of the probability that
            the likeliest of them have together (arXiv 1904.09751); 1: all.
    """
    scores = scores.float()
    count = scores.shape[-1]
    k = 1 if config.code_temperature == 0 else min(config.top_k or count, count)
    if config.code_temperature:
        scores = scores / config.code_temperature
    if k < count:
        least = scores.topk(k, dim=-1).values[..., -1:]
        scores = scores.masked_fill(scores < least, -torch.inf)
    if config.top_p < 1:
        ordered, order = scores.sort(dim=-1, descending=True)
        before = ordered.softmax(dim=-1).cumsum(dim=-1) - ordered.softmax(dim=-1)
        dropped = torch.zeros_like(before, dtype=torch.bool)
        dropped.scatter_(-1, order, before >= config.top_p)
        scores = scores.masked_fill(dropped, -torch.inf)
    return scores


def code_scheduler(objective: str, codebook_size: int) -> SchedulerMixin:
    """The scheduler that belongs to an objective of `CODES`; it is saved with the weights."""
    kinds: dict[str, Any] = {"masked": MaskedCodeScheduler, "autoregressive": NextCodeScheduler}
    return kinds[objective](mask_token_id=codebook_size)


for _kind in (MaskedCodeScheduler, NextCodeScheduler):  # as saved folders name them
    setattr(diffusers, _kind.__name__, _kind)
