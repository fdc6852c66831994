"""The report of one suite in `eval.json`: tables, topics, and the values of every video."""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import asdict
from typing import Any

from t2v.data.rng import keyed_generator
from t2v.evaluation.intervals import Interval, summary
from t2v.evaluation.rows import MODEL
from t2v.evaluation.sanity_checks import Suspicions
from t2v.evaluation.suites import Suite
from t2v.evaluation.types import Measurements, NotRun, PerSet, PerVideo
from t2v.io.files import digest

WORST_TOPICS = 3
ENDS = (10, 50)  # topics that BenchUFO averages at either end
# the metric that the page sorts its videos by: the first of these that was run
RANKING = (
    "given.psnr",
    "story.switch",
    "world.all",
    "caption back.similarity",
    "alignment.sim_weighed",
    "alignment.sim",
    "teacher.psnr",
    "dynamics.subject",
)


def suite_report(
    suite: Suite,
    found: dict[str, dict[str, Measurements]],
    suspicions: Suspicions,
    keys: list[str],
    seed: int,
) -> dict[str, Any]:
    """Return the tables of one suite, the values of every video of the model, and the warnings.

    Args:
        found: measurements by metric and row.
        keys: the key of each video in the cache.
        seed: of the first prompt.
    """
    metrics = {
        f"{family}.{name}": each
        for family, by_row in found.items()
        for name, each in by_row.get(MODEL, {}).items()
        if isinstance(each, PerVideo)
    }
    values = {name: each.values.tolist() for name, each in metrics.items()}
    texts = {name: each.texts for name, each in metrics.items() if each.texts} | suspicions.texts
    off_scale = {name: each.off_scale for name, each in metrics.items()}
    ranking = next((name for name in RANKING if name in values), None)
    videos = [
        {
            "prompt": prompt,
            "topic": suite.topics[i],
            "seed": seed + i,
            "key": keys[i],
            "values": {name: _finite(column[i]) for name, column in values.items()},
            "marks": [name for name, mark in suspicions.marks.items() if mark[i]],
            "off_scale": [name for name, off in off_scale.items() if off is not None and off[i]],
            "said": {by: column[i] for by, column in texts.items()},
        }
        for i, prompt in enumerate(suite.prompts)
    ]
    return {
        "prompts": len(videos),
        "prompts_hash": digest(*suite.prompts),
        "warnings": suspicions.warnings,
        "ranking": ranking,
        **by_topic(videos, ranking),
        "tables": {
            family: {row: _cells(measurements) for row, measurements in by_row.items()}
            for family, by_row in found.items()
        },
        "videos": videos,
    }


def _cells(measurements: Measurements) -> dict[str, Any]:
    """Each metric with its interval, in numbers that JSON knows."""
    cells: dict[str, Any] = {}
    for name, each in measurements.items():
        match each:
            case NotRun():
                cells[name] = {"not_run": each.reason}
            case PerVideo():
                generator = keyed_generator(0, "bootstrap")
                interval = summary(each.values, generator, each.is_share, each.is_part)
                cells[name] = _cell(interval, each)
                if each.off_scale is not None and each.off_scale.any():
                    cells[name]["off_scale"] = int(each.off_scale.sum())
            case PerSet():
                cells[name] = _cell(Interval(each.value, each.low, each.high, each.n), each)
    return cells


def _cell(interval: Interval, of: PerVideo | PerSet) -> dict[str, Any]:
    numbers = {name: _finite(value) for name, value in asdict(interval).items()}
    return numbers | {"better": of.better, "method": of.method}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def by_topic(videos: list[dict[str, Any]], ranking: str | None) -> dict[str, Any]:
    """Return the topics with the lowest means, and the means of the lowest and highest ones.

    BenchUFO (VideoUFO, arXiv 2503.01739, section 5): a mean for each topic, then over the 10 and
    50 lowest and highest; over a quarter of the topics where there are fewer than 20.
    """
    topics = defaultdict(list)
    for video in videos:
        value = video["values"].get(ranking)
        if video["topic"] and value is not None:
            topics[video["topic"]].append(value)
    means = [
        {"topic": topic, "value": sum(values) / len(values), "n": len(values)}
        for topic, values in topics.items()
    ]
    means.sort(key=lambda each: each["value"])
    ends: dict[str, float] = {"n": len(means)}
    if len(means) > 1:
        for count in [k for k in ENDS if len(means) >= 2 * k] or [max(1, len(means) // 4)]:
            for name, some in (("low", means[:count]), ("top", means[-count:])):
                ends[f"{name}_{count}"] = sum(each["value"] for each in some) / count
    return {"worst_topics": means[:WORST_TOPICS] if len(means) > 1 else [], "topics": ends}
