"""The figures of an evaluation as Markdown, and the parts its page is made of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class FamilyTable:
    """Rows by metrics as texts know them; metrics that were never run are in the notes only."""

    names: list[str]
    arrows: dict[str, str]
    cells: dict[str, dict[str, Any]]
    counts: list[str]  # how many videos were asked, by metric; empty where nobody counted
    notes: list[str]


def family_table(rows: dict[str, dict[str, Any]]) -> FamilyTable:
    """What is shown of a family of metrics, and beneath it what each figure is."""
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    shown = [
        name for name in names if any(_is_told(cells.get(name, {})) for cells in rows.values())
    ]
    arrows = {
        name: ARROWS[cell["better"]]
        for cells in rows.values()
        for name, cell in cells.items()
        if "better" in cell
    }
    counts = [max(cells.get(name, {}).get("n", 0) for cells in rows.values()) for name in shown]
    return FamilyTable(
        names=shown,
        arrows=arrows,
        cells=rows,
        counts=[str(count) for count in counts] if any(counts) else [],
        notes=_notes(rows),
    )


def _is_told(cell: dict[str, Any]) -> bool:
    return "value" in cell or "text" in cell


def _notes(rows: dict[str, dict[str, Any]]) -> list[str]:
    """What measured each metric or why it was not run, said once for all metrics it is true of."""
    notes: dict[str, str] = {}
    for cells in rows.values():
        for name, cell in cells.items():
            reason = f"not run, {cell['not_run']}" if "not_run" in cell else cell["method"]
            notes.setdefault(name, reason)
    alike: dict[str, list[str]] = {}
    for name, note in notes.items():
        alike.setdefault(note, []).append(name)
    return [f"{', '.join(names)}: {note}" for note, names in alike.items()]


def markdown(report: dict[str, Any]) -> str:
    """Every suite: what is suspicious, a table for each family, what was not run and why."""
    parts = [f"- {row}: {text}" for row, text in report.get("rows", {}).items()]
    parts = ["\n".join(parts) + "\n"] if parts else []
    for name, suite in report["suites"].items():
        parts.append(f"## {name}, {suite['prompts']} prompts\n")
        parts += [f"**{warning}**\n" for warning in suite["warnings"]]
        for family, rows in suite["tables"].items():
            if rows:
                parts.append(f"{family}\n\n{_lines(family_table(rows))}")
        if suite["worst_topics"]:
            parts.append(topics_told(suite) + "\n")
    return "\n".join(parts)


def topics_told(suite: dict[str, Any]) -> str:
    """The worst topics of a suite, and how much worse the worst are than the best."""
    worst = ", ".join(
        f"{each['topic']} {each['value']:.3g} (n {each['n']})" for each in suite["worst_topics"]
    )
    ends = [
        f"{name.replace('_', ' ')} of {suite['topics']['n']} topics: {value:.3g}"
        for name, value in suite["topics"].items()
        if name != "n"
    ]
    return f"By {suite['ranking']}, the worst topics: {worst}. Means: {'; '.join(ends)}."


def _lines(table: FamilyTable) -> str:
    notes = "".join(f"- {note}\n" for note in table.notes)
    if not table.names:
        return notes
    head = "| | " + " | ".join(f"{name}{table.arrows[name]}" for name in table.names) + " |"
    lines = [head, "| --- |" + " --- |" * len(table.names)]
    for row, cells in table.cells.items():
        texts = [cell_text(cells.get(name, {})) for name in table.names]
        lines.append(f"| {row} | " + " | ".join(texts) + " |")
    lines.append("| n | " + " | ".join(table.counts) + " |")
    return "\n".join(lines) + "\n\n" + notes


def cell_text(cell: dict[str, Any]) -> str:
    """`0.93 [0.9, 0.95], 3 off the scale`; empty where nothing is known; a verdict as it is."""
    if "text" in cell:
        return str(cell["text"])
    off = f"{cell['off_scale']} off the scale" if "off_scale" in cell else ""
    if cell.get("value") is None:
        return "not run" if "not_run" in cell else off
    told = f"{cell['value']:.3g}"
    if cell["low"] is not None:
        told += f" [{cell['low']:.3g}, {cell['high']:.3g}]"
    return f"{told}, {off}" if off else told
