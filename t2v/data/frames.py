"""The frames that a VAE is trained on: of rendered clips with their masks, or of media."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from t2v.config.data import ClipsConfig
from t2v.config.training import TrainVAEConfig
from t2v.data.curriculum import BatchItems, first_items
from t2v.data.dataset import Dataset, load_frames
from t2v.data.latents import VAE, frames_encoder
from t2v.data.prepare import Rendered
from t2v.data.rng import keyed_generator
from t2v.data.world_shards import load_clips
from t2v.errors import UserError
from t2v.io.files import sha256
from t2v.io.manifest import is_rendered, manifest_of

CLIPS_AT_ONCE = 32  # or the batch of training, which is known to fit


class Frames(NamedTuple):
    """Clips of one shape, and the coverage of their pixels by objects, where it is known."""

    video: Tensor  # b t h w c, uint8
    mask: Tensor | None  # b t h w, uint8: 0 to 255


class TrainingFrames:
    """The clips of a folder of `t2v world`, in memory, or of media, read from their cache.

    Raises:
        UserError: see `load_clips` and `load_frames`; settings that rendered clips cannot follow;
            or `clips.image_ratio` contradicts `image_ratio`.
    """

    def __init__(self, config: TrainVAEConfig, vae: VAE) -> None:
        self.config = config
        self.at_once = min(CLIPS_AT_ONCE, config.batch_size)
        self.is_rendered = is_rendered(config.data)
        self.data = (_rendered_frames if self.is_rendered else _media_frames)(config, vae)
        self.sources = self.data.sources

    def batch(self, step: int, rank: int, world_size: int) -> Frames:
        """Read the clips of a step, or in `image_ratio` of the steps one frame of each."""
        batch = self.data.train.batch(step, rank, world_size)
        moments = self._moments(batch, step, rank)
        if moments is None:
            return self._read(batch)
        numbers = [
            int(moment * self.data.tensors[item].shape[1])
            for item, moment in zip(batch.indices.tolist(), moments, strict=True)
        ]
        return self._frames(batch.indices, [slice(number, number + 1) for number in numbers])

    def _moments(self, batch: BatchItems, step: int, rank: int) -> Tensor | None:
        """The moment of each clip that becomes an image, in [0, 1), in a step that sees images."""
        seed, count = self.config.seed, len(batch.indices)
        if self.is_rendered:
            # one chance a step and one moment for all, as runs of earlier versions had them
            chance, moment = torch.rand(2, generator=keyed_generator(seed, step, 0, "images"))
            return moment.expand(count) if chance < self.config.image_ratio else None
        if batch.num_frames > 1:
            return None
        return torch.rand(count, generator=keyed_generator(seed, step, rank, "images"))

    def training(self, count: int, at_once: int | None = None) -> Iterator[Frames]:
        """Read the first `count` clips that are trained on, the commonest shape first."""
        return map(self._read, first_items(self.data.training(at_once or self.at_once), count))

    def held_out(self) -> Iterator[Frames]:
        """Read all clips kept for validation."""
        return map(self._read, self.data.held_out)

    def _read(self, batch: BatchItems) -> Frames:
        return self._frames(batch.indices, [slice(batch.num_frames)] * len(batch.indices))

    def _frames(self, items: Tensor, spans: Sequence[slice]) -> Frames:
        """Read a span of frames of each item; all items have one shape."""
        pairs = list(zip(items.tolist(), spans, strict=True))
        video = [self.data.tensors[item][:, span] for item, span in pairs]
        mask = None
        if self.data.masks is not None:
            mask = torch.stack([self.data.masks[item][span] for item, span in pairs])
        return Frames(torch.stack([rearrange(v, "c t h w -> t h w c") for v in video]), mask)


def _media_frames(config: TrainVAEConfig, vae: VAE) -> Dataset:
    ratios = {config.clips.image_ratio, *(each.image_ratio for each in config.clips.stages)}
    if ratios - {0.0, None}:
        raise UserError("clips.image_ratio: give image_ratio instead; it is the VAE's own.")
    clips = replace(config.clips, image_ratio=config.image_ratio)
    return load_frames(
        config.data,
        clips,
        frames_encoder(vae),
        batch_size=config.batch_size,
        held_out=config.held_out,
        seed=config.seed,
    )


def _rendered_frames(config: TrainVAEConfig, vae: VAE) -> Dataset:
    if config.clips != ClipsConfig():
        raise UserError(
            f"clips.* is given, but {config.data} is a folder of `t2v world`, whose clips have a "
            "size and a rate of their own. Omit it."
        )
    clips = load_clips(config.data)
    video = rearrange(clips.video, "n t h w c -> n c t h w")
    sources = {"clips": sha256(manifest_of(config.data).read_bytes())[:16]}
    return load_frames(
        config.data,
        # clips of one frame are images in every step; else `batch` chooses the steps that see one
        ClipsConfig(image_ratio=float(video.shape[2] == 1)),
        frames_encoder(vae),
        batch_size=config.batch_size,
        held_out=config.held_out,
        seed=config.seed,
        rendered=Rendered(sources, video, clips.mask),
        at_once=CLIPS_AT_ONCE,
    )
