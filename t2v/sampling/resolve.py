"""Settings of a video with everything filled in that was left to the model, and checked by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.device import DTYPES
from t2v.models.inputs import count_frames
from t2v.pipelines.generator import Generator, require
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling.generate import request_of
from t2v.sampling.results import check_frames

if TYPE_CHECKING:  # most videos are of a prompt alone
    from t2v.sampling.reading import Clip

    Read = Callable[[SampleConfig, int], Clip]


def resolve(
    generator: Generator, config: SampleConfig, read: Read | None = None
) -> tuple[SampleConfig, VisualInputs | None]:
    """`config` with everything filled in that was left to the model, and what its video is given.

    Args:
        read: gives pictures and clips, of settings and the frames to read, in the place of files.

    Raises:
        UserError: the size does not fit the model; a file is not what its setting says, or the
            model takes no such thing.
    """
    saved, own_dtype = asdict(generator.defaults), generator.pipeline.dtype
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "upscale")
    if config.fps is None and saved["fps"] is None:
        raise UserError(
            f"model={config.model}: a {type(generator.pipeline).__name__} does not say how many "
            "frames a second its videos have. Give fps=, such as fps=16."
        )
    fps = float(config.fps or saved["fps"])
    filled: dict[str, Any] = {
        name: saved[name] if getattr(config, name) is None else getattr(config, name)
        for name in names
    }
    if config.makes_picture:
        filled["num_frames"] = 1
    elif config.duration is not None:
        filled["num_frames"] = count_frames(None, config.duration, fps, saved=1)
    elif config.video is not None:
        filled["num_frames"] = config.num_frames  # the clip may say how many
    dtype = next((name for name, each in DTYPES.items() if each == own_dtype), config.dtype)
    # these are asked for once, and no part of a recipe
    filled |= {"overwrite": False, "parallel": "auto", "prompting": config.prompting.as_made()}
    filled |= {"fps": fps, "duration": None, "dtype": dtype}
    filled["offload"] = "none" if config.offload == "auto" else config.offload
    full = replace(config, **filled)
    visuals = None
    if config.files or config.via_image:
        from t2v.sampling import given, reading  # most videos are of a prompt alone

        given.check_takes(generator, config)
    if config.files:
        own = saved["num_frames"]
        clip = (read or reading.read)(full, given.most_frames(full, own))
        full = given.with_length(full, clip, own, config.fps is not None, generator)
        visuals = given.visuals_of(full, clip)
        full = replace(full, num_frames=full.num_frames or own)
    return full, visuals


def within_budget(config: SampleConfig, generator: Generator, weights: str) -> SampleConfig:
    """The settings with what is left out for `max_error` and `min_psnr`, where they are given.

    Args:
        weights: hash of the model's.

    Raises:
        UserError: see `t2v.sampling.budget.settled`.
    """
    if config.max_error is None and config.min_psnr is None:
        return config
    from t2v.sampling.budget import settled  # most videos are exact

    full, _ = resolve(generator, config)
    return settled(config, request_of(full), generator, weights)


def check(
    generator: Generator, prompt: str, full: SampleConfig, visuals: VisualInputs | None
) -> None:
    """Raise `UserError` where a prompt, or settings that are filled in, do not fit the model."""
    generator.check(prompt, request_of(full), visuals)
    if full.preview_every:
        what = f"preview_every={full.preview_every}"
        require(generator, "gives_latents", what, "a preview")
    if full.height and full.width and full.fps:
        place = Path(full.output or "video.mp4")
        check_frames(place, full.num_frames or 1, full.height, full.width, full.fps)
