"""The topics of what users ask for, and which of them the clips lack."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from t2v.config.captions import TopicsConfig
from t2v.curation.shares import wilson
from t2v.curation.text.topics import clusters, features_of, name_clusters, unit_rows
from t2v.io.manifest import Clip
from t2v.io.prompts import read_prompts

EXAMPLES = 3  # prompts shown of a topic


def demand(clips: Sequence[Clip], config: TopicsConfig) -> dict[str, Any]:
    """Return the topics of the prompts in `config.prompts`, the one that the clips lack most first.

    Prompts are clustered as captions are (VideoUFO, arXiv 2503.01739, finds its topics in prompts),
    and every kept clip with a caption counts for the topic that its caption is nearest to by the
    mean cosine with its prompts, if it would have joined it: closer than `config.apart`.

    `ratio` is a topic's share of the clips over its share of the prompts, 1 where the data follow
    the users; `low` and `high` are its 95 % limits (Wilson, 1927) for the clips, the prompts taken
    as they are. A topic is `lacking` where `high` is below 1. `elsewhere` counts the clips of no
    topic, which are among those that shares are of.

    Raises:
        UserError: the file of prompts cannot be read, or an encoder cannot be loaded.
    """
    prompts = read_prompts(Path(config.prompts), "topics.prompts")
    captions = [clip.caption for clip in clips if clip.caption and not clip.dropped]
    features = features_of([*prompts, *captions], config)
    asked, shown = features[: len(prompts)], features[len(prompts) :]
    labels = clusters(asked, replace(config, count=None))
    found: Counter[int] = Counter()
    if captions:
        matches = _mean_cosines(shown, asked, labels)
        fits = matches.max(axis=1) > 1 - config.apart
        found.update(matches.argmax(axis=1)[fits].tolist())
    rows = []
    for label, topic in enumerate(name_clusters(prompts, labels)):
        members = [text for text, own in zip(prompts, labels, strict=True) if own == label]
        examples = [text for text, _ in Counter(members).most_common(EXAMPLES)]
        counts = len(members), len(prompts), found[label], len(captions)
        rows.append({"topic": topic, **_row(*counts), "examples": examples})
    rows.sort(key=lambda row: (row["ratio"], row["high"]))
    return {
        "prompts": len(prompts),
        "clips": len(captions),
        "elsewhere": len(captions) - found.total(),
        "topics": rows,
    }


def demand_line(found: dict[str, Any]) -> str:
    """The result of `demand` in one line of text."""
    lacking = [row["topic"] for row in found["topics"] if row["lacking"]]
    names = f": {'; '.join(lacking[:5])}{'; ...' if len(lacking) > 5 else ''}" if lacking else ""
    return (
        f"{len(lacking)} of {len(found['topics'])} topics of {found['prompts']} prompts are rarer "
        f"in the clips than in the prompts{names}"
    )


def _mean_cosines(texts: np.ndarray, members: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The mean cosine of each text, `n d`, with the members of each topic, `n k`."""
    points = unit_rows(members)
    means = [points[labels == label].mean(0) for label in range(int(labels.max()) + 1)]
    return np.asarray(unit_rows(texts) @ np.stack(means).T)


def _row(prompts: int, of_prompts: int, clips: int, of_clips: int) -> dict[str, Any]:
    asked = prompts / of_prompts
    shares = (0.0, 0.0, 1.0)  # without any clip nothing is known
    if of_clips:
        shares = clips / of_clips, *wilson(clips, of_clips)
    ratio, low, high = (round(each / asked, 4) for each in shares)
    return {
        "prompts": prompts,
        "clips": clips,
        "prompt_share": round(asked, 4),
        "clip_share": round(shares[0], 4),
        "ratio": ratio,
        "low": low,
        "high": high,
        "lacking": high < 1,
    }
