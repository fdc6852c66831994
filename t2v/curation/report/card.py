"""`DATA.md`, the part of a model card that is about the data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from t2v.curation.report import tables
from t2v.io.manifest import Clip
from t2v.io.model_card import table


def data_card(clips: Sequence[Clip], stats: dict[str, Any]) -> str:
    """The data card as Markdown: counts, rights, captions, topics, and the versions that decided.

    Args:
        clips: all of them, kept and dropped.
        stats: the result of `t2v.curation.run.statistics`.
    """
    kept = tables.kept(clips)
    lines = [
        "# Data",
        "",
        f"{len(kept)} clips, {sum(map(tables.seconds_of, kept)) / 60:.1f} minutes, kept of "
        f"{stats['clips']} from {stats['files']} files by `t2v curate` "
        f"({stats['dropped']} dropped, {stats['failed']} failed).",
        "",
        *table(
            ("source", "licence", "files", "clips kept", "minutes kept"),
            [
                (row["source"], row["license"], row["files"], row["kept"], row["seconds"] / 60)
                for row in tables.rights(clips)
                if row["kept"]
            ],
        ),
        *table(
            ("stage", "clips in", "dropped", "out"),
            [(row["stage"], row["in"], row["dropped"], row["out"]) for row in tables.funnel(stats)],
        ),
        *table(
            ("captions by", "written", "taken"),
            [(row["name"], row["written"], row["used"]) for row in tables.authors(clips)],
        ),
        *table(
            ("topic", "clips kept"),
            [(row["name"], row["kept"]) for row in tables.topics(clips) if row["kept"]],
        ),
        *table(
            ("topic of prompts", "% of the prompts", "% of the clips", "ratio"),
            [
                (
                    row["topic"],
                    100 * row["prompt_share"],
                    100 * row["clip_share"],
                    f"{row['ratio']:.2f}",
                )
                for row in stats.get("demand", {}).get("topics", ())
            ],
        ),
        *table(("judged by", "version or hash"), tables.provenance_rows(stats)),
    ]
    return "\n".join(lines).rstrip() + "\n"
