"""`T2VPipeline`: a prompt becomes the frames of a video."""

import logging
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

import torch
from diffusers import AutoencoderKLWan, DiffusionPipeline, SchedulerMixin
from diffusers.guiders import BaseGuidance
from diffusers.utils.torch_utils import randn_tensor
from diffusers.video_processor import VideoProcessor
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.errors import UserError
from t2v.models.alone import alone
from t2v.models.conditions import Conditions
from t2v.models.device import ready
from t2v.models.finite import refuse_bad
from t2v.models.guidance import CFGMode, Guidance, Step
from t2v.models.inputs import (
    check_latents,
    check_prompts,
    count_frames,
    latent_shape,
    warn_outside,
)
from t2v.models.latents import denormalize_latents
from t2v.models.lora import LoraLoader
from t2v.models.schedule import sample_generators, set_timesteps, step_options
from t2v.models.text import count_tokens, encode_prompts, unknown_words
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.vae import AutoencoderKLT2V
from t2v.pipelines.output import T2VPipelineOutput
from t2v.pipelines.registration import register

logger = logging.getLogger(__name__)

Generators = torch.Generator | list[torch.Generator] | None
Prompts = str | list[str] | None
Callback = Callable[[Any, int, Tensor, dict[str, Any]], dict[str, Any]]


