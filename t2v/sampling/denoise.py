"""One video: text, denoising and decoding, and what is shown while it is drawn."""

from __future__ import annotations

import inspect
import logging
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.video import contact_sheet, save_image
from t2v.models.finite import refuse_bad
from t2v.pipelines.t2v import T2VPipeline

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10


class Watch:
    """Follows a denoising run, as its `callback_on_step_end`.

    Keeps the latest latents and the number of steps they have behind them; tells the time left
    where no terminal shows a bar; writes a preview every `preview_every` steps.
    """

    only_looks = True  # the pipeline may keep the text's keys and values from step to step

    def __init__(self, config: SampleConfig, latents: Tensor | None = None, step: int = 0) -> None:
        self.config, self.latents, self.step = config, latents, step
        self._started = self._spoke = time.monotonic()
        self._first = step

    def __call__(
        self, pipeline: Any, index: int, timestep: Tensor, tensors: dict[str, Any]
    ) -> dict[str, Any]:
        previous, latents = self.latents, tensors["latents"]
        self.latents, self.step = latents, self._first + index + 1
        self._tell()
        every = self.config.preview_every
        if every and self.step % every == 0:
            sigmas = getattr(pipeline.scheduler, "sigmas", None)
            if sigmas is not None and previous is not None:
                # where the last step was heading: its straight line, followed to time 0
                now, last = float(sigmas[index + 1]), float(sigmas[index])
                latents = latents - now * (latents - previous) / (now - last)
            self._preview(pipeline, latents)
        return {}

    def _tell(self) -> None:
        now, total = time.monotonic(), self.config.num_inference_steps
        if sys.stderr.isatty() or total is None or now - self._spoke < SECONDS_BETWEEN_LINES:
            return
        rate = (self.step - self._first) / (now - self._started)
        left = (total - self.step) / rate
        logger.info("step %d/%d, %.2f steps/s, %.0f s left", self.step, total, rate, left)
        self._spoke = now

    def _preview(self, pipeline: T2VPipeline, latents: Tensor) -> None:
        try:
            frames = decode(pipeline, latents, self.config.num_frames)
        except UserError as error:  # the end will tell, and keep what is drawn
            logger.warning("no preview: %s", error)
            return
        caption = f"step {self.step}/{self.config.num_inference_steps}"
        save_image(preview_path(self.config), contact_sheet([frames], [caption]))


def preview_path(config: SampleConfig) -> Path:
    """Where the preview of a video lies while it is drawn."""
    assert config.output is not None
    return Path(config.output).with_suffix(".preview.png")


def continues(pipeline: DiffusionPipeline) -> bool:
    """Can a run be taken up in its middle? Not where the scheduler remembers earlier steps, draws
    noise in each, or spaces its times by their number."""
    scheduler = pipeline.scheduler
    spaced = ("stochastic_sampling", "use_karras_sigmas", "use_exponential_sigmas")
    return isinstance(scheduler, FlowMatchEulerDiscreteScheduler) and not any(
        scheduler.config[name] for name in (*spaced, "use_beta_sigmas")
    )


@torch.no_grad()
def embed(pipeline: T2VPipeline, prompt: str, config: SampleConfig) -> dict[str, Any]:
    """The text as the pipeline takes it: `prompt_embeds` and `negative_prompt_embeds`."""
    assert config.guidance_scale is not None
    if config.negative_prompt and config.guidance_scale <= 1:
        logger.warning(
            "negative_prompt=%r does nothing at guidance_scale=%g: give more than 1.",
            *(config.negative_prompt, config.guidance_scale),
        )
    prompt_embeds, negative_prompt_embeds = pipeline.encode_prompt(
        prompt,
        config.negative_prompt,
        config.guidance_scale > 1,
        truncate=config.truncate,
        dtype=pipeline.transformer.dtype,
    )
    return {"prompt_embeds": prompt_embeds, "negative_prompt_embeds": negative_prompt_embeds}


def draw(pipeline: T2VPipeline, text: dict[str, Any], watch: Watch) -> Tensor:
    """The normalised latents `b c t h w` of a video, from where `watch` stands.

    The same as `pipeline(prompt, generator=torch.Generator().manual_seed(seed))` gives, to the bit.

    Raises:
        UserError: the model gave numbers that are none.
    """
    config, steps = watch.config, watch.config.num_inference_steps
    assert steps is not None
    rest: dict[str, Any] = {}
    if watch.step:
        sigmas = np.linspace(1, 1 / steps, steps)[watch.step :]
        rest = {"latents": watch.latents, "sigmas": sigmas.tolist()}
    output: Any = pipeline(
        **text,
        height=config.height,
        width=config.width,
        num_frames=config.num_frames,
        num_inference_steps=steps,
        guidance_scale=config.guidance_scale,
        generator=torch.Generator().manual_seed(config.seed),
        output_type="latent",
        callback_on_step_end=watch,
        **rest,
    )
    refuse_bad("transformer", output.frames, pipeline.transformer.dtype)
    return output.frames


def decode(pipeline: T2VPipeline, latents: Tensor, num_frames: int | None) -> np.ndarray:
    """The frames of one video's latents, `t h w c` uint8."""
    video = pipeline.decode_latents(latents, num_frames)
    frames: Any = pipeline.video_processor.postprocess_video(video, output_type="np")
    return to_uint8(frames[0])


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Frames in [0, 1] as the nearest of 256 levels."""
    return (frames * 255).round().astype(np.uint8)


def draw_elsewhere(pipeline: DiffusionPipeline, prompt: str, watch: Watch) -> np.ndarray:
    """The frames, `t h w c` uint8, of another package's pipeline: what its call takes it is given.

    Frame counts its VAE cannot hold are padded up and cropped.

    Raises:
        UserError: a frame holds NaN or infinite numbers.
    """
    config = watch.config
    takes = inspect.signature(pipeline.__call__).parameters
    stride = getattr(pipeline, "vae_scale_factor_temporal", 1)
    padded = config.num_frames and -(-(config.num_frames - 1) // stride) * stride + 1
    wanted = {
        "prompt": prompt,
        "negative_prompt": config.negative_prompt or None,
        "height": config.height,
        "width": config.width,
        "num_frames": padded,
        "num_inference_steps": config.num_inference_steps,
        "guidance_scale": config.guidance_scale,
        "generator": torch.Generator().manual_seed(config.seed),
        "callback_on_step_end": watch,
        "output_type": "np",
    }
    given = {name: value for name, value in wanted.items() if name in takes and value is not None}
    frames = np.asarray(pipeline(**given).frames[0])[: config.num_frames]
    refuse_bad(type(pipeline).__name__, torch.from_numpy(frames), pipeline.dtype)
    return to_uint8(frames)
