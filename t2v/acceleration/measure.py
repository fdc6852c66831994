"""Videos made exactly and with work left out, at the same noise: how far apart, and how fast."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import fmean, median
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2v.acceleration.bounds import MOST_DB, lower_bound, middle, upper_bound
from t2v.acceleration.table import Measured, Row, Setting, rounded
from t2v.errors import UserError
from t2v.io.progress import progress
from t2v.models.caching import magnitudes
from t2v.pipelines.generator import Generator, Request

logger = logging.getLogger(__name__)


@dataclass
class _Runs:
    """The figures of one setting, prompt by prompt."""

    setting: Setting
    errors: list[float] = field(default_factory=list)
    decibels: list[float] = field(default_factory=list)
    speeds: list[float] = field(default_factory=list)
    reason: str | None = None

    def row(self) -> Row:
        if self.reason is not None:
            return Row(setting=self.setting, reason=self.reason)
        speed, low, high = middle(self.speeds)
        return Row(
            setting=self.setting,
            measured=Measured(
                error=median(self.errors),
                most_error=upper_bound(self.errors),
                psnr=median(self.decibels),
                least_psnr=lower_bound(self.decibels),
                speed=speed,
                speed_low=low,
                speed_high=high,
            ),
        )


def measure(
    generator: Generator,
    asked: Request,
    settings: Sequence[Setting],
    prompts: Sequence[str],
    seed: int = 0,
) -> list[Row]:
    """A row of each setting, those that run first and the fastest of them on top.

    Every prompt is made exactly, then with each setting, then exactly again, all from one noise;
    a setting's speed on a prompt is the mean of the two exact times over its own, in processor time
    on a CPU, where other programs may be at work. The order of the settings turns from prompt to
    prompt. Ratios of MagCache are fitted first.

    Args:
        asked: the exact video.
        prompts: two or more; prompt i takes seed + i.
    """
    embedded = [generator.encode([prompt], asked) for prompt in prompts]
    runs = [_Runs(each) for each in fitted(generator, asked, settings, embedded, seed)]
    for each in runs:
        if each.setting.cache.startswith("mag:") and not each.setting.cache_ratios:
            each.reason = "the sizes of its residuals cannot be told step by step"
    _made(generator, asked, embedded[0], seed)  # the first one is slow
    for index, each in enumerate(progress(embedded, "calibrate", "prompts", len(prompts))):
        turn = index % len(runs)
        _round(generator, asked, runs[turn:] + runs[:turn], each, seed + index)
    rows = [rounded(each.row()) for each in runs]
    return sorted(rows, key=lambda row: -row.measured.speed if row.measured else math.inf)


def fitted(
    generator: Generator,
    asked: Request,
    settings: Sequence[Setting],
    embedded: Sequence[Any],
    seed: int,
) -> list[Setting]:
    """The settings, those of MagCache with the ratios of the model: the mean of up to four prompts
    and of the predictions with and without the prompt (arXiv 2506.09045, equation 5).

    Args:
        embedded: each prompt, as `generator.encode` gives it.
    """
    if not any(each.cache.startswith("mag:") for each in settings):
        return list(settings)
    ratios: tuple[float, ...] = ()
    steps, found = asked.num_inference_steps, list[list[float]]()
    try:
        for index, conditions in enumerate(embedded[:4]):
            with magnitudes(generator.pipeline) as each:
                _made(generator, asked, conditions, seed + index)
            found += each
    except UserError as error:
        logger.info("%s", error)
        found = []
    if found and all(len(each) == steps for each in found):
        ratios = tuple(fmean(values) for values in zip(*found, strict=True))
    return [
        replace(each, cache_ratios=ratios) if each.cache.startswith("mag:") else each
        for each in settings
    ]


def accelerated(asked: Request, setting: Setting) -> Request:
    """The video with a setting."""
    return replace(
        asked,
        num_inference_steps=setting.num_inference_steps,
        cache=setting.cache,
        cache_ratios=setting.cache_ratios,
        guidance_interval=setting.guidance_interval,
        token_merging=setting.token_merging,
    )


def relative_error(made: Tensor, exact: Tensor) -> float:
    """The size of the difference of two videos' latents to that of the exact ones."""
    made, exact = made.float(), exact.float()
    return float((made - exact).norm() / exact.norm())


def decibels(made: np.ndarray, exact: np.ndarray) -> float:
    """The PSNR in dB of frames uint8; of equal ones `MOST_DB`."""
    error = float(np.mean((made.astype(np.float32) - exact.astype(np.float32)) ** 2))
    return MOST_DB if error == 0 else min(MOST_DB, 10 * math.log10(255**2 / error))


def _round(
    generator: Generator, asked: Request, runs: Iterable[_Runs], conditions: Any, seed: int
) -> None:
    """One prompt: exactly, with each setting that still runs, and exactly again."""
    exact, first = _made(generator, asked, conditions, seed)
    frames = generator.decode(exact, asked.num_frames)
    took: list[tuple[_Runs, float]] = []
    for each in runs:
        if each.reason is not None:
            continue
        try:
            request = accelerated(asked, each.setting)
            latents, seconds = _made(generator, request, conditions, seed)
        except UserError as error:
            each.reason = str(error)
            continue
        each.errors.append(relative_error(latents, exact))
        each.decibels.append(decibels(generator.decode(latents, asked.num_frames), frames))
        took.append((each, seconds))
    _, last = _made(generator, asked, conditions, seed)
    for each, seconds in took:
        each.speeds.append((first + last) / 2 / seconds)


def _made(generator: Generator, asked: Request, conditions: Any, seed: int) -> tuple[Tensor, float]:
    """The latents of a video, or its frames, and the seconds that denoising took."""
    with _clock(generator.pipeline._execution_device) as seconds:
        latents = generator.generate(conditions, asked, [seed])
    return latents, seconds[0]


@contextmanager
def _clock(device: torch.device) -> Iterator[list[float]]:
    """Measure a block: processor time on a CPU, else the time until the device is done."""
    found: list[float] = []
    now = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    started = now()
    yield found
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    found.append(now() - started)
