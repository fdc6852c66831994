"""The agreement of a recipe, or of kept latents, with the model that makes its video again."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.pipelines.generator import Ability, Generator, Start, require
from t2v.sampling import recipe as recipe_files
from t2v.sampling.generate import request_of
from t2v.sampling.kept import check_latents, read_latents
from t2v.sampling.output_paths import LATENTS, recipe_in
from t2v.sampling.recipe import Recipe

logger = logging.getLogger(__name__)


def refuse_changed(old: Recipe, renamed: set[str]) -> None:
    """Raise `UserError` where a picture or clip is missing, or not the one of the recipe."""
    if old.settings.files:
        from t2v.sampling import given  # most videos are of a prompt alone

        given.refuse_changed(old, renamed)


def check_start(path: Path, start: Start, generator: Generator, config: SampleConfig) -> None:
    """Raise `UserError` where the generator cannot go on from kept latents."""
    is_amid = start.step < (config.num_inference_steps or 0)
    needed: Ability = "can_resume" if is_amid else "gives_latents"
    require(generator, needed, str(path), "`t2v sample --resume`")
    wanted = generator.latent_shape(request_of(config))
    if start.latents.shape != wanted:
        raise UserError(
            f"{path}: latents of shape {tuple(start.latents.shape)}; {config.num_frames} frames of "
            f"{config.height}x{config.width} need {wanted}. The file is damaged."
        )


def begun(recipe: Recipe, generator: Generator) -> tuple[Recipe, Start | None]:
    """The recipe with the samples that are scored already, and where its video goes on.

    What lies in the place of its video is of this very video: see `refuse_other_videos`. Latents
    that cannot be gone on from are left out, with a warning.
    """
    shown = recipe_in(recipe.path)
    if recipe.choice and shown and shown.choice:
        recipe = replace(recipe, choice=shown.choice)
    path = recipe.path.with_suffix(LATENTS)
    if not path.exists():
        return recipe, None
    try:
        kept, values = read_latents(path)
        old = recipe_files.read(values, path)
        check_latents(path, kept, old.settings)
        check_same(old, recipe, set())
        if kept.step:
            check_start(path, kept, generator, old.settings)
    except UserError as error:
        logger.warning("%s The video is begun anew.", error)
        return recipe, None
    if not recipe.choice:
        return recipe, kept if kept.step else None
    if old.choice and len(old.choice.scores) > len(recipe.choice.scores):
        recipe = replace(recipe, choice=old.choice)
    assert recipe.choice is not None
    is_next = kept.step > 0 and recipe.choice.left[:1] == [old.settings.seed]
    return recipe, kept if is_next else None


def check_same(old: Recipe, new: Recipe, renamed: set[str]) -> None:
    """Name what will make the video another one: other weights are an error, the rest a warning.

    Args:
        renamed: settings that were given again; a model or LoRA among them may be another one.
    """
    if old.weights != new.weights and "model" not in renamed:
        raise UserError(
            f"model={new.settings.model}: its weights ({new.weights[:12]}) are not those of the "
            f"recipe ({old.weights[:12]}, {old.settings.model}, t2v {old.versions.get('t2v')}). "
            "Name the right one with --model."
        )
    if "lora" not in renamed:
        recipe_files.refuse_other_loras(new.settings, new.lora, old.lora)
    if old.upscaler and new.upscaler and old.upscaler != new.upscaler and "model" not in renamed:
        raise UserError(
            f"model={new.settings.model}: its upscaler is not that of the recipe. Name the right "
            "one with --model, or give upscale=1 for the video before it was enlarged."
        )
    if old.scheduler and new.scheduler and old.scheduler != new.scheduler:
        what = f"model={new.settings.model}: the settings of its scheduler are not those of the"
        if "model" not in renamed:
            raise UserError(f"{what} recipe. Put scheduler/ back, or name the right model.")
        logger.warning("%s recipe: the video will be another one", what)
    # before recipes told kernels there was one choice of them; one process goes without saying
    was = {"kernels": "plain", "processes": "1", **old.versions}
    before = {"device": old.device, "weights": old.weights[:12], **was}
    after = {"device": new.device, "weights": new.weights[:12], "processes": "1", **new.versions}
    told = before.keys() & after.keys()
    if before.get("kernels") != after.get("kernels"):
        told -= {"attention"}  # one of the kernels
    for name in told:
        if before[name] != after[name]:
            logger.warning(
                "made with %s %s, now %s: frames may differ", name, before[name], after[name]
            )
