"""The `t2v sample` command: what is asked is checked, drawn, kept safe and written."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, cast

from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.video import check_size, read_recipe
from t2v.models.device import DTYPES
from t2v.models.folder import file_hash
from t2v.models.inputs import count_frames, latent_shape
from t2v.models.lora_file import lora_file
from t2v.nets.aligner import Aligner
from t2v.pipelines.t2v import T2VPipeline
from t2v.sampling import recipe as recipes
from t2v.sampling.best_of import load_grader, scorer_of
from t2v.sampling.generate import make_all
from t2v.sampling.load import load_pipeline
from t2v.sampling.output_paths import (
    held,
    is_finished,
    place_of_latents,
    places,
    refuse_other_films,
)
from t2v.sampling.recipe import Choice, Recipe, read_latents

logger = logging.getLogger(__name__)

OTHERS_FPS = 16.0  # of other packages' pipelines, which do not say
# what may change in a resume
FREE = ("model", "output", "overwrite", "device", "attention", "sheet", "gif", "preview_every")


def sample(config: SampleConfig, prompts: Sequence[str]) -> list[Path]:
    """Draw every prompt, one video after the other, and return the files.

    The first video is `config.output` and the others `X-1.mp4, X-2.mp4, ...`: all of the first
    prompt, then all of the second. Video j of a prompt has the seed `config.seed + j`, whatever
    else is drawn. Films that lie there whole already are not drawn again. Beside each file lies its
    recipe, `X.json`. With `best_of` N it is the best of
    the seeds `config.seed + j * N` and the N - 1 next.

    Raises:
        UserError: something given cannot work; nothing was drawn.
    """
    if not prompts:
        raise UserError('There is no prompt. Give one: t2v sample "a red ball bounces on grass".')
    if any(not prompt.strip() for prompt in prompts):
        raise UserError("A prompt is empty. Say what the video should show.")
    with places(config, len(prompts) * config.num_videos_per_prompt) as paths:
        return _sample(config, prompts, paths)


def _sample(config: SampleConfig, prompts: Sequence[str], paths: list[Path]) -> list[Path]:
    count, is_kept = config.num_videos_per_prompt, not config.overwrite
    scorer = scorer_of(config) if config.best_of > 1 else ""
    grader = load_grader(scorer) if scorer else None
    pipeline, weights = load_pipeline(config)
    alone: dict[str, Any] = {
        "num_videos_per_prompt": 1,
        "best_of": 1,
        "scorer": None,
        "keep_draws": False,
        "overwrite": False,
    }
    drawn = []
    for i, prompt in enumerate(prompts):
        one = resolve(pipeline, prompt, replace(config, **alone))
        for j, path in enumerate(paths[i * count : (i + 1) * count]):
            own = replace(one, output=str(path), seed=config.seed + j * config.best_of)
            recipe = _recipe(pipeline, weights, prompt, own)
            if grader is not None:
                recipe = replace(recipe, choice=_choice(own.seed, scorer, grader, config))
            drawn.append(recipe)
    done = []
    if is_kept:
        refuse_other_films(drawn)
        done = [recipe.path for recipe in drawn if is_finished(recipe)]
    return make_all(pipeline, drawn, grader=grader, done=done)


def repeat(path: Path, overrides: Sequence[str]) -> Path:
    """Make the video of an mp4 (or of the json beside it) again, the same to the bit.

    Args:
        overrides: `name=value` over the settings of the recipe. Without an output the new file is
            `X-again.mp4` beside the old one.

    Raises:
        UserError: no recipe, or the model is no longer the one that made the video.
    """
    values = recipes.read_json(path) if path.suffix == ".json" else read_recipe(path)
    renamed = {each.partition("=")[0] for each in overrides}
    again = path.with_name(f"{path.stem}-again.mp4")
    # what else was written beside the old video is asked for anew
    alone = [f"output={again}", "sheet=false", "gif=false", "preview_every=0"]
    old = recipes.read(values, path, [*alone, *overrides])
    for name in ("num_videos_per_prompt", "best_of"):
        if getattr(old.settings, name) > 1:
            raise UserError(f"A recipe makes one video, whose seed it has: leave {name} out.")
    recipes.refuse_fetching(replace(old, choice=None), path, renamed)
    with places(old.settings, 1):
        return _repeat(old, renamed)


def _repeat(old: Recipe, renamed: set[str]) -> Path:
    pipeline, weights = load_pipeline(old.settings)
    new = _recipe(pipeline, weights, old.prompt, resolve(pipeline, old.prompt, old.settings))
    _check_same(old, new, renamed)
    if old.choice and not old.choice.left and renamed <= set(FREE) - {"model"}:
        new = replace(new, choice=old.choice)
    if not old.settings.overwrite:
        refuse_other_films([new])
    return make_all(pipeline, [new])[0]


def resume(path: Path, overrides: Sequence[str]) -> Path:
    """Finish a video from the latents that an interrupted run kept.

    The video lies beside the latents, under their name, or where an override says.

    Args:
        overrides: `name=value` for what does not change the drawing, such as output or device.

    Raises:
        UserError: no such latents, or of another shape or step than their recipe can have, another
            model, or an override that would change the drawing.
    """
    latents, step, values = read_latents(path)
    beside = place_of_latents(path)  # wherever a path in the file points
    kept = asdict(recipes.read(values, path, [f"output={beside}"]).settings)
    scorer = [each for each in overrides if each.startswith("scorer=")]
    rest = [each for each in overrides if each not in scorer]
    old = recipes.read(values, path, [f"output={beside}", *rest])
    if scorer and old.choice:
        chosen = replace(old.choice, scorer=scorer[-1].partition("=")[2])
        old = replace(old, choice=chosen)
    recipes.refuse_fetching(old, path, {each.partition("=")[0] for each in overrides})
    _check_latents(path, latents, step, old.settings)
    changed = [name for name, value in asdict(old.settings).items() if kept[name] != value]
    if fixed := [name for name in changed if name not in FREE]:
        raise UserError(f"{', '.join(fixed)}: fixed by {path}. Free: {', '.join(FREE)}.")
    with held([beside]), places(old.settings, 1):
        return _resume(path, latents, step, old, str(beside))


def _resume(path: Path, latents: Tensor, step: int, old: Recipe, beside: str) -> Path:
    grader = _same_grader(old, beside) if old.choice and old.choice.left else None
    pipeline, weights = load_pipeline(old.settings)
    new = _recipe(pipeline, weights, old.prompt, resolve(pipeline, old.prompt, old.settings))
    _check_same(old, new, renamed=set())
    new = replace(new, choice=old.choice)
    if step:
        _check_shape(path, latents, pipeline, new.settings)
    if not old.settings.overwrite:
        refuse_other_films([new])
    (made,) = make_all(pipeline, [new], latents if step else None, step, grader)
    path.unlink(missing_ok=True)
    return made


def _check_latents(path: Path, latents: Tensor, step: int, config: SampleConfig) -> None:
    """See that kept latents can be what they say they are, before a model is loaded."""
    steps = config.num_inference_steps or 0
    if not 0 <= step <= steps:
        raise UserError(f"{path}: says {step} of {steps} steps are done. It is damaged or made up.")
    plain = latents.ndim == 5 and len(latents) == 1 and latents.is_floating_point()
    if step and not plain:
        raise UserError(
            f"{path}: holds {latents.dtype} of shape {tuple(latents.shape)}; latents are one "
            "video of floating point numbers, 1 c t h w. The file is damaged or made up."
        )
    if step and not latents.isfinite().all():
        raise UserError(f"{path}: holds NaN or infinite numbers. The file is damaged or made up.")


def _check_shape(
    path: Path, latents: Tensor, pipeline: DiffusionPipeline, config: SampleConfig
) -> None:
    """See that kept latents are of the size that their recipe's video has in this model."""
    if not isinstance(pipeline, T2VPipeline):
        raise UserError(f"{path}: {type(pipeline).__name__} cannot go on amid a video.")
    sizes = (config.num_frames, config.height, config.width)
    wanted = latent_shape(pipeline.transformer, pipeline.vae, 1, *cast(tuple[int, int, int], sizes))
    if latents.shape != wanted:
        raise UserError(
            f"{path}: latents of shape {tuple(latents.shape)}; {sizes[0]} frames of "
            f"{sizes[1]}x{sizes[2]} need {tuple(wanted)}. The file is damaged or made up."
        )


