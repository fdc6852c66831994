"""Settings that leave work of the denoising out: caches by name, guidance in some steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from t2v.config.checks import within_range
from t2v.errors import UserError, shortened


@dataclass(frozen=True)
class Kind:
    """A cache of diffusers.

    Args:
        means: what its value is, in words.
        least, most: the range of its value.
        usual: a value that is often good.
    """

    means: str
    least: float
    most: float
    usual: float

    @property
    def is_whole(self) -> bool:
        """True where the value counts steps."""
        return self.usual >= 1


CACHES = {
    # github.com/chengzeyi/ParaAttention; arXiv 2411.19108
    "first_block": Kind("the change of the first block's residual below which", 0, 1e9, 0.1),
    # arXiv 2506.09045
    "mag": Kind("the error, by the residual's size, up to which steps are left out", 0, 1e9, 0.06),
    "taylor": Kind("steps from one that is computed to the next", 2, 1000, 3),  # arXiv 2503.06923
    "pyramid": Kind("steps from one whose attention is computed to the next", 2, 1000, 2),
    "faster": Kind("steps from one whose attention is computed to the next", 2, 1000, 2),
}


@dataclass(frozen=True)
class Cache:
    """A cache that a setting names, with its value."""

    kind: str
    value: float


def cache_of(text: str) -> Cache | None:
    """The cache that a value of the setting names, such as `taylor:3`; None of `none`.

    Raises:
        UserError: there is no such cache, or its value is out of range.
    """
    if text == "none":
        return None
    name, _, given = text.partition(":")
    kind = CACHES.get(name)
    try:
        value = float(given)
    except ValueError:
        value = -1.0
    if kind is None or not kind.least <= value <= kind.most or (kind.is_whole and value % 1):
        known = ", ".join(f"{name}:{each.usual:g}" for name, each in CACHES.items())
        raise UserError(
            f"cache={shortened(text)}: give none, or a cache and its value, such as {known}. "
            "first_block and mag take a threshold, the others a whole number of steps from 2 on."
        )
    return Cache(name, value)


def check_acceleration(config: Any) -> None:
    """Raise `UserError` where settings leave out what they cannot, or not together."""
    cache = cache_of(config.cache)
    given = f"cache={config.cache}"
    if (cache is not None and cache.kind == "mag") != bool(config.cache_ratios):
        raise UserError(
            f"{given} cache_ratios={list(config.cache_ratios)}: cache=mag:THRESHOLD and the ratios "
            "of the model go together; `t2v calibrate` fits them. Give both, or another cache."
        )
    if cache is not None:
        alone: dict[str, Any] = {"compile": False, "token_merging": 0, "offload": "none"}
        for name, usual in alone.items():
            value = getattr(config, name, usual)
            if value != usual and value not in ("auto", "text", "model"):
                raise UserError(
                    f"{given} {name}={value}: a cache hooks blocks that are whole, not compiled "
                    f"and of all tokens. Leave {name} out, or the cache."
                )
    interval = config.guidance_interval
    if interval and not (len(interval) == 2 and 0 <= interval[0] < interval[1] <= 1):
        raise UserError(
            f"guidance_interval={list(interval)}: give two shares of the steps from 0 to 1, the "
            "first below the second, as [0,0.5] for the first half."
        )
    if interval and getattr(config, "image_guidance_scale", 1.0) != 1:
        raise UserError(
            f"guidance_interval={list(interval)} image_guidance_scale="
            f"{config.image_guidance_scale:g}: guidance by pictures is in all steps. Leave one out."
        )


# what a table of `t2v calibrate` was not measured with
UNMEASURED: dict[str, Any] = {
    "lora": (),
    "shift": None,
    "strength": None,
    "image": None,
    "last_image": None,
    "video": None,
    "mask": None,
    "via_image": False,
    "image_guidance_scale": 1.0,
    "quantize": "none",
    "base": None,
    "cache": "none",
    "guidance_interval": (),
    "motion": (),
}


def check_budget(config: Any) -> None:
    """Raise `UserError` where a budget goes with settings that no table was measured with."""
    budget = {name: getattr(config, name) for name in ("max_error", "min_psnr")}
    budget = {name: value for name, value in budget.items() if value is not None}
    if not budget:
        if config.calibration is not None:
            raise UserError(
                f"calibration={config.calibration}: the table that a budget is looked up in. Give "
                "max_error=0.05 or min_psnr=35 too, or leave it out."
            )
        return
    for name, value in budget.items():
        within_range(name, value)
    changed = {
        name: getattr(config, name)
        for name, usual in UNMEASURED.items()
        if getattr(config, name) != usual
    }
    if changed:
        raise UserError(
            f"{_named(budget)} {_named(changed)}: the table of `t2v calibrate` is of prompts "
            f"alone, and of the model as it is. Leave {', '.join(changed)} out, or choose cache=, "
            "guidance_interval= and num_inference_steps= yourself."
        )


def _named(values: dict[str, Any]) -> str:
    shown = {name: list(each) if isinstance(each, tuple) else each for name, each in values.items()}
    return " ".join(f"{name}={each}" for name, each in shown.items())
