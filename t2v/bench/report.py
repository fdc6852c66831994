"""Figures as tables on the terminal, and as a JSON file."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.files import locked, write_text
from t2v.io.text_files import read_json

FIGURES = {"stages", "curation", "peers", "layouts"}  # the tables of reports

Report = dict[str, Any]


def measured(measure: Callable[[], Report], json_file: str | None, overwrite: bool) -> Report:
    """Return what `measure` gives, and write it to `json_file` if one is named.

    Raises:
        UserError: the file holds something else than figures of `t2v bench`.
    """
    if not json_file:
        return measure()
    file = Path(json_file)
    with locked(file, command="t2v bench"):
        if not overwrite:
            _refuse_to_replace(file)
        report = measure()
        write_text(file, json.dumps(report, indent=2) + "\n")
    return report


def _refuse_to_replace(file: Path) -> None:
    """Raise `UserError` where a file lies that `bench` did not write."""
    with suppress(UserError, TypeError, KeyError, AttributeError):  # no JSON, or another
        report = read_json(file)
        if isinstance(report["config"], dict) and report.keys() & FIGURES:
            return
    if file.exists():
        raise UserError(
            f"json={file} holds no figures of `t2v bench` and would be replaced. Name another "
            "file, or say overwrite=true."
        )


def print_table(
    rows: Sequence[dict[str, Any]], columns: Sequence[str], wide: Collection[str] = ()
) -> None:
    """The columns of `rows`, numbers to the right; what was not measured is a dash.

    Args:
        wide: columns of long words.
    """
    widths = {column: 20 if column in wide else 12 for column in columns}
    print("".join(f"{column:>{width}}" for column, width in widths.items()))
    for row in rows:
        print("".join(f"{_shown(row[column]):>{width}}" for column, width in widths.items()))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)
