"""Caches of diffusers on the transformers of a pipeline, for the time of one video."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from t2v.config.caching import Cache
from t2v.errors import UserError, shortened
from t2v.models.split import split_of

TAYLOR_FIRST = 2  # steps that are always computed: a line needs two points
# timesteps between which attention may be kept, and the negative prompt's pass of FasterCache: as
# in diffusers' documentation
ATTENTION, NEGATIVE = (100, 800), (-1, 781)
FAULTS = (AttributeError, LookupError, TypeError, ValueError, RuntimeError, AssertionError)
MAG_HOOK = "mag_cache_leader_block_hook"


@contextmanager
def cached(
    pipeline: Any, cache: Cache, ratios: tuple[float, ...] = (), steps: int | None = None
) -> Iterator[None]:
    """Have the transformers of a pipeline reuse work from step to step while the block runs.

    Args:
        ratios: of `mag`: the size of each step's residual to that of the step before.
        steps: of the denoising.

    Raises:
        UserError: a transformer cannot be hooked so, or several processes share it.
    """
    with ExitStack() as stack:
        for network in denoisers(pipeline):
            config = _config(cache, ratios, steps, _timestep_of(pipeline), network)
            _enable(network, cache, config)
            stack.callback(_disable, network)
        if cache.kind == "faster":  # torch tells diffusers of a newer way, at each video
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", "torch.meshgrid", UserWarning)
        try:
            yield
        except FAULTS as error:
            if isinstance(error, UserError | torch.OutOfMemoryError):
                raise
            # hooks meet shapes and calls that they were not written for in the middle of a pass
            networks = denoisers(pipeline)
            raise _unfit(cache, networks[0], shortened(repr(error), 200)) from error


def refuse_start(setting: str, start: Any) -> None:
    """Raise `UserError` where a video is to go on from kept latents, which have no cache beside
    them."""
    if start is not None:
        raise UserError(
            f"cache={setting}: what it remembers of earlier steps is not kept with latents, so the "
            "video cannot go on from its middle. Make it anew."
        )


def denoisers(pipeline: Any) -> list[Any]:
    """The transformers that predict the steps of a pipeline."""
    return [
        part
        for name, part in pipeline.components.items()
        if name.startswith("transformer") and isinstance(part, nn.Module)
    ]


@contextmanager
def magnitudes(pipeline: Any) -> Iterator[list[list[float]]]:
    """Measure what `mag` needs, by diffusers' own calibration: gives a list, which has the ratios
    of each kind of prediction, one a step, after the block called the pipeline.

    Raises:
        UserError: a transformer cannot be hooked so.
    """
    from diffusers.hooks import MagCacheConfig

    # more steps than there are: after the last one diffusers prints its figures and forgets them
    config = MagCacheConfig(calibrate=True, num_inference_steps=10**9)
    found: list[list[float]] = []
    with ExitStack() as stack:
        for number, network in enumerate(denoisers(pipeline)):
            _enable(network, Cache("mag", 0.0), config)
            stack.callback(_disable, network)
            for module in network.modules() if number == 0 else ():
                hooks = getattr(getattr(module, "_diffusers_hook", None), "hooks", {})
                if MAG_HOOK in hooks:
                    hooks[MAG_HOOK].state_manager._state_cache = _Ratios(found)
        yield found


class _Ratios(dict[str, Any]):
    """The states of a hook, whose ratios stay when the pipeline resets it at its end."""

    def __init__(self, found: list[list[float]]) -> None:
        super().__init__()
        self.found = found

    def __setitem__(self, name: str, state: Any) -> None:
        self.found.append(state.calibration_ratios)
        super().__setitem__(name, state)


def _timestep_of(pipeline: Any) -> Callable[[], Any] | None:
    """Gives the timestep of the loop, where the pipeline tells it."""
    if not hasattr(type(pipeline), "current_timestep"):
        return None
    return lambda: pipeline.current_timestep


def _config(
    cache: Cache,
    ratios: tuple[float, ...],
    steps: int | None,
    timestep: Callable[[], Any] | None,
    network: nn.Module,
) -> Any:
    """diffusers' configuration of a cache."""
    from diffusers import hooks

    every = int(cache.value)
    match cache.kind:
        case "first_block":
            return hooks.FirstBlockCacheConfig(threshold=cache.value)
        case "mag":
            assert steps is not None
            return hooks.MagCacheConfig(
                threshold=cache.value,
                num_inference_steps=steps,
                mag_ratios=torch.tensor(ratios, dtype=torch.float64),
            )
        case "taylor":
            _check_projection(network)
            return hooks.TaylorSeerCacheConfig(
                cache_interval=every,
                disable_cache_before_step=TAYLOR_FIRST,
                taylor_factors_dtype=torch.float32,
                use_lite_mode=True,
            )
    if timestep is None:
        raise _unfit(cache, network, "its pipeline does not tell the step that it is at")
    if cache.kind == "pyramid":
        return hooks.PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=every,
            temporal_attention_block_skip_range=every,
            cross_attention_block_skip_range=every,
            spatial_attention_timestep_skip_range=ATTENTION,
            temporal_attention_timestep_skip_range=ATTENTION,
            cross_attention_timestep_skip_range=ATTENTION,
            current_timestep_callback=timestep,
        )
    return hooks.FasterCacheConfig(
        spatial_attention_block_skip_range=every,
        spatial_attention_timestep_skip_range=(-1, 681),
        unconditional_batch_timestep_skip_range=NEGATIVE,
        current_timestep_callback=timestep,
        attention_weight_callback=lambda _: 0.3,
        tensor_format="BFCHW" if "CogVideoX" in type(network).__name__ else "BCFHW",
    )


def _check_projection(network: nn.Module) -> None:
    """Raise `UserError` where TaylorSeer would leave the blocks out and predict nothing."""
    if not isinstance(getattr(network, "proj_out", None), nn.Module):
        raise _unfit(
            Cache("taylor", 0), network, "it has no proj_out, whose output TaylorSeer goes on with"
        )


def _enable(network: Any, cache: Cache, config: Any) -> None:
    if split_of(network) is not None:
        raise UserError(
            f"cache={cache.kind}: several processes share the transformer, and each would keep "
            "steps of its own. Start one process, or leave the cache out."
        )
    hints = logging.getLogger("diffusers.hooks.faster_cache")  # of what our tables measure
    try:
        hints.disabled = True
        network.enable_cache(config)
    except FAULTS as error:
        network._cache_config = config  # some hooks may be there
        _disable(network)
        raise _unfit(cache, network, shortened(repr(error), 200)) from error
    finally:
        hints.disabled = False


def _disable(network: Any) -> None:
    if getattr(network, "is_cache_enabled", False):
        network.disable_cache()


def _unfit(cache: Cache, network: nn.Module, why: str) -> UserError:
    return UserError(
        f"cache={cache.kind}: does not fit a {type(network).__name__} ({why}). Choose another "
        "cache; `t2v calibrate` tells which ones fit a model."
    )
