"""`t2v eval compare A B`: which differences of two evaluations are real, video by video."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2v.config import CompareConfig
from t2v.data.order import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.draw import read_kept
from t2v.evaluation.intervals import bootstrap, holm, paired_p
from t2v.evaluation.page import write_page
from t2v.settings import save_config

ALPHA = 0.05
SAME = ("size", "fps")  # of the protocol: figures of other sizes are other figures
NONE = "no difference shown"


def compare(config: CompareConfig) -> str:
    """Compare the model's videos of two folders of `t2v eval`, prompt by prompt.

    Each metric gets the mean difference B - A with a 95 % interval (BCa bootstrap), the
    chance of one so large by luck (McNemar's exact test for shares, else signs flipped at random),
    raised for the number of metrics (Holm), and a verdict at 5 %. Writes `compare.json`,
    `compare.md` and `page.html`; returns the tables.

    Raises:
        UserError: a folder is no finished evaluation, or the two were not asked the same.
    """
    a, b = (read_report(each) for each in (config.a, config.b))
    for name in SAME:
        if a["protocol"][name] != b["protocol"][name]:
            raise UserError(
                f"{config.a} has {name} {a['protocol'][name]}, {config.b} has "
                f"{b['protocol'][name]}: they cannot be compared. Evaluate both alike."
            )
    shared = [name for name in a["suites"] if name in b["suites"]]
    if not shared:
        raise UserError(
            f"{config.a} has the suites {list(a['suites'])}, {config.b} {list(b['suites'])}: none "
            "in common. Evaluate both on the same."
        )
    title = {"title": "t2v eval compare", "A": a["protocol"], "B": b["protocol"]}
    report: dict[str, Any] = {"protocol": title, "suites": {}}
    videos: dict[str, dict[str, Tensor]] = {}
    for name in shared:
        ours, theirs = a["suites"][name], b["suites"][name]
        if ours["prompts_hash"] != theirs["prompts_hash"]:
            raise UserError(
                f"The prompts of suite {name} differ: {ours['prompts']} in {config.a}, "
                f"{theirs['prompts']} in {config.b}. Give the same count and seed."
            )
        report["suites"][name] = _suite(ours, theirs, keyed_generator(config.seed, name))
        videos[name] = {
            side: read_kept(Path(each["protocol"]["clips"]), _keys(each["suites"][name]))
            for side, each in (("A", a), ("B", b))
        }
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / "config.yaml")
    (output / "compare.json").write_text(json.dumps(report, indent=1, allow_nan=False))
    text = _markdown(report, config)
    (output / "compare.md").write_text(text)
    fps = a["protocol"]["fps"]
    write_page(output / "page.html", report, videos, fps, config.page_videos)
    return text


def read_report(folder: str) -> dict[str, Any]:
    """What `t2v eval` wrote.

    Raises:
        UserError: it wrote nothing there.
    """
    path = Path(folder, "eval.json")
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). Make it: t2v eval MODEL -o {folder}"
        ) from error


def _keys(suite: dict[str, Any]) -> list[str]:
    return [video["key"] for video in suite["videos"]]


def _suite(
    ours: dict[str, Any], theirs: dict[str, Any], generator: torch.Generator
) -> dict[str, Any]:
    columns: dict[str, dict[str, Any]] = {}
    for name in ours["videos"][0]["values"]:
        cell, other = (_cell(each, name) for each in (ours, theirs))
        if cell and other and cell["method"] == other["method"]:
            values, others = (
                torch.tensor([_number(video["values"][name]) for video in each["videos"]])
                for each in (ours, theirs)
            )
            columns[name] = difference(values, others, generator) | {"better": cell["better"]}
    raised = holm([column["chance"] for column in columns.values()])
    for column, chance in zip(columns.values(), raised, strict=True):
        column["chance_of_all"] = chance
        column["verdict"] = verdict(column["difference"], chance, column["better"])
    ranking = ours["ranking"] if ours["ranking"] in columns else None
    videos = [
        _side_by_side(*each, columns) for each in zip(ours["videos"], theirs["videos"], strict=True)
    ]
    skipped = [name for name in ours["videos"][0]["values"] if name not in columns]
    return {
        "prompts": ours["prompts"],
        "warnings": [
            *(f"A: {each}" for each in ours["warnings"]),
            *(f"B: {each}" for each in theirs["warnings"]),
        ],
        "ranking": ranking,
        "worst_topics": [],
        "columns": columns,
        "not_compared": skipped,
        "tables": {"differences": {name: _row(column) for name, column in columns.items()}},
        "videos": videos,
    }


def difference(a: Tensor, b: Tensor, generator: torch.Generator) -> dict[str, Any]:
    """What B has more than A: means, mean difference, its interval, its chance by luck.

    Args:
        a, b: one value a prompt, `n`; a prompt that is nan in either does not count.
    """
    known = ~(a.isnan() | b.isnan())
    a, b = a[known].double(), b[known].double()
    if len(a) < 2:
        nothing = dict.fromkeys(("a", "b", "difference", "low", "high"))
        return nothing | {"n": len(a), "chance": 1.0}
    low, high = bootstrap(b - a, generator)
    means = {"a": a.mean().item(), "b": b.mean().item(), "difference": (b - a).mean().item()}
    return means | {"low": low, "high": high, "n": len(a), "chance": paired_p(b - a, generator)}


def verdict(found: float | None, chance: float, better: str) -> str:
    """Who is better, or only more where more is neither good nor bad; or that nobody knows."""
    if found is None or chance >= ALPHA or found == 0:
        return NONE
    if better == "":
        return "B has more" if found > 0 else "A has more"
    return "B is better" if (found > 0) == (better == "higher") else "A is better"


def _cell(suite: dict[str, Any], name: str) -> dict[str, Any] | None:
    family, _, metric = name.partition(".")
    cell = suite["tables"].get(family, {}).get("model", {}).get(metric, {})
    return cell if "method" in cell else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _side_by_side(
    a: dict[str, Any], b: dict[str, Any], columns: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """One prompt with B - A of each metric, so that sorting shows where B lost most."""
    values = {}
    for name in columns:
        pair = a["values"][name], b["values"][name]
        values[name] = None if None in pair else pair[1] - pair[0]
    marks = [f"A {mark}" for mark in a["marks"]] + [f"B {mark}" for mark in b["marks"]]
    return {"prompt": a["prompt"], "topic": a["topic"], "values": values, "marks": marks}


def _row(column: dict[str, Any]) -> dict[str, Any]:
    """A row of the page's table, whose cells are texts with a method."""
    shown = {
        "A": {"value": column["a"], "low": None},
        "B": {"value": column["b"], "low": None},
        "B - A": {"value": column["difference"], "low": column["low"], "high": column["high"]},
        "by luck": {"value": column["chance_of_all"], "low": None},
    }
    note = {"better": "", "method": "B - A [95 %]; by luck: raised for the number of metrics"}
    cells = {name: cell | note for name, cell in shown.items()}
    return cells | {"verdict": {"text": column["verdict"], "value": None} | note}


def _markdown(report: dict[str, Any], config: CompareConfig) -> str:
    parts = [f"A: {config.a}\nB: {config.b}\n"]
    for name, suite in report["suites"].items():
        parts.append(f"## {name}, {suite['prompts']} prompts\n")
        parts += [f"**{warning}**\n" for warning in suite["warnings"]]
        lines = ["| | A | B | B - A [95 %] | by luck | n | verdict |", "| --- |" + " --- |" * 6]
        for metric, c in suite["columns"].items():
            if c["difference"] is None:
                continue
            lines.append(
                f"| {metric} | {c['a']:.3g} | {c['b']:.3g} | {c['difference']:+.3g} "
                f"[{c['low']:+.3g}, {c['high']:+.3g}] | {c['chance_of_all']:.2g} | {c['n']} | "
                f"{c['verdict']} |"
            )
        parts.append("\n".join(lines) + "\n")
        if suite["not_compared"]:
            names = ", ".join(suite["not_compared"])
            parts.append(f"not compared, measured by other networks: {names}\n")
    return "\n".join(parts)
