"""Recipes become videos, one after the other; whatever stops this, nothing finished is lost."""

from __future__ import annotations

import json
import logging
import shlex
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.addresses import remove
from t2v.models.device import memory_errors, tiled_at_need
from t2v.pipelines.generator import Generator, Request, Start, clock, sample_videos, timed
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling import recipe as recipe_files
from t2v.sampling.kept import read_latents, write_latents
from t2v.sampling.output_paths import is_finished, refuse_other_videos
from t2v.sampling.recipe import Recipe
from t2v.sampling.results import (
    Passing,
    Shown,
    rewrite_recipe,
    shape_of,
    write_result,
    write_sheet,
)
from t2v.sampling.spool import Spool
from t2v.sampling.stops import stops_as_interrupts
from t2v.sampling.watch import Follow, Watch, preview_path

logger = logging.getLogger(__name__)

T = TypeVar("T")
Score = Callable[[str, np.ndarray], float]  # how well frames `t h w c` uint8 fit a prompt
Begun = Callable[[Recipe, Generator], tuple[Recipe, Start | None]]
# Shows finished latents: writes what they become, adds to the seconds of stages, and returns what
# the file has.
Show = Callable[[Tensor, Recipe, dict[str, float]], Shown]


@dataclass(frozen=True)
class Ready:
    """A model, and what it is to make.

    Args:
        visuals: what each video is given to see.
        score: of `best_of`.
        overwrite: videos that exist are made again.
        with_pictures: gives recipes and visuals the pictures of their prompts, with `via_image`.
    """

    generator: Generator
    recipes: list[Recipe]
    visuals: list[VisualInputs | None]
    score: Score | None
    overwrite: bool
    with_pictures: Callable[..., tuple[list[Recipe], list[VisualInputs | None]]] | None


def make(
    ready: Ready,
    only: int | None = None,
    frames: list[np.ndarray] | None = None,
    follow: Follow | None = None,
    begun: Begun | None = None,
) -> list[Path]:
    """Make the videos that lack; returns the files of all.

    Args:
        only: the number of one of them; None: all.
        frames: takes what a sheet shows of each, where one is asked for, and none is written.
        follow: of a single video: is told of its steps.
        begun: of a single video that lacks: gives the start that an earlier run left, if any.

    Raises:
        UserError: see `t2v.sampling.run.sample`.
    """
    chosen = slice(None) if only is None else slice(only, only + 1)
    recipes, visuals = ready.recipes[chosen], ready.visuals[chosen]
    if ready.with_pictures is not None:
        recipes, visuals = ready.with_pictures(ready.generator, recipes, visuals, ready.overwrite)
    done = []
    if not ready.overwrite:
        refuse_other_videos(recipes)
        done = [recipe.path for recipe in recipes if is_finished(recipe)]
    start = None
    if begun is not None and not done:
        recipes[0], start = begun(recipes[0], ready.generator)
    score = ready.score
    return make_videos(ready.generator, recipes, visuals, start, score, done, follow, frames)


def make_videos(
    generator: Generator,
    recipes: list[Recipe],
    visuals: Sequence[VisualInputs | None],
    start: Start | None = None,
    score: Score | None = None,
    done: Collection[Path] = (),
    follow: Follow | None = None,
    frames: list[np.ndarray] | None = None,
) -> list[Path]:
    """Make the videos of recipes, one after the other; returns the files.

    Args:
        visuals: what each video is given to see.
        start: where the first video goes on.
        score: for recipes with a choice: every seed that is left is sampled and scored.
        done: files that exist already and stay as they are.
        follow: is told of every step, and may end it.
        frames: takes what a sheet shows of each, where one is asked for, and none is written.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM or a closed terminal; what is done is kept, and where.
    """
    videos = [] if frames is None else frames
    wants_sheet = recipes[0].settings.sheet
    with stops_as_interrupts():
        for number, (recipe, seen) in enumerate(zip(recipes, visuals, strict=True), 1):
            place = f"video {number}/{len(recipes)}"
            if recipe.path in done:
                logger.info("%s: %s exists already", place, recipe.path)
                made = Shown.of(recipe.path) if wants_sheet else None
            else:
                logger.info("%s: %s", place, _summary(recipe))
                if score is None:
                    show = partial(_decode_and_write, generator, follow)
                    made = _make_video(generator, recipe, seen, show, start, follow)
                else:
                    made = _make_best(generator, recipe, seen, score, start, follow)
                start = None
            if wants_sheet and made is not None:
                videos.append(made.frames)
        if wants_sheet and frames is None:
            write_sheet(recipes[0].path, videos, [recipe.prompt for recipe in recipes])
    return [recipe.path.resolve() for recipe in recipes]


