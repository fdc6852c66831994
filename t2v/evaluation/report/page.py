"""One self-contained HTML file with tables, and videos that play in step."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import jinja2
import torch
from torch import Tensor

from t2v.evaluation.report.table import cell_text, family_table, topics_sentence
from t2v.io.files import write_text
from t2v.io.video import write_video

HERE = Path(__file__).parent


def write_page(
    path: Path, report: dict[str, Any], videos: dict[str, dict[str, Tensor]], fps: float, most: int
) -> None:
    """Write the page of an evaluation or a comparison, each suite's worst videos first.

    Prompts may come from anywhere, so all text is escaped, and the page may load nothing and run
    nothing but its own script.

    Args:
        report: as in `eval.json` or `compare.json`; of each suite `ranking`, and `videos` with
            `prompt`, `topic`, `values`, `marks` and perhaps `said`, texts shown with it.
        videos: of each suite, the rows shown side by side, `n t h w c` uint8.
        most: videos of a suite on the page.
    """
    suites = []
    for name, suite in report["suites"].items():
        order = worst_first(suite["videos"], suite["ranking"])[:most]
        listed = [
            suite["videos"][index]
            | {"films": {row: film(video[index], fps) for row, video in videos[name].items()}}
            for index in order
        ]
        columns = list(dict.fromkeys(key for video in listed for key in video["values"]))
        suites.append(
            {"name": name, "listed": listed, "columns": columns, "rows": list(videos[name])}
            | {"report": suite, "topics": topics_sentence(suite) if suite["worst_topics"] else ""}
            | {
                "families": {
                    name: family_table(rows) for name, rows in suite["tables"].items() if rows
                }
            }
        )
    text = rendered(
        "page.html.j2",
        (HERE / "page.js").read_text("utf-8"),
        protocol=report["protocol"],
        meanings=report.get("rows"),
        enough=report.get("enough"),
        vote=report.get("vote"),
        suites=suites,
    )
    write_text(path, text)


def rendered(template: str, script: str, **values: Any) -> str:
    """Return a page whose texts are escaped and that may run nothing but its own script."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE), autoescape=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["cell"] = cell_text
    return environment.get_template(template).render(script=script, digest=digest, **values)


def worst_first(videos: list[dict[str, Any]], ranking: str | None) -> list[int]:
    """Return the order of videos: the most suspicious first, then by the ranking, lowest first."""

    def rank(index: int) -> tuple[int, float]:
        value = videos[index]["values"].get(ranking)
        return -len(videos[index]["marks"]), float("inf") if value is None else value

    return sorted(range(len(videos)), key=rank)


def film(video: Tensor, fps: float) -> str:
    """Return a video `t h w c` uint8 as the data URI of an mp4; an odd side loses a line."""
    even = video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]
    zoom = max(1, 128 // even.shape[1])  # players blur small videos when they enlarge them
    large = torch.repeat_interleave(torch.repeat_interleave(even, zoom, 1), zoom, 2)
    with TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_video(path, large.numpy(), fps)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
