"""A video for a node: the frames of `t2v sample`, from pictures and clips in memory."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2v.comfyui import host
from t2v.config.sampling import INPUTS, REFERENCES, SampleConfig
from t2v.errors import UserError
from t2v.footage.fitting import as_mask, fitted
from t2v.io.files import EMBEDDED, EMBEDDED_MODELS
from t2v.models.device import memory_errors, tiled_at_need
from t2v.models.folder import model_folder, weight_bytes
from t2v.pipelines.generator import Generator, Step, sample_videos
from t2v.pipelines.released import embed_first
from t2v.pipelines.visuals import VisualInputs
from t2v.queue.progress import PreviewTime
from t2v.sampling import run
from t2v.sampling.engine import Engine
from t2v.sampling.generate import request_of
from t2v.sampling.reading import Clip
from t2v.sampling.resolve import check, resolve

SHARE = 0.2  # of the time, that previews may take


@dataclass(frozen=True, kw_only=True)
class Film:
    """Frames `t h w c` uint8 and how many of them a second has."""

    frames: np.ndarray
    fps: float


def local_folder(model: str) -> Path:
    """The folder of a model that is here.

    Raises:
        UserError: it is not: workflows come from others, and download nothing.
    """
    if model not in EMBEDDED_MODELS and not Path(model).is_dir():
        raise UserError(
            f"model={model}: there is no such folder here, and a workflow downloads nothing. Give "
            f"{EMBEDDED} or the path of a pipeline folder; the docs of t2v say how to get one."
        )
    return model_folder(model)


@cache
def engine() -> Engine:
    """The models that are in memory; one, since ComfyUI holds others."""
    return Engine(_load)


def _load(config: SampleConfig, *about: Any) -> tuple[Generator, str]:
    host.make_room(weight_bytes(model_folder(config.folder)))
    return run.load(config, *about)


def film(config: SampleConfig, prompt: str, seen: Mapping[str, np.ndarray]) -> Film:
    """Make a video, the same to the bit as `t2v sample` with these settings and pictures.

    Args:
        config: of one video; it names what is seen, under any name.
        seen: pictures and clips `t h w c` uint8 and a mask `t h w 1`, by their setting.

    Raises:
        UserError: see `t2v.sampling.run.sample`.
    """
    local_folder(config.model)

    def asked(generator: Generator) -> tuple[SampleConfig, VisualInputs | None]:
        full, visuals = resolve(generator, config, lambda full, most: _clip(full, most, seen))
        check(generator, prompt, full, visuals)
        return full, visuals

    def embed(generator: Generator) -> None:  # where encoders leave before the first step
        full, visuals = asked(generator)
        embed_first(generator, [prompt], request_of(full), [visuals])

    # ComfyUI calls nodes in inference mode, whose tensors cannot be trained or exchanged later
    with torch.inference_mode(False):
        generator, _ = engine().load(config, [prompt], embed)
        full, visuals = asked(generator)
        assert full.fps is not None
        with memory_errors(f"{full.num_frames} frames of {full.height}x{full.width}"):
            return Film(frames=_sampled(generator, full, prompt, visuals), fps=full.fps)


def _sampled(
    generator: Generator, full: SampleConfig, prompt: str, visuals: VisualInputs | None
) -> np.ndarray:
    request, watch = request_of(full), _Watch(generator, full)
    seen = [] if visuals is None else [visuals]
    (latents,) = sample_videos(generator, [prompt], [full.seed], request, visuals=seen, watch=watch)

    def decoded() -> np.ndarray:
        pieces = []
        for piece in generator.decode_pieces(latents, full.num_frames, request.upscale):
            host.check_interrupted()
            pieces.append(piece)
        return np.concatenate(pieces)

    return tiled_at_need(getattr(generator.pipeline, "vae", None), decoded)


class _Watch:
    """Shows the steps of a video on its node, with a frame of what it is heading for."""

    def __init__(self, generator: Generator, full: SampleConfig) -> None:
        self.generator, self.full = generator, full
        self.show = host.progress(full.num_inference_steps or 1)
        self.previews, self.spent, self.began = PreviewTime(SHARE), 0.0, time.monotonic()

    def __call__(self, step: Step) -> None:
        host.check_interrupted()
        self.show(step.number, self._frame(step))

    def _frame(self, step: Step) -> np.ndarray | None:
        """The middle frame, where previews have time left and the latents are decodable."""
        started = time.monotonic()
        is_last = step.number == self.full.num_inference_steps
        if is_last or not self.generator.gives_latents or not host.is_watched():
            return None
        if not self.previews.allows(self.spent, started - self.began):
            return None
        try:
            frames = self.generator.decode(step.heading(), self.full.num_frames)[0]
        except UserError:  # NaN, which the end of the video will name
            return None
        self.previews.last = time.monotonic() - started
        self.spent += self.previews.last
        return frames[len(frames) // 2]


def _clip(full: SampleConfig, most: int, seen: Mapping[str, np.ndarray]) -> Clip:
    """Pictures and clips that are seen, fitted to the size of the video as files are."""
    assert full.height is not None and full.width is not None and full.fit != "outpaint"
    size, fit = (full.height, full.width), full.fit
    frames = {}
    for number, picture in enumerate(seen.get(REFERENCES, ())):
        frames[f"{REFERENCES}[{number}]"] = fitted(picture, size, fit)[None]
    for name in set(INPUTS) & set(seen) - {REFERENCES}:
        chosen = seen[name][: 1 if name in ("image", "last_image") else most]
        if name == "mask":
            _check_mask(seen)
            chosen = chosen.repeat(3, axis=-1)
        frames[name] = np.stack([fitted(frame, size, fit) for frame in chosen])
    if "mask" in frames:
        frames["mask"] = as_mask(frames["mask"])[..., None]
        if not frames["mask"].any():
            raise UserError("mask: is black everywhere, so nothing would be made anew.")
    return Clip(frames=frames, total=len(frames.get("video", ())))


def _check_mask(seen: Mapping[str, np.ndarray]) -> None:
    """Raise `UserError` where a mask is not one of its clip."""
    video, mask = seen.get("video"), seen["mask"]
    if video is None:
        return  # which `check` refuses
    if mask.shape[1:3] != video.shape[1:3] or len(mask) not in (1, len(video)):
        raise UserError(
            f"mask: has {len(mask)} frames of {mask.shape[2]}x{mask.shape[1]} and video "
            f"{len(video)} of {video.shape[2]}x{video.shape[1]} (width x height). Give one mask of "
            "the size of the clip, or one for each frame."
        )
