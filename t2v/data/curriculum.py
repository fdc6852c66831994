"""The clips of each step's batch: by shape, by stage of the curriculum, images beside videos."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from t2v.config.data import CurriculumStage
from t2v.data.buckets import Bucket
from t2v.data.rng import keyed_generator, step_indices
from t2v.errors import UserError


class BatchOrder:
    """Batches of equal shape as a function of (seed, step, rank, world_size).

    Every shape comes in proportion to its items, spread evenly over the steps, and within a
    shape the order is that of `step_indices`: an item comes again only when all others of its
    shape had their turn. All ranks see one shape in a step, and together what one rank with their
    joint batch would see.
    """

    def __init__(self, shapes: Sequence[Hashable], batch_size: int, seed: int) -> None:
        members: dict[Hashable, list[int]] = {}
        for number, shape in enumerate(shapes):
            members.setdefault(shape, []).append(number)
        self.members = [torch.tensor(each) for each in members.values()]
        self.batch_size, self.seed = batch_size, seed
        counts = [len(each) for each in self.members]
        self.turns = [count // math.gcd(*counts) for count in counts]  # of each shape in a cycle

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Tensor:
        """The items of a step, `batch_size` of them, all of one shape."""
        cycle, position = divmod(step, sum(self.turns))
        shapes, visits = _cycle(tuple(self.turns), self.seed, cycle)
        shape = int(shapes[position])
        visit = cycle * self.turns[shape] + int(visits[position])
        members = self.members[shape]
        return members[
            step_indices(len(members), self.batch_size, self.seed, visit, rank, world_size)
        ]


@lru_cache(maxsize=4)
def _cycle(turns: tuple[int, ...], seed: int, cycle: int) -> tuple[Tensor, Tensor]:
    """The shape of each step of a cycle, and the number of times it came before in the cycle.

    The k-th of n turns falls at a random time in [k/n, (k+1)/n), so no shape runs ahead.
    """
    generator = keyed_generator(seed, cycle, "buckets")
    shapes = torch.repeat_interleave(torch.tensor(turns))
    visits = torch.cat([torch.arange(each) for each in turns])
    jitter = torch.rand(len(shapes), generator=generator, dtype=torch.float64)
    order = ((visits + jitter) / torch.tensor(turns)[shapes]).argsort(stable=True)
    return shapes[order], visits[order]


class Item(NamedTuple):
    """A cached tensor that a batch may hold: its clip, its resolution and its shape."""

    clip: int
    resolution: int | None
    bucket: Bucket


class BatchItems(NamedTuple):
    """The items of a batch, all of one shape, and how many of their first frames it takes."""

    indices: Tensor  # b, of items
    num_frames: int


def by_shape(items: Sequence[tuple[int, Bucket]], at_once: int) -> tuple[BatchItems, ...]:
    """All of the numbered items, whole, at most `at_once` a batch; the commonest shape first."""
    shapes: dict[Bucket, list[int]] = {}
    for number, bucket in items:
        shapes.setdefault(bucket, []).append(number)
    return tuple(
        BatchItems(some, bucket.num_frames)
        for bucket, numbers in sorted(shapes.items(), key=lambda each: -len(each[1]))
        for some in torch.tensor(numbers).split(at_once)
    )


def first_items(batches: Iterable[BatchItems], count: int) -> Iterator[BatchItems]:
    """The batches that hold the first `count` items; the last one is cut."""
    for batch in batches:
        if count <= 0:
            return
        yield BatchItems(batch.indices[:count], batch.num_frames)
        count -= len(batch.indices)


class Curriculum:
    """The batches of a training in stages: of some sizes and lengths, images beside videos.

    In a stage a share `image_ratio` of the steps takes first frames of clips (and image files), the
    others take clips cut to the longest of `lengths` that clip and stage allow. The VAE is causal,
    so a cut clip's latents are the first of the whole one's.

    Raises:
        UserError: a stage has no clips.
    """

    def __init__(
        self,
        items: Sequence[Item],
        stages: Sequence[CurriculumStage],
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
    ) -> None:
        self.stages = [_Stage(each, items, lengths, batch_size, seed) for each in stages]

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> BatchItems:
        """The items of a step and how many of their frames it takes."""
        stage, since = self._at(step)
        return stage.batch(since, rank, world_size)

    def mixed(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[BatchItems, ...]:
        """The items of a step whose batch holds clips of any shape, those of each shape together.

        Single frames are a step's alone here too, of one shape.
        """
        stage, since = self._at(step)
        return stage.mixed(since, rank, world_size)

    def _at(self, step: int) -> tuple[_Stage, int]:
        stage = next(each for each in reversed(self.stages) if step >= each.config.from_step)
        return stage, step - stage.config.from_step


class _Stage:
    def __init__(
        self,
        config: CurriculumStage,
        items: Sequence[Item],
        lengths: Sequence[int],
        batch_size: int,
        seed: int,
    ) -> None:
        self.config = config
        ratio, limit = config.image_ratio, config.num_frames
        assert ratio is not None
        self.ratio = ratio
        usable = [
            number for number, item in enumerate(items) if item.resolution == config.resolution
        ]
        cuts = {number: _cut(items[number].bucket.num_frames, limit, lengths) for number in usable}
        self.videos = torch.tensor([number for number in usable if cuts[number] > 1])
        self.images = torch.tensor(usable)
        for kind, found, wanted in (
            ("videos", self.videos, ratio < 1),
            ("images", self.images, ratio > 0),
        ):
            if wanted and not len(found):
                raise UserError(
                    f"The stage from step {config.from_step} (resolution={config.resolution}, "
                    f"num_frames={limit}, image_ratio={ratio}) has no {kind} to train on. "
                    "Give footage that fits it, or another image_ratio."
                )
        self.frames = {number: cuts[number] for number in self.videos.tolist()}
        self.shapes = {
            number: items[number].bucket._replace(num_frames=cut)
            for number, cut in self.frames.items()
        }
        self.video_order = BatchOrder([*self.shapes.values()], batch_size, seed)
        self.mixed_order = BatchOrder([None] * len(self.shapes), batch_size, seed)
        self.image_order = BatchOrder(
            [items[number].bucket[1:] for number in usable], batch_size, seed
        )

    def mixed(self, step: int, rank: int, world_size: int) -> tuple[BatchItems, ...]:
        images = math.floor(step * self.ratio)  # before this step
        if math.floor((step + 1) * self.ratio) > images:
            return (self.batch(step, rank, world_size),)
        chosen = self.videos[self.mixed_order.batch(step - images, rank, world_size)].tolist()
        return by_shape([(number, self.shapes[number]) for number in chosen], len(chosen))

    def batch(self, step: int, rank: int, world_size: int) -> BatchItems:
        images = math.floor(step * self.ratio)  # before this step
        if math.floor((step + 1) * self.ratio) > images:
            return BatchItems(self.images[self.image_order.batch(images, rank, world_size)], 1)
        chosen = self.videos[self.video_order.batch(step - images, rank, world_size)]
        return BatchItems(chosen, self.frames[int(chosen[0])])


def _cut(num_frames: int, limit: int | None, lengths: Sequence[int]) -> int:
    """The frames of an item that a stage takes: all, or the longest length within its limit."""
    if limit is None or num_frames <= limit:
        return num_frames
    return max((length for length in lengths if length <= limit), default=1)