def request_of(settings: SampleConfig) -> Request:
    """The video that settings ask for, whose every default is filled in."""
    assert settings.fps is not None
    return Request(**{each.name: getattr(settings, each.name) for each in fields(Request)})


def _summary(recipe: Recipe) -> str:
    asked = recipe.settings
    return (
        f"{_asked(asked)} at {asked.fps:g} fps, "
        f"{asked.num_inference_steps} steps, guidance {asked.guidance_scale}, seed {asked.seed}, "
        f"{recipe.device} {asked.dtype}, {asked.model}"
    )


def _make_best(
    generator: Generator,
    recipe: Recipe,
    visuals: VisualInputs | None,
    score: Score,
    start: Start | None,
    follow: Follow | None,
) -> Shown:
    """Sample one prompt with several seeds; the file is the best so far, with all scores in it.

    Scores are of the plain videos, and only what is written is enlarged.
    """
    path, choice = recipe.path, recipe.choice
    assert choice is not None
    best: Shown | None = None

    def show(latents: Tensor, own: Recipe, seconds: dict[str, float]) -> Shown:
        nonlocal choice, best
        assert choice is not None
        seed = own.settings.seed
        if follow is not None:
            follow(own, None)
        plain = partial(generator.decode, latents, own.settings.num_frames)
        with clock(seconds, "decode"):
            frames = _tiled_at_need(generator, own.settings, plain)[0]
        choice = choice.scored(seed, score(own.words, frames))
        done, value = len(choice.scores), choice.scores[str(seed)]
        logger.info("sample %d/%d: seed %d scores %.4f", done, choice.best_of, seed, value)
        name = str(path.with_suffix(f".seed-{seed}{path.suffix}"))
        draw = replace(own, settings=replace(own.settings, output=name))
        own = own.with_seed(choice.best, choice)
        written = [draw] * choice.keep_draws + [own] * (choice.best == seed)
        if own.settings.upscale != 1 and written:
            del frames
            *before, last = written
            shown = _decode_and_write(generator, None, latents, last, seconds, before)
        else:
            for each in written:
                shown = _write(generator, [frames], each, seconds)
        if choice.best == seed:
            best = shown
        else:
            rewrite_recipe(path, own.to_json())
            recipe_files.write_json(path.with_suffix(".json"), own)
        return Shown.of(path) if best is None else best

    for seed in choice.left:
        _make_video(generator, recipe.with_seed(seed, choice), visuals, show, start, follow)
        start = None
    logger.info(
        "kept seed %d, score %.4f; the mean of %d samples is %.4f. %s chose it and so overrates "
        "it: verify with another scorer",
        choice.best,
        choice.scores[str(choice.best)],
        choice.best_of,
        sum(choice.scores.values()) / choice.best_of,
        choice.name,
    )
    return Shown.of(path) if best is None else best


def _make_video(
    generator: Generator,
    recipe: Recipe,
    visuals: VisualInputs | None,
    show: Show,
    start: Start | None,
    follow: Follow | None,
) -> Shown:
    """Make one video and write it; whatever stops this, its latents stay if there are any."""
    config, seconds = recipe.settings, dict[str, float]()
    if start is not None and start.step == config.num_inference_steps:
        latents = start.latents
    else:
        latents = _denoise(generator, recipe, visuals, start, seconds, follow)
    with _latents_kept(latents, recipe) if generator.gives_latents else _restartable(recipe):
        made = show(latents, recipe, seconds)
        _read_back(recipe.path, made.shape)
    if config.preview_every:
        remove(preview_path(config))
    return made


def _decode_and_write(
    generator: Generator,
    follow: Follow | None,
    latents: Tensor,
    recipe: Recipe,
    seconds: dict[str, float],
    before: Sequence[Recipe] = (),
) -> Shown:
    """Write each piece of a video as soon as it is decoded; first by other recipes, if any."""
    config = recipe.settings

    def run() -> Shown:
        pieces = generator.decode_pieces(latents, config.num_frames, request_of(config).upscale)
        pieces = pieces if follow is None else _followed(pieces, recipe, follow)
        pieces = timed(pieces, seconds, "decode", within="encode")
        with Spool(recipe.path.parent) as spool:
            for each in before:
                _write(generator, spool.passing(pieces), each, seconds)
                pieces = spool.pieces()
            return _write(generator, pieces, recipe, seconds)

    return _tiled_at_need(generator, config, run)


def _tiled_at_need(generator: Generator, config: SampleConfig, run: Callable[[], T]) -> T:
    with memory_errors(_asked(config)):
        return tiled_at_need(getattr(generator.pipeline, "vae", None), run)


def _followed(pieces: Iterator[np.ndarray], recipe: Recipe, follow: Follow) -> Iterator[np.ndarray]:
    follow(recipe, None)
    for piece in pieces:
        follow(recipe, None)
        yield piece


