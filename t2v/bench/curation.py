"""`t2v bench curate`: the speed of curation beside decoding alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from t2v.bench.report import measured, print_table
from t2v.config.bench import BenchCurateConfig
from t2v.curation.speed import speed


def bench(config: BenchCurateConfig) -> dict[str, Any]:
    """Measure the stages of curation that look at frames, print a table, and return its figures.

    Raises:
        UserError: `config.json` is a file of something else, or no footage can be read.
    """
    return measured(lambda: _measure(config), config.json, config.overwrite)


def _measure(config: BenchCurateConfig) -> dict[str, Any]:
    rows = speed(config.footage, config.repeats)
    print_table(rows, ("run", "files", "frames", "cpu_s", "frames_s", "by_decode"))
    return {"config": asdict(config), "curation": rows}
