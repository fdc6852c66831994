"""Films of a model that makes pictures, without training: one noise for all frames, and a motion.

After Text2Video-Zero (arXiv 2303.13439), which moves the latents of a U-Net. A transformer knows
places, so there the picture that the steps are heading for is moved.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.errors import UserError
from t2v.models.latents import denormalize_latents, normalize_latents

# share of the steps before the move: 6 of 50 in the paper; of a transformer, where displacements
# are right (docs/conditions.md)
AFTER_UNET, AFTER_TRANSFORMER = 0.12, 0.875
AT_ONCE = 8  # frames in one call, as in the paper
OURS, OTHERS = "num_videos_per_prompt", "num_images_per_prompt"  # samples of a prompt
NEEDED = {"prompt", "height", OTHERS, "callback_on_step_end", "generator", "num_inference_steps"}
OF_VIDEO = {"num_frames", "video_length", "image"}
Motion = tuple[float, float]
OnStep = Callable[[int, Tensor], None]


@torch.no_grad()
def film_of_pictures(
    pipeline: Any,
    prompt: str,
    *,
    motion: Motion,
    num_frames: int,
    seed: int,
    num_inference_steps: int,
    on_step: OnStep | None = None,
    **call: Any,
) -> np.ndarray:
    """The frames of a film by a pipeline of pictures, `t h w c` in [0, 1].

    All frames begin as the noise of the seed, and the first is the picture that the pipeline makes
    of it, by DDIM or by Euler steps along a flow. Of a U-Net the latents of the others move after
    the first steps, by the nearest whole latents, and every frame attends to the keys and values of
    the first one (arXiv 2303.13439, 3.2 and 3.3, without adding noise again where they moved). In a
    transformer these would hold the picture where it was. There what a late step is heading for is
    decoded, moved, and encoded again, its noise moves by whole latents, and each frame attends to
    itself. What comes into the picture is its mirrored edge.

    Args:
        pipeline: a pipeline of diffusers that makes pictures, or a `T2VPipeline`, by its pictures
            of one frame.
        motion: pixels to the right and down from each frame to the next; fractions too.
        num_inference_steps: 2 or more, of a transformer 3.
        on_step: called with each step's index and latents, of the first call.
        call: further arguments of the pipeline's call, such as `height` and `guidance_scale`.

    Raises:
        UserError: see `check_pictures` and `steady`; the latents have no rows and columns.
    """
    count = check_pictures(pipeline)
    own = {"num_frames": 1, "upscale": 1} if count == OURS else {}
    lead = [0] if is_unet(pipeline) else []  # that the others attend to, in each call
    size, rest = AT_ONCE - len(lead), range(len(lead), num_frames)
    groups = [[*lead, *rest[at : at + size]] for at in range(0, len(rest), size)] or [lead]
    film: list[np.ndarray] = []
    with scheduled(pipeline):
        for frames in groups:
            shifts = [(motion[0] * frame, motion[1] * frame) for frame in frames]
            move = Move(pipeline, shifts, num_inference_steps, None if film else on_step)
            with first_attended(pipeline.unet, len(frames)) if lead else nullcontext():
                made = pipeline(
                    prompt=prompt,
                    num_inference_steps=num_inference_steps,
                    generator=[torch.Generator().manual_seed(seed) for _ in frames],
                    callback_on_step_end=move.end_of_step,
                    output_type="np",
                    return_dict=False,
                    **{count: len(frames)},
                    **own,
                    **call,
                )[0]
            made = np.asarray(made)
            film += [*made.reshape(len(frames), *made.shape[-3:])][len(lead) * bool(film) :]
    return np.stack(film)


def makes_pictures(kind: type) -> bool:
    """Return whether a class of pipelines makes pictures of prompts alone, step by step."""
    taken = dict(inspect.signature(kind.__call__).parameters)
    taken.pop("self", None)  # of the base class, which has no call, it is that of `type`
    plain = [each for each in taken.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    needs_more = any(each.default is each.empty for each in plain)
    return taken.keys() >= NEEDED and not needs_more and not OF_VIDEO & taken.keys()


def is_unet(pipeline: Any) -> bool:
    """Return whether the network of a pipeline is a U-Net, whose attention knows no places."""
    return getattr(pipeline, "unet", None) is not None


def check_pictures(pipeline: Any) -> str:
    """The argument of a pipeline's call that counts pictures of a prompt.

    Raises:
        UserError: it makes no pictures, or has no VAE that encodes moved ones.
    """
    kind = type(pipeline)
    is_ours = hasattr(pipeline, "transformer") and "scene_seconds" in (
        inspect.signature(kind.__call__).parameters
    )
    if not is_ours and not makes_pictures(kind):
        raise UserError(
            f"motion: a {kind.__name__} makes no pictures of prompts, which could be moved. Take a "
            "pipeline of pictures, such as a StableDiffusionPipeline, or a T2VPipeline, or leave "
            "motion out."
        )
    if getattr(pipeline, "vae", None) is None:
        raise UserError(f"motion: this {kind.__name__} has no vae. Take another model.")
    return OURS if is_ours else OTHERS


@contextmanager
def scheduled(pipeline: Any) -> Iterator[None]:
    """Inside, the scheduler of a pipeline is one that draws nothing, see `steady`."""
    own = pipeline.scheduler
    pipeline.scheduler = steady(own)
    try:
        yield
    finally:
        pipeline.scheduler = own


def steady(scheduler: Any) -> Any:
    """A scheduler of the same objective that draws nothing and remembers no earlier steps.

    DDIM (arXiv 2010.02502) for noise and v, as in the paper, and Euler steps along a flow.

    Raises:
        UserError: it is of no such objective.
    """
    config = scheduler.config
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        settings = {**config, "stochastic_sampling": False}
        return FlowMatchEulerDiscreteScheduler.from_config(settings)
    predicted = config.get("prediction_type", "epsilon")
    if predicted == "flow_prediction" and config.get("use_flow_sigmas"):
        return FlowMatchEulerDiscreteScheduler(
            config.num_train_timesteps, shift=config.get("flow_shift") or 1.0
        )
    if "beta_schedule" not in config or predicted not in ("epsilon", "v_prediction", "sample"):
        raise UserError(
            f"motion: a {type(scheduler).__name__} with prediction_type={predicted} is neither of "
            "noise or v, whose steps DDIM takes, nor of a flow, whose steps Euler's method takes. "
            "Take a model with such a scheduler."
        )
    return DDIMScheduler.from_config(config, clip_sample=False, thresholding=False)


class Move:
    """The move of a film's frames, within the steps that make them.

    Args:
        shifts: of each frame, pixels to the right and down.
        steps: that are made.
        on_step: see `film_of_pictures`.

    Raises:
        UserError: too few steps.
    """

    def __init__(
        self,
        pipeline: Any,
        shifts: Sequence[Motion],
        steps: int,
        on_step: OnStep | None = None,
    ) -> None:
        self.pipeline, self.shifts, self.has_unet = pipeline, shifts, is_unet(pipeline)
        self.on_step = on_step
        after = AFTER_UNET if self.has_unet else AFTER_TRANSFORMER
        least = 2 if self.has_unet else 3  # of a transformer two steps tell what they head for
        if steps < least:
            raise UserError(
                f"num_inference_steps={steps}: frames move between two steps of {least} or more. "
                f"Give {least} or more."
            )
        self.step = min(max(round(after * steps) - 1, least - 2), steps - 2)
        self.before: Tensor | None = None

    def end_of_step(
        self, pipeline: Any, index: int, timestep: Any, given: dict[str, Tensor]
    ) -> dict[str, Tensor]:
        """The latents after a step, as pipelines of diffusers call back."""
        if self.on_step is not None:
            self.on_step(index, given["latents"])
        return {"latents": self(index, given["latents"])}

    def __call__(self, index: int, latents: Tensor) -> Tensor:
        """The latents that the next step begins with.

        Args:
            latents: after the step of that index, `f ... h w`.
        """
        if latents.ndim < 4:
            raise UserError(
                f"motion: a {type(self.pipeline).__name__} packs its latents into a row, which has "
                "nowhere to move. Take a pipeline whose latents have rows and columns."
            )
        before, self.before = self.before, latents
        if index != self.step:
            return latents
        if self.has_unet:
            return self._whole(latents)
        return self._heading(index, before, latents)

    def _whole(self, latents: Tensor) -> Tensor:
        """Latents moved by whole ones; nothing is averaged, so noise stays noise."""
        scale = self._pixels_of_latent()
        places = [(round(right / scale), round(down / scale)) for right, down in self.shifts]
        return torch.stack([moved(one, *at) for one, at in zip(latents, places, strict=True)])

    def _heading(self, index: int, before: Tensor | None, latents: Tensor) -> Tensor:
        """Latents whose picture is moved: both steps lie on `a picture + s noise`."""
        assert before is not None, "a transformer moves after its second step at the earliest"
        (a, s), (a_next, s_next) = levels(self.pipeline.scheduler, index)
        x = latents.double()
        picture = (s_next * before.double() - s * x) / (a * s_next - a_next * s)
        noise = (x - a_next * picture) / s_next
        made = a_next * self._redrawn(picture.to(latents)).double() + s_next * self._whole(noise)
        made = made.to(latents)
        for number, shift in enumerate(self.shifts):
            if shift == (0.0, 0.0):  # to the bit
                made[number] = latents[number]
        return made

    def _redrawn(self, picture: Tensor) -> Tensor:
        """Latents of a picture, moved by pixels between its decoding and its encoding."""
        vae = self.pipeline.vae
        pixels = vae.decode(self._unscaled(picture[:1]).to(vae.dtype), return_dict=False)[0]
        frames = torch.cat([slid(pixels.float(), *shift) for shift in self.shifts])
        encoded = vae.encode(frames.clamp(-1, 1).to(vae.dtype))
        found = encoded.latent_dist.mode() if hasattr(encoded, "latent_dist") else encoded.latent
        return self._scaled(found.to(picture))

    def _unscaled(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        if latents.ndim == 5:
            return denormalize_latents(latents, config)
        return latents / config.scaling_factor + (config.get("shift_factor") or 0.0)

    def _scaled(self, latents: Tensor) -> Tensor:
        config = self.pipeline.vae.config
        if latents.ndim == 5:
            return normalize_latents(latents, config)
        return (latents - (config.get("shift_factor") or 0.0)) * config.scaling_factor

    def _pixels_of_latent(self) -> int:
        own = getattr(self.pipeline, "vae_scale_factor", None)
        return int(own or self.pipeline.vae.config.scale_factor_spatial)


def levels(scheduler: Any, index: int) -> tuple[tuple[float, float], tuple[float, float]]:
    """The weights of data and noise in the latents before a step and after it.

    Args:
        scheduler: one of `steady`, after that step.
    """
    if isinstance(scheduler, FlowMatchEulerDiscreteScheduler):
        before, after = (float(scheduler.sigmas[at]) for at in (index, index + 1))
        return (1 - before, before), (1 - after, after)
    time = int(scheduler.timesteps[index])
    length = scheduler.config.num_train_timesteps // scheduler.num_inference_steps
    kept = (float(scheduler.alphas_cumprod[max(at, 0)]) for at in (time, time - length))
    before, after = kept
    return (before**0.5, (1 - before) ** 0.5), (after**0.5, (1 - after) ** 0.5)


@contextmanager
def first_attended(unet: nn.Module, frames: int) -> Iterator[None]:
    """Inside, self-attention sees the keys and values of each film's first frame alone.

    Args:
        frames: that follow one another in a batch, once for each condition.

    Raises:
        UserError: the network has no self-attention whose keys and values are layers.
    """

    def of_first(layer: nn.Module, _: Any, x: Tensor) -> Tensor:
        first = rearrange(x, "(g f) n d -> g f n d", f=frames)[:, :1]
        return rearrange(first.expand(-1, frames, -1, -1), "g f n d -> (g f) n d")

    layers = [
        layer
        for module in unet.modules()
        if not getattr(module, "is_cross_attention", False)
        for name in ("to_k", "to_v")
        if isinstance(layer := getattr(module, name, None), nn.Module)
    ]
    if not layers:
        raise UserError(
            f"motion: this {type(unet).__name__} has no self-attention with keys and values of its "
            "own, which the frames would share. Take another model."
        )
    with ExitStack() as stack:
        for layer in layers:
            stack.callback(layer.register_forward_hook(of_first).remove)
        yield


def moved(x: Tensor, right: int, down: int) -> Tensor:
    """A picture `... h w` moved by whole places, mirrored at its edges."""
    rows, columns = (
        _mirrored(size, shift, x.device)
        for size, shift in zip(x.shape[-2:], (down, right), strict=True)
    )
    return x[..., rows, :][..., columns]


def _mirrored(size: int, shift: int, device: torch.device) -> Tensor:
    """The place that each of `size` places is read from, of what is moved by `shift`."""
    turn = max(1, 2 * size - 2)
    place = (torch.arange(size, device=device) - shift) % turn
    return torch.minimum(place, turn - place)


def slid(x: Tensor, right: float, down: float) -> Tensor:
    """A picture `1 c [t] h w` moved by pixels and their fractions, bicubic, mirrored at edges."""
    height, width = x.shape[-2:]
    rows = (torch.arange(height, device=x.device) - down) / max(height - 1, 1) * 2 - 1
    columns = (torch.arange(width, device=x.device) - right) / max(width - 1, 1) * 2 - 1
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).unsqueeze(0)
    options: dict[str, Any] = {"mode": "bicubic", "padding_mode": "reflection"}
    flat = x.reshape(1, -1, height, width)
    return F.grid_sample(flat, grid, align_corners=True, **options).reshape(x.shape)
