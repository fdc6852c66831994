"""The videos of many prompts on many workers, each of which holds the model."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.engine import model_pool, succeeded
from t2v.io.progress import progress
from t2v.models.device import pick_device
from t2v.pipelines.generator import Generator, Start
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling.generate import Score, make_videos
from t2v.sampling.output_paths import is_finished, refuse_other_videos
from t2v.sampling.recipe import Recipe
from t2v.sampling.results import Shown, write_sheet
from t2v.sampling.watch import Follow

Begun = Callable[[Recipe, Generator], tuple[Recipe, Start | None]]


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


def make_on_workers(config: SampleConfig, load: Callable[[], Ready]) -> list[Path]:
    """Have workers make the videos that lack, each its file; returns all files, in order.

    The bytes are those of one process: seed and recipe are of the video, whoever makes it. Every
    worker has checked all prompts before its first video.

    Args:
        load: gives a worker its model; a function of a module, or a `functools.partial` of one.

    Raises:
        UserError: see `t2v.sampling.run.sample`; or machines do not agree on weights or versions,
            or a worker does not reach the place of the videos.
    """
    device, threads = str(pick_device(config.device)), torch.get_num_threads()
    with model_pool(config, load, device, threads) as workers:
        first = workers.results([_recipes], count=1)
        (recipes,) = succeeded(first, [f"model={config.model}"])
        todo = list(range(len(recipes)))
        if not (config.overwrite or config.via_image):  # with pictures, a worker has to look
            refuse_other_videos(recipes)
            todo = [number for number in todo if not is_finished(recipes[number])]
        tasks = (partial(_one, only=n, wanted=recipes[n]) for n in todo)
        names = [f"{recipes[n].path} ({recipes[n].prompt[:60]!r})" for n in todo]
        results = workers.results(tasks, count=len(todo), in_order=config.sheet)
        made = progress(succeeded(results, names), "sample", "videos", len(todo))
        shown = [(number, frames) for number, frames in made if _arrived(recipes[number])]
    if config.sheet:
        own = dict(shown)
        videos = [own.get(n) for n in range(len(recipes))]
        frames = [Shown.of(recipe.path).frames if video is None else video
                  for recipe, video in zip(recipes, videos, strict=True)]  # fmt: skip
        write_sheet(recipes[0].path, frames, [recipe.prompt for recipe in recipes])
    return [recipe.path.resolve() for recipe in recipes]


def _recipes(ready: Ready) -> list[Recipe]:
    return ready.recipes


def _one(ready: Ready, only: int, wanted: Recipe) -> tuple[int, np.ndarray | None]:
    """Make one video; returns its number, and its frames where a sheet shows them."""
    own, frames = asdict(ready.recipes[only]), list[np.ndarray]()
    other = {name: own[name] for name, each in asdict(wanted).items() if own[name] != each}
    if other:
        raise UserError(
            f"{wanted.path}: on {socket.gethostname()} {', '.join(other)} of its recipe would be "
            f"{', '.join(map(str, other.values()))}, and not as on the others. Put the same files "
            "and versions on every machine; T2V_KERNELS=plain for processors that differ."
        )
    make(ready, only, frames)
    return only, frames[0] if frames else None


def _arrived(recipe: Recipe) -> bool:
    if not recipe.path.exists():
        raise UserError(
            f"{recipe.path}: a worker has written it, and it is not here. Give an output in a "
            "folder that all machines share."
        )
    return True
