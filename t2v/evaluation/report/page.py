"""One self-contained HTML file with tables, and videos that play in step."""

from __future__ import annotations

import base64
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from t2v.evaluation.report.html import rendered, tables_of
from t2v.io.files import write_text
from t2v.io.video import write_video


def write_page(
    path: Path, report: dict[str, Any], videos: dict[str, dict[str, Tensor]], fps: float, most: int
) -> None:
    """Write the page of an evaluation or a comparison, each suite's worst videos first.

    Prompts may come from anywhere, so all text is escaped, and the page may load nothing and run
    nothing but its own script.

    Args:
        report: see `tables_of`.
        videos: of each suite, the rows shown side by side, `n t h w c` uint8.
        most: videos of a suite on the page.
    """

    def shown(suite: str, place: int, index: int, row: str) -> str:
        return film(videos[suite][row][index], fps)

    rows = {name: list(each) for name, each in videos.items()}
    values = tables_of(report, rows, shown, most) | {"vote": report.get("vote")}
    styles = ["frame.css", "report.css"]
    write_text(path, rendered("page.html.j2", ["report.js"], styles, **values))


def film(video: Tensor, fps: float) -> str:
    """Return a video `t h w c` uint8 as the data URI of an mp4; an odd side loses a line."""
    even = video[:, : video.shape[1] // 2 * 2, : video.shape[2] // 2 * 2]
    zoom = max(1, 128 // even.shape[1])  # players blur small videos when they enlarge them
    large = torch.repeat_interleave(torch.repeat_interleave(even, zoom, 1), zoom, 2)
    with TemporaryDirectory() as folder:
        path = Path(folder, "film.mp4")
        write_video(path, large.numpy(), fps)
        return "data:video/mp4;base64," + base64.b64encode(path.read_bytes()).decode()
