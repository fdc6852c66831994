"""The `t2v upscale` command: a video of any length, read, enlarged and written piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from t2v.config.sampling import UpscaleConfig
from t2v.errors import UserError
from t2v.footage.frames import Probe, iter_frames, probe
from t2v.io.progress import progress
from t2v.io.video import check_size, video_writer
from t2v.models.device import check_memory, pick_device, pick_dtype, ready
from t2v.models.upscaler import VideoUpscaler, check_scale
from t2v.models.upscaler_folder import load_upscaler

FRAMES = 24  # that are enlarged at a time
BYTES_PER_PIXEL = 3 * (4 + 4 + 1)  # of the result: enlarged, merged from its tiles, and written


def upscale(config: UpscaleConfig) -> Path:
    """Enlarge `config.input` into `config.output`; returns the file. Sound is not kept.

    A video with a variable frame rate becomes one with a constant rate, its mean.

    Raises:
        UserError: the input is no video, the output exists, the upscaler has another scale, or
            some frames of the result are larger than the memory.
    """
    source = Path(config.input)
    film = probe(source)
    device = pick_device(config.device)
    upscaler = load_upscaler(config.upscaler, pick_dtype(config.dtype, device)).to(device)
    scale = check_scale(config.scale, upscaler, "scale")
    if scale == 1:
        raise UserError(f"scale=1: nothing to enlarge. Give scale={upscaler.config.scale}.")
    output = Path(config.output or source.with_name(f"{source.stem}-{scale}x.mp4"))
    if output.exists() and not config.overwrite:
        raise UserError(f"output={output}: exists already. Choose another, or say overwrite=true.")
    _check_room(film, upscaler, device)
    upscaler.enable_tiling(config.tile)
    output.parent.mkdir(parents=True, exist_ok=True)
    frames = (frame for _, frame in iter_frames(source, fps=film.fps if film.vfr else None))
    shown = progress(enlarged(frames, upscaler), "upscale", "frames", film.num_frames)
    size = scale * film.height, scale * film.width
    check_size(film.num_frames, *size)
    with video_writer(output, *size, film.fps) as add:
        for frame in shown:
            add(frame[None])
    return output


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


def _check_room(film: Probe, upscaler: VideoUpscaler, device: torch.device) -> None:
    scale = upscaler.config.scale
    height, width = scale * film.height, scale * film.width
    frames = min(film.num_frames, FRAMES + 2 * upscaler.reach_frames)
    check_memory(
        f"input={film.width}x{film.height} scale={scale}",
        frames * height * width * BYTES_PER_PIXEL,
        device,
        f"{frames} frames of {width}x{height} are held at a time. Make the input smaller first.",
    )
