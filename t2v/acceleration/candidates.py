"""The settings that are worth measuring for a video."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from t2v.acceleration.table import Setting
from t2v.pipelines.generator import Request

CACHES = (
    *("first_block:0.05", "first_block:0.1", "first_block:0.2", "first_block:0.3"),
    *("mag:0.03", "mag:0.06", "mag:0.12"),
    *("taylor:2", "taylor:3", "taylor:4"),
    *("pyramid:2", "faster:2"),
)
SHARES_OF_STEPS = (0.75, 0.625, 0.5, 0.375, 0.25)
INTERVALS = ((0.0, 0.75), (0.0, 0.5), (0.25, 0.75), (0.0, 0.25))
MERGED = (0.1, 0.3, 0.5)
# together with fewer steps, or with a cache that has no count of steps
MIXED_SHARES, MIXED_INTERVALS = (0.75, 0.5), ((0.0, 0.75), (0.25, 0.75))
MIXED_CACHES, MIXED_MERGED = ("first_block:0.2", "taylor:2"), 0.3


def candidates(asked: Request, more: Sequence[str] = ()) -> list[Setting]:
    """The settings to measure for a video: caches, fewer steps, guidance in a part of the steps,
    fewer tokens, and some of them together.

    Args:
        asked: the exact video.
        more: caches beside the usual ones.
    """
    steps = asked.num_inference_steps
    is_guided = asked.guidance_scale is not None and asked.guidance_scale > 1
    names = tuple(dict.fromkeys((*CACHES, *more)))
    found = [Setting(num_inference_steps=steps, cache=name) for name in names if name != "none"]
    found += [Setting(num_inference_steps=steps, token_merging=ratio) for ratio in MERGED]
    fewer = [] if steps is None else _fewer(steps, SHARES_OF_STEPS)
    found += [Setting(num_inference_steps=each) for each in fewer]
    if is_guided:
        found += [Setting(num_inference_steps=steps, guidance_interval=each) for each in INTERVALS]
    some = [] if steps is None else _fewer(steps, MIXED_SHARES)
    if is_guided:
        found += [
            Setting(num_inference_steps=each, guidance_interval=interval)
            for each, interval in product(some, MIXED_INTERVALS)
        ]
        found.append(
            Setting(
                num_inference_steps=steps, cache=MIXED_CACHES[0], guidance_interval=INTERVALS[1]
            )
        )
    found += [
        Setting(num_inference_steps=each, cache=name)
        for each, name in product(some[:1], MIXED_CACHES)
    ]
    found += [Setting(num_inference_steps=each, token_merging=MIXED_MERGED) for each in some]
    return found


def _fewer(steps: int, shares: Sequence[float]) -> list[int]:
    counts = [max(1, round(share * steps)) for share in shares]
    return [each for each in dict.fromkeys(counts) if each < steps]
