"""The videos of suites that give something, in the pipeline's words for pictures and clips."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t2v.config.evaluation import EvalConfig
from t2v.errors import UserError
from t2v.evaluation.given import Given
from t2v.evaluation.parts import given_of
from t2v.evaluation.rows import MODEL, REAL, TEXT
from t2v.evaluation.samples import cache_keys, request_of, rows_of, sample_suite, through_vae
from t2v.evaluation.suites import Suite
from t2v.evaluation.tasks import (
    BETWEEN,
    CONTINUE,
    EDIT,
    ENDS,
    FIRST,
    INTERPOLATE,
    REFERENCE,
    REGION,
    TASKS,
    VIA_IMAGE,
)
from t2v.evaluation.types import Videos
from t2v.io.workers import Pool
from t2v.pipelines.generator import Generator
from t2v.pipelines.visuals import VideoCondition, VisualInputs

SEEN = "given"  # the films of what was given, on the page
# what a generator has to take for each suite
NEEDS = {
    FIRST: ("image",),
    ENDS: ("image", "last_image"),
    CONTINUE: ("video", "image"),  # any model edits a clip; one that goes on from it takes pictures
    BETWEEN: ("conditions",),
    INTERPOLATE: ("conditions",),
    REGION: ("video", "mask"),
    EDIT: ("video", "strength"),
    VIA_IMAGE: ("image",),
    REFERENCE: ("reference_images",),
}


@dataclass(frozen=True)
class Made:
    """The videos that a model made of a suite.

    Args:
        rows: its videos, and the rows beside them.
        keys: of its videos in the cache.
        films: rows of the page, `n t h w c` uint8.
    """

    rows: dict[str, Videos]
    keys: list[str]
    films: dict[str, Tensor]


def make_given(
    suite: Suite,
    generator: Generator,
    config: EvalConfig,
    weights: Sequence[str],
    workers: Pool | None = None,
) -> Made:
    """Make the videos of a suite that gives something, and those of the same prompts alone.

    Args:
        weights: hashes of the generator's networks.
        workers: of `sampling_workers`; None: the videos are sampled here.

    Raises:
        UserError: nothing is left to be made, or the model does not take it so.
    """
    assert suite.task is not None
    request, prompts = request_of(generator, config), suite.prompts
    keys = cache_keys(generator, prompts, config, weights=weights)
    alone = sample_suite(generator, prompts, keys, config, workers=workers)
    given = None
    if suite.task == VIA_IMAGE:
        one = replace(request, num_frames=1)
        keys = cache_keys(generator, prompts, config, one, weights=weights)
        pictures = sample_suite(generator, prompts, keys, config, one, workers=workers)
        inputs = [VisualInputs(image=each[0].numpy()) for each in pictures]
        seen = pictures.expand_as(alone)
    elif suite.task == REFERENCE:
        shown, _ = suite.given_clips(1, *alone.shape[2:4])
        inputs = [VisualInputs(reference_images=[clip.numpy()]) for clip in shown]
        seen = shown.expand_as(alone)
    else:
        given = _given(suite, generator, alone)
        inputs, seen = visual_inputs(suite.task, given), given.shown()
    strength = config.strength if suite.task == EDIT else None
    digests = [_digest(suite.task, each, config.strength) for each in inputs]
    keys = cache_keys(generator, prompts, config, request, digests, weights)
    sampled = sample_suite(generator, prompts, keys, config, request, inputs, strength, workers)
    rows = rows_of(suite, sampled, generator, config.seed, given, alone)
    films = {MODEL: sampled, SEEN: seen, TEXT: alone, REAL: rows[REAL].video}
    return Made(rows, keys, films)


def _given(suite: Suite, generator: Generator, like: Tensor) -> Given:
    rendered = suite.real(*like.shape[1:4])
    assert rendered is not None
    given = given_of(suite, *rendered, _stride(generator))
    assert given is not None
    if generator.vae is None:
        return given
    return replace(given, through_vae=through_vae(generator.vae, given.clip))


def _stride(generator: Generator) -> tuple[int, int]:
    """The pixels and frames of one token of the model; of a model without latents 1."""
    if generator.vae is None:
        return 1, 1
    saved: Any = generator.vae.config
    patch = generator.pipeline.components["transformer"].config.patch_size
    return saved.scale_factor_spatial * max(patch[1:]), saved.scale_factor_temporal


def check_takes(generator: Generator, suites: Sequence[Suite]) -> None:
    """Raise UserError for a suite that gives what the model does not take."""
    for suite in suites:
        taken = generator.takes
        lacking = [each for each in NEEDS.get(suite.task or "", ()) if each not in taken]
        if lacking:
            words = ", ".join(sorted(taken)) or "nothing but a prompt"
            raise UserError(
                f"suites=[{suite.name}]: gives {TASKS[suite.name].gives}, and this "
                f"{type(generator.pipeline).__name__} does not take {', '.join(lacking)} "
                f"(it takes {words}). Leave the suite out, or name a model that takes it."
            )


def visual_inputs(task: str, given: Given) -> list[VisualInputs]:
    """Return what the model is given to see of each clip."""
    return [_one(task, given, index) for index in range(len(given.clip))]


def _one(task: str, given: Given, index: int) -> VisualInputs:
    clip, frames = given.clip[index].numpy(), given.frames
    if task == FIRST:
        return VisualInputs(image=clip[0])
    if task == ENDS:
        return VisualInputs(image=clip[0], last_image=clip[-1])
    if task == CONTINUE:
        return VisualInputs(video=clip[: len(frames)])
    if task in (BETWEEN, INTERPOLATE):
        parts = [VideoCondition(clip[start:end], start) for start, end in _runs(frames)]
        return VisualInputs(conditions=parts)
    if task == REGION:
        white = given.made[index, 0].to(torch.uint8) * 255
        return VisualInputs(video=clip, mask=white[..., None].numpy())
    assert task == EDIT
    return VisualInputs(video=clip)


def _runs(frames: Sequence[int]) -> list[tuple[int, int]]:
    """The spans of consecutive frames, their ends exclusive."""
    starts = [frame for frame in frames if frame - 1 not in frames]
    ends = [frame + 1 for frame in frames if frame + 1 not in frames]
    return list(zip(starts, ends, strict=True))


def _digest(task: str, inputs: VisualInputs, strength: float) -> str:
    """A hash of all that the model is given to see of one video."""
    hashed = hashlib.sha256(f"{task} {strength if task == EDIT else ''}".encode())
    if task in (ENDS, INTERPOLATE):
        hashed.update(b"held")  # kept videos of before followed pictures less closely
    several = ("conditions", "reference_images")
    named = [(name, getattr(inputs, name)) for name in inputs.names() if name not in several]
    named += [("reference", each) for each in inputs.reference_images]
    named += [(f"frame {each.frame_index}", each.frames) for each in inputs.conditions]
    for name, frames in named:
        hashed.update(f"{name} {frames.shape}".encode())
        hashed.update(frames.tobytes())
    return hashed.hexdigest()[:32]
