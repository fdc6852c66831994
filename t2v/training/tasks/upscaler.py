"""Training the upscaler: small clips in, the same ones large out."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.config.training import TrainUpscalerConfig
from t2v.evaluation.metrics.dynamics import jerk
from t2v.evaluation.metrics.reconstruction import psnr
from t2v.evaluation.metrics.upscaling import measure
from t2v.evaluation.types import PerVideo
from t2v.io.video import contact_sheet
from t2v.models.device import pick_device, sent
from t2v.models.upscaler import VideoUpscaler, bicubic
from t2v.training.engine.example import Size, black
from t2v.training.engine.initialize import check_start
from t2v.training.engine.loop import autocast
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.run import train
from t2v.training.engine.significance import HELD_OUT, TRAINING
from t2v.training.engine.task import SHEET_FRAMES, ParameterGroup, Validation
from t2v.training.losses.perceptual import Perceptual
from t2v.training.tasks.upscaler_data import Pair, UpscalerData

SHEET_CLIPS = 4
CHARBONNIER = 1e-3  # the error below which the loss is a parabola: an eighth of a grey level
BLOCK = 8  # pixels over which local sharpness is a mean


def train_upscaler(config: TrainUpscalerConfig) -> Path:
    """`t2v train-upscaler`: train on pairs of clips; returns the last checkpoint, with `upscaler/`.

    Raises:
        UserError: see `build_upscaler` and `run`.
    """
    return train(build_upscaler, config)


def build_upscaler(config: TrainUpscalerConfig) -> UpscalerTask:
    """The task of `config`, with its network made and its data found.

    Raises:
        UserError: see `pick_device`, `UpscalerData` and `Perceptual`.
    """
    with torch.random.fork_rng(devices=[]):  # the layers draw their start from the global state
        torch.manual_seed(config.seed)
        upscaler = VideoUpscaler(**asdict(config.model))
    check_start(config, {"upscaler": upscaler})
    return UpscalerTask(config, upscaler, UpscalerData(config))


class UpscalerTask:
    """Enlarge clips: Charbonnier loss, the error of edges, and the error of local sharpness.

    The mean of pixels pays for blur wherever an edge may lie here or there; the third loss asks
    each small block for as much edge as the real one has, and leaves its place to the first two.
    With `temporal_weight`, also the error of changes over time, which a VAE's flicker adds to
    those of the scene. Where a network is named, also the distance of features (`Perceptual`).
    """

    attention: str | None = None
    leaves_unused = False

    def __init__(
        self, config: TrainUpscalerConfig, upscaler: VideoUpscaler, data: UpscalerData
    ) -> None:
        self.config, self.data = config, data
        self.model: nn.Module = upscaler
        self.upscaler = upscaler
        self.parts = {"upscaler": upscaler}
        self.sources = dict(data.sources)
        self.perceptual = None
        if config.perceptual is not None:
            self.perceptual = Perceptual(config.perceptual, str(pick_device(config.device)))
            self.sources["perceptual"] = self.perceptual.name

    def prepare(self) -> None:
        """Nothing is made of frozen weights."""

    def parameter_groups(self) -> list[ParameterGroup]:
        return split_parameters(
            dict(self.model.named_parameters()),
            self.config.optim,
            # an orthogonal step on what makes pixels would move all of them at once
            is_matrix=lambda name: name.startswith("blocks") and name.endswith("weight"),
        )

    def sample_bytes(self) -> int:
        """The large window, its enlargement and their difference."""
        config = self.config
        side = config.window * config.model.scale
        return 3 * 4 * 3 * config.window_frames * side**2

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Pair:
        """The batch that `read` gives, on the device."""
        return self.place(self.read(step, rank, world_size))

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> Pair:
        """Windows of pairs."""
        return self.data.batch(step, rank, world_size)

    def place(self, batch: Pair) -> Pair:
        device = pick_device(self.config.device)
        return Pair(sent(batch.low, device), sent(batch.high, device))

    def example_batch(self, size: Size) -> Pair:
        """Black clips of `size`, and the same enlarged."""
        low = black(size, pick_device(self.config.device))
        scale = self.config.model.scale
        return Pair(low, low.repeat_interleave(scale, -1).repeat_interleave(scale, -2))

    def loss(self, batch: Pair, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        with autocast(config):
            large = self.model(batch.low).float()
        difference = large - batch.high
        charbonnier = (difference.square() + CHARBONNIER**2).sqrt().mean()
        edges = difference.diff(dim=-1).abs().mean() + difference.diff(dim=-2).abs().mean()
        blur = (local_sharpness(large) - local_sharpness(batch.high)).abs().mean()
        loss = charbonnier + config.gradient_weight * edges + config.sharpness_weight * blur
        metrics = {"mse": difference.square().mean().detach(), "blur": blur.detach()}
        if config.temporal_weight:
            change = difference.diff(dim=2)
            unsteady = change.abs().mean() + change.diff(dim=2).abs().mean()
            loss = loss + config.temporal_weight * unsteady
            metrics["unsteady"] = unsteady.detach()
        if self.perceptual:
            with autocast(config):
                distance = self.perceptual(large, batch.high).mean()
            loss = loss + config.perceptual_weight * distance
            metrics["perceptual"] = distance.detach()
        return loss, metrics

    @torch.no_grad()
    def validate(self) -> Validation:
        """PSNR in dB of whole clips, beside that of bicubic; sharpness and jerk as shares of
        the real ones; means over clips. The losses are squared errors."""
        data = self.data
        held_out = range(data.train_count, data.pairs.count)
        figures, losses = self._figures(held_out)
        _, trained = self._figures(range(min(len(held_out), data.train_count)))
        sheet = self._sheet(held_out[:SHEET_CLIPS])
        return Validation(figures, sheet, {HELD_OUT: losses, TRAINING: trained})

    def _figures(self, numbers: Iterable[int]) -> tuple[dict[str, float], Tensor]:
        """Return the figures of `validate`, and the squared error of each clip."""
        found: dict[str, list[Tensor]] = {}
        errors, jerks = [], []
        for number in numbers:
            ours, smooth, real = map(to_bytes, self._enlarge(self.data.whole(number)))
            values = measure(ours, real, None)
            for name in ("psnr", "psnr_edges", "sharpness", "edge_sharpness"):
                each = values[name]
                assert isinstance(each, PerVideo)
                found.setdefault(name, []).append(each.values)
            found.setdefault("psnr_bicubic", []).append(psnr(smooth, real))
            jerks.append(torch.cat([jerk(ours), jerk(real)]))
            errors.append(((ours.float() - real.float()) / 255).square().mean())
        figures = {f"val_{name}": torch.cat(each).mean().item() for name, each in found.items()}
        # of all clips together, as a clip in which nothing moves has none
        own, wanted = torch.stack(jerks).sum(0).tolist()
        figures |= {"val_jerk": own / wanted} if wanted > 0 else {}
        return figures, torch.stack(errors)

    def _enlarge(self, pair: Pair) -> tuple[Tensor, Tensor, Tensor]:
        """A clip enlarged, the same by bicubic interpolation, and the real one."""
        low = pair.low.to(pick_device(self.config.device))
        with autocast(self.config):
            ours = self.model(low).float().cpu()
        frames = rearrange(pair.low, "b c t h w -> (b t) c h w")
        smooth = bicubic(frames, self.config.model.scale)
        smooth = rearrange(smooth, "(b t) c h w -> b c t h w", b=len(low))
        return ours, smooth, pair.high

    def save(self, folder: Path) -> None:
        """Write `upscaler/`."""
        self.upscaler.save_pretrained(folder / "upscaler")

    def _sheet(self, numbers: Iterable[int]) -> Image.Image:
        """Some held-out clips, frames left to right: bicubic, enlarged, and real below."""
        rows = []
        for number in numbers:
            ours, smooth, real = map(to_bytes, self._enlarge(self.data.whole(number)))
            rows += [each[0].numpy() for each in (smooth, ours, real)]
        return contact_sheet(rows, columns=SHEET_FRAMES)


def local_sharpness(video: Tensor) -> Tensor:
    """The mean absolute Laplacian over blocks of `BLOCK` pixels of each frame of `b c t h w`."""
    frames = rearrange(video, "b c t h w -> (b t) c h w")
    inner = frames[..., 1:-1, 1:-1]
    sides = frames[..., 1:-1, :-2] + frames[..., 1:-1, 2:]
    laplacian = 4 * inner - sides - frames[..., :-2, 1:-1] - frames[..., 2:, 1:-1]
    return F.avg_pool2d(laplacian.abs(), BLOCK, stride=BLOCK // 2, ceil_mode=True)


def to_bytes(video: Tensor) -> Tensor:
    """Videos `b c t h w` in [-1, 1] as frames `b t h w c` uint8."""
    frames = rearrange(video, "b c t h w -> b t h w c")
    return ((frames.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
