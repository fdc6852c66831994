"""Changes that make a work take less memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from t2v.plan.figures import SPARE, Uncertain
from t2v.plan.plan import Plan
from t2v.plan.shapes import Target
from t2v.plan.sizes import strides
from t2v.training.engine.example import Size

Change = tuple[str, tuple[Target, Size]]  # in words, and the work with it
Peak = Callable[[Target, Size], Uncertain]

# A setting, whether its value costs memory, and the one that does not; the smallest loss first.
SAVINGS: tuple[tuple[str, Callable[[Any], bool], Any], ...] = (
    ("dtype", lambda dtype: dtype != "bf16", "bf16"),
    ("attention", lambda kernel: kernel == "_native_math", "native"),
    ("gradient_checkpointing", lambda does: not does, True),
    ("upscale", lambda times: times != 1, 1),
)


def variants(target: Target, size: Size) -> Iterator[Change]:
    """The same training with and without what trades memory for time."""
    if not hasattr(target, "gradient_checkpointing"):
        return
    kernels = ("native", "_native_math") if hasattr(target, "attention") else (None,)
    for kernel in kernels:
        for checkpointing in (False, True):
            changes: dict[str, Any] = {"gradient_checkpointing": checkpointing}
            if kernel:
                changes["attention"] = kernel
            yield _words(changes), (replace(target, **changes), size)


def _fitting_batch(over: Plan, target: Target, peak: Peak) -> int:
    """The largest batch that fits, or 1: near the size that does not, memory is a line over it."""
    whole = over.estimate.size.batch
    half = whole // 2
    fewer, more = (
        peak(target, replace(over.estimate.size, batch=batch)) for batch in (half, whole)
    )
    room = SPARE * (over.allowed or 0) - over.data - fewer.most
    if room >= 0 or more.most <= fewer.most:
        return half
    each = (more.most - fewer.most) / (whole - half)
    return max(1, int(half + 1.01 * room / each))


def smaller_ways(over: Plan, peak: Peak) -> Iterator[Change]:
    """Return the changes that make it fit, one after the other; `peak` estimates the memory."""
    target: Any = over.target
    size, changes = over.estimate.size, dict[str, Any]()
    for name, costly, spare in SAVINGS:
        if hasattr(target, name) and costly(getattr(target, name)):
            changes[name] = spare
            target = replace(target, **{name: spare})
            yield _words(changes), (target, size)
    if size.batch > 1:
        size = replace(size, batch=_fitting_batch(over, target, peak))
        times = -(-over.estimate.size.batch // size.batch) * target.accumulate
        yield _words(changes | {"batch_size": size.batch, "accumulate": times}), (target, size)
    for _ in range(4):
        less = smaller(size, *strides(target))
        if less == size:
            return
        size = less
        batch = {"batch_size": size.batch} if over.estimate.trains else {}
        sides = {"num_frames": size.frames, "height": size.height, "width": size.width}
        yield _words(changes | batch | sides), (target, size)


def _words(changes: Mapping[str, Any]) -> str:
    return " ".join(f"{name}={str(value).lower()}" for name, value in changes.items())


def smaller(size: Size, stride: int = 4, multiple: int = 16, shortest: int = 5) -> Size:
    """About half the work: half the batch, else half the frames, else half the picture.

    Args:
        stride, multiple, shortest: as `strides` gives them.
    """
    if size.batch > 1:
        return replace(size, batch=size.batch // 2)
    if size.frames > shortest:
        frames = (size.frames - 1) // (2 * stride) * stride + 1
        return replace(size, frames=max(shortest, frames))
    sides = (size.height, size.width)
    height, width = (max(min(side, multiple), side // (2 * multiple) * multiple) for side in sides)
    return replace(size, height=height, width=width)
