"""The way of holding a model that fits the memory: `offload=auto` of `t2v sample`."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.models.device import GIB
from t2v.models.hold import Offload
from t2v.plan.figures import SPARE
from t2v.plan.ladder import Link, choose, rung_of
from t2v.plan.plan import Plan
from t2v.plan.run import plan

logger = logging.getLogger(__name__)


def fitted(config: SampleConfig, free: int, packed: int | None = None) -> SampleConfig:
    """`config` with the fastest way of holding its model that fits, in place of `auto`.

    A line of the log says which, and what is expected. On a CPU, weights that do not fit wait on
    the disk.

    Args:
        free: bytes of the device's memory.
        packed: bytes of a GGUF file in the transformer's place, whose weights do not move in pieces
            and stay as they are.

    Raises:
        UserError: see `plan`.
    """
    whole = replace(config, offload="none")
    done = plan(PlanConfig(command="sample", memory=free / GIB), whole, advises=False)
    if done.holds(done.peak):
        return whole
    if packed is not None or config.compile:
        return _fitted_whole(whole, done, packed)
    expected = f"{done.peak.most / GIB:.1f} GiB are expected and {free / GIB:.1f} GiB free"
    if not done.rungs:  # a CPU, beside whose memory there is only the disk
        link = Link(host=float("inf"), memory=done.rates.memory)
        released = rung_of(done.estimate, done.correction, link, "text", "none", tiles=False).needs
        if done.holds(released):
            words = "%s: text encoders are released when they are done (offload=text), %.1f GiB"
            logger.warning(words, expected, released.most / GIB)
            return replace(config, offload="text")
        logger.warning("%s: weights wait on the disk (offload=group)", expected)
        return replace(config, offload="group")
    rung = choose(done.rungs, SPARE * free)
    if rung is None:
        logger.warning(
            "%s, and no way of holding the weights fits: it may fail. `t2v plan sample` tells what "
            "would fit",
            expected,
        )
        return replace(config, offload="leaf", vae_tiling=True)
    given = {"offload": "none", **rung.settings}
    logger.warning(
        "%s: %s (%s), %.1f GiB, %.2g times as long",
        expected,
        rung.name,
        " ".join(f"{name}={value}" for name, value in given.items()),
        rung.needs.most / GIB,
        rung.factor,
    )
    tiles: dict[str, Any] = {"vae_tiling": True} if "vae_tiling" in given else {}
    return replace(config, **given | tiles)


def _fitted_whole(config: SampleConfig, done: Plan, packed: int | None) -> SampleConfig:
    """The settings with the fastest way that fits of those that move whole networks or none."""
    parts = tuple(
        replace(part, weights=packed + part.linear)
        if part.name == "transformer" and packed is not None
        else part
        for part in done.estimate.parts
    )
    estimate = replace(done.estimate, parts=parts)
    link = Link(host=float("inf"), memory=done.rates.memory)
    ways: list[Offload] = ["none", "text"]
    if done.rungs:  # beside a CPU there is no other memory
        ways.append("model")
    for offload in ways:
        rung = rung_of(estimate, done.correction, link, offload, "none", tiles=False)
        if done.holds(rung.needs):
            break
    fits = "" if done.holds(rung.needs) else ", which do not fit: it may fail"
    words = "%s (offload=%s): %.1f GiB are expected%s"
    logger.warning(words, rung.name, offload, rung.needs.most / GIB, fits)
    return replace(config, offload=offload)
