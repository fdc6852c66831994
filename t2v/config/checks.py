"""What settings of every kind are held to."""

from __future__ import annotations

from typing import Any

from t2v.errors import UserError


def at_least_one(config: Any, *names: str) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise UserError(f"{name}={getattr(config, name)}: it must be at least 1.")


def not_negative(config: Any, *names: str) -> None:
    for name in names:
        if not getattr(config, name) >= 0:
            raise UserError(f"{name}={getattr(config, name)}: it must be 0 or more.")