def resolve(pipeline: DiffusionPipeline, prompt: str, config: SampleConfig) -> SampleConfig:
    """`config` with everything filled in that was left to the model.

    Raises:
        UserError: the prompt or the size does not fit the model.
    """
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")
    if isinstance(pipeline, T2VPipeline):
        saved = {name: pipeline.config[name] for name in (*names, "fps")}
    else:
        takes = inspect.signature(pipeline.__call__).parameters
        saved = {name: takes[name].default for name in names if name in takes}
    fps = float(config.fps or saved.get("fps") or OTHERS_FPS)
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    if config.duration is not None:
        given["num_frames"] = count_frames(None, config.duration, fps, saved=1)
    if unknown := [name for name in given if name not in saved]:
        raise UserError(f"{type(pipeline).__name__} takes no {' or '.join(unknown)}.")
    dtype = next((name for name, each in DTYPES.items() if each == pipeline.dtype), config.dtype)
    filled: dict[str, Any] = {**saved, **given, "fps": fps, "duration": None, "dtype": dtype}
    filled["overwrite"] = False  # said once, and no part of a recipe
    full = replace(config, **filled)
    if isinstance(pipeline, T2VPipeline):
        _check_ours(pipeline, prompt, full)
    elif config.preview_every:
        raise UserError(f"{type(pipeline).__name__} shows no previews; leave preview_every out.")
    if full.height and full.width:
        check_size(full.num_frames or 1, full.height, full.width)
    return full


