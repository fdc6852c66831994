"""The embedded model's student in its place, where nobody names a model and it makes what is asked.

Settings alone decide, before torch is imported.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import fields, replace

from t2v.config.sampling import SampleConfig
from t2v.io.files import EMBEDDED, STUDENT
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


def with_student(config: SampleConfig, named: Collection[str]) -> SampleConfig:
    """The settings, with the student of few steps where it serves as well as its teacher.

    Args:
        named: settings that were given, in a file or on the command line.
    """
    folder = shipped(STUDENT, "model_index.json")
    if "model" in named or config.model != EMBEDDED or folder is None:
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
