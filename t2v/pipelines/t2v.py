"""`T2VPipeline`: a prompt becomes the frames of a video."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from diffusers import AutoencoderKLWan, SchedulerMixin
from diffusers.guiders import BaseGuidance
from diffusers.utils import BaseOutput
from diffusers.video_processor import VideoProcessor
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionModel, PreTrainedModel, PreTrainedTokenizerBase
from transformers.image_processing_utils import BaseImageProcessor

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.models.alone import alone
from t2v.models.conditions import Conditions
from t2v.models.guidance import CFGMode, Guidance
from t2v.models.inputs import (
    check_prompts,
    count_frames,
    latent_shape,
    warn_outside,
)
from t2v.models.known import softened
from t2v.models.lora import LoraLoader
from t2v.models.schedule import edit_sigmas, noised, sample_generators, set_timesteps
from t2v.models.stages import StagedGuidance, make_guidance
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.upscaler import VideoUpscaler, check_scale
from t2v.models.vae import AutoencoderKLT2V
from t2v.pipelines.denoise import TENSORS, Function, StepCallback, Watch, denoise, step_callback
from t2v.pipelines.known import VisualEncoding
from t2v.pipelines.latent_videos import Generators, LatentVideos
from t2v.pipelines.prompts import PromptEncoding, Prompts
from t2v.pipelines.registration import SavedPipeline, register
from t2v.pipelines.students import check_student
from t2v.pipelines.visuals import (
    Fit,
    Frames,
    VideoCondition,
    VisualInputs,
    spoken_all,
    whole_length,
)

if TYPE_CHECKING:
    from t2v.config.story import WindowsConfig


@dataclass
class T2VPipelineOutput(BaseOutput):
    """Videos, in the form that was asked for.

    Args:
        frames: "np" `b t h w c` and "pt" `b t c h w` in [0, 1]; "pil" a list of images a video;
            "latent" the normalised latents `b c t h w`, before padding frames are cropped.
        fps: frames per second to play them at.
    """

    frames: np.ndarray | Tensor | list[list[Image.Image]]
    fps: float | None = None


class T2VPipeline(SavedPipeline, LoraLoader, PromptEncoding, VisualEncoding, LatentVideos):
    """Text to video, with the habits of every diffusers pipeline; reads LoRA files made for Wan.

    Args:
        tokenizer, text_encoder: any pair of transformers whose encoder gives `last_hidden_state`.
        transformer: predicts what the scheduler takes.
        vae: `k * scale_factor_temporal + 1` frames to `k + 1` latent frames and back.
        scheduler: any of diffusers'.
        fps: frames per second the model was trained at.
        height, width, num_frames, num_inference_steps, guidance_scale: the defaults of a
            call.
        max_sequence_length: tokens the prompt is padded to; a longer one is an error.
        trained: the (frames, height, width) of the longest clips of each size it was trained on;
            None: as its defaults say. Others are warned of.
        transformer_2: takes the transformer's place at times below `boundary_ratio`, with
            `guidance_scale_2` (None: the same scale) (Wan 2.2 A14B).
        image_encoder, image_processor: a CLIP's vision part, for a transformer with `image_dim`.
        upscaler: enlarges the decoded videos; None: they stay as they are.
    """

    model_cpu_offload_seq = "text_encoder->image_encoder->transformer->transformer_2->vae->upscaler"
    _callback_tensor_inputs = list(TENSORS)  # noqa: RUF012
    _lora_loadable_modules = ["transformer", "transformer_2"]  # noqa: RUF012
    _optional_components = [  # noqa: RUF012
        *("transformer", "transformer_2"),
        *("image_encoder", "image_processor", "upscaler"),
    ]

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
        transformer_2: T2VTransformer3DModel | None = None,
        boundary_ratio: float | None = None,
        guidance_scale_2: float | None = None,
        image_encoder: CLIPVisionModel | None = None,
        image_processor: BaseImageProcessor | None = None,
        trained: Sequence[Sequence[int]] | None = None,
        upscaler: VideoUpscaler | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            tokenizer=tokenizer,
            text_encoder=text_encoder,
            transformer=transformer,
            vae=vae,
            scheduler=scheduler,
            transformer_2=transformer_2,
            image_encoder=image_encoder,
            image_processor=image_processor,
            upscaler=upscaler,
        )
        self.register_to_config(boundary_ratio=boundary_ratio, guidance_scale_2=guidance_scale_2)
        self.register_to_config(trained=trained)
        self.register_to_config(fps=fps, height=height, width=width, num_frames=num_frames)
        self.register_to_config(
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            max_sequence_length=max_sequence_length,
        )
        self.video_processor = VideoProcessor()
        self._warned: set[str] = set()

    guidance_scale = property(attrgetter("_guidance_scale"))
    image_guidance_scale = property(attrgetter("_image_guidance_scale"))
    attention_kwargs = property(attrgetter("_attention_kwargs"))
    num_timesteps = property(attrgetter("_num_timesteps"))
    current_timestep = property(attrgetter("_current_timestep"))
    interrupt = property(attrgetter("_interrupt"))

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1

    def count_frames(
        self,
        num_frames: int | None = None,
        duration: float | None = None,
        fps: float | None = None,
    ) -> int:
        """The number of frames that a call with these arguments gives; see `t2v.models.inputs`."""
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
    ) -> None:
        """Raise `UserError` for the first thing that cannot work."""
        latent_shape(self.transformer, self.vae, 1, 1, height, width)
        check_prompts(
            prompt=(prompt, prompt_embeds),
            negative_prompt=(negative_prompt, negative_prompt_embeds),
        )
        if prompt is None and prompt_embeds is None:
            raise UserError("No prompt: give prompt or prompt_embeds.")
        negative = negative_prompt if negative_prompt_embeds is None else negative_prompt_embeds
        check_student(self, negative_prompt=negative)

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
        callback_on_step_end: Function | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
        max_sequence_length: int | None = None,
        truncate: bool | None = None,
        sigmas: list[float] | None = None,
        cfg_mode: CFGMode | None = None,
        guider: BaseGuidance | None = None,
        image: Frames | None = None,
        last_image: Frames | None = None,
        video: Frames | None = None,
        mask: Frames | None = None,
        strength: float | None = None,
        conditions: Sequence[VideoCondition] = (),
        fit: Fit = "crop",
        image_guidance_scale: float = 1.0,
        guidance_scale_2: float | None = None,
        scene_seconds: Sequence[float] | None = None,
        windows: "WindowsConfig | None" = None,
        upscale: int | None = None,
        prompting: PromptingConfig | None = None,
        reference_images: Sequence[Frames] = (),
    ) -> Any:
        """Make videos of prompts. Arguments that are None are as saved with the pipeline.

        Args, besides the usual ones of diffusers:
            num_frames, duration, fps: any length; see `count_frames`.
            generator: one, or one a sample. Only its seed counts: see `sample_generators`.
            truncate: as in `encode_prompt`.
            cfg_mode, guider: as in `Guidance`.
            image, last_image, video, mask, conditions, reference_images, fit: what every video is
                given to see, see `VisualInputs`; with a mask or strength a video is by default as
                long as the clip.
            strength: in (0, 1], the time at which the edit of `video` starts; 1 keeps nothing.
            image_guidance_scale: `visual_scale` of `Guidance`.
            guidance_scale_2: `guidance_scale` of the second transformer.
            scene_seconds, windows: one video of all prompts, see `story_of_call`.
            upscale: 1 for videos as they are decoded; None: enlarged where there is an upscaler.
            prompting: how prompts are read, such as `PromptingConfig(syntax=True)`, see
                `encode_read`.

        Returns `T2VPipelineOutput`, or `(frames,)` without `return_dict`. Raises `UserError` for
        what does not fit the model, and for NaN or infinite values, except in latents that are
        returned. A second thread waits, see `alone`.
        """
        if scene_seconds is not None:
            from t2v.pipelines.scenes import story_of_call  # few calls tell a story

            frames, fps = story_of_call(self, locals())
            return T2VPipelineOutput(frames=frames, fps=fps) if return_dict else (frames,)
        visuals = VisualInputs(image, last_image, video, mask, conditions, fit, reference_images)
        prompt = spoken_all(prompt, len(reference_images))
        if num_frames is None and duration is None:
            num_frames = whole_length(visuals, strength)
        num_frames = self.count_frames(num_frames, duration, fps)
        upscale = check_scale(upscale, self.upscaler, "upscale")
        height, width, fps = self._or_saved(height=height, width=width, fps=fps)
        guidance_scale, num_inference_steps = self._or_saved(
            guidance_scale=guidance_scale, num_inference_steps=num_inference_steps
        )
        self.check_inputs(
            prompt, negative_prompt, height, width, prompt_embeds, negative_prompt_embeds
        )
        callback = step_callback(callback_on_step_end, callback_on_step_end_tensor_inputs)
        guided = guidance_scale > 1 or guider is not None or image_guidance_scale != 1
        conditions_of_text = self._encode(
            prompt=prompt,
            negative_prompt=negative_prompt,
            do_classifier_free_guidance=guided,
            num_videos_per_prompt=num_videos_per_prompt,
            prompt_embeds=prompt_embeds,
            negative_prompt_embeds=negative_prompt_embeds,
            max_sequence_length=max_sequence_length,
            truncate=truncate,
            prompting=prompting,
            film=(num_frames, fps),
        )
        positive, negative = self.add_visuals(
            conditions_of_text, [visuals], num_frames, height, width, strength
        )
        latents = self.generate(
            positive,
            negative,
            height=height,
            width=width,
            num_frames=num_frames,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            generator=generator,
            latents=latents,
            sigmas=sigmas,
            strength=strength,
            image_guidance_scale=image_guidance_scale,
            guidance=make_guidance(self, cfg_mode, guider, attention_kwargs, guidance_scale_2),
            callback=callback,
        )
        frames = self._frames(latents, num_frames, output_type, upscale)
        self.maybe_free_model_hooks()  # also empties the caches
        return T2VPipelineOutput(frames=frames, fps=fps) if return_dict else (frames,)

    @alone
    @torch.no_grad()
    def generate(
        self,
        positive: Conditions,
        negative: Conditions | None,
        *,
        height: int,
        width: int,
        num_frames: int,
        num_inference_steps: int,
        guidance_scale: float,
        generator: Generators = None,
        latents: Tensor | None = None,
        sigmas: list[float] | None = None,
        strength: float | None = None,
        image_guidance_scale: float = 1.0,
        guidance: Guidance | StagedGuidance | None = None,
        callback: StepCallback | None = None,
        watch: Watch | None = None,
        lag: int = 0,
    ) -> Tensor:
        """Sample normalised latents `b c t h w`, a video for each row of the conditions.

        Args, besides those of `__call__`:
            strength: start from the `source` of the conditions, noised to this time.
            guidance: None for classifier-free guidance.
            callback: may change text or adapters, so the text's keys and values are computed again
                after each step.
            watch: called with each step's index and latents, and changes nothing.
            lag: steps that each latent frame is behind the one before, see `roll`; `callback` and
                `watch` are not called then.

        Raises:
            UserError: a size that does not fit the model, or given latents of another shape.
        """
        warn_outside(self.config, self._warned, height=height, width=width, num_frames=num_frames)
        guidance = guidance or make_guidance(self)
        is_guided = guidance_scale > 1 or getattr(guidance, "guider", None) is not None
        check_student(
            self,
            num_inference_steps=num_inference_steps,
            is_guided=is_guided,
            strength=strength,
        )
        self._guidance_scale, self._attention_kwargs = guidance_scale, guidance.attention_kwargs
        self._image_guidance_scale = image_guidance_scale
        self._current_timestep, self._interrupt = None, False
        generators, device = sample_generators(generator, len(positive)), self._execution_device
        latents = self.prepare_latents(
            len(positive),
            height,
            width,
            num_frames,
            device=device,
            generator=generators,
            latents=latents,
        )
        tokens = latents[0, 0].numel() // math.prod(self.transformer.config.patch_size)
        if strength is not None and sigmas is None:
            sigmas = edit_sigmas(self.scheduler, num_inference_steps, strength)
        set_timesteps(self.scheduler, num_inference_steps, tokens, sigmas, device)
        positive = softened(positive, latents)
        negative = None if negative is None else softened(negative, latents)
        if strength is not None and strength < 1:  # at 1 nothing of the clip is left in the noise
            assert positive.source is not None
            latents = noised(self.scheduler, positive.source.to(latents), latents)
        if lag:
            from t2v.pipelines.rolling import roll  # few videos are made so

            return roll(self, latents, positive, negative, guidance, lag)
        return denoise(self, latents, positive, negative, guidance, generators, callback, watch)

    @alone
    def invert(self, latents: Tensor, conditions: Conditions, num_inference_steps: int) -> Tensor:
        """The noise from which the model makes latents, see `inverted`."""
        from t2v.pipelines.rolling import inverted  # few videos need one

        return inverted(self, latents, conditions, num_inference_steps)


register(T2VPipeline, T2VTransformer3DModel, AutoencoderKLT2V, VideoUpscaler)
