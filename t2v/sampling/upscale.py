"""The `t2v upscale` command: a video of any length, read, enlarged and written piece by piece."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from t2v.config.upscale import UpscaleConfig
from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.fitting import is_picture
from t2v.footage.frames import Probe, iter_frames, probe
from t2v.footage.still import read_picture
from t2v.io.formats import FORMATS
from t2v.io.progress import progress
from t2v.io.video import ENLARGED, check_size, read_recipe, save_image, video_writer
from t2v.models.device import check_memory, pick_device, pick_dtype, ready
from t2v.models.upscaler import VideoUpscaler, check_scale
from t2v.models.upscaler_folder import load_upscaler
from t2v.sampling.results import PICTURE

logger = logging.getLogger(__name__)

FRAMES = 24  # that are enlarged at a time
BYTES_PER_PIXEL = 3 * (4 + 4 + 1)  # of the result: enlarged, merged from its tiles, and written


def upscale(config: UpscaleConfig) -> Path:
    """Enlarge `config.input` into `config.output`; returns the file. Sound is not kept; the recipe
    of a film of ours is.

    A video with a variable frame rate becomes one with a constant rate, its mean. A picture becomes
    a PNG.

    Raises:
        UserError: the input is neither a video nor a picture, the output exists or is of the other
            kind, the upscaler has another scale, or some frames of the result are larger than the
            memory.
    """
    source = Path(config.input)
    is_still = is_picture(source)
    film = None if is_still else probe(source)
    device = pick_device(config.device)
    upscaler = load_upscaler(config.upscaler, pick_dtype(config.dtype, device)).to(device)
    scale = check_scale(config.scale, upscaler, "scale")
    if scale == 1:
        raise UserError(f"scale=1: nothing to enlarge. Give scale={upscaler.config.scale}.")
    suffix = PICTURE if is_still else ".mp4"
    output = Path(config.output or source.with_name(f"{source.stem}-{scale}x{suffix}"))
    endings = (PICTURE,) if is_still else tuple(FORMATS)
    if output.suffix not in endings:
        what = "a picture" if is_still else "a video"
        raise UserError(
            f"output={output}: {source} is {what}. Give a name that ends in {' or '.join(endings)}."
        )
    if output.exists() and output.samefile(source):
        raise UserError(f"output={output}: is the input itself. Choose another name.")
    if output.exists() and not config.overwrite:
        raise UserError(f"output={output}: exists already. Choose another, or say overwrite=true.")
    upscaler.enable_tiling(config.tile)
    output.parent.mkdir(parents=True, exist_ok=True)
    if film is None:
        _enlarge_picture(source, output, upscaler, device)
    else:
        _enlarge_film(source, film, output, upscaler, device)
    return output


def _enlarge_picture(
    source: Path, output: Path, upscaler: VideoUpscaler, device: torch.device
) -> None:
    picture = read_picture(source)
    height, width = picture.shape[:2]
    _check_room(1, height, width, upscaler, device)
    (large,) = enlarged(iter([picture]), upscaler)
    save_image(output, Image.fromarray(large))


def _enlarge_film(
    source: Path, film: Probe, output: Path, upscaler: VideoUpscaler, device: torch.device
) -> None:
    _check_room(film.num_frames, film.height, film.width, upscaler, device)
    height, width = (upscaler.config.scale * side for side in (film.height, film.width))
    check_size(film.num_frames, height, width)
    shown = progress(
        enlarged(_good_frames(source, film), upscaler), "upscale", "frames", film.num_frames
    )
    recipe = _carried(source, upscaler.config.scale)
    with video_writer(output, height, width, film.fps, recipe) as add:
        for frame in shown:
            add(frame[None])


def _carried(source: Path, scale: int) -> dict[str, Any] | None:
    """The recipe of a film of ours, which says that it was enlarged since; None of other films."""
    try:
        recipe = read_recipe(source)
    except UserError:
        return None
    return recipe | {ENLARGED: scale} if isinstance(recipe, dict) else None


def _good_frames(source: Path, film: Probe) -> Iterator[np.ndarray]:
    """The frames of a film up to where it is damaged, which is warned of."""
    count = 0
    try:
        for _, frame in iter_frames(source, fps=film.fps if film.vfr else None):
            yield frame
            count += 1
    except Unreadable as error:
        if not count:
            raise
        cause = error.detail
    else:
        cause = f"it should have {film.num_frames}" if count < film.num_frames else ""
    if cause:
        logger.warning("%s: damaged (%s): only %d frames are enlarged", source, cause, count)


def enlarged(frames: Iterator[np.ndarray], upscaler: VideoUpscaler) -> Iterator[np.ndarray]:
    """Yield frames `h w c` uint8 enlarged, holding a few dozen of them at a time."""
    device = ready(upscaler)

    def pieces() -> Iterator[Tensor]:
        while some := list(islice(frames, FRAMES)):
            video = torch.from_numpy(np.stack(some)).to(device)
            video = rearrange(video, "t h w c -> 1 c t h w")
            yield (video.float() / 127.5 - 1).to(upscaler.dtype)

    for piece in upscaler.stream(pieces()):
        video = ((piece[0].float().clamp(-1, 1) + 1) * 127.5).round().to("cpu", torch.uint8)
        yield from rearrange(video, "c t h w -> t h w c").numpy()


def _check_room(
    count: int, height: int, width: int, upscaler: VideoUpscaler, device: torch.device
) -> None:
    """Refuse frames of `height` x `width` of which some, enlarged, are larger than the memory."""
    scale = upscaler.config.scale
    frames = min(count, FRAMES + 2 * upscaler.reach_frames)
    held = f"{frames} frames of {scale * width}x{scale * height} are held at a time."
    check_memory(
        f"input={width}x{height} scale={scale}",
        frames * scale**2 * height * width * BYTES_PER_PIXEL,
        device,
        f"{held} Make the input smaller first.",
    )
