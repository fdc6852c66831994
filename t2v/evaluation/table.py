"""The figures of an evaluation as Markdown."""

from __future__ import annotations

from typing import Any

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


def markdown(report: dict[str, Any]) -> str:
    """Every suite: what is suspicious, a table for each family, what was not run and why."""
    parts = []
    for name, suite in report["suites"].items():
        parts.append(f"## {name}, {suite['prompts']} prompts\n")
        parts += [f"**{warning}**\n" for warning in suite["warnings"]]
        for family, rows in suite["tables"].items():
            if rows:
                parts.append(f"{family}\n\n{family_table(rows)}")
        if suite["worst_topics"]:
            worst = ", ".join(f"{t['topic']} {t['value']:.3g}" for t in suite["worst_topics"])
            parts.append(f"worst topics by {suite['ranking']}: {worst}\n")
        parts.append("".join(f"- {line}\n" for line in footnotes(suite)))
    return "\n".join(parts)


def family_table(rows: dict[str, dict[str, Any]]) -> str:
    """Rows by metrics: value [low, high] of 95 %."""
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    shown = [name for name in names if any("value" in rows[row].get(name, {}) for row in rows)]
    if not shown:
        return "not run\n"
    arrows = {
        name: ARROWS[cell["better"]]
        for cells in rows.values()
        for name, cell in cells.items()
        if "better" in cell
    }
    head = "| | " + " | ".join(f"{name}{arrows[name]}" for name in shown) + " |"
    lines = [head, "| --- |" + " --- |" * len(shown)]
    for row, cells in rows.items():
        texts = [cell_text(cells.get(name, {})) for name in shown]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    counts = [
        str(max(cells.get(name, {}).get("n", 0) for cells in rows.values())) for name in shown
    ]
    return "\n".join([*lines, "| n | " + " | ".join(counts) + " |"]) + "\n"


def cell_text(cell: dict[str, Any]) -> str:
    """`0.93 [0.9, 0.95]`; empty where nothing is known; a verdict as it is."""
    if "text" in cell:
        return str(cell["text"])
    if cell.get("value") is None:
        return "not run" if "not_run" in cell else ""
    if cell["low"] is None:
        return f"{cell['value']:.3g}"
    return f"{cell['value']:.3g} [{cell['low']:.3g}, {cell['high']:.3g}]"


def footnotes(suite: dict[str, Any]) -> list[str]:
    """What measured each metric, and why others were not run, each said once."""
    notes: dict[str, str] = {}
    for family, rows in suite["tables"].items():
        for cells in rows.values():
            for name, cell in cells.items():
                reason = f"not run, {cell['not_run']}" if "not_run" in cell else cell["method"]
                notes.setdefault(f"{family}.{name}", reason)
    return [f"{name}: {reason}" for name, reason in notes.items()]
