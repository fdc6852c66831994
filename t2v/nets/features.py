"""Networks that give features of frames or of videos, each under the name its figures carry."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoModel

from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.models.latents import normalize_latents
from t2v.models.load import load_part, loading
from t2v.nets.preprocessing import differentiable_preprocessing, preprocessing, sample_frames

FRAMES_AT_ONCE = 64
VIDEOS_AT_ONCE = 16
LAYERS = 4  # of a network's hidden states, spread over its depth


@dataclass(frozen=True)
class FrameNet:
    """Feature maps of single frames: `compute` takes `n c h w` in [-1, 1] and gives `n d y x`."""

    name: str
    compute: Callable[[Tensor], list[Tensor]]

    @torch.inference_mode()
    def maps(self, video: Tensor) -> list[Tensor]:
        """Return maps of the frames of `n t h w c` uint8 videos, `n t d y x` a layer."""
        n = len(video)
        frames = rearrange(pixels(video), "n c t h w -> (n t) c h w")
        found = [self.compute(chunk) for chunk in frames.split(FRAMES_AT_ONCE)]
        layers = [torch.cat(layer) for layer in zip(*found, strict=True)]
        return [rearrange(each.float().cpu(), "(n t) d y x -> n t d y x", n=n) for each in layers]

    def distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """Return the perceptual distance of frames of `n t h w c` uint8 videos, `n t`."""
        return perceptual_distance(self.maps(ours), self.maps(theirs))


def perceptual_distance(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """Return the distance of maps `n t d y x`, `n t`: LPIPS (Zhang et al. 2018, eq. 1), no weights.

    Squared difference of features of unit length, averaged over places, summed over layers.
    """
    distance = ours[0].new_zeros(ours[0].shape[:2])
    for pair in zip(ours, theirs, strict=True):
        # a loss would feel the slope of a direction, 1 / length: shorter features count as zero
        a, b = (F.normalize(each, dim=2, eps=1e-3) for each in pair)
        distance = distance + (a - b).square().sum(2).mean((2, 3))
    return distance


@dataclass(frozen=True)
class VideoNet:
    """Features of whole videos: `compute` takes `n t h w c` uint8 and gives `n d`."""

    name: str
    compute: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def features(self, video: Tensor) -> Tensor:
        """Return features of videos, `n d`, double."""
        chunks = video.split(VIDEOS_AT_ONCE)
        return torch.cat([self.compute(chunk).double().cpu() for chunk in chunks])


def vae_frames(vae: nn.Module) -> FrameNet:
    """Return a VAE of ours as a network of frames, whose features are latents."""

    def compute(frames: Tensor) -> list[Tensor]:
        frames = frames.to(vae.device, vae.dtype)
        latents = vae.encode(frames.unsqueeze(2)).latent_dist.mean
        return [normalize_latents(latents, vae.config).squeeze(2)]

    return FrameNet(f"vae {weights_digest(vae)[:8]}", compute)


def load_frame_net(name: str, device: str = "cpu", differentiable: bool = False) -> FrameNet:
    """Load any image model of transformers (ViT, DINOv2, CLIP, ResNet, ...); gives four layers.

    Args:
        differentiable: let gradients reach the frames, which then are not rounded to 256 levels.

    Raises:
        UserError: it cannot be loaded, or gives no maps.
    """
    with loading(f"perceptual={name}"):
        model = load_part(f"perceptual={name}", AutoModel, name, heads=True).eval()
        model = getattr(model, "vision_model", model).requires_grad_(False).to(device)
        prepare, by = (differentiable_preprocessing if differentiable else preprocessing)(name)
    patch = getattr(model.config, "patch_size", None)

    def compute(frames: Tensor) -> list[Tensor]:
        prepared = prepare(frames.to(device))
        states = model(pixel_values=prepared, output_hidden_states=True).hidden_states
        picked = torch.linspace(1, len(states) - 1, min(LAYERS, len(states) - 1)).long().tolist()
        height, width = (side // patch if patch else 0 for side in prepared.shape[2:])
        return [_as_map(states[index], name, height, width) for index in picked]

    return FrameNet(f"{name} {weights_digest(model)[:8]} {by}", compute)


def _as_map(state: Tensor, name: str, height: int, width: int) -> Tensor:
    if state.ndim == 4:
        return state
    if state.ndim != 3 or not 0 < height * width <= state.shape[1]:
        raise UserError(f"perceptual={name}: gives no feature maps. Name a ViT, DINOv2 or CLIP.")
    places = state[:, -height * width :]  # other tokens (class, registers) come before them
    return rearrange(places, "n (y x) d -> n d y x", y=height)


def load_video_net(name: str, device: str = "cpu") -> VideoNet:
    """Load a video model of transformers (VideoMAE, ...), or an image model, averaged over frames.

    Raises:
        UserError: it cannot be loaded.
    """
    with loading(f"features={name}"):
        model = load_part(f"features={name}", AutoModel, name, heads=True).eval().to(device)
        model = getattr(model, "vision_model", model)
        prepare, by = preprocessing(name)
    count = getattr(model.config, "num_frames", getattr(model.config, "frames_per_clip", None))

    def compute(video: Tensor) -> Tensor:
        frames = rearrange(pixels(video).to(device), "n c t h w -> n t c h w")
        if count is None:
            state = model(pixel_values=prepare(frames.flatten(0, 1))).last_hidden_state
            state = state.flatten(2).mean(2) if state.ndim == 4 else state.mean(1)
            return reduce(state.float(), "(n t) d -> n d", "mean", n=len(video))
        prepared = prepare(sample_frames(frames, count).flatten(0, 1))
        word = "pixel_values_videos" if "vjepa" in model.config.model_type else "pixel_values"
        given = {word: prepared.unflatten(0, (len(video), count))}
        return model(**given).last_hidden_state.float().mean(1)

    blind = ", frames averaged: blind to time" if count is None else ""
    return VideoNet(f"{name} {weights_digest(model)[:8]} {by}{blind}", compute)
