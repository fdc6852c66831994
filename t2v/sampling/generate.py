"""Recipes become videos, and whatever stops this, nothing finished is lost."""

from __future__ import annotations

import json
import logging
import shlex
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import cast

import numpy as np
import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.video import (
    contact_sheet,
    read_video,
    rewrite_recipe,
    save_image,
    shape_of,
    write_gif,
    write_video,
)
from t2v.nets.aligner import Aligner
from t2v.pipelines.t2v import T2VPipeline
from t2v.sampling import recipe as recipes
from t2v.sampling.best_of import grade
from t2v.sampling.denoise import Watch, continues, decode, draw, draw_elsewhere, embed, preview_path
from t2v.sampling.recipe import Choice, Recipe, read_latents, write_latents

logger = logging.getLogger(__name__)

Finish = Callable[[np.ndarray, Recipe, dict[str, float]], None]  # frames, whose they are, seconds


def make_all(
    pipeline: DiffusionPipeline,
    drawn: list[Recipe],
    latents: Tensor | None = None,
    step: int = 0,
    grader: Aligner | None = None,
    done: Collection[Path] = (),
) -> list[Path]:
    """Draw the videos of recipes, one after the other; returns the files.

    Args:
        latents: of the first video, with `step` steps behind them.
        grader: of recipes with a choice, which are drawn until all draws are graded.
        done: files that are there already and stay as they are.

    Raises:
        KeyboardInterrupt: Ctrl-C, SIGTERM or a closed terminal; what is done is kept, and where.
    """
    with _stopped_alike():
        return _make_all(pipeline, drawn, latents, step, grader, done)


def _make_all(
    pipeline: DiffusionPipeline,
    drawn: list[Recipe],
    latents: Tensor | None,
    step: int,
    grader: Aligner | None,
    done: Collection[Path],
) -> list[Path]:
    videos = []
    wants_sheet = drawn[0].settings.sheet
    for number, recipe in enumerate(drawn, 1):
        config = recipe.settings
        if recipe.path in done:
            logger.info("video %d/%d: %s is there already", number, len(drawn), recipe.path)
            videos.append(read_video(recipe.path)[0] if wants_sheet else np.empty(0))
            continue
        logger.info(
            "video %d/%d: %s frames of %sx%s at %g fps, %s steps, guidance %s, seed %d, %s %s",
            *(number, len(drawn), config.num_frames, config.height, config.width, config.fps),
            *(config.num_inference_steps, config.guidance_scale, config.seed),
            *(recipe.device, config.dtype),
        )
        if grader is None:
            videos.append(_make(pipeline, recipe, _write, latents, step))
        else:
            videos.append(_make_best(pipeline, recipe, grader, latents, step))
    paths = [recipe.path.resolve() for recipe in drawn]
    if wants_sheet:
        sheet = contact_sheet(videos, [recipe.prompt for recipe in drawn])
        save_image(paths[0].with_suffix(".sheet.png"), sheet)
    return paths


def _make_best(
    pipeline: DiffusionPipeline, recipe: Recipe, grader: Aligner, latents: Tensor | None, step: int
) -> np.ndarray:
    """Draw one prompt with several seeds; the file is the best so far, with all scores in it."""
    path, choice = recipe.path, recipe.choice
    assert choice is not None
    best: np.ndarray | None = None

    def finish(frames: np.ndarray, own: Recipe, seconds: dict[str, float]) -> None:
        nonlocal choice, best
        assert choice is not None
        seed = own.settings.seed
        choice = choice.graded(seed, grade(grader, own.prompt, frames))
        done, score = len(choice.scores), choice.scores[str(seed)]
        logger.info("draw %d/%d: seed %d scores %.4f", done, choice.best_of, seed, score)
        if choice.keep_draws:
            file = str(path.with_suffix(f".seed-{seed}.mp4"))
            _write(frames, replace(own, settings=replace(own.settings, output=file)), seconds)
        own = _seeded(own, choice.best, choice)
        if choice.best == seed:
            best = frames
            _write(frames, own, seconds)
        else:
            rewrite_recipe(path, own.to_json())
            recipes.write_json(path.with_suffix(".json"), own)

    for seed in choice.left:
        _make(pipeline, _seeded(recipe, seed, choice), finish, latents, step)
        latents, step = None, 0
    logger.info(
        "kept seed %d, score %.4f; the mean of %d draws is %.4f. %s chose it and so grades it too "
        "high: judge with another",
        *(choice.best, choice.scores[str(choice.best)], choice.best_of),
        *(sum(choice.scores.values()) / choice.best_of, grader.name),
    )
    return read_video(path)[0] if best is None else best


def _seeded(recipe: Recipe, seed: int, choice: Choice) -> Recipe:
    return replace(recipe, settings=replace(recipe.settings, seed=seed), choice=choice)


def _kept(recipe: Recipe) -> tuple[Path, str]:
    """Where the latents of a video are kept, and how to go on from them."""
    path = recipe.path.with_suffix(".latents.safetensors")
    return path, f"Go on with: t2v sample --resume {shlex.quote(str(path))}"


def _stopped(recipe: Recipe) -> KeyboardInterrupt:
    """What is said of a draw that cannot be taken up in its middle; draws before it are kept."""
    if recipe.choice is None or not recipe.choice.scores:
        return KeyboardInterrupt("Nothing was finished; the same command starts anew.")
    path, go_on = _kept(recipe)
    write_latents(path, torch.empty(0), recipe, step=0)
    done, count = len(recipe.choice.scores), recipe.choice.best_of
    return KeyboardInterrupt(f"{done} of {count} draws are graded. {go_on}")