class T2VPipeline(DiffusionPipeline, LoraLoader):
    """Text to video, with the habits of every diffusers pipeline; reads LoRA files made for Wan.

    Args:
        tokenizer, text_encoder: any pair of transformers whose encoder gives `last_hidden_state`.
        transformer: predicts what the scheduler asks for.
        vae: `k * scale_factor_temporal + 1` frames to `k + 1` latent frames and back.
        scheduler: any of diffusers'.
        fps: frames per second the model was trained at.
        height, width, num_frames, num_inference_steps, guidance_scale: what a call uses that does
            not say.
        max_sequence_length: tokens the prompt is padded to; a longer one is an error.
    """

    model_cpu_offload_seq = "text_encoder->transformer->vae"
    _callback_tensor_inputs = ["latents", "prompt_embeds", "negative_prompt_embeds"]  # noqa: RUF012
    _lora_loadable_modules = ["transformer"]  # noqa: RUF012

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        text_encoder: PreTrainedModel,
        transformer: T2VTransformer3DModel,
        vae: AutoencoderKLT2V | AutoencoderKLWan,
        scheduler: SchedulerMixin,
        fps: int | float = 16,
        height: int = 480,
        width: int = 832,
        num_frames: int = 81,
        num_inference_steps: int = 50,
        guidance_scale: int | float = 5.0,
        max_sequence_length: int = 512,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
        )
        self.register_to_config(fps=fps, height=height, width=width, num_frames=num_frames)
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
        )
        self.video_processor = VideoProcessor()
        self._told: set[str] = set()

    vae_scale_factor_temporal = property(attrgetter("vae.config.scale_factor_temporal"))
    vae_scale_factor_spatial = property(attrgetter("vae.config.scale_factor_spatial"))
    guidance_scale = property(attrgetter("_guidance_scale"))
    attention_kwargs = property(attrgetter("_attention_kwargs"))
    num_timesteps = property(attrgetter("_num_timesteps"))
    current_timestep = property(attrgetter("_current_timestep"))
    interrupt = property(attrgetter("_interrupt"))

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    def count_tokens(self, prompt: str) -> tuple[int, int]:
        """How many tokens the prompt takes, and how many fit."""
        return count_tokens(self.tokenizer, prompt), self.config.max_sequence_length

    def unknown_words(self, prompt: str) -> list[str]:
        """The words of the prompt that the text encoder never saw in training."""
        return unknown_words(self.tokenizer, prompt)

    def count_frames(
        self,
        num_frames: int | None = None,
        duration: float | None = None,
        fps: float | None = None,
    ) -> int:
        """How many frames a call with these arguments gives; see `t2v.models.inputs`."""
        (fps,) = self._or_saved(fps=fps)
        return count_frames(num_frames, duration, fps, self.config.num_frames)

    def _or_saved(self, **given: Any) -> list[Any]:
        return [self.config[name] if value is None else value for name, value in given.items()]

    def check_inputs(
        self,
        prompt: Prompts,
        negative_prompt: Prompts,
        height: int,
        width: int,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = (),
        num_videos_per_prompt: int = 1,
    ) -> None:
        """Raise `UserError` for the first thing that cannot work."""
        latent_shape(self.transformer, self.vae, 1, 1, height, width)
        check_prompts(
            prompt=(prompt, prompt_embeds),
            negative_prompt=(negative_prompt, negative_prompt_embeds),
        )
        if prompt is None and prompt_embeds is None:
            raise UserError("There is no prompt: give prompt or prompt_embeds.")
        if num_videos_per_prompt < 1:
            raise UserError(f"num_videos_per_prompt={num_videos_per_prompt}: ask for at least 1.")
        allowed = self._callback_tensor_inputs
        if unknown := [each for each in callback_on_step_end_tensor_inputs if each not in allowed]:
            raise UserError(f"callback_on_step_end_tensor_inputs={unknown}: choose from {allowed}.")

    @alone
    def encode_prompt(
        self,
        prompt: Prompts,
        negative_prompt: Prompts = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        max_sequence_length: int | None = None,
        truncate: bool | None = None,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """The embeddings of the prompts and, for guidance, of what to stay away from.

        Args:
            prompt: one text or a list; ignored where `prompt_embeds` are given.
            negative_prompt: one for all or one each; None is the empty text.
            num_videos_per_prompt: rows made of each prompt, next to each other.
            max_sequence_length: tokens, instead of the saved number.
            truncate: cut a longer prompt off (True) or refuse it (False). None: cut where
                `max_sequence_length` is given, as every diffusers pipeline does; else refuse.

        Returns:
            Two tensors `b m d`; the second is None without guidance.

        Raises:
            UserError: a prompt is too long, or the numbers of prompts differ.
        """
        if truncate is None:
            truncate = max_sequence_length is not None
        length = max_sequence_length or self.config.max_sequence_length
        if prompt_embeds is None:
            prompts = [prompt] if isinstance(prompt, str) else prompt or []
            prompt_embeds = self._embed(prompts, length, truncate)
        count, length, _ = prompt_embeds.shape
        if do_classifier_free_guidance and negative_prompt_embeds is None:
            negative = negative_prompt or ""
            negatives = [negative] * count if isinstance(negative, str) else negative
            negative_prompt_embeds = self._embed(negatives, length, truncate)
        rows, device = num_videos_per_prompt, device or self._execution_device
        if negative_prompt_embeds is not None:
            if negative_prompt_embeds.shape != prompt_embeds.shape:
                raise UserError(
                    f"Negative prompts of shape {tuple(negative_prompt_embeds.shape)} do not match "
                    f"prompts of shape {tuple(prompt_embeds.shape)}. Give one for all or one each."
                )
            negative_prompt_embeds = negative_prompt_embeds.repeat_interleave(rows, dim=0)
            negative_prompt_embeds = negative_prompt_embeds.to(device, dtype)
        prompt_embeds = prompt_embeds.repeat_interleave(rows, dim=0).to(device, dtype)
        return prompt_embeds, negative_prompt_embeds

    @torch.no_grad()
    def _embed(self, prompts: list[str], length: int, truncate: bool) -> Tensor:
        if self.text_encoder is None or self.tokenizer is None:
            raise UserError("There is no text encoder: give prompt and negative_prompt embeds.")
        for prompt in dict.fromkeys(prompts):
            if words := self.unknown_words(prompt):
                logger.warning("Words the model was not trained on: %s", ", ".join(words))
        return encode_prompts(self.tokenizer, self.text_encoder, prompts, length, truncate=truncate)

    def prepare_latents(
        self,
        batch_size: int,
        height: int,
        width: int,
        num_frames: int,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
    ) -> Tensor:
        """Standard normal noise `b c t h w` of the size `latent_shape` says, or `latents`.

        A list of generators is drawn from; a single one as `sample_generators` says.

        Raises:
            UserError: latents of another shape, or with NaN or infinite numbers.
        """
        shape = latent_shape(self.transformer, self.vae, batch_size, num_frames, height, width)
        if latents is None:
            if not isinstance(generator, list):
                generator = sample_generators(generator, batch_size)
            latents = randn_tensor(shape, generator=generator, dtype=dtype)
        else:
            check_latents(latents, shape)
        return latents.to(device=device, dtype=dtype)

    @alone
    @torch.no_grad()
    def decode_latents(self, latents: Tensor, num_frames: int | None = None) -> Tensor:
        """The videos of normalised latents, decoded one at a time.

        Args:
            latents: `b c t h w`, as `output_type="latent"` gives them.
            num_frames: what was asked for; the padding behind it is cropped. None: keep all.

        Returns:
            `b c t h w` in [-1, 1]; `self.video_processor.postprocess_video` makes frames of it.

        Raises:
            UserError: the latents, or what the VAE makes of them, hold NaN or infinite numbers.
        """
        # a pipeline that only decodes may have no transformer
        refuse_bad("transformer", latents, getattr(self.transformer, "dtype", latents.dtype))
        latents = denormalize_latents(latents.to(ready(self.vae)), self.vae.config)
        latents = latents.to(self.vae.dtype)
        videos = torch.cat([self.vae.decode(z, return_dict=False)[0] for z in latents.split(1)])
        refuse_bad("vae", videos, self.vae.dtype)
        return videos[:, :, :num_frames]

    @alone
    @torch.no_grad()
    def __call__(
        self,
        prompt: Prompts = None,
        negative_prompt: Prompts = None,
        height: int | None = None,
        width: int | None = None,
        num_frames: int | None = None,
        duration: float | None = None,
        fps: float | None = None,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        num_videos_per_prompt: int = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        output_type: str = "np",
        return_dict: bool = True,
        attention_kwargs: dict[str, Any] | None = None,
        callback_on_step_end: Callback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        truncate: bool | None = None,
        sigmas: list[float] | None = None,
        cfg_mode: CFGMode | None = None,
        guider: BaseGuidance | None = None,
    ) -> Any:
        """Make videos of prompts. What is None is as saved with the pipeline.

        Args, besides the usual ones of diffusers:
            num_frames, duration, fps: any length, as `count_frames` says; exactly that many frames.
            generator: one, or one a sample. Only its seed counts: see `sample_generators`.
            truncate: as in `encode_prompt`.
            cfg_mode, guider: as in `Guidance`.

        Returns `T2VPipelineOutput`, or `(frames,)` without `return_dict`. Raises `UserError` for
        what does not fit the model, and where text encoder, transformer or VAE gave NaN or
        infinite numbers; latents are given out as they are. A second thread waits, see `alone`.
        """
        num_frames = self.count_frames(num_frames, duration, fps)
        height, width, fps, guidance_scale, num_inference_steps = self._or_saved(
            height=height,
            width=width,
            fps=fps,
            guidance_scale=guidance_scale,
            num_inference_steps=num_inference_steps,
        )
        asked = callback_on_step_end_tensor_inputs
        tensors = getattr(callback_on_step_end, "tensor_inputs", asked)  # diffusers' classes ask
        embeds = prompt_embeds, negative_prompt_embeds
        self.check_inputs(
            prompt, negative_prompt, height, width, *embeds, tensors, num_videos_per_prompt
        )
        warn_outside(self.config, self._told, height=height, width=width, num_frames=num_frames)
        self._guidance_scale, self._attention_kwargs = guidance_scale, attention_kwargs
        self._current_timestep, self._interrupt = None, False
        device, dtype = self._execution_device, self.transformer.dtype
        guided = self.do_classifier_free_guidance or guider is not None
        rows = num_videos_per_prompt, *embeds
        text, negative_text = self.encode_prompt(
            prompt, negative_prompt, guided, *rows, max_sequence_length, truncate, device, dtype
        )
        generators = sample_generators(generator, len(text))
        size = len(text), height, width, num_frames
        latents = self.prepare_latents(*size, torch.float32, device, generators, latents)
        tokens = latents[0, 0].numel() // math.prod(self.transformer.config.patch_size)
        set_timesteps(self.scheduler, num_inference_steps, tokens, sigmas, device)
        guidance = Guidance(self.transformer, cfg_mode, guider, attention_kwargs)
        positive = Conditions(text=text)
        negative = None if negative_text is None else positive.with_text(negative_text)
        latents = latents * getattr(self.scheduler, "init_noise_sigma", 1.0)
        latents = self._denoise(
            latents, positive, negative, guidance, generators, callback_on_step_end, tensors
        )
        frames: Any = latents
        if output_type != "latent":
            frames = self.decode_latents(latents, num_frames)
            frames = self.video_processor.postprocess_video(frames, output_type=output_type)
        self.maybe_free_model_hooks()  # also empties the caches
        return T2VPipelineOutput(frames=frames, fps=fps) if return_dict else (frames,)

    def _denoise(
        self,
        latents: Tensor,
        positive: Conditions,
        negative: Conditions | None,
        guidance: Guidance,
        generators: list[torch.Generator],
        callback: Callback | None,
        names: Sequence[str],
    ) -> Tensor:
        """Take `latents` from noise to data; the callback may change them and the text."""
        scheduler = self.scheduler
        timesteps, options = scheduler.timesteps, step_options(scheduler, generators)
        sigmas = scheduler.sigmas.tolist() if hasattr(scheduler, "sigmas") else None
        self._num_timesteps = len(timesteps)
        keep_text = getattr(self.transformer, "keep_text", nullcontext)
        with self.progress_bar(total=len(timesteps)) as bar, keep_text():
            for i, t in enumerate(timesteps):
                if self.interrupt:
                    continue
                self._current_timestep = t
                step = Step(t, i, len(timesteps), sigmas[i] if sigmas else None)
                scaled = latents
                if hasattr(scheduler, "scale_model_input"):
                    scaled = scheduler.scale_model_input(latents, t)
                prediction = guidance(scaled, positive, negative, self.guidance_scale, step)
                latents = scheduler.step(prediction, t, latents, **options)[0]
                if callback is not None:
                    state: dict[str, Any] = {
                        "latents": latents,
                        "prompt_embeds": positive.text,
                        "negative_prompt_embeds": None if negative is None else negative.text,
                    }
                    state |= callback(self, i, t, {name: state[name] for name in names}) or {}
                    latents = state["latents"]
                    positive = positive.with_text(state["prompt_embeds"])
                    if negative is not None:
                        negative = negative.with_text(state["negative_prompt_embeds"])
                    if not getattr(callback, "only_looks", False):
                        guidance.forget_text()  # it may have set adapters or written into the text
                bar.update()
        self._current_timestep = None
        return latents


register(T2VPipeline, T2VTransformer3DModel, AutoencoderKLT2V)
