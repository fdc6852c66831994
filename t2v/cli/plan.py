"""`t2v plan` on the command line: its own settings, and those of the command it plans."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2v.cli.commands import COMMANDS, brought, collect_garbage
from t2v.config.load import load_config
from t2v.config.plan import PlanConfig
from t2v.config.schema import settings


def plan(args: argparse.Namespace, overrides: list[str]) -> None:
    """Print the plan of a command line."""
    config, target = load_plan(args.config, overrides)
    if target is None:
        from t2v.plan.models import models_report  # it runs no network

        print(models_report(config))
        return
    from t2v.plan.report import report
    from t2v.plan.run import plan as estimate_run

    collect_garbage()
    with brought(target, writes=False):
        print(report(estimate_run(config, target)))


def load_plan(file: Path | None, overrides: Sequence[str]) -> tuple[PlanConfig, Any]:
    """The settings of `t2v plan`, and those of the command it plans, which the file is for.

    `t2v plan models` plans no command: None.
    """
    own = {each for each in overrides if each.partition("=")[0] in settings(PlanConfig)}
    config = load_config(PlanConfig, None, [each for each in overrides if each in own])
    if config.command == "models":
        return load_config(PlanConfig, file, overrides), None
    schema = COMMANDS[config.command].schema
    known = settings(schema)
    rest = [each for each in overrides if each not in own or each.partition("=")[0] in known]
    return config, load_config(schema, file, rest)