def _check_ours(pipeline: T2VPipeline, prompt: str, config: SampleConfig) -> None:
    height, width = cast(int, config.height), cast(int, config.width)
    pipeline.check_inputs(prompt, config.negative_prompt, height, width)
    for name, text in (("prompt", prompt), ("negative_prompt", config.negative_prompt)):
        count, limit = pipeline.count_tokens(text)
        if count > limit and not config.truncate:
            raise UserError(
                f"The {name} takes {count} tokens and {limit} fit: {text[:60]!r}... "
                "Shorten it, or ask for it to be cut off with --truncate."
            )
    logger.info("%r: tokens %d/%d", prompt, *pipeline.count_tokens(prompt))


def _recipe(
    pipeline: DiffusionPipeline, weights: str, prompt: str, resolved: SampleConfig
) -> Recipe:
    return Recipe(
        prompt=prompt,
        settings=resolved,
        weights=weights,
        lora=None if resolved.lora is None else file_hash(lora_file(resolved.lora)),
        device=pipeline.device.type,
        versions=recipes.versions(pipeline.device.type),
    )


def _choice(first_seed: int, scorer: str, grader: Aligner, config: SampleConfig) -> Choice:
    return Choice(
        best_of=config.best_of,
        first_seed=first_seed,
        scorer=scorer,
        name=grader.name,
        keep_draws=config.keep_draws,
    )


def _check_same(old: Recipe, new: Recipe, renamed: set[str]) -> None:
    """Name what will make the video another one: other weights are an error, the rest a warning.

    Args:
        renamed: settings given anew; a model or LoRA among them may be another one.
    """
    if old.weights != new.weights and "model" not in renamed:
        raise UserError(
            f"model={new.settings.model}: its weights ({new.weights[:12]}) are not those of the "
            f"recipe ({old.weights[:12]}, {old.settings.model}, t2v {old.versions.get('t2v')}). "
            "Name the right one with --model."
        )
    if old.lora != new.lora and "lora" not in renamed:
        raise UserError(f"lora={new.settings.lora}: not the file it was. Name the right one.")
    before = {"device": old.device, "weights": old.weights[:12], **old.versions}
    after = {"device": new.device, "weights": new.weights[:12], **new.versions}
    for name in before.keys() & after.keys():
        if before[name] != after[name]:
            logger.warning(
                "made with %s %s, now %s: frames may differ", name, before[name], after[name]
            )


def _same_grader(old: Recipe, output: str) -> Aligner:
    """The scorer of an interrupted choice, if the best so far is still where it was."""
    choice = old.choice
    assert choice is not None
    grader = load_grader(choice.scorer)
    if grader.name != choice.name:
        raise UserError(
            f"scorer={choice.scorer}: is now {grader.name}; {choice.name} graded the first draws. "
            "Put that one back, or start anew."
        )
    if not choice.scores:
        return grader
    if old.settings.output != output:
        raise UserError(f"output: fixed, the best draw so far is {output}.")
    shown = recipes.read(read_recipe(Path(output)), Path(output))
    if shown.choice is None or not choice.scores.items() <= shown.choice.scores.items():
        raise UserError(
            f"{output}: is not the best of the {len(choice.scores)} finished draws any more. "
            "Put it back, or start anew."
        )
    return grader
