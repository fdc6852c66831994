"""From a prompt to a picture, and from the picture to the video: both files are kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace

from t2v.io.files import file_sha256
from t2v.pipelines.generator import Generator, sample_videos
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling.generate import request_of
from t2v.sampling.output_paths import is_finished, refuse_other_videos
from t2v.sampling.recipe import Recipe
from t2v.sampling.results import PICTURE, read_frames, write_picture

logger = logging.getLogger(__name__)


def with_pictures(
    generator: Generator,
    recipes: Sequence[Recipe],
    visuals: Sequence[VisualInputs | None],
    overwrite: bool,
) -> tuple[list[Recipe], list[VisualInputs | None]]:
    """The recipes with pictures of their prompts, and what each video is given to see.

    Each picture is a sample of one frame with the prompt and seed of its video (Emu Video,
    arXiv 2311.10709), `X.png` beside `X.mp4`, and carries a recipe of its own. One that is there
    already is used as it is.

    Raises:
        UserError: another picture is in its place; see `Generator.generate`.
    """
    pictures = [_picture_of(recipe) for recipe in recipes]
    if not overwrite:
        refuse_other_videos(pictures, beside=())
    made, seen = list[Recipe](), list[VisualInputs | None]()
    for recipe, picture, given in zip(recipes, pictures, visuals, strict=True):
        path = picture.path
        if overwrite or not is_finished(picture, beside=()):
            _make(generator, picture)
        else:
            logger.info("%s exists already", path)
        settings = replace(recipe.settings, via_image=False, image=str(path))
        inputs = recipe.inputs | {"image": file_sha256(path)}
        made.append(replace(recipe, settings=settings, inputs=inputs))
        seen.append(replace(given or VisualInputs(), image=read_frames(path)[0]))
    return made, seen


def _picture_of(recipe: Recipe) -> Recipe:
    """The recipe of the picture that a video begins with."""
    settings = replace(
        recipe.settings,
        output=str(recipe.path.with_suffix(PICTURE)),
        num_frames=1,
        upscale=1,  # the model goes on from the size it works at
        via_image=False,
        last_image=None,
        image_guidance_scale=1.0,
        fit="crop",
        sheet=False,
        gif=False,
        preview_every=0,
    )
    return replace(recipe, settings=settings, choice=None, inputs={}, upscaler=None)


def _make(generator: Generator, recipe: Recipe) -> None:
    request = request_of(recipe.settings)
    logger.info("%s: %dx%d", recipe.path, recipe.settings.height, recipe.settings.width)
    (latents,) = sample_videos(generator, [recipe.prompt], [recipe.settings.seed], request)
    (frames,) = generator.decode(latents, 1)
    write_picture(recipe.path, frames, recipe.to_json())
