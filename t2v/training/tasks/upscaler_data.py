"""Pairs that an upscaler is trained on: small clips and the same ones large, and their windows."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.config.training import TrainUpscalerConfig
from t2v.data.dataset import load_frames, train_count
from t2v.data.latents import VAE, plain_frames
from t2v.data.rng import keyed_generator, step_indices
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.io.manifest import is_rendered
from t2v.models.folder import EMBEDDED, model_folder
from t2v.models.vae_folder import load_vae
from t2v.training.engine.loop import autocast
from t2v.world.pairs import WorldPairs


class Pair(NamedTuple):
    """Clips and the same `scale` times as large, `b c t h w` in [-1, 1]."""

    low: Tensor
    high: Tensor


class Pairs(Protocol):
    """Small and large clips by number; those that are held out come last."""

    count: int
    sources: dict[str, str]

    def least(self) -> tuple[int, int, int]:
        """The fewest frames, the least height and the least width of the small clips."""
        ...

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        """The small and the large clip of a number, `t h w c` uint8."""
        ...


class FootagePairs:
    """Clips of media, and the same made smaller by bicubic interpolation with a low pass."""

    def __init__(self, config: TrainUpscalerConfig, vae: VAE | None) -> None:
        self.scale = config.model.scale
        stride, multiple = 1, 4
        if vae is not None:
            stride = vae.config.scale_factor_temporal
            multiple = vae.config.scale_factor_spatial
        self.data = load_frames(
            config.data,
            config.clips,
            plain_frames(stride, multiple * self.scale),
            batch_size=config.batch_size,
            held_out=config.held_out,
            seed=config.seed,
        )
        self.held_out = len(self.data.items) - self.data.count
        self.count, self.sources = len(self.data.items), self.data.sources

    def least(self) -> tuple[int, int, int]:
        buckets = [item.bucket for item in self.data.items]
        return (
            min(bucket.num_frames for bucket in buckets),
            min(bucket.height for bucket in buckets) // self.scale,
            min(bucket.width for bucket in buckets) // self.scale,
        )

    def pair(self, index: int) -> tuple[Tensor, Tensor]:
        high = rearrange(self.data.tensors[index], "c t h w -> t c h w")
        factor = 1 / self.scale
        low = F.interpolate(high.float(), scale_factor=factor, mode="bicubic", antialias=True)
        low = low.round().clamp(0, 255).to(torch.uint8)
        return rearrange(low, "t c h w -> t h w c"), rearrange(high, "t c h w -> t h w c")


class UpscalerData:
    """The pairs of `config.data`, with what a VAE does to the small clips, and windows of them.

    Raises:
        UserError: there are too few clips, or they are smaller than a window.
    """

    def __init__(self, config: TrainUpscalerConfig) -> None:
        self.config = config
        self.vae = None if config.vae is None else load_vae(_folder(config.vae))
        self.pairs, held_out = self._pairs()
        self.train_count = train_count(self.pairs.count, held_out)
        self.sources = dict(self.pairs.sources)
        self._pool: tuple[int, list[Pair]] = (-1, [])
        shape = self.pairs.least()
        wanted = config.window_frames, config.window, config.window
        if any(have < want for have, want in zip(shape, wanted, strict=True)):
            raise UserError(
                f"window_frames={wanted[0]} window={wanted[1]}: the least of the small clips of "
                f"{config.data} has {shape[0]} frames of {shape[1]}x{shape[2]}. Give less."
            )

    def _pairs(self) -> tuple[Pairs, int]:
        config = self.config
        if not is_rendered(config.data):
            footage = FootagePairs(config, self.vae)
            return footage, footage.held_out
        if config.clips != type(config.clips)():
            raise UserError(
                f"clips.* is given, but {config.data} is a folder of `t2v world`, whose clips have "
                "a size and a rate of their own. Omit it."
            )
        return WorldPairs(config.data, config.model.scale), config.held_out

    def batch(self, step: int, rank: int, world_size: int) -> Pair:
        """Windows of the clips that are in memory at `step`."""
        config = self.config
        clips = self._clips(step // config.pool_steps)
        generator = keyed_generator(config.seed, step, rank, "windows")
        windows = [self._window(clips, generator) for _ in range(config.batch_size)]
        return Pair(*(torch.stack(each) for each in zip(*windows, strict=True)))

    def whole(self, index: int) -> Pair:
        """One pair, the small one as the VAE gives it back."""
        low, high = self.pairs.pair(index)
        low, high = pixels(low[None]), pixels(high[None])
        return Pair(low if self.vae is None else self._through_vae(low), high)

    def _clips(self, number: int) -> list[Pair]:
        """The pairs of one pool: large clips stay bytes, as all of them are in memory."""
        if self._pool[0] != number:
            config = self.config
            chosen = step_indices(self.train_count, config.pool, config.seed, number)
            generator = keyed_generator(config.seed, number, "plain")
            plain = torch.rand(config.pool, generator=generator) < config.plain
            pairs = []
            for index, is_plain in zip(chosen.tolist(), plain.tolist(), strict=True):
                low, high = self.pairs.pair(index)
                low = pixels(low[None])
                low = low if is_plain or self.vae is None else self._through_vae(low)
                pairs.append(Pair(low[0], rearrange(high, "t h w c -> c t h w")))
            self._pool = number, pairs
        return self._pool[1]

    def _window(self, clips: list[Pair], generator: torch.Generator) -> Pair:
        """A window of a random clip: of two places the one of more detail; sky is soon learned."""
        config, scale = self.config, self.config.model.scale

        def draw(stop: int) -> int:
            return int(torch.randint(stop, (), generator=generator))

        low, high = clips[draw(len(clips))]
        frame = draw(low.shape[1] - config.window_frames + 1)
        frames = slice(frame, frame + config.window_frames)
        best: tuple[float, Pair] | None = None
        for _ in range(2):
            top, left = (draw(side - config.window + 1) for side in low.shape[-2:])
            small = low[:, frames, top : top + config.window, left : left + config.window]
            top, left, side = scale * top, scale * left, scale * config.window
            large = high[:, frames, top : top + side, left : left + side].float() / 127.5 - 1
            detail = large[:, 0].diff(dim=-1).abs().mean().item()
            if best is None or detail > best[0]:
                best = detail, Pair(small, large)
        assert best is not None
        return best[1]

    @torch.no_grad()
    def _through_vae(self, low: Tensor) -> Tensor:
        assert self.vae is not None
        with autocast(self.config):
            latents = self.vae.encode(low).latent_dist.mean
            return self.vae.decode(latents).sample.float().clamp(-1, 1)


def _folder(vae: str) -> Path:
    return model_folder(vae) if vae == EMBEDDED else Path(vae)
