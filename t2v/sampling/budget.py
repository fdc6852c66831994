"""The fastest settings of a video that keep within an error, by the table of its model."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from t2v.acceleration.table import FILE, Exact, Measured, Row, Table, exact_of, read_tables
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.folder import model_folder, scheduler_hash
from t2v.pipelines.generator import Generator, Request

logger = logging.getLogger(__name__)


def settled(
    config: SampleConfig, asked: Request, generator: Generator, weights: str
) -> SampleConfig:
    """The settings with `max_error` and `min_psnr` replaced by what is left out for them.

    Of the rows of the table whose bounds keep to both, the one that is surely the fastest is taken
    and told; where none does, nothing is left out, and that is told. Rows that do not go with other
    settings are passed by; with `token_merging` the rows are those of that ratio.

    Args:
        asked: the exact video.
        weights: hash of the model's.

    Raises:
        UserError: there is no table of such a video, or it is of other weights.
    """
    folder = model_folder(config.folder)
    path = Path(config.calibration) if config.calibration else folder / FILE
    exact = exact_of(asked, weights, scheduler_hash(folder))
    table = _table_of(path, exact, config)
    rows = _merged(table, config) if config.token_merging else table.rows
    exactly: dict[str, Any] = {"max_error": None, "min_psnr": None, "calibration": None}
    exactly["token_merging"] = 0.0
    config, budget = replace(config, **exactly), config
    table = replace(table, rows=tuple(row for row in rows if goes_with(row, config)))
    row = fastest(table, budget.max_error, budget.min_psnr)
    if row is None:
        logger.info("%s: %s The video is made exactly.", _budget(budget), _nearest(table))
        return config
    assert row.measured is not None
    logger.info("%s: %s; %s", _budget(budget), row.setting, _price(row.measured, table, generator))
    return replace(config, **asdict(row.setting))


def fastest(table: Table, max_error: float | None, min_psnr: float | None) -> Row | None:
    """The row that is surely the fastest (by the lower end of its speed's interval) of those whose
    bounds keep within a budget; None: the exact path is."""
    fits = [
        row
        for row in table.rows
        if row.measured is not None
        and row.measured.speed_low > 1
        and (max_error is None or row.measured.most_error <= max_error)
        and (min_psnr is None or row.measured.least_psnr >= min_psnr)
    ]
    return max(fits, key=lambda row: row.measured.speed_low if row.measured else 0, default=None)


def _table_of(path: Path, exact: Exact, config: SampleConfig) -> Table:
    tables = read_tables(path)
    how = f"Run: t2v calibrate {config.model}{_asked(config)}"
    if not tables:
        raise UserError(
            f"{_budget(config)}: there is no table of what model={config.model} may leave out "
            f"({path}). {how}"
        )
    same = [each for each in tables if each.exact.weights == exact.weights]
    if not same or all(each.exact.scheduler != exact.scheduler for each in same):
        what = "scheduler" if same else "weights"
        raise UserError(
            f"{_budget(config)}: {path} is of other {what} than those of model={config.model}, and "
            f"says nothing of this one. {how}"
        )
    found = [each for each in same if each.exact == exact]
    if not found:
        has = "; ".join(str(each.exact) for each in same)
        raise UserError(f"{_budget(config)}: {path} has no table of {exact}, but of {has}. {how}")
    return found[0]


def _merged(table: Table, config: SampleConfig) -> tuple[Row, ...]:
    """The rows of a table with the `token_merging` that is asked for."""
    ratio = config.token_merging
    found = tuple(row for row in table.rows if row.setting.token_merging == ratio)
    if found:
        return found
    has = sorted({row.setting.token_merging for row in table.rows} - {0.0})
    raise UserError(
        f"{_budget(config)} token_merging={ratio:g}: the table has "
        + (
            f"rows of token_merging={', '.join(f'{each:g}' for each in has)}. Give one of these, "
            "or leave it out."
            if has
            else "no rows with merged tokens. Leave it out, or measure them: "
            f"t2v calibrate {config.model}{_asked(config)}"
        )
    )


def goes_with(row: Row, config: SampleConfig) -> bool:
    """True where a row's setting goes with what else is asked for, such as `compile=true`."""
    try:
        replace(config, **asdict(row.setting))
    except UserError:
        return False
    return True


def _asked(config: SampleConfig) -> str:
    """The settings of the exact video that were given, as a command takes them."""
    names = ("height", "width", "num_frames", "num_inference_steps", "guidance_scale")
    given = {name: getattr(config, name) for name in names}
    said = [f" {name}={value:g}" for name, value in given.items() if value is not None]
    if config.negative_prompt:
        said.append(" negative_prompt=...")
    return "".join(said) + (f" output={config.calibration}" if config.calibration else "")


def _budget(config: SampleConfig) -> str:
    given = {name: getattr(config, name) for name in ("max_error", "min_psnr")}
    return " ".join(f"{name}={value:g}" for name, value in given.items() if value is not None)


def _nearest(table: Table) -> str:
    faster = [row.measured for row in table.rows if row.measured and row.measured.speed_low > 1]
    if not faster:
        return "nothing that was measured is faster than the exact path."
    error = min(each.most_error for each in faster)
    decibels = max(each.least_psnr for each in faster)
    return f"no faster setting keeps within it (they begin at {error:.3g} and {decibels:.1f} dB)."


def _price(found: Measured, table: Table, generator: Generator) -> str:
    here = generator.pipeline._execution_device.type
    elsewhere = "" if table.on.startswith(here) else f", measured on {table.on}"
    return (
        f"error {found.error:.3g}, for {table.share:.0%} of prompts at most "
        f"{found.most_error:.3g}, {found.psnr:.1f} dB; denoising {found.speed:.2f} times as fast "
        f"({found.speed_low:.2f}-{found.speed_high:.2f}{elsewhere})"
    )
