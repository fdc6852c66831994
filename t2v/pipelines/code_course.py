"""The course of a token generator's call: codes are filled in steps, or follow each other."""

from __future__ import annotations

import math
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from t2v.errors import UserError
from t2v.models.code_head import in_patches, of_patches
from t2v.models.diffusion import NUM_TRAIN_TIMESTEPS
from t2v.models.guidance import Groups, SchedulerStep
from t2v.models.next_codes import NextCodes
from t2v.pipelines.denoise import StepCallback, Watch
from t2v.pipelines.known import Pair


class Course:
    """The course of one call, from the codes that are given to those of whole videos.

    Args:
        pipeline: a `T2VTokenPipeline`.
        codes: `b t h w`, the size of the table where they are to be made.
        given: true for those that stay, likewise.
        conditions: positive and negative ones, without known latents.
        generators: one a video.
        told: what is called after every step.
    """

    def __init__(
        self,
        pipeline: Any,
        codes: Tensor,
        given: Tensor,
        conditions: Pair,
        generators: list[torch.Generator],
        told: tuple[StepCallback | None, Watch | None],
    ) -> None:
        self.pipeline, self.codes, self.given = pipeline, codes, given
        self.conditions, self.generators = conditions, generators
        self.callback, self.watch = told
        self.head, self.scheduler = pipeline.transformer.code_head, pipeline.scheduler
        self.unknown = len(self.head.table)
        self.patch: tuple[int, int, int] = tuple(pipeline.transformer.config.patch_size)

    def latents(self) -> Tensor:
        """The latents of the codes so far, in float32."""
        latents: Tensor = self.head.latents(self.codes).float()
        return latents

    def fill(self, guidance: Any, steps: int, first: int) -> None:
        """Fill what is masked, in some steps."""
        if steps < 1:
            raise UserError(f"num_inference_steps={steps}: give at least one step.")
        pipeline, scheduler = self.pipeline, self.scheduler
        scheduler.set_timesteps(steps)
        pipeline._num_timesteps = steps
        parts: list[Any] = [slice(None)]
        free = reduce(~self.given, "b ... -> b", "sum")
        if (free != free[0]).any():  # then each video is at a time of its own
            parts = [slice(n, n + 1) for n in range(len(self.codes))]
        # numbers of its own for each step, so that a video may go on at any
        self.seeds = [torch.randint(2**62, (steps,), generator=each) for each in self.generators]
        groups = [Groups() for _ in parts]
        split = self._rows(parts)
        with pipeline.progress_bar(total=steps - first) as bar:
            for index in range(first, steps):
                if pipeline.interrupt:
                    continue
                t = pipeline._current_timestep = scheduler.timesteps[index]
                features = []
                for part, conditions, kept in zip(parts, split, groups, strict=True):
                    share = (self.codes[part][:1] == self.unknown).float().mean()
                    step = SchedulerStep(NUM_TRAIN_TIMESTEPS * share, index, steps, None)
                    latents = self.latents()[part]
                    scale = pipeline.guidance_scale
                    features.append(guidance(latents, *conditions, scale, step, kept))
                self._step(torch.cat(features), t, index)
                if self._tell(index, t):
                    groups, split = [Groups() for _ in parts], self._rows(parts)
                bar.update()

    def _rows(self, parts: list[slice]) -> list[Pair]:
        """The conditions of each part of the videos."""
        positive, negative = self.conditions
        if len(parts) == 1:
            return [self.conditions]
        return [
            (positive.rows(part), None if negative is None else negative.rows(part))
            for part in parts
        ]

    def _step(self, features: Tensor, t: Tensor, index: int) -> None:
        scores = self.head.to_scores(in_patches(features.to(self.head.table), self.patch))
        grid = self._grid()
        scores = rearrange(of_patches(scores, self.patch, grid), "b k t h w -> b (t h w) k")
        codes, given = (each.flatten(1) for each in (self.codes, self.given))
        own = [torch.Generator().manual_seed(int(each[index])) for each in self.seeds]
        codes = self.scheduler.step_all(scores.cpu(), int(t), codes.cpu(), given.cpu(), own)
        self.codes = codes.to(self.codes).view_as(self.codes)

    def _grid(self) -> tuple[int, int, int]:
        t, h, w = (n // step for n, step in zip(self.codes.shape[1:], self.patch, strict=True))
        return t, h, w

    def _tell(self, index: int, t: Tensor) -> bool:
        """Call what is told of a step; return whether it may have changed conditions or weights."""
        if self.watch is not None:
            self.watch(index, self.latents())
        if self.callback is None:
            return False
        before = self.latents()
        after, positive, negative = self.callback(self.pipeline, index, t, before, *self.conditions)
        if after is not before:
            self.codes = self.head.codes_so_far(after.to(before))
        self.conditions = positive, negative
        return True

    def next(self, steps: int) -> None:
        """Make one patch after the other."""
        if steps != 1:
            raise UserError(
                f"num_inference_steps={steps}: this model makes one code after the other, each "
                "once. Leave it out."
            )
        if self.conditions[0].pictures is not None:
            raise UserError(
                "A picture at another place than the first frame is given, and this model makes "
                "one code after the other. Give first frames alone, or take a masked model."
            )
        pipeline = self.pipeline
        given = in_patches(self.given.unsqueeze(1), self.patch).flatten(2)  # b n p
        leading = given.all(dim=2).long().cumprod(dim=1).bool()
        if (given.any(dim=2) & ~leading).any():
            raise UserError(
                "mask: this model makes one code after the other, and goes on from first frames "
                "alone. Give an image or a video to go on from, or take a masked model."
            )
        is_alone = self.codes.device.type == "cpu"
        rows = [slice(n, n + 1) for n in range(len(self.codes))] if is_alone else [slice(None)]
        total = sum(self._patches() for _ in rows)
        pipeline._num_timesteps = total
        self.scheduler.set_timesteps(self._patches())
        split = self._rows(rows) if len(rows) > 1 else [self.conditions]
        uniform = torch.stack([_uniform(self._grid(), self.patch, g) for g in self.generators])
        with pipeline.progress_bar(total=total) as bar:
            for part, (positive, negative) in zip(rows, split, strict=True):
                run = NextCodes(
                    pipeline.transformer,
                    positive,
                    negative,
                    pipeline.guidance_scale,
                    self.codes[part],
                    pipeline.attention_kwargs,
                )
                for number in run(uniform[part].to(self.codes.device), self.scheduler.step):
                    pipeline._current_timestep = torch.tensor(number)
                    bar.update()
                    if pipeline.interrupt:
                        break
                self.codes = self.codes.clone()
                self.codes[part] = run.videos()
        self._tell(0, torch.tensor(0))

    def _patches(self) -> int:
        return math.prod(self._grid())


def _uniform(
    grid: tuple[int, int, int], patch: tuple[int, int, int], generator: torch.Generator
) -> Tensor:
    """The numbers that draw the codes of a video, `n p`: those of a frame do not depend on how many
    follow."""
    frames, places = grid[0], grid[1] * grid[2]
    drawn = [torch.rand(places, math.prod(patch), generator=generator) for _ in range(frames)]
    return torch.cat(drawn)
