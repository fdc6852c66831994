"""Model and data cards: Markdown in which nothing that footage brings along is markup."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MODEL_CARD, DATA_CARD = "README.md", "DATA.md"
REVIEWED = ".reviewed.jsonl"  # a manifest that has its data card beside it, under the same name
UNKNOWN = "unknown"
_HEAD = """---
library_name: diffusers
pipeline_tag: text-to-video
---

# Text to video

"""


def write_model_card(
    folder: Path, made: str, data: str, rows: Sequence[dict[str, Any]], train_count: int
) -> None:
    """Write a pipeline's `README.md`: how it was made, and on whose footage under which licence.

    The data card that a review or `t2v curate` left beside the manifest follows.

    Args:
        made: how, as Markdown.
        data: the manifest, or the folder of clips.
        rows: of all clips, those trained on first; `source` and `license` count.
        train_count: how many those are.
    """
    count: dict[tuple[str, str], list[int]] = {}
    for number, row in enumerate(rows):
        rights = row.get("source") or UNKNOWN, row.get("license") or UNKNOWN
        count.setdefault(rights, [0, 0])[number >= train_count] += 1
    lines = table(
        ("source", "licence", "clips trained on", "clips held out"),
        [(*rights, *numbers) for rights, numbers in sorted(count.items())],
    )
    text = f"{_HEAD}{made}\n\n## Trained on\n\n" + "\n".join(lines)
    card = _data_card(Path(data))
    if card.is_file():
        text += "\n#" + card.read_text(encoding="utf-8", errors="replace").lstrip()
    (folder / MODEL_CARD).write_bytes(text.encode(errors="replace"))


def _data_card(data: Path) -> Path:
    if data.name.endswith(REVIEWED) and data.with_suffix(".md").is_file():
        return data.with_suffix(".md")
    return (data if data.is_dir() else data.parent) / DATA_CARD


def card_of_folder(repo: str, kind: str, videos: Sequence[tuple[str, str]]) -> str:
    """The card of a pipeline folder that says nothing of itself: how to load it, and samples.

    Args:
        repo: owner and name on the Hub.
        kind: the class of the pipeline.
        videos: the address of each and the prompt it was made from, or nothing.
    """
    text = f"{_HEAD}A {plain(kind)}. Sample from it:\n\n```bash\n"
    text += f't2v sample --model {repo} "a prompt"\n```\n\n## Samples\n\n'
    shown = [f'<video src="{where}" controls></video>\n\n{plain(said)}\n' for where, said in videos]
    return text + ("\n".join(shown) or "None yet.\n")


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """The lines of a Markdown table, the last one blank; none where there are no rows."""
    if not rows:
        return []
    cells = [[plain(each) for each in row] for row in rows]
    lines = [head, ["---"] * len(head), *cells]
    return [f"| {' | '.join(line)} |" for line in lines] + [""]


def plain(value: object) -> str:
    """A value on one line as Markdown that is no markup; a share of one with one decimal."""
    text = f"{value:.1f}" if isinstance(value, float) else str(value)
    text = "".join(each for each in text if each.isprintable() or each.isspace())
    return re.sub(r"([\\`*_\[\]<>|&#~])", r"\\\1", " ".join(text.split()))
