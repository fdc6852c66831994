"""Training the video VAE: pixels in, the same pixels out."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import NamedTuple, cast

import torch
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import rearrange, reduce
from PIL import Image
from torch import Tensor, nn

from t2v.config.training import TrainVAEConfig
from t2v.data.frames import Frames, TrainingFrames
from t2v.data.rng import keyed_generator
from t2v.data.world_shards import pixels
from t2v.io.checkpoint import newest_checkpoint
from t2v.io.video import contact_sheet
from t2v.models.device import pick_device, sent
from t2v.models.quantizers import CodedLatents, Quantizer, usage
from t2v.models.vae import AutoencoderKLT2V
from t2v.nets.discriminator import PatchDiscriminator
from t2v.training.engine.example import Size, black
from t2v.training.engine.initialize import check_start, starting_part
from t2v.training.engine.loop import autocast
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.run import train
from t2v.training.engine.significance import HELD_OUT, TRAINING
from t2v.training.engine.task import SHEET_FRAMES, ParameterGroup, Validation
from t2v.training.losses.discriminator import adaptive_weight, adversarial_losses
from t2v.training.losses.perceptual import Perceptual

STATISTICS_CLIPS = 512  # enough for two digits of a mean and a standard deviation
SHORTCUT_CLIPS = 256  # some 80,000 patches for a 768-dimensional covariance
QUANTIZER_CLIPS = 256  # likewise for the table of codes
SHEET_CLIPS = 6
DISCRIMINATOR = "discriminator"
# Of its own loss. Adam does not feel the scale; the clipping of all gradients together would.
DISCRIMINATOR_SHARE = 0.01


class VAEBatch(NamedTuple):
    """Clips and where their objects are."""

    video: Tensor  # b c t h w in [-1, 1]
    mask: Tensor  # b 1 t h w in [0, 1]; zero where none is known
    step: int = 0  # of training that they are for


class VAEParts(NamedTuple):
    """The networks of a VAE's training."""

    vae: AutoencoderKLT2V
    discriminator: PatchDiscriminator | None = None
    perceptual: Perceptual | None = None


def train_vae(config: TrainVAEConfig) -> Path:
    """`t2v train-vae`: train on a folder of clips; returns the last checkpoint, with `vae/`.

    Raises:
        UserError: see `build_vae` and `run`.
    """
    return train(build_vae, config)


def build_vae(config: TrainVAEConfig) -> VAETask:
    """The task of `config`, with its networks made and its data loaded.

    Raises:
        UserError: see `pick_device`, `TrainingFrames` and `Perceptual`.
    """
    with torch.random.fork_rng(devices=[]):  # the layers draw their start from the global state
        torch.manual_seed(config.seed)
        parts = fresh_parts(config)
    check_start(config, {"vae": parts.vae})
    data = TrainingFrames(config, parts.vae)
    if config.model.linear_shortcut:
        first = next(data.training(SHORTCUT_CLIPS, at_once=SHORTCUT_CLIPS))
        parts.vae.init_linear_shortcut(pixels(first.video))
    if config.perceptual is not None:
        perceptual = Perceptual(config.perceptual, str(pick_device(config.device)))
        parts = parts._replace(perceptual=perceptual)
    return VAETask(config, parts, data)


def fresh_parts(config: TrainVAEConfig) -> VAEParts:
    """A VAE and, where there is one, its discriminator, with random weights."""
    vae = AutoencoderKLT2V(**asdict(config.model))
    if not config.discriminator.weight:
        return VAEParts(vae)
    width = config.discriminator.width
    return VAEParts(vae, PatchDiscriminator(config.model.in_channels, width))


