"""The markup of an evaluation, for a page of its own and for pages that others serve."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from t2v.evaluation.report.table import cell_text, family_table, topics_sentence

HERE = Path(__file__).parent


def rendered(template: str, scripts: Sequence[str], styles: Sequence[str], **values: Any) -> str:
    """Return a page of its own: its texts are escaped, and it may run nothing but its own script.

    Args:
        scripts, styles: files of this folder that it holds.
    """
    script = "\n".join((HERE / name).read_text("utf-8") for name in scripts)
    style = "".join((HERE / name).read_text("utf-8") for name in styles)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["cell"] = cell_text
    found = environment.get_template(template)
    return found.render(script=script, style=style, digest=digest, preload="auto", **values)


def tables_of(
    report: Mapping[str, Any],
    rows: Mapping[str, Sequence[str]],
    film: Callable[[str, int, int, str], str],
    most: int | Mapping[str, int],
) -> dict[str, Any]:
    """Return the values of `tables.html.j2`: each suite's tables and its worst videos.

    Args:
        report: as in `eval.json` or `compare.json`; of each suite `ranking`, and `videos` with
            `prompt`, `topic`, `values`, `marks` and perhaps `said`, texts shown with it.
        rows: of each suite, the names of the films that stand side by side.
        film: gives the address of a film, from the suite, the place on the page, the index of the
            video in the suite, and the row.
        most: videos of a suite on the page.
    """
    suites = []
    for name, suite in report["suites"].items():
        first = most if isinstance(most, int) else most[name]
        listed = [
            suite["videos"][index] | {"films": {r: film(name, place, index, r) for r in rows[name]}}
            for place, index in enumerate(worst_first(suite["videos"], suite["ranking"])[:first])
        ]
        columns = list(dict.fromkeys(key for video in listed for key in video["values"]))
        suites.append(
            {"name": name, "listed": listed, "columns": columns, "rows": list(rows[name])}
            | {"report": suite, "topics": topics_sentence(suite) if suite["worst_topics"] else ""}
            | {
                "families": {
                    family: family_table(each) for family, each in suite["tables"].items() if each
                }
            }
        )
    return {
        "protocol": report["protocol"],
        "meanings": report.get("rows"),
        "enough": report.get("enough"),
        "suites": suites,
    }


def worst_first(videos: list[dict[str, Any]], ranking: str | None) -> list[int]:
    """Return the order of videos: the most suspicious first, then by the ranking, lowest first."""

    def rank(index: int) -> tuple[int, float]:
        value = videos[index]["values"].get(ranking)
        return -len(videos[index]["marks"]), float("inf") if value is None else value

    return sorted(range(len(videos)), key=rank)
