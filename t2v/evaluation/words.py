"""The `t2v eval words` command: which words move what in a film, and where they are looked for."""

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
from t2v.config.load import load_config
from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.evaluation.word_report import lit, write_report
from t2v.families.load import load_generator
from t2v.io.video import read_recipe, read_video, write_video
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.models.taps import check_layers
from t2v.pipelines.features import attention_maps
from t2v.pipelines.word_effects import word_effects


def show_words(config: WordsConfig) -> str:
    """Write `X-words.json` and `X-words.png` beside a film: which word moves which region of it.

    The film is noised, and the denoiser predicts it with its prompt and without each word, see
    `word_effects`. Where words are named, each gets a film instead, `X-WORD.mp4`, bright where the
    denoiser looks for it: the weights of its cross-attention, see `attention_maps`. Nothing is
    sampled anew.

    Returns:
        The paths of the files, a line each.

    Raises:
        UserError: the film has no prompt, a word is not in it, the model is not ours, or a file
            exists.
    """
    source = Path(config.video)
    outputs = [place_of(source, word) for word in config.words]
    stem = source.with_name(f"{source.stem}-words")
    outputs = outputs or [stem.with_suffix(".json"), stem.with_suffix(".png")]
    for path in outputs:
        if path.exists() and not config.overwrite:
            raise UserError(f"{path} exists already. Move it, or say overwrite=true.")
    frames, fps = read_video(source)
    prompt, prompting = prompt_of(source)
    if config.words and prompting.reads:
        raise UserError(
            f"words={list(config.words)}: {source} has a prompt whose signs were read, and where "
            "it is looked for a word is told of plain ones. Leave words out: the report has them."
        )
    device, folder = pick_device(config.device), model_folder(config.model)
    dtype = pick_dtype(config.dtype, device)
    generator = load_generator(config.model, folder, device, dtype, "t2v eval words", ())
    pipeline, own = generator.pipeline, generator.defaults
    check_layers(pipeline.components.get("transformer"), config.layers or (0,))
    film = seen(frames, config.height or own.height, config.width or own.width)
    noise = torch.Generator().manual_seed(config.seed)
    stride = pipeline.vae.config.scale_factor_temporal
    if not config.words:
        effects = word_effects(pipeline, film, prompt, prompting, config.times, noise, float(fps))
        write_report(effects, frames, prompt, stride, stem)
        return "\n".join(map(str, outputs))
    maps = attention_maps(
        pipeline, film, config.words, prompt, config.layers or None, config.times, noise
    )
    for path, each in zip(outputs, maps, strict=True):
        write_video(path, lit(frames, each, stride), fps)
    return "\n".join(map(str, outputs))


def place_of(source: Path, word: str) -> Path:
    """The film of a word, beside that of all."""
    name = re.sub(r"\W+", "-", word).strip("-") or "word"
    return source.with_name(f"{source.stem}-{name}.mp4")


def prompt_of(source: Path) -> tuple[str, PromptingConfig]:
    """The prompt of a film and how it is read: of its recipe, or else the text beside it, `X.txt`.

    Raises:
        UserError: there is neither, or the recipe is damaged.
    """
    beside = source.with_suffix(".txt")
    if beside.is_file():
        return beside.read_text(encoding="utf-8").strip(), PromptingConfig()
    recipe: Any = read_recipe(source)
    prompt = recipe.get("prompt") if isinstance(recipe, dict) else None
    if not isinstance(prompt, str) or "story" in recipe:
        raise UserError(f"{source}: its recipe has no prompt. Write one to {beside}.")
    settings = recipe.get("settings")
    stored = settings.get("prompting", {}) if isinstance(settings, dict) else {}
    return prompt, load_config(PromptingConfig, None, (), stored)


def seen(frames: np.ndarray, height: int | None, width: int | None) -> Tensor:
    """Frames (`t h w c` uint8) of the size that a model takes, in [0, 1]."""
    film = rearrange(torch.from_numpy(frames).float() / 255, "t h w c -> t c h w")
    size = height or film.shape[2], width or film.shape[3]
    if size != film.shape[2:]:
        film = F.interpolate(film, size, mode="bilinear", antialias=True)
    return rearrange(film, "t c h w -> t h w c")
