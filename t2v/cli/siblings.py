"""The embedded model's siblings in its place, where nobody names a model.

Its student makes plain videos, and another one those of reference pictures.

Settings alone decide, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

from t2v.config.sampling import SampleConfig
from t2v.io.files import EMBEDDED, OF_REFERENCES, STUDENT
from t2v.io.shipped import shipped
from t2v.io.text_files import read_json

# settings that ask nothing of a model that its student has not learned
HARMLESS = {
    *("model", "output", "overwrite", "seed", "upscale", "num_videos_per_prompt", "truncate"),
    *("best_of", "scorer", "keep_draws", "device", "dtype", "attention", "offload", "engine"),
    *("workers", "vae_tiling", "sheet", "gif", "preview_every"),
}
# those that it has learned some values of
LEARNED = {"num_inference_steps", "guidance_scale", "height", "width", "num_frames", "duration"}


def with_sibling(config: SampleConfig, named: Collection[str]) -> SampleConfig:
    """The settings, with the sibling of the embedded model that serves best.

    Args:
        named: settings that were given, in a file or on the command line.
    """
    if "model" in named or config.model != EMBEDDED:
        return config
    if config.reference_images:
        has_it = shipped(OF_REFERENCES, "model_index.json") is not None
        return replace(config, model=OF_REFERENCES) if has_it else config
    return _with_student(config)


def _with_student(config: SampleConfig) -> SampleConfig:
    """The settings, with the student of few steps where it serves as well as its teacher."""
    folder = shipped(STUDENT, "model_index.json")
    if folder is None:
        return config
    others = {each.name for each in fields(config)} - HARMLESS - LEARNED
    usual = SampleConfig()
    if any(getattr(config, name) != getattr(usual, name) for name in others):
        return config
    index, steps = read_json(folder / "model_index.json"), config.num_inference_steps
    known = read_json(folder / "transformer" / "config.json")["distilled_steps"]
    if steps not in (None, *known) or (config.guidance_scale or 1) > 1:
        return config
    height, width = config.height or index["height"], config.width or index["width"]
    frames = config.num_frames or index["num_frames"]
    if config.duration is not None:
        frames = config.duration * index["fps"]
    if config.makes_picture:
        frames = 1
    if not any([height, width] == size and frames <= most for most, *size in index["trained"]):
        return config
    return replace(config, model=STUDENT)
