"""The `t2v eval words` command: films of where the denoiser looks for words."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from t2v.config.features import WordsConfig
from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.io.video import read_recipe, read_video, write_video
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.models.taps import check_layers
from t2v.pipelines.features import attention_maps

DARK = 0.2  # of a frame's brightness is left where nothing looks


def show_words(config: WordsConfig) -> str:
    """Write `X-WORD.mp4` beside a film for each word: bright where the denoiser looks for it.

    The film is noised, the denoiser predicts it with its prompt, and what is shown are the weights
    of its cross-attention, see `attention_maps`. Nothing is sampled anew.

    Returns:
        The paths of the films, a line each.

    Raises:
        UserError: the film has no prompt, a word is not in it, the model is not ours, or a file
            exists.
    """
    source = Path(config.video)
    outputs = [place_of(source, word) for word in config.words]
    for path in outputs:
        if path.exists() and not config.overwrite:
            raise UserError(f"{path} exists already. Move it, or say overwrite=true.")
    frames, fps = read_video(source)
    prompt = prompt_of(source)
    device, folder = pick_device(config.device), model_folder(config.model)
    dtype = pick_dtype(config.dtype, device)
    generator = load_generator(config.model, folder, device, dtype, "t2v eval words", ())
    pipeline, own = generator.pipeline, generator.defaults
    check_layers(pipeline.components.get("transformer"), config.layers or (0,))
    film = seen(frames, config.height or own.height, config.width or own.width)
    noise = torch.Generator().manual_seed(config.seed)
    maps = attention_maps(
        pipeline, film, config.words, prompt, config.layers or None, config.times, noise
    )
    for path, each in zip(outputs, maps, strict=True):
        write_video(path, lit(frames, each, pipeline.vae.config.scale_factor_temporal), fps)
    return "\n".join(map(str, outputs))


def place_of(source: Path, word: str) -> Path:
    """The film of a word, beside that of all."""
    name = re.sub(r"\W+", "-", word).strip("-") or "word"
    return source.with_name(f"{source.stem}-{name}.mp4")


def prompt_of(source: Path) -> str:
    """The prompt of a film: that of its recipe, or else the text beside it, `X.txt`.

    Raises:
        UserError: there is neither.
    """
    beside = source.with_suffix(".txt")
    if beside.is_file():
        return beside.read_text(encoding="utf-8").strip()
    recipe: Any = read_recipe(source)
    prompt = recipe.get("prompt") if isinstance(recipe, dict) else None
    if not isinstance(prompt, str):
        raise UserError(f"{source}: its recipe has no prompt. Write one to {beside}.")
    return prompt


def seen(frames: np.ndarray, height: int | None, width: int | None) -> Tensor:
    """Frames (`t h w c` uint8) of the size that a model takes, in [0, 1]."""
    film = rearrange(torch.from_numpy(frames).float() / 255, "t h w c -> t c h w")
    size = height or film.shape[2], width or film.shape[3]
    if size != film.shape[2:]:
        film = F.interpolate(film, size, mode="bilinear", antialias=True)
    return rearrange(film, "t c h w -> t h w c")


def lit(frames: np.ndarray, looks: Tensor, stride: int) -> np.ndarray:
    """Frames (`t h w c` uint8), dark but where `looks` (`t h w`, of latent frames) is high."""
    whole = F.interpolate(
        looks[None].float().cpu(), frames.shape[1:3], mode="bilinear", align_corners=False
    )[0]
    per = -(-(len(frames) - 1 + stride) // len(whole))  # frames of a map, patches of time included
    of_frame = torch.tensor([(each + stride - 1) // per for each in range(len(frames))])
    light = whole[of_frame.clamp(max=len(whole) - 1)]
    light = (light - whole.amin()) / (whole.amax() - whole.amin()).clamp(min=1e-6)
    shown = frames * (DARK + (1 - DARK) * light.numpy()[..., None])
    return shown.round().astype(np.uint8)
