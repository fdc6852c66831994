"""The suite `story`: films of several scenes, made window by window, beside the real stories."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from t2v.config.evaluation import EvalConfig
from t2v.data.cache import Cache
from t2v.errors import UserError
from t2v.evaluation.joints import Joints
from t2v.evaluation.rows import CEILING, CHANCE, MODEL, REAL
from t2v.evaluation.samples import cache_keys, kept_in, request_of, through_vae
from t2v.evaluation.suites import STORY, Suite
from t2v.evaluation.types import Videos
from t2v.evaluation.visuals import Made
from t2v.io.engine import succeeded
from t2v.io.files import digest
from t2v.io.workers import Pool
from t2v.pipelines.generator import Generator, rate_of, to_uint8
from t2v.pipelines.story import LatentWindows, Scene, Window, tell
from t2v.pipelines.t2v import T2VPipeline
from t2v.world.story import Story

logger = logging.getLogger(__name__)


def check_tells(generator: Generator, suites: Sequence[Suite], config: EvalConfig) -> None:
    """Raise UserError where a model tells no stories, or nothing is told and windows are set."""
    told = [suite for suite in suites if suite.scene_prompts]
    if not told and config.windows != type(config.windows)():
        raise UserError(
            f"windows={config.windows}: is of stories, and suites={list(config.suites)} tells "
            f"none. Add {STORY}, or leave it out."
        )
    if told and not isinstance(generator.pipeline, T2VPipeline):
        raise UserError(
            f"suites=[{STORY}]: a {type(generator.pipeline).__name__} tells no stories. Leave the "
            "suite out, or name a T2VPipeline folder."
        )
    for suite in told:
        _windows(suite, _maker(generator, config))


def make_story(
    suite: Suite,
    generator: Generator,
    config: EvalConfig,
    weights: list[str],
    workers: Pool | None = None,
) -> Made:
    """Make the films of a suite of stories, window by window; those that are kept are not made.

    Args:
        weights: hashes of the generator's networks.
        workers: of `sampling_workers`; None: the films are made here.
    """
    maker = _maker(generator, config)
    plan = _windows(suite, maker)
    own = digest(sorted(asdict(config.windows).items()), _spans(suite))
    request = maker.request
    keys = cache_keys(
        generator, suite.prompts, config, request, [own] * len(suite.prompts), weights
    )
    films = _films(suite, maker, keys, config, workers)
    rendered = suite.real(*films.shape[1:4])
    assert rendered is not None
    real = rendered[0]
    edges = tuple(each.first for each in plan if each.number)
    joints = Joints(_spans(suite), edges, _latents(plan, maker.temporal))
    model = Videos(films, suite.prompts, rate_of(generator), real, truths=suite.truths())
    model = replace(model, scene_prompts=suite.scene_prompts)
    # one by one: a film takes the memory of many clips
    ceiling = torch.cat([through_vae(maker.pipeline.vae, each[None]) for each in real])
    model = replace(model, joints=replace(joints, through_vae=ceiling))
    rows = {MODEL: model, CEILING: model.showing(ceiling), REAL: model.showing(real)}
    if len(real) > 1:
        rows[CHANCE] = model.showing(real.roll(1, 0))
    return Made(rows, keys, {name: rows[name].video for name in (MODEL, CEILING, REAL)})


def _maker(generator: Generator, config: EvalConfig) -> LatentWindows:
    own = request_of(generator, config)
    request = replace(own, num_frames=config.windows.frames or own.num_frames)
    return LatentWindows(generator.pipeline, request, config.windows)


def _windows(suite: Suite, maker: LatentWindows) -> list[Window]:
    """The windows of each story, all of which have the same lengths."""
    return maker.plan(_scenes(suite, 0))


def _scenes(suite: Suite, index: int) -> list[Scene]:
    return [
        Scene(prompt, end - start)
        for prompt, (start, end) in zip(suite.scene_prompts[index], _spans(suite), strict=True)
    ]


def _spans(suite: Suite) -> tuple[tuple[int, int], ...]:
    assert suite.scenes is not None
    story = suite.scenes[0]
    assert isinstance(story, Story)
    return tuple(story.spans(suite.story_frames))


def _latents(plan: Sequence[Window], temporal: int) -> tuple[int, ...]:
    """The first frames of latent frames inside windows; a film begins with one of one frame."""
    begun = [range(each.first + (temporal if each.known else 1), each.first + each.frames, temporal)
             for each in plan]  # fmt: skip
    return tuple(frame for each in begun for frame in each)


def _films(
    suite: Suite, maker: LatentWindows, keys: list[str], config: EvalConfig, workers: Pool | None
) -> Tensor:
    """The films of a suite, `n t h w c` uint8."""
    with Cache(kept_in(config)) as cache:
        missing = [index for index, key in enumerate(keys) if key not in cache]
        told = [(_scenes(suite, index), config.seed + index) for index in missing]
        if workers is None:
            made: Iterator[np.ndarray] = (_film(maker, *each) for each in told)
        else:
            tasks = (partial(_film_of, config=config, story=each) for each in told)
            results = workers.results(tasks, count=len(told), in_order=True)
            made = succeeded(results, [f"story {index + 1}" for index in missing])
        for index, film in zip(missing, made, strict=True):
            cache.add(keys[index], torch.from_numpy(film))
            logger.info("story %d of %d is told", index + 1, len(keys))
        return torch.stack([cache.read(key) for key in keys])


def _film_of(
    generator: Generator, config: EvalConfig, story: tuple[list[Scene], int]
) -> np.ndarray:
    return _film(_maker(generator, config), *story)


def _film(maker: LatentWindows, scenes: list[Scene], seed: int) -> np.ndarray:
    """One film, `t h w c` uint8."""
    maker.pipeline.set_progress_bar_config(disable=True)
    frames = torch.cat(list(tell(maker, scenes, seed)))
    return to_uint8(rearrange(frames, "t c h w -> t h w c").cpu().float().numpy())