class VAETask:
    """Reconstruct clips: squared error, more on objects, plus edges, L1 and a light KL.

    Where there are such parts, also the distance of features (`Perceptual`), and the loss of a
    discriminator that is trained alongside (`t2v.training.losses.discriminator`).
    """

    attention: str | None = None

    def __init__(self, config: TrainVAEConfig, parts: VAEParts, data: TrainingFrames) -> None:
        self.config, self.data, self.perceptual = config, data, parts.perceptual
        for half in (parts.vae.encoder, parts.vae.decoder):
            if half.shortcut is not None:
                # Steps sized for fresh kernels would undo the closed form; these add what it lacks
                half.shortcut.requires_grad_(False)
        if not config.train_encoder:
            parts.vae.encoder.requires_grad_(False)
        self.parts = {"vae": parts.vae}
        self.model: nn.Module = parts.vae
        if parts.discriminator is not None:
            self.model = nn.ModuleDict({"vae": parts.vae, DISCRIMINATOR: parts.discriminator})
        self.sources = dict(data.sources)
        if self.perceptual is not None:
            self.sources["perceptual"] = self.perceptual.name

    @property
    def vae(self) -> AutoencoderKLT2V:
        """The VAE that learns, or the one with the averaged weights while that is validated."""
        both = isinstance(self.model, nn.ModuleDict)
        return cast(AutoencoderKLT2V, self.model["vae"] if both else self.model)

    def prepare(self) -> None:
        """In a new run, set the quantizer to the latents that it is given."""
        quantizer = self.vae.quantize
        is_new = newest_checkpoint(self.config.output) is None and not self._starts_with_quantizer()
        if quantizer is not None and is_new:
            latents, device = [], pick_device(self.config.device)
            self.vae.to(device)
            for frames in self.data.training(QUANTIZER_CLIPS):
                with torch.no_grad(), autocast(self.config):
                    posterior = self.vae.encode(pixels(frames.video.to(device))).latent_dist
                latents.append(cast(CodedLatents, posterior).continuous.float())
            generator = keyed_generator(self.config.seed, "quantizer")
            quantizer.fit(torch.cat(latents), generator)

    def _starts_with_quantizer(self) -> bool:
        if self.config.start_from is None:
            return False
        place = starting_part(Path(self.config.start_from), "vae")
        return AutoencoderKLT2V.load_config(place).get("quantizer", "none") != "none"

    def parameter_groups(self) -> list[ParameterGroup]:
        config = self.config
        named = dict(self.model.named_parameters())
        others = {name: p for name, p in named.items() if name.startswith(f"{DISCRIMINATOR}.")}
        groups = split_parameters(
            {name: p for name, p in named.items() if name not in others},
            config.optim,
            # An orthogonal step on an output kernel that starts at zero moves every latent at once.
            is_matrix=lambda name: "conv_" not in name and "quantize" not in name,
        )
        if others:
            group = ParameterGroup(others, "adamw", config.discriminator.lr, betas=(0.5, 0.9))
            groups.append(group)
        return groups

    def sample_bytes(self) -> int:
        """Clip, reconstruction and their difference."""
        return 3 * 4 * next(iter(self.data.training(1))).video[0].numel()

    @property
    def leaves_unused(self) -> bool:
        """Before its first step a discriminator is there already."""
        return DISCRIMINATOR in dict(self.model.named_children()) and (
            self.config.discriminator.start > 0
        )

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> VAEBatch:
        """The batch that `read` gives, on the device."""
        return self.place(self.read(step, rank, world_size))

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> tuple[Frames, int]:
        """Clips, or in `image_ratio` of the steps one frame of each; and the step."""
        return self.data.batch(step, rank, world_size), step

    def place(self, batch: tuple[Frames, int]) -> VAEBatch:
        (frames, mask), step = batch
        device = pick_device(self.config.device)
        video = pixels(sent(frames, device))
        if mask is None:
            return VAEBatch(video, video.new_zeros(1, 1, 1, 1, 1), step)
        mask = rearrange(sent(mask, device), "b t h w -> b 1 t h w")
        return VAEBatch(video, mask.float() / 255, step)

    def example_batch(self, size: Size) -> VAEBatch:
        """Black clips without objects, for a step at which all losses count.

        Raises:
            UserError: the VAE does not take clips of that size.
        """
        video = black(size, pick_device(self.config.device))
        self.vae.check_video(video)
        return VAEBatch(video, torch.zeros_like(video[:, :1]), self.config.steps)

    def loss(self, batch: VAEBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        config = self.config
        with autocast(config):
            posterior = self.vae.encode(batch.video).latent_dist
        latents, bottleneck = self._bottleneck(posterior, generator)
        with autocast(config):
            recon = self.vae.decode(latents).sample
        difference = recon.float() - batch.video
        square = difference.square()
        mse = square.mean()
        weighted = (square * (1 + config.foreground_weight * batch.mask)).mean()
        edges = difference.diff(dim=-1).square().mean() + difference.diff(dim=-2).square().mean()
        loss = (
            config.mse_weight * weighted
            + config.l1_weight * difference.abs().mean()
            + config.gradient_weight * edges
        )
        cost, told = bottleneck()
        metrics = {"mse": mse.detach(), **told}
        if self.perceptual:
            with autocast(config):
                distance = self.perceptual(recon, batch.video).mean()
            loss = loss + config.perceptual_weight * distance
            metrics["perceptual"] = distance.detach()
        if config.discriminator.weight and batch.step >= config.discriminator.start:
            adversarial, more = self._adversarial(batch, recon, loss)
            loss, metrics = loss + adversarial, metrics | more
        return loss + cost, metrics

    def _bottleneck(
        self, posterior: DiagonalGaussianDistribution, generator: torch.Generator
    ) -> tuple[Tensor, Callable[[], tuple[Tensor, dict[str, Tensor]]]]:
        """The latents that are decoded, and a function of what they cost and its parts; gradients
        have the bits they had as long as it is called after the decoder."""
        if self.vae.quantize is not None:
            coded = cast(CodedLatents, posterior)
            return coded.mean.float(), partial(_cost_of_codes, self.vae.quantize, coded, generator)
        mean, logvar = posterior.mean.float(), posterior.logvar.float()
        noise = torch.randn(mean.shape, generator=generator).to(mean.device)

        def cost() -> tuple[Tensor, dict[str, Tensor]]:
            kl = (mean.square() + logvar.exp() - 1 - logvar).mean() / 2
            return self.config.kl_weight * kl, {"kl": kl.detach()}

        return mean + torch.exp(logvar / 2) * noise, cost

    def _adversarial(
        self, batch: VAEBatch, recon: Tensor, loss: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the adversarial losses of discriminator and decoder, which gets its own later."""
        config, network = self.config.discriminator, self.model.get_submodule(DISCRIMINATOR)
        with autocast(self.config):
            losses = adversarial_losses(network, batch.video, recon)
        asked = config.weight if batch.step >= config.start + config.alone else 0.0
        weight = asked * adaptive_weight(loss, losses.generator, self.vae.decoder.conv_out.weight)
        own = losses.discriminator + config.r1 / 2 * losses.r1
        figures = {
            "discriminator": losses.discriminator,
            "discriminator_slope": losses.r1,
            "adversary": losses.generator,
            "adversary_weight": weight,
        }
        metrics = {name: value.detach() for name, value in figures.items()}
        return weight * losses.generator + DISCRIMINATOR_SHARE * own, metrics

    @torch.no_grad()
    def validate(self) -> Validation:
        """PSNR in dB of the posterior mean, mean over clips; and inside the objects, pooled; and
        the perceptual distance, where a network is named. The losses are squared errors."""
        held_out, inside, distances = self._errors(self.data.held_out())
        trained, *_ = self._errors(self.data.training(len(held_out)))
        figures = {
            "val_psnr": _psnr(held_out).mean().item(),
            "val_train_psnr": _psnr(trained).mean().item(),
        }
        if self.vae.quantize is not None:
            figures |= self._usage()
        if len(inside):
            figures["val_psnr_object"] = _psnr(inside.mean()).item()
        if len(distances):
            figures["val_perceptual"] = distances.mean().item()
        return Validation(figures, self._sheet(), {HELD_OUT: held_out, TRAINING: trained})

    def _usage(self) -> dict[str, float]:
        """The share of the table that held-out clips use, and the perplexity of their codes."""
        codes, quantizer = [], cast(Quantizer, self.vae.quantize)
        for frames in self.data.held_out():
            video = pixels(frames.video.to(pick_device(self.config.device)))
            with autocast(self.config):
                posterior = self.vae.encode(video).latent_dist
            codes.append(cast(CodedLatents, posterior).codes.flatten())
        share, perplexity = usage(torch.cat(codes), quantizer.codebook_size)
        return {"val_codes_used": share, "val_perplexity": perplexity}

    def _errors(self, clips: Iterable[Frames]) -> tuple[Tensor, Tensor, Tensor]:
        """The mean squared error of each clip, the squared error of each pixel of objects, and the
        perceptual distance of each clip."""
        per_clip, inside, distances = [], [torch.empty(0)], [torch.empty(0)]
        for frames in clips:
            video = pixels(frames.video.to(pick_device(self.config.device)))
            recon = self._reconstruct(video)
            if self.perceptual:
                distances.append(self.perceptual(recon, video).cpu())
            square = (recon - video).square()
            square = reduce(square, "b c t h w -> b t h w", "mean").cpu()
            per_clip.append(reduce(square, "b t h w -> b", "mean"))
            if frames.mask is not None:
                inside.append(square[frames.mask > 127])
        return torch.cat(per_clip), torch.cat(inside), torch.cat(distances)

    def save(self, folder: Path) -> None:
        """Write `vae/`, with the mean and spread of its latents in the config."""
        if self.config.start_from and not self.config.train_encoder:
            # A transformer was trained on latents of this scale; other clips must not change it.
            start = starting_part(Path(self.config.start_from), "vae")
            saved = AutoencoderKLT2V.load_config(start)
            mean, std = saved["latents_mean"], saved["latents_std"]
        else:
            with autocast(self.config):
                mean, std = latent_statistics(self.vae, self.data.training(STATISTICS_CLIPS))
        self.vae.register_to_config(latents_mean=mean, latents_std=std)
        self.vae.save_pretrained(folder / "vae")

    def _sheet(self) -> Image.Image:
        """Some held-out clips, frames left to right; each reconstruction below its original."""
        video = next(iter(self.data.held_out())).video[:SHEET_CLIPS]
        video = pixels(video.to(pick_device(self.config.device)))
        pairs = torch.stack([video, self._reconstruct(video)]) / 2 + 0.5
        pairs = rearrange(pairs, "r b c t h w -> (b r) t h w c").clamp(0, 1) * 255
        return contact_sheet(pairs.round().to(torch.uint8).cpu().numpy(), columns=SHEET_FRAMES)

    def _reconstruct(self, video: Tensor) -> Tensor:
        with autocast(self.config):
            latents = self.vae.encode(video).latent_dist.mean
            return self.vae.decode(latents).sample.float().clamp(-1, 1)


@torch.no_grad()
def latent_statistics(
    vae: AutoencoderKLT2V, clips: Iterable[Frames]
) -> tuple[list[float], list[float]]:
    """Mean of each latent channel over `clips`, and what the channel is divided by.

    That is the geometric mean of the channel's own spread and the widest one, the spread being that
    of the sampled latent, `sqrt(var(mean) + E[sigma^2])`. Divided by its own, a channel that holds
    faint texture would weigh as much in the diffusion loss as the one that holds the colour; so it
    weighs less, and is settled later on the way from noise.
    """
    means, variances = [], []
    for frames in clips:
        posterior = vae.encode(pixels(frames.video.to(vae.device))).latent_dist
        means.append(rearrange(posterior.mean.double(), "b c t h w -> c (b t h w)"))
        variances.append(rearrange(posterior.var.double(), "b c t h w -> c (b t h w)"))
    mean, variance = torch.cat(means, dim=1), torch.cat(variances, dim=1)
    std = (mean.var(dim=1) + variance.mean(dim=1)).sqrt()
    return mean.mean(dim=1).tolist(), (std * std.max()).sqrt().tolist()


def _psnr(mse: Tensor) -> Tensor:
    return 10 * torch.log10(4 / mse)  # the range is 2 wide


def _cost_of_codes(
    quantizer: Quantizer, coded: CodedLatents, generator: torch.Generator
) -> tuple[Tensor, dict[str, Tensor]]:
    losses = quantizer.losses(coded, generator)
    _, perplexity = usage(coded.codes, quantizer.codebook_size)
    told = {name: value.detach() for name, value in losses.items()}
    return torch.stack([*losses.values()]).sum(), told | {"perplexity": torch.tensor(perplexity)}
