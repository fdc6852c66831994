"""The settings by which a token generator draws codes, on their way into its scheduler."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline

from t2v.config.codes import CodesConfig
from t2v.errors import UserError

NAMES = {"temperature": "code_temperature", "choice_temperature": "temperature"}


def settle_codes(pipeline: DiffusionPipeline, codes: CodesConfig) -> None:
    """Let a pipeline draw codes as settings say.

    Raises:
        UserError: it draws none, or has not such a setting.
    """
    loaded: Any = pipeline
    scheduler: Any = loaded.scheduler
    for name, value in codes.given().items():
        own = NAMES.get(name, name)
        draws = hasattr(type(scheduler), "objective")
        if not draws or own not in scheduler.config:
            why = "has no such setting" if draws else "draws no codes"
            raise UserError(
                f"codes.{name}={value:g}: a {type(pipeline).__name__} with a "
                f"{type(scheduler).__name__} {why}. Leave it out, or take a token generator."
            )
    given = {NAMES.get(name, name): value for name, value in codes.given().items()}
    loaded.scheduler = type(scheduler).from_config(scheduler.config, **given)
