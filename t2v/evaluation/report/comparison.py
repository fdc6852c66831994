"""The tables of a comparison, for its page and as Markdown."""

from __future__ import annotations

from typing import Any

from t2v.evaluation.verdicts import ALPHA, FIRST, NO_DIFFERENCE

SUMMARY = "in short"


def pair_rows(columns: dict[str, dict[str, Any]], side: str) -> dict[str, dict[str, Any]]:
    """Return the page's table of one run beside A: metrics by means, difference, p and verdict."""
    return {name: _pair_row(cell, side) for name, cell in columns.items()}


def _pair_row(cell: dict[str, Any], side: str) -> dict[str, Any]:
    numbers = {
        FIRST: {"value": cell["a"], "low": None},
        side: {"value": cell["b"], "low": None},
        f"{side} - {FIRST}": {
            "value": cell["difference"],
            "low": cell["low"],
            "high": cell["high"],
        },
        "p": {"value": cell["chance_of_all"], "low": None},
        "n": {"value": cell["n"], "low": None},
    }
    method = (
        "means over the prompts that both have values of; their difference [95 %]; p, adjusted "
        f"for the number of comparisons (Holm); a verdict where p is under {ALPHA}"
    )
    note = {"better": "", "method": method}
    cells = {name: each | note for name, each in numbers.items()}
    return cells | {"verdict": {"text": cell["verdict"], "value": None} | note}


def summary_rows(
    columns: dict[str, dict[str, dict[str, Any]]], names: list[str]
) -> dict[str, dict[str, Any]]:
    """Return the page's table of all runs: metrics by means, with a word at each difference shown.

    Args:
        columns: the differences of each run from A, by run and metric.
        names: the metrics that all runs share.
    """
    rows: dict[str, dict[str, Any]] = {}
    note = {
        "value": None,
        "better": "",
        "method": f"means; a word where a difference from {FIRST} is shown",
    }
    for name in names:
        cells = {side: by_name[name] for side, by_name in columns.items()}
        first = next(iter(cells.values()))
        if any(cell["difference"] is None for cell in cells.values()):
            continue
        texts = {FIRST: f"{first['a']:.3g}"}
        texts |= {side: f"{cell['b']:.3g}{_word(cell, side)}" for side, cell in cells.items()}
        rows[name] = {side: {"text": text} | note for side, text in texts.items()}
    return rows


def _word(cell: dict[str, Any], side: str) -> str:
    if cell["verdict"] == NO_DIFFERENCE:
        return ""
    is_ahead = cell["verdict"].startswith(side)
    if cell["better"] == "":
        return " more" if is_ahead else " less"
    return " better" if is_ahead else " worse"


def comparison_markdown(report: dict[str, Any], names: dict[str, str]) -> str:
    """Return a comparison as Markdown: a table for each pair, and one of all runs.

    Args:
        report: as in `compare.json`.
        names: the folder of each run.
    """
    parts = ["\n".join(f"{side}: {text}" for side, text in report["rows"].items()) + "\n"]
    for name, suite in report["suites"].items():
        parts.append(f"## {name}, {suite['prompts']} prompts\n")
        parts += [f"**{warning}**\n" for warning in suite["warnings"]]
        for side, columns in suite["columns"].items():
            parts.append(_pair_table(side, columns))
        if suite["not_compared"]:
            skipped = ", ".join(suite["not_compared"])
            parts.append(f"not compared (measured by other networks or methods): {skipped}\n")
        if len(names) > 2:
            parts.append(_summary_table(suite["tables"][SUMMARY], names))
    if report["enough"]:
        parts.append(report["enough"] + "\n")
    return "\n".join(parts)


def _pair_table(side: str, columns: dict[str, dict[str, Any]]) -> str:
    heads = f"| | {FIRST} | {side} | {side} - {FIRST} [95 %] | p | n | verdict |"
    lines = [heads, "| --- |" + " --- |" * 6]
    for metric, c in columns.items():
        if c["difference"] is not None:
            lines.append(
                f"| {metric} | {c['a']:.3g} | {c['b']:.3g} | {c['difference']:+.3g}{_interval(c)} "
                f"| {c['chance_of_all']:.2g} | {c['n']} | {c['verdict']} |"
            )
    return "\n".join(lines) + "\n"


def _interval(cell: dict[str, Any]) -> str:
    return "" if cell["low"] is None else f" [{cell['low']:+.3g}, {cell['high']:+.3g}]"


def _summary_table(rows: dict[str, dict[str, Any]], names: dict[str, str]) -> str:
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for metric, cells in rows.items():
        lines.append(f"| {metric} | " + " | ".join(cell["text"] for cell in cells.values()) + " |")
    return "\n".join(lines) + "\n"
