"""The choice of what each clip of a batch is given while the rest is learned."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from t2v.config.training import TasksConfig
from t2v.models.conditions import Conditions
from t2v.models.device import sent
from t2v.models.known import picture_position, reference_position, softened
from t2v.models.latents import frame_latents

REFERENCES = "references"
# of a whole batch, whose sequences they make longer
WITH_PICTURES = ("ends", "pictures", REFERENCES)


class Given(NamedTuple):
    """All that the clips of a batch are given besides text; a clip may be given nothing."""

    mask: Tensor  # b 1 t h w: 1 where latents are known
    frames: Tensor | None  # b k: the frames that are given as pictures
    times: Tensor | None  # b t: times of single latent frames, NaN where the clip's own holds
    tasks: tuple[str, ...]  # of each clip
    is_blank: bool = False  # the mask is 0 everywhere; asking it would need its numbers
    references: Tensor | None = None  # b c k h w: latents of pictures that are no frames
    is_noised: bool = False  # some of what is known is less than sure; asking would need numbers


class GivenChoice:
    """The choice for the clips of a step, as a function of a generator.

    Args:
        tasks: their shares; that of `image` is met by the order of batches.
        patch: of the transformer; masks consist of whole tokens.
        temporal: frames of a latent frame.
        known_dropout: share of the clips that are given nothing after all.
        known_noise: the latest time that known latents are noised to.
    """

    def __init__(
        self,
        tasks: TasksConfig,
        patch: Sequence[int],
        temporal: int,
        known_dropout: float,
        known_noise: float,
    ) -> None:
        shares = asdict(tasks)
        del shares["image"]
        self.shares = {name: share for name, share in shares.items() if share}
        self.patch, self.temporal = tuple(patch), temporal
        self.known_dropout, self.known_noise = known_dropout, known_noise

    @property
    def is_text_alone(self) -> bool:
        return set(self.shares) <= {"text"}

    def __call__(
        self, shape: Sequence[int], starts: Tensor, needs: Tensor, generator: torch.Generator
    ) -> Given | None:
        """Choose for latents of a shape.

        Args:
            shape: `b c t h w`.
            starts: the frame at which the last scene of each clip begins, 0 where it has one, `b`.
            needs: true for clips whose captions leave open how they look, which are always given
                a part of themselves, `b`.

        Returns:
            None where no clip is given anything.
        """
        count, _, t, h, w = shape
        tasks = self._tasks(count, t, generator)
        dropped = torch.rand(count, generator=generator) < self.known_dropout
        dropped = dropped & ~needs
        tasks = tuple(
            "text" if drop and task not in WITH_PICTURES else task
            for task, drop in zip(tasks, dropped.tolist(), strict=True)
        )
        if needs.any():
            tasks = self._with_some_given(tasks, t, needs.tolist(), generator)
        if all(task == "text" for task in tasks):
            return None
        mask = torch.zeros(count, 1, t, h, w)
        times = torch.full((count, t), torch.nan)
        for row, task in enumerate(tasks):
            if task == "frames":
                times[row] = torch.randn(t, generator=generator).sigmoid()
            else:
                # a clip that has to be given something is not left with pictures of nothing
                known = "first" if task == REFERENCES and needs[row] else task
                mask[row, 0] = self._mask(known, (t, h, w), int(starts[row]), generator)
        mask = mask * (1 - self.known_noise * torch.rand(count, 1, 1, 1, 1, generator=generator))
        frames = None
        if tasks[0] in WITH_PICTURES and tasks[0] != REFERENCES:
            frames = self._frames(tasks[0], count, (t - 1) * self.temporal + 1, generator)
            mask[dropped] = 0
        spread = times if "frames" in tasks else None
        is_noised = bool(((mask > 0) & (mask < 1)).any())
        return Given(mask, frames, spread, tasks, not mask.any(), is_noised=is_noised)

    def added_to(
        self, conditions: Conditions, latents: Tensor, given: Given, noise: Tensor, vae: Any
    ) -> Conditions:
        """The conditions of a batch with what its clips are given.

        Args:
            latents: clean, `b c t h w`, on the device of the batch, as `noise` is.
            vae: makes latents of the frames that are given as pictures.
        """
        device = latents.device
        if not given.is_blank:
            conditions = replace(conditions, known=latents, known_mask=sent(given.mask, device))
            if given.is_noised:
                conditions = softened(conditions, noise, given.mask)
        if given.frames is not None:
            positions = sent(self.positions(given.frames), device)
            pictures = frame_latents(vae, latents, given.frames)
            conditions = replace(conditions, pictures=pictures, picture_positions=positions)
        if given.references is not None:
            count, _, k = given.references.shape[:3]
            positions = torch.tensor([[reference_position(n) for n in range(k)]] * count)
            pictures = sent(given.references, device)
            where = sent(positions, device)
            conditions = replace(conditions, pictures=pictures, picture_positions=where)
        return conditions

    def example(self, shape: Sequence[int]) -> Given | None:
        """Stand for what a batch is given in an estimate of work: the first frames, if any are.

        Args:
            shape: of the latents, `b c t h w`.
        """
        if self.is_text_alone:
            return None
        mask = torch.zeros(shape[0], 1, *shape[2:])
        mask[:, :, :1] = shape[2] > 1
        return Given(mask, None, None, ("first",) * shape[0], shape[2] == 1)

    def positions(self, frames: Tensor) -> Tensor:
        """The places of pictures in time, `b k`."""
        places = [[picture_position(f, self.temporal) for f in row] for row in frames.tolist()]
        return torch.tensor(places)

    def _tasks(self, count: int, t: int, generator: torch.Generator) -> tuple[str, ...]:
        names = list(self.shares)
        if t == 1:
            names = [n for n in names if n in ("text", "region", REFERENCES)] or ["text"]
        weights = torch.tensor([float(self.shares.get(name, 1)) for name in names])
        drawn = torch.multinomial(weights, count, replacement=True, generator=generator).tolist()
        if names[drawn[0]] in WITH_PICTURES:
            return (names[drawn[0]],) * count
        # the first clip stands for the batch, so the others are chosen among what it could be
        mixed = [name not in WITH_PICTURES for name in names]
        if not all(mixed):
            weights = weights * torch.tensor(mixed)
            rest = torch.multinomial(weights, count, replacement=True, generator=generator)
            drawn = [drawn[0], *rest.tolist()[1:]]
        return tuple(names[each] for each in drawn)

    def _with_some_given(
        self, tasks: Sequence[str], t: int, needs: Sequence[bool], generator: torch.Generator
    ) -> tuple[str, ...]:
        """The tasks, with another in place of `text` where something has to be given."""
        names = [name for name in self.shares if name not in ("text", *WITH_PICTURES)]
        if t == 1:
            names = [name for name in names if name == "region"]
        if not names:
            return tuple(tasks)
        weights = torch.tensor([float(self.shares[name]) for name in names])
        others = torch.multinomial(weights, len(tasks), replacement=True, generator=generator)
        return tuple(
            names[other] if need and task == "text" else task
            for task, need, other in zip(tasks, needs, others.tolist(), strict=True)
        )

    def _mask(
        self, task: str, grid: tuple[int, int, int], start: int, generator: torch.Generator
    ) -> Tensor:
        """The mask of one clip, `t h w`, or what broadcasts to it."""
        t, h, w = grid
        known = torch.zeros(t, 1, 1)
        if task == "region":
            return self._region(h, w, generator)[None]
        if t == 1 or task in ("text", REFERENCES):
            return known
        ends = 1 + torch.randint(max(t - 1, 1), (2,), generator=generator)
        before, after = (int(each) for each in ends)  # 1 to t - 1
        last = (start - 1) // self.temporal + 1 if start % self.temporal == 1 else 0
        match task:
            case "prefix" if 0 < last < t:
                known[:last] = 1  # all that comes before the last scene
            case "prefix":
                known[:before] = 1
            case "between" if t > 2:
                known[: min(before, t - 2)] = 1
                known[max(t - after, min(before, t - 2) + 1) :] = 1
            case "pictures":
                known[0] = float(torch.rand((), generator=generator) < 0.5)
            case _:  # first, ends
                known[0] = 1
        return known

    def _region(self, h: int, w: int, generator: torch.Generator) -> Tensor:
        """A box of whole tokens, `h w`, that is made anew inside, or around."""
        _, ph, pw = self.patch
        rows, columns = (self._side(size, generator) for size in (h // ph, w // pw))
        box = torch.zeros(h // ph, w // pw)
        box[rows, columns] = 1
        inside = bool(torch.rand((), generator=generator) < 0.5) or bool(box.all())
        known = 1 - box if inside else box
        return known.repeat_interleave(ph, 0).repeat_interleave(pw, 1)

    def _side(self, size: int, generator: torch.Generator) -> slice:
        length = 1 + int(torch.randint(size, (), generator=generator))
        first = int(torch.randint(size - length + 1, (), generator=generator))
        return slice(first, first + length)

    def _frames(self, task: str, count: int, total: int, generator: torch.Generator) -> Tensor:
        """The frames of pictures, `b k`, in order: the last one, or some at random."""
        if task == "ends":
            return torch.full((count, 1), total - 1)
        most = max((total - 1) // self.temporal, 1)
        k = 1 + int(torch.randint(most, (), generator=generator))
        order = torch.rand(count, total - 1, generator=generator).argsort(dim=1)
        return 1 + order[:, :k].sort(dim=1).values


def frame_times(t: Tensor, given: Given, shift: float) -> Tensor:
    """The times of a batch, `b`, or `b t` where single frames have their own."""
    if given.times is None:
        return t
    own = shift * given.times / (1 + (shift - 1) * given.times)
    return torch.where(own.isnan(), rearrange(t, "b -> b 1"), own)
