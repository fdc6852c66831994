"""The networks that measure, each under the name that its figures carry."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AutoImageProcessor, AutoModel, AutoProcessor

from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.models.load import load_part, loading
from t2v.world.oracle import WorldOracle

CHUNK = 16  # videos looked at together
LAYERS = 4  # of a network's hidden states, spread over its depth


@dataclass(frozen=True)
class PictureNet:
    """Features of single frames: `look` takes `n c h w` in [-1, 1] and gives maps `n d y x`."""

    name: str
    look: Callable[[Tensor], list[Tensor]]

    @torch.inference_mode()
    def maps(self, video: Tensor) -> list[Tensor]:
        """Maps of the frames of `n t h w c` uint8 videos, `n t d y x` a layer."""
        n = len(video)
        frames = rearrange(pixels(video), "n c t h w -> (n t) c h w")
        looked = [self.look(chunk) for chunk in frames.split(64)]
        layers = [torch.cat(layer) for layer in zip(*looked, strict=True)]
        return [rearrange(each.float().cpu(), "(n t) d y x -> n t d y x", n=n) for each in layers]

    def distance(self, ours: Tensor, theirs: Tensor) -> Tensor:
        """How far frames of `n t h w c` uint8 videos look apart, `n t`."""
        return gap(self.maps(ours), self.maps(theirs))


def gap(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    """How far maps `n t d y x` lie apart, `n t`: LPIPS (Zhang et al. 2018, eq. 1), no weights.

    Squared difference of features of unit length, averaged over places, summed over layers.
    """
    far = ours[0].new_zeros(ours[0].shape[:2])
    for pair in zip(ours, theirs, strict=True):
        # shorter ones count as none: a loss would feel a direction's slope, which is 1 / length
        a, b = (F.normalize(each, dim=2, eps=1e-3) for each in pair)
        far = far + (a - b).square().sum(2).mean((2, 3))
    return far


@dataclass(frozen=True)
class ClipNet:
    """Features of whole videos: `look` takes `n t h w c` uint8 and gives `n d`."""

    name: str
    look: Callable[[Tensor], Tensor]

    @torch.inference_mode()
    def features(self, video: Tensor) -> Tensor:
        """Features of videos, `n d`, double."""
        return torch.cat([self.look(chunk).double().cpu() for chunk in video.split(CHUNK)])


@dataclass(frozen=True)
class Aligner:
    """Two towers: `see` gives unit vectors `n k d` of videos (k: frames or 1), `read` `m d`."""

    name: str
    see: Callable[[Tensor], Tensor]
    read: Callable[[Sequence[str]], Tensor]


@dataclass(frozen=True)
class Teller:
    """`say` captions a video `t h w c` uint8, once or frame by frame; `compare` grades texts."""

    name: str
    say: Callable[[Tensor], list[str]]
    compare: Callable[[str, Sequence[str]], Tensor]


@dataclass(frozen=True)
class Nets:
    """What measures a model; None: none was named."""

    strides: tuple[int, int] = (8, 4)  # of the model's VAE: pixels and frames
    perceptual: PictureNet | None = None
    features: ClipNet | None = None
    aligners: tuple[Aligner, ...] = ()
    oracle: WorldOracle | None = None
    teller: Teller | None = None


def vae_pictures(vae: nn.Module) -> PictureNet:
    """The latents that a VAE of ours gives a frame as a picture."""
    mean, std = (
        rearrange(torch.tensor(values), "c -> c 1 1")
        for values in (vae.config.latents_mean, vae.config.latents_std)
    )

    def look(frames: Tensor) -> list[Tensor]:
        frames = frames.to(vae.device, vae.dtype)
        latents = vae.encode(frames.unsqueeze(2)).latent_dist.mean.squeeze(2)
        return [(latents - mean.to(latents)) / std.to(latents)]

    return PictureNet(f"vae {weights_digest(vae)[:8]}", look)


def oracle_features(oracle: WorldOracle) -> ClipNet:
    """What the judge of the world answers: the logits of all its heads, side by side."""

    def look(video: Tensor) -> Tensor:
        return torch.cat(list(oracle(pixels(video).to(oracle.device)).values()), dim=1)

    return ClipNet(f"world oracle {weights_digest(oracle)[:8]}", look)


def pictures_of(name: str, device: str = "cpu", smooth: bool = False) -> PictureNet:
    """Any image model of transformers (ViT, DINOv2, CLIP, ResNet, ...), by four of its layers.

    Args:
        smooth: let gradients reach the frames, which then are not rounded to 256 levels.

    Raises:
        UserError: it cannot be loaded, or gives no maps.
    """
    with loading(f"perceptual={name}"):
        model = load_part(f"perceptual={name}", AutoModel, name, heads=True).eval()
        model = getattr(model, "vision_model", model).requires_grad_(False).to(device)
        prepare, by = (_smooth_preparation if smooth else _preparation)(name)
    patch = getattr(model.config, "patch_size", None)

    def look(frames: Tensor) -> list[Tensor]:
        shown = prepare(frames.to(device))
        states = model(pixel_values=shown, output_hidden_states=True).hidden_states
        picked = torch.linspace(1, len(states) - 1, min(LAYERS, len(states) - 1)).long().tolist()
        height, width = (side // patch if patch else 0 for side in shown.shape[2:])
        return [_as_map(states[index], name, height, width) for index in picked]

    return PictureNet(f"{name} {weights_digest(model)[:8]} {by}", look)


def _as_map(state: Tensor, name: str, height: int, width: int) -> Tensor:
    if state.ndim == 4:
        return state
    if state.ndim != 3 or not 0 < height * width <= state.shape[1]:
        raise UserError(f"perceptual={name}: gives no map of a picture. Name a ViT, DINOv2, CLIP.")
    places = state[:, -height * width :]  # other tokens (class, registers) come before them
    return rearrange(places, "n (y x) d -> n d y x", y=height)


def features_of(name: str, device: str = "cpu") -> ClipNet:
    """Any video model of transformers (VideoMAE, ...), or an image model, averaged over frames.

    Raises:
        UserError: it cannot be loaded.
    """
    with loading(f"features={name}"):
        model = load_part(f"features={name}", AutoModel, name, heads=True).eval().to(device)
        model = getattr(model, "vision_model", model)
        prepare, by = _preparation(name)
    takes = getattr(model.config, "num_frames", getattr(model.config, "frames_per_clip", None))

    def look(video: Tensor) -> Tensor:
        frames = rearrange(pixels(video).to(device), "n c t h w -> n t c h w")
        if takes is None:
            seen = model(pixel_values=prepare(frames.flatten(0, 1))).last_hidden_state
            seen = seen.flatten(2).mean(2) if seen.ndim == 4 else seen.mean(1)
            return reduce(seen.float(), "(n t) d -> n d", "mean", n=len(video))
        shown = prepare(spread(frames, takes).flatten(0, 1)).unflatten(0, (len(video), takes))
        word = "pixel_values_videos" if "vjepa" in model.config.model_type else "pixel_values"
        return model(**{word: shown}).last_hidden_state.float().mean(1)

    blind = ", frames averaged: blind to time" if takes is None else ""
    return ClipNet(f"{name} {weights_digest(model)[:8]} {by}{blind}", look)


def aligner_of(name: str, setting: str = "clip", device: str = "cpu") -> Aligner:
    """Any model of transformers with a picture or video tower and a text tower (CLIP, X-CLIP, ...).

    Raises:
        UserError: it cannot be loaded, or has no such towers.
    """
    with loading(f"{setting}={name}"):
        model = load_part(f"{setting}={name}", AutoModel, name, heads=True).eval().to(device)
        processor = AutoProcessor.from_pretrained(name)
        if not (hasattr(model, "get_image_features") or hasattr(model, "get_video_features")):
            raise ValueError("It compares no videos with texts; CLIP, SigLIP and X-CLIP do.")
        prepare, by = _preparation(name)
    watches = hasattr(model, "get_video_features") and hasattr(model, "mit")  # X-CLIP

    @torch.inference_mode()
    def see(video: Tensor) -> Tensor:
        frames = rearrange(pixels(video).to(device), "n c t h w -> n t c h w")
        if watches:
            count = model.config.vision_config.num_frames
            shown = prepare(spread(frames, count).flatten(0, 1)).unflatten(0, (-1, count))
            return F.normalize(_vector(model.get_video_features(pixel_values=shown)), dim=-1)[
                :, None
            ]
        seen = _vector(model.get_image_features(pixel_values=prepare(frames.flatten(0, 1))))
        return F.normalize(seen, dim=-1).unflatten(0, (len(video), -1))

    @torch.inference_mode()
    def read(texts: Sequence[str]) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        tokens = processor(text=list(texts), **options).to(device)
        return F.normalize(_vector(model.get_text_features(**tokens)), dim=-1)

    return Aligner(f"{name} {weights_digest(model)[:8]} {by}", see, read)


def _vector(output: Any) -> Tensor:
    """transformers 5 gives an output where 4 gave a tensor."""
    return (output if isinstance(output, Tensor) else output.pooler_output).float()


def spread(frames: Tensor, count: int) -> Tensor:
    """`count` frames of `n t c h w`, spread from the first to the last."""
    return frames[:, torch.linspace(0, frames.shape[1] - 1, count).round().long()]


def _preparation(name: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """Frames `n c h w` in [-1, 1] as the model's own processor prepares them, and its class.

    Resizing, filter, crop, mean and spread are what `preprocessor_config.json` says.
    """
    processor = AutoImageProcessor.from_pretrained(name)

    def prepare(frames: Tensor) -> Tensor:
        levels = ((frames + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
        pictures = list(rearrange(levels, "n c h w -> n h w c").cpu().numpy())
        prepared = processor(pictures, return_tensors="pt", input_data_format="channels_last")
        shown = prepared["pixel_values"]
        return shown.flatten(0, -4).to(frames.device)  # some take a list of frames for a video

    return prepare, f"prepared by {type(processor).__name__}"


def _smooth_preparation(name: str) -> tuple[Callable[[Tensor], Tensor], str]:
    """What `_preparation` does but for its rounding, so that gradients pass.

    Raises:
        ValueError: the processor does more than resize, crop from the middle and normalise.
    """
    processor = AutoImageProcessor.from_pretrained(name)
    exact, by = _preparation(name)
    filters = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
    told = processor.to_dict()
    size, crop = (
        {side: length for side, length in (told.get(each) or {}).items() if length}
        for each in ("size", "crop_size")
    )

    def prepare(frames: Tensor) -> Tensor:
        shown = (frames + 1) / 2
        if told.get("do_resize"):
            sides = _sides(shown.shape[2:], size)
            shown = F.interpolate(shown, sides, mode=filters[told["resample"]], antialias=True)
            shown = shown.clamp(0, 1)
        if told.get("do_center_crop"):
            top, left = (
                (side - crop[each]) // 2
                for side, each in zip(shown.shape[2:], ("height", "width"), strict=True)
            )
            shown = shown[..., top : top + crop["height"], left : left + crop["width"]]
        if told.get("do_normalize"):
            mean, std = (
                rearrange(torch.tensor(values), "c -> c 1 1").to(shown)
                for values in (told["image_mean"], told["image_std"])
            )
            shown = (shown - mean) / std
        return shown

    coarse = torch.rand(1, 3, 10, 13, generator=torch.Generator().manual_seed(0)) * 2 - 1
    trial = F.interpolate(coarse, (75, 99), mode="bilinear")
    try:
        ours, theirs = prepare(trial), exact(trial)
        same = ours.shape == theirs.shape and (ours - theirs).abs().mean() < 0.03 * theirs.std()
    except (KeyError, AttributeError, RuntimeError):
        same = False
    if not same:
        raise ValueError(
            f"{type(processor).__name__} prepares pictures in a way that no gradient is known "
            "for. Name a ViT, DINOv2 or CLIP."
        )
    return prepare, by


def _sides(given: Sequence[int], size: dict[str, int]) -> list[int]:
    """Height and width that a processor resizes to."""
    if "shortest_edge" not in size:
        return [size["height"], size["width"]]
    return [int(side * size["shortest_edge"] / min(given)) for side in given]
