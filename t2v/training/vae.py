"""Training the video VAE: pixels in, the same pixels out."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor

from t2v.config import TrainVAEConfig
from t2v.data.clips import Clips, load_clips, pixels, train_count
from t2v.data.order import keyed_generator, step_indices
from t2v.models.vae import AutoencoderKLT2V
from t2v.training.loop import autocast
from t2v.training.optim import ParameterGroup, split_parameters
from t2v.training.run import train
from t2v.training.sheet import contact_sheet
from t2v.training.start import starting_part

STATISTICS_CLIPS = 512  # enough for two digits of a mean and a standard deviation
SHORTCUT_CLIPS = 256  # some 80,000 patches for a 768-dimensional covariance
CLIPS_AT_ONCE = 32
SHEET_CLIPS = 6


class VAEBatch(NamedTuple):
    """Clips and where their objects are."""

    video: Tensor  # b c t h w in [-1, 1]
    mask: Tensor  # b 1 t h w in [0, 1]


def train_vae(config: TrainVAEConfig) -> Path:
    """`t2v train-vae`: train on a folder of clips; returns the last checkpoint, with `vae/`.

    Raises:
        UserError: see `pick_device`, `load_clips` and `run`.
    """
    return train(VAETask, config)


class VAETask:
    """Reconstruct clips: squared error, more on objects, plus edges, L1 and a light KL."""

    def __init__(self, config: TrainVAEConfig) -> None:
        self.config = config
        manifest = Path(config.data) / "manifest.jsonl"
        clips = load_clips(config.data)
        self.sources = {"clips": hashlib.sha256(manifest.read_bytes()).hexdigest()[:16]}
        count = train_count(len(clips), config.held_out)
        self.train_clips, self.val_clips = clips[:count], clips[count:]
        with torch.random.fork_rng(devices=[]):  # the layers draw their start from the global state
            torch.manual_seed(config.seed)
            self.model = AutoencoderKLT2V(**asdict(config.model))
        if config.model.linear_shortcut:
            self.model.init_linear_shortcut(pixels(self.train_clips.video[:SHORTCUT_CLIPS]))
            # Steps sized for fresh kernels would undo the closed form; kernels add what it lacks.
            self.model.encoder.shortcut.requires_grad_(False)
            self.model.decoder.shortcut.requires_grad_(False)
        if not config.train_encoder:
            self.model.encoder.requires_grad_(False)
        self.model.to(config.device)
        self.parts = {"vae": self.model}

    def parameter_groups(self) -> list[ParameterGroup]:
        parameters = dict(self.model.named_parameters())
        # An orthogonal step on an output kernel that starts at zero moves every latent at once.
        return split_parameters(
            parameters, self.config.optim, is_matrix=lambda name: "conv_" not in name
        )

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> VAEBatch:
        """Whole clips, or in `image_ratio` of the steps one frame of each."""
        config = self.config
        index = step_indices(
            len(self.train_clips), config.batch_size, config.seed, step, rank, world_size
        )
        video, mask = self.train_clips.video[index], self.train_clips.mask[index]
        draw = torch.rand(2, generator=keyed_generator(config.seed, step, rank, "images"))
        if draw[0] < config.image_ratio:
            frame = int(draw[1] * video.shape[1])
            video, mask = video[:, frame : frame + 1], mask[:, frame : frame + 1]
        mask = rearrange(mask.to(config.device), "b t h w -> b 1 t h w").float() / 255
        return VAEBatch(pixels(video.to(config.device)), mask)

    def loss(self, batch: VAEBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        with autocast(config):
            posterior = self.model.encode(batch.video).latent_dist
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)
        latents = mean + torch.exp(logvar / 2) * noise
        with autocast(config):
            recon = self.model.decode(latents).sample
        difference = recon.float() - batch.video
        square = difference.square()
        mse = square.mean()
        weighted = (square * (1 + config.foreground_weight * batch.mask)).mean()
        edges = difference.diff(dim=-1).square().mean() + difference.diff(dim=-2).square().mean()
        kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
        loss = (
            config.mse_weight * weighted
            + config.l1_weight * difference.abs().mean()
            + config.gradient_weight * edges
            + config.kl_weight * kl
        )
        return loss, {"mse": mse.detach(), "kl": kl.detach()}

    @torch.no_grad()
    def validate(self) -> tuple[dict[str, float], Image.Image]:
        """PSNR in dB of the posterior mean, mean over clips; and inside the objects, pooled."""
        per_clip, inside = [], []
        for video, mask in _chunks(self.val_clips, self.config.device):
            recon = self._reconstruct(video)
            square = reduce((recon - video).square(), "b c t h w -> b t h w", "mean")
            per_clip.append(_psnr(reduce(square, "b t h w -> b", "mean")))
            inside.append(square[mask > 127])
        figures = {
            "val_psnr": torch.cat(per_clip).mean().item(),
            "val_psnr_object": _psnr(torch.cat(inside).mean()).item(),
        }
        return figures, self._sheet()

    def save(self, folder: Path) -> None:
        """Write `vae/`, with the mean and spread of its latents in the config."""
        if self.config.start_from and not self.config.train_encoder:
            # A transformer was trained on latents of this scale; other clips must not change it.
            start = starting_part(Path(self.config.start_from), "vae")
            saved = AutoencoderKLT2V.load_config(start)
            mean, std = saved["latents_mean"], saved["latents_std"]
        else:
            with autocast(self.config):
                mean, std = latent_statistics(self.model, self.train_clips[:STATISTICS_CLIPS])
        self.model.register_to_config(latents_mean=mean, latents_std=std)
        self.model.save_pretrained(folder / "vae")

    def _sheet(self) -> Image.Image:
        """Some held-out clips, frames left to right; each reconstruction below its original."""
        video = pixels(self.val_clips.video[:SHEET_CLIPS].to(self.config.device))
        pairs = torch.stack([video, self._reconstruct(video)]) / 2 + 0.5
        return contact_sheet(rearrange(pairs, "r b c t h w -> (b r) t h w c"))

    def _reconstruct(self, video: Tensor) -> Tensor:
        with autocast(self.config):
            latents = self.model.encode(video).latent_dist.mean
            return self.model.decode(latents).sample.float().clamp(-1, 1)


@torch.no_grad()
def latent_statistics(vae: AutoencoderKLT2V, clips: Clips) -> tuple[list[float], list[float]]:
    """Mean of each latent channel over `clips`, and what the channel is divided by.

    That is the geometric mean of the channel's own spread and the widest one, the spread being that
    of the sampled latent, `sqrt(var(mean) + E[sigma^2])`. Divided by its own, a channel that holds
    faint texture would weigh as much in the diffusion loss as the one that holds the colour; so it
    weighs less, and is settled later on the way from noise.
    """
    means, variances = [], []
    for video, _ in _chunks(clips, vae.device):
        posterior = vae.encode(video).latent_dist
        means.append(rearrange(posterior.mean.double(), "b c t h w -> c (b t h w)"))
        variances.append(rearrange(posterior.var.double(), "b c t h w -> c (b t h w)"))
    mean, variance = torch.cat(means, dim=1), torch.cat(variances, dim=1)
    std = (mean.var(dim=1) + variance.mean(dim=1)).sqrt()
    return mean.mean(dim=1).tolist(), (std * std.max()).sqrt().tolist()


def _chunks(clips: Clips, device: str | torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    for first in range(0, len(clips), CLIPS_AT_ONCE):
        chunk = clips[first : first + CLIPS_AT_ONCE]
        yield pixels(chunk.video.to(device)), chunk.mask.to(device)


def _psnr(mse: Tensor) -> Tensor:
    return 10 * torch.log10(4 / mse)  # the range is 2 wide
