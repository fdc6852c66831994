"""The tables of an evaluation, for its page and as Markdown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

END_WORDS = {"low": "lowest", "top": "highest"}  # ends of the topics, as `eval.json` names them
ARROWS = {"higher": " ↑", "lower": " ↓", "": ""}


@dataclass(frozen=True)
class FamilyTable:
    """A family of metrics by rows; metrics that were never run are in the notes only."""

    names: list[str]
    arrows: dict[str, str]
    cells: dict[str, dict[str, Any]]
    counts: list[str]  # videos behind each metric; empty where no metric has any
    notes: list[str]


def family_table(rows: dict[str, dict[str, Any]]) -> FamilyTable:
    """Return the table of a family of metrics, with notes on how each was measured."""
    names = list(dict.fromkeys(name for cells in rows.values() for name in cells))
    measured = [
        name for name in names if any(_has_value(cells.get(name, {})) for cells in rows.values())
    ]
    arrows = {
        name: ARROWS[cell["better"]]
        for cells in rows.values()
        for name, cell in cells.items()
        if "better" in cell
    }
    counts = [max(cells.get(name, {}).get("n", 0) for cells in rows.values()) for name in measured]
    return FamilyTable(
        names=measured,
        arrows=arrows,
        cells=rows,
        counts=[str(count) for count in counts] if any(counts) else [],
        notes=_notes(rows),
    )


def _has_value(cell: dict[str, Any]) -> bool:
    return "value" in cell or "text" in cell


def _notes(rows: dict[str, dict[str, Any]]) -> list[str]:
    """The method of each metric, or why it was not run, once for all metrics that share it."""
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
    """Return an evaluation as Markdown: of every suite its warnings, and a table a family."""
    parts = [f"- {row}: {text}" for row, text in report.get("rows", {}).items()]
    parts = ["\n".join(parts) + "\n"] if parts else []
    for name, suite in report["suites"].items():
        parts.append(f"## {name}, {suite['prompts']} prompts\n")
        parts += [f"**{warning}**\n" for warning in suite["warnings"]]
        for family, rows in suite["tables"].items():
            if rows:
                parts.append(f"{family}\n\n{_lines(family_table(rows))}")
        if suite["worst_topics"]:
            parts.append(topics_sentence(suite) + "\n")
    return "\n".join(parts)


def topics_sentence(suite: dict[str, Any]) -> str:
    """Return the worst topics of a suite in words, and the means of the worst and best ones."""
    worst = ", ".join(
        f"{each['topic']} {each['value']:.3g} (n {each['n']})" for each in suite["worst_topics"]
    )
    ends = [
        f"{END_WORDS[name.partition('_')[0]]} {name.partition('_')[2]}: {value:.3g}"
        for name, value in suite["topics"].items()
        if name != "n"
    ]
    count = suite["topics"]["n"]
    return (
        f"By {suite['ranking']}, the worst topics: {worst}. Means of {count} topics, "
        f"{', '.join(ends)}."
    )


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
    """Return a cell as text: `0.93 [0.9, 0.95], 3 off the scale`, a text as it is, or nothing."""
    if "text" in cell:
        return str(cell["text"])
    off = f"{cell['off_scale']} off the scale" if "off_scale" in cell else ""
    if cell.get("value") is None:
        return "not run" if "not_run" in cell else off
    text = f"{cell['value']:.3g}"
    if cell["low"] is not None:
        text += f" [{cell['low']:.3g}, {cell['high']:.3g}]"
    return f"{text}, {off}" if off else text
