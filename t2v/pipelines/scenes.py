"""Stories by a call of `T2VPipeline`: one video of several prompts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from einops import rearrange

from t2v.config.prompting import PromptingConfig
from t2v.config.story import WindowsConfig
from t2v.errors import UserError
from t2v.models.inputs import count_frames
from t2v.models.schedule import sample_generators
from t2v.models.stages import make_guidance
from t2v.pipelines.generator import Request
from t2v.pipelines.story import LatentWindows, Scene, tell
from t2v.pipelines.visuals import spoken

# the arguments of a call that a story takes; it has no use for the others
TAKEN = (
    *("prompt", "negative_prompt", "height", "width", "fps", "num_inference_steps"),
    *("guidance_scale", "generator", "output_type", "return_dict", "truncate", "attention_kwargs"),
    *("cfg_mode", "guider", "guidance_scale_2", "image", "fit", "scene_seconds", "windows", "self"),
    *("prompting", "reference_images"),
)


def story_of_call(pipeline: Any, call: dict[str, Any]) -> tuple[Any, float]:
    """The frames of one video of all prompts, one scene each, and its frames per second.

    Args:
        call: the arguments of `T2VPipeline.__call__` by name. `scene_seconds` is the length of
            each scene; a scene goes on from the last frame of the one before. `windows` says how,
            and `image` is the first frame.

    Raises:
        UserError: another number of prompts, or an argument that stories do not take.
    """
    prompts, seconds = call["prompt"], call["scene_seconds"]
    prompts = [prompts] if isinstance(prompts, str) else prompts
    _check(pipeline, prompts, seconds, call)
    saved, config = pipeline.config, call["windows"] or WindowsConfig()
    fps, prompting = call["fps"] or saved.fps, call["prompting"] or PromptingConfig()
    names = ("height", "width", "num_inference_steps", "guidance_scale")
    sizes = {name: saved[name] if call[name] is None else call[name] for name in names}
    request = Request(
        **sizes,
        num_frames=config.frames or saved.num_frames,
        fps=fps,
        negative_prompt=call["negative_prompt"] or "",
        truncate=bool(call["truncate"]),
        prompting=prompting,
    )
    if prompting.syntax:
        from t2v.prompting.embed import refuse_times  # most prompts are taken as they stand

        refuse_times(prompts, prompting)
    for prompt in prompts:
        prompt = spoken(prompt, len(call["reference_images"]))
        pipeline.check_inputs(prompt, request.negative_prompt, sizes["height"], sizes["width"])
    scenes = scenes_of(prompts, seconds, fps, call["image"], call["fit"])
    guidance = partial(
        make_guidance,
        pipeline,
        call["cfg_mode"],
        call["guider"],
        call["attention_kwargs"],
        call["guidance_scale_2"],
    )
    (generator,) = sample_generators(call["generator"], 1)
    maker = LatentWindows(pipeline, request, config, guidance, call["reference_images"])
    frames = torch.cat(list(tell(maker, scenes, generator.initial_seed())))
    pipeline.maybe_free_model_hooks()
    return _as_asked(pipeline, frames, call["output_type"]), fps


def scenes_of(
    prompts: Sequence[str], seconds: Sequence[float], fps: float, image: Any, fit: Any
) -> list[Scene]:
    """A scene of each prompt; the first one begins with `image`.

    A scene ends with the frame nearest to its end in seconds, counted from the beginning of the
    story, so that no error adds up.
    """
    scenes: list[Scene] = []
    begin, passed = 0, 0.0
    for prompt, length in zip(prompts, seconds, strict=True):
        passed += length
        end = max(begin + 1, count_frames(None, passed, fps, saved=1))
        scenes.append(Scene(prompt, end - begin, image=None if scenes else image, fit=fit))
        begin = end
    return scenes


def _check(pipeline: Any, prompts: Any, seconds: Sequence[float], call: dict[str, Any]) -> None:
    if not isinstance(prompts, list) or len(prompts) != len(seconds) or not prompts:
        count = len(prompts) if isinstance(prompts, list) else prompts
        raise UserError(
            f"scene_seconds has {len(seconds)} lengths and prompt {count}: give a list of prompts "
            "and a length for each."
        )
    if bad := [each for each in seconds if not 0 < each < float("inf")]:
        raise UserError(f"scene_seconds={bad[0]}: give more than 0.")
    parameters = inspect.signature(type(pipeline).__call__).parameters
    given = [
        name
        for name, parameter in parameters.items()
        if name not in TAKEN and not _is_default(call[name], parameter.default)
    ]
    if given:
        raise UserError(
            f"{' and '.join(given)} beside scene_seconds: a story takes its length from its scenes "
            f"and makes one video. Leave {'it' if len(given) == 1 else 'them'} out; the length of "
            "a window is windows=WindowsConfig(frames=...)."
        )
    if call["output_type"] not in ("np", "pt", "pil"):
        raise UserError(f"output_type={call['output_type']}: a story gives np, pt or pil.")


def _is_default(value: Any, default: Any) -> bool:
    return value is default or (isinstance(default, int | float) and value == default)


def _as_asked(pipeline: Any, frames: torch.Tensor, output_type: str) -> Any:
    if output_type == "pt":
        return frames[None]
    array = rearrange(frames, "t c h w -> t h w c").cpu().float().numpy()
    return array[None] if output_type == "np" else [pipeline.video_processor.numpy_to_pil(array)]
