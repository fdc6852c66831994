"""The videos of many prompts on many workers, each of which holds the model."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.engine import model_pool, succeeded
from t2v.io.progress import progress
from t2v.models.device import pick_device
from t2v.sampling.generate import Ready, make
from t2v.sampling.output_paths import is_finished, refuse_other_videos
from t2v.sampling.recipe import Recipe
from t2v.sampling.results import Shown, write_sheet


def make_on_workers(
    config: SampleConfig, load: Callable[[], Ready], paths: Sequence[Path]
) -> list[Path]:
    """Have workers make the videos that lack, each its file; returns all files, in order.

    The bytes are those of one process: seed and recipe are of the video, whoever makes it. Every
    worker has checked all prompts before its first video.

    Args:
        load: gives a worker its model; a function of a module, or a `functools.partial` of one.
        paths: of the videos. As many workers start at once as there are files that lack.

    Raises:
        UserError: see `t2v.sampling.run.sample`; or machines do not agree on weights or versions,
            or a worker does not reach the place of the videos.
    """
    device, threads = str(pick_device(config.device)), torch.get_num_threads()
    makes_all = config.overwrite or config.via_image
    lacking = len(paths) if makes_all else sum(not path.exists() for path in paths)
    with model_pool(config, load, device, threads) as workers:
        first = workers.results([_recipes], count=max(1, lacking))
        (recipes,) = succeeded(first, [f"model={config.model}"])
        todo = list(range(len(recipes)))
        if not makes_all:  # with pictures, a worker has to look
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