def _denoise(
    generator: Generator,
    recipe: Recipe,
    visuals: VisualInputs | None,
    start: Start | None,
    seconds: dict[str, float],
    follow: Follow | None,
) -> Tensor:
    """Return the latents; where the generator can resume, a stop keeps the latest steps."""
    config = recipe.settings
    watch = Watch(generator, config, start, None if follow is None else partial(follow, recipe))
    prompts, seeds, request = [recipe.prompt], [config.seed], request_of(config)
    seen = [] if visuals is None else [visuals]
    about: dict[str, Any] = {"watch": watch, "start": start, "seconds": seconds}
    try:
        with memory_errors(_asked(config)):
            (latents,) = sample_videos(generator, prompts, seeds, request, visuals=seen, **about)
    except KeyboardInterrupt:
        if watch.latents is None or not watch.can_resume:
            raise _interrupt_between(recipe) from None
        raise KeyboardInterrupt(keep_steps(watch, recipe)) from None
    except Exception as error:
        steps_are_good = watch.latents is not None and bool(watch.latents.isfinite().all())
        if not (watch.has_new_steps and watch.can_resume and steps_are_good):
            raise
        message = keep_steps(watch, recipe)
        if isinstance(error, UserError):
            raise UserError(f"{error} {message}") from error
        logger.error("%s", message)
        raise
    return latents


def keep_steps(watch: Watch, recipe: Recipe) -> str:
    """Write the latest latents unless an earlier run kept more steps; says how to go on."""
    path, go_on = _place_of_latents(recipe)
    step = watch.step
    with suppress(UserError):
        before, values = read_latents(path)
        if values == json.loads(json.dumps(recipe.to_json())):
            step = max(step, before.step)
    if step == watch.step:
        assert watch.latents is not None
        write_latents(path, Start(watch.latents, step, watch.state), recipe.to_json())
    return f"{step} of {recipe.settings.num_inference_steps} steps are kept. {go_on}"


@contextmanager
def _latents_kept(latents: Tensor, recipe: Recipe) -> Iterator[None]:
    """Keep finished latents on the disk until the block has made a video of them."""
    path, go_on = _place_of_latents(recipe)
    steps = cast(int, recipe.settings.num_inference_steps)
    write_latents(path, Start(latents, steps), recipe.to_json())
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The latents are kept. {go_on}") from None
    except UserError as error:
        raise UserError(f"{error} The latents are kept. {go_on}") from error
    except Exception:
        logger.error("The latents are kept. %s", go_on)
        raise
    remove(path)


@contextmanager
def _restartable(recipe: Recipe) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise _interrupt_between(recipe) from None


def _interrupt_between(recipe: Recipe) -> KeyboardInterrupt:
    """The interrupt of a sample that cannot be resumed; samples scored before it are kept."""
    if recipe.choice is None or not recipe.choice.scores:
        return KeyboardInterrupt("Nothing was finished; the same command starts over.")
    path, go_on = _place_of_latents(recipe)
    write_latents(path, Start(torch.empty(0), 0), recipe.to_json())
    done, count = len(recipe.choice.scores), recipe.choice.best_of
    return KeyboardInterrupt(f"{done} of {count} samples are scored. {go_on}")


def _place_of_latents(recipe: Recipe) -> tuple[Path, str]:
    """The file for the latents of a video, and how to go on from it."""
    path = recipe.path.with_suffix(".latents.safetensors")
    return path, f"Continue with: t2v sample --resume {shlex.quote(str(path))}"


def _write(
    generator: Generator, pieces: Iterable[np.ndarray], recipe: Recipe, seconds: dict[str, float]
) -> Shown:
    config, path = recipe.settings, recipe.path
    assert config.fps is not None
    with clock(seconds, "encode"), Spool(path.parent) as spool:
        passing = Passing(spool.passing(pieces) if config.gif else pieces, config.num_frames)
        write_result(path, passing, config.fps, recipe.to_json(), generator.sound)
        recipe_files.write_json(path.with_suffix(".json"), recipe)
        if config.gif:
            from t2v.io.gif import write_gif  # few videos have one

            write_gif(path.with_suffix(".gif"), spool.frames(), config.fps)
    logger.info(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))
    return passing.shown()


def _read_back(path: Path, shape: tuple[int, ...]) -> None:
    """Raise `UserError` where a video is not on the disk as it was written."""
    found = shape_of(path)
    if found != shape:
        raise UserError(
            f"{path}: {shape[0]} frames of {shape[1]}x{shape[2]} were written, and {found[0]} "
            f"frames of {found[1]}x{found[2]} can be read back. The disk may be failing."
        )


def _asked(config: SampleConfig) -> str:
    return f"{config.num_frames} frames of {config.height}x{config.width}"
