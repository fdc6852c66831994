"""What a VAE is trained on: frames of the world with their masks, or of a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from t2v.config.data import ClipsConfig
from t2v.config.training import TrainVAEConfig
from t2v.data.curriculum import Draw
from t2v.data.dataset import VAE, load_frames
from t2v.data.rng import keyed_generator, step_indices
from t2v.data.world_shards import Clips, load_clips, train_count
from t2v.errors import UserError

CLIPS_AT_ONCE = 32  # or the batch of training, which is known to fit


class Frames(NamedTuple):
    """Clips of one shape, and how far objects cover each pixel, where that is known."""

    video: Tensor  # b t h w c, uint8
    mask: Tensor | None  # b t h w, uint8: 0 to 255


class WorldFrames:
    """A folder of `t2v world` in memory; the last `held_out` clips are for validation.

    Raises:
        UserError: see `load_clips` and `train_count`; or settings the folder cannot follow.
    """

    def __init__(self, config: TrainVAEConfig) -> None:
        if config.clips != ClipsConfig():
            raise UserError(
                f"clips.* is given, but {config.data} is a folder of `t2v world`, whose clips have "
                "one size and rate. Omit it."
            )
        self.config = config
        manifest = Path(config.data) / "manifest.jsonl"
        clips = load_clips(config.data)
        self.sources = {"clips": hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}
        count = train_count(len(clips), config.held_out)
        self.train, self.val = clips[:count], clips[count:]
        self.at_once = min(CLIPS_AT_ONCE, config.batch_size)

    def batch(self, step: int, rank: int, world_size: int) -> Frames:
        """Whole clips, or in `image_ratio` of the steps one frame of each."""
        config = self.config
        index = step_indices(
            len(self.train), config.batch_size, config.seed, step, rank, world_size
        )
        video, mask = self.train.video[index], self.train.mask[index]
        draw = torch.rand(2, generator=keyed_generator(config.seed, step, 0, "images"))
        if draw[0] < config.image_ratio:
            frame = int(draw[1] * video.shape[1])
            video, mask = video[:, frame : frame + 1], mask[:, frame : frame + 1]
        return Frames(video, mask)

    def training(self, count: int, at_once: int | None = None) -> Iterator[Frames]:
        """The first `count` clips that are trained on."""
        return _chunks(self.train[:count], at_once or self.at_once)

    def held_out(self) -> Iterator[Frames]:
        """All clips kept for validation."""
        return _chunks(self.val, self.at_once)


class ManifestFrames:
    """The clips of a manifest, read from its cache as they are needed; there are no masks.

    Raises:
        UserError: see `load_frames`; or `clips.image_ratio` contradicts `image_ratio`.
    """

    def __init__(self, config: TrainVAEConfig, vae: VAE) -> None:
        ratios = {config.clips.image_ratio, *(each.image_ratio for each in config.clips.stages)}
        if ratios - {0.0, None}:
            raise UserError("clips.image_ratio: a VAE's is given as image_ratio.")
        clips = replace(config.clips, image_ratio=config.image_ratio)
        given = {"batch_size": config.batch_size, "held_out": config.held_out, "seed": config.seed}
        self.seed = config.seed
        self.at_once = min(CLIPS_AT_ONCE, config.batch_size)
        self.data = load_frames(config.data, clips, vae, **given)
        self.sources = self.data.sources

    def batch(self, step: int, rank: int, world_size: int) -> Frames:
        """Clips of one shape, or in `image_ratio` of the steps one frame of each."""
        draw = self.data.train.draw(step, rank, world_size)
        if draw.num_frames > 1:
            return self._read(draw)
        chance = torch.rand(
            len(draw.items), generator=keyed_generator(self.seed, step, rank, "images")
        )
        videos = [self.data.tensors[item] for item in draw.items.tolist()]
        chosen = [int(part * video.shape[1]) for part, video in zip(chance, videos, strict=True)]
        images = [video[:, n : n + 1] for n, video in zip(chosen, videos, strict=True)]
        return _frames(torch.stack(images))

    def training(self, count: int, at_once: int | None = None) -> Iterator[Frames]:
        """Some `count` clips that are trained on, those of the commonest shape first."""
        for draw in self.data.training(at_once or self.at_once):
            yield self._read(Draw(draw.items[:count], draw.num_frames))
            count -= len(draw.items)
            if count <= 0:
                return

    def held_out(self) -> Iterator[Frames]:
        """All clips kept for validation."""
        return map(self._read, self.data.held_out)

    def _read(self, draw: Draw) -> Frames:
        return _frames(self.data.read(draw))


def _frames(video: Tensor) -> Frames:
    return Frames(rearrange(video, "b c t h w -> b t h w c").contiguous(), None)


def _chunks(clips: Clips, at_once: int) -> Iterator[Frames]:
    for first in range(0, len(clips), at_once):
        chunk = clips[first : first + at_once]
        yield Frames(chunk.video, chunk.mask)