def _make(
    pipeline: DiffusionPipeline,
    recipe: Recipe,
    finish: Finish,
    latents: Tensor | None = None,
    step: int = 0,
) -> np.ndarray:
    """Draw one video and write it, or what else `finish` does with it."""
    if isinstance(pipeline, T2VPipeline):
        return _make_ours(pipeline, recipe, finish, latents, step)
    try:
        return _make_elsewhere(pipeline, recipe, finish)
    except KeyboardInterrupt:
        raise _stopped(recipe) from None


def _make_ours(
    pipeline: T2VPipeline, recipe: Recipe, finish: Finish, latents: Tensor | None, step: int
) -> np.ndarray:
    """Draw one video; whatever stops this, the latents stay."""
    config, seconds = recipe.settings, dict[str, float]()
    steps = cast(int, config.num_inference_steps)
    kept, go_on = _kept(recipe)
    watch = Watch(config, latents, step)
    if latents is None or step < steps:
        if not continues(pipeline):
            watch = Watch(config)
        try:
            with _clock(seconds, "text"):
                text = embed(pipeline, recipe.prompt, config)
            with _clock(seconds, "denoise"), _memory(config):
                latents = draw(pipeline, text, watch)
        except KeyboardInterrupt:
            if watch.latents is None or not continues(pipeline):
                raise _stopped(recipe) from None
            count = _keep(kept, watch.latents, recipe, watch.step)
            raise KeyboardInterrupt(f"{count} of {steps} steps are kept. {go_on}") from None
        except Exception as error:
            if watch.step == step or not _are_worth_keeping(watch.latents, pipeline):
                raise
            count = _keep(kept, cast(Tensor, watch.latents), recipe, watch.step)
            told = f"{count} of {steps} steps are kept. {go_on}"
            if isinstance(error, UserError):
                raise UserError(f"{error} {told}") from error
            logger.error("%s", told)
            raise
    write_latents(kept, latents, recipe, steps)
    try:
        with _clock(seconds, "decode"), _memory(config):
            frames = decode(pipeline, latents, config.num_frames)
        finish(frames, recipe, seconds)
        _read_back(recipe.path, frames.shape[:3])
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"The latents are kept. {go_on}") from None
    except UserError as error:
        raise UserError(f"{error} The latents are kept. {go_on}") from error
    except Exception:
        logger.error("The latents are kept. %s", go_on)
        raise
    kept.unlink(missing_ok=True)
    if config.preview_every:
        preview_path(config).unlink(missing_ok=True)
    return frames


def _keep(path: Path, latents: Tensor, recipe: Recipe, step: int) -> int:
    """Keep latents unless an earlier run of the same video kept more steps; how many are kept."""
    with suppress(UserError):
        _, before, values = read_latents(path)
        if before > step and values == json.loads(json.dumps(recipe.to_json())):
            return before
    write_latents(path, latents, recipe, step)
    return step


def _are_worth_keeping(latents: Tensor | None, pipeline: T2VPipeline) -> bool:
    return latents is not None and continues(pipeline) and bool(latents.isfinite().all())


def _read_back(path: Path, shape: tuple[int, ...]) -> None:
    """See that a video is on the disk as it was written, before its latents go."""
    found = shape_of(path)
    if found != shape:
        raise UserError(
            f"{path}: {found[0]} frames of {found[1]}x{found[2]} can be read back, of {shape[0]} "
            f"of {shape[1]}x{shape[2]} that were written."
        )


def _make_elsewhere(pipeline: DiffusionPipeline, recipe: Recipe, finish: Finish) -> np.ndarray:
    """Draw one video with another package's pipeline, which decodes inside its own call."""
    seconds: dict[str, float] = {}
    with _clock(seconds, "draw"), _memory(recipe.settings):
        frames = draw_elsewhere(pipeline, recipe.prompt, Watch(recipe.settings))
    finish(frames, recipe, seconds)
    return frames


def _write(frames: np.ndarray, recipe: Recipe, seconds: dict[str, float]) -> None:
    config, path = recipe.settings, recipe.path
    assert config.fps is not None
    with _clock(seconds, "encode"):
        write_video(path, frames, config.fps, recipe.to_json())
        recipes.write_json(path.with_suffix(".json"), recipe)
        if config.gif:
            write_gif(path.with_suffix(".gif"), frames, config.fps)
    logger.info(", ".join(f"{name} {value:.2f} s" for name, value in seconds.items()))


@contextmanager
def _clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - started


@contextmanager
def _stopped_alike() -> Iterator[None]:
    """Take SIGTERM, and the end of a terminal, as Ctrl-C: what is done is kept; only once."""

    def stop(number: int, frame: FrameType | None) -> None:
        for each in caught:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    names = ("SIGTERM", "SIGHUP")
    known = [getattr(signal, name) for name in names if hasattr(signal, name)]
    here = threading.current_thread() is threading.main_thread()  # others get no signals
    caught = [each for each in known if here and signal.getsignal(each) == signal.SIG_DFL]
    for each in caught:  # who ignores one, as nohup does, goes on ignoring it
        signal.signal(each, stop)
    try:
        yield
    finally:
        for each in caught:
            signal.signal(each, signal.SIG_DFL)


@contextmanager
def _memory(config: SampleConfig) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        full = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not full and "allocate memory" not in str(error):
            raise
        raise UserError(
            f"{config.num_frames} frames of {config.height}x{config.width} do not fit into the "
            "memory of this machine. Ask for fewer frames or a smaller size."
        ) from error
