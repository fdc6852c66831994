"""`t2v eval compare A B ...`: which differences of evaluations are real, video by video."""

from __future__ import annotations

import json
import math
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor

from t2v.config.evaluation import CompareConfig
from t2v.config.load import save_config
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.intervals import bootstrap, holm, paired_p
from t2v.evaluation.report.page import write_page
from t2v.evaluation.samples import read_kept
from t2v.io.files import write_text
from t2v.io.text_files import read_json
from t2v.outputs import output_folder

ALPHA = 0.05
SAME = ("size", "fps")  # of the protocol: figures of other sizes are other figures
NONE = "no difference shown"
BETTER, WORSE = "better", "worse"
FIRST = ascii_uppercase[0]


def compare(config: CompareConfig) -> str:
    """Compare the model's videos of folders of `t2v eval` with those of the first, A, by prompt.

    Each metric of each other folder gets the mean difference from A with a 95 % interval (BCa
    bootstrap), the chance of one so large by luck (McNemar's exact test for shares, else signs
    flipped at random), raised for the number of metrics and folders (Holm), and a verdict at 5 %.
    Of the folders that are worse than A in nothing, the one with the fewest passes of the
    transformer is named. Writes `compare.json`, `compare.md` and `page.html`; returns the tables.

    Raises:
        UserError: a folder is no finished evaluation, or they were not asked the same.
    """
    with output_folder(config) as config:
        return _compare(config)


def _compare(config: CompareConfig) -> str:
    names = dict(zip(ascii_uppercase, config.runs, strict=False))
    runs = {side: read_report(run) for side, run in names.items()}
    shared = _asked_alike(runs, names)
    protocol = {"title": "t2v eval compare"} | {side: run["protocol"] for side, run in runs.items()}
    report: dict[str, Any] = {"protocol": protocol, "suites": {}}
    videos: dict[str, dict[str, Tensor]] = {}
    for name in shared:
        suites = {side: run["suites"][name] for side, run in runs.items()}
        report["suites"][name] = _suite(suites, keyed_generator(config.seed, name))
        videos[name] = {
            side: read_kept(Path(runs[side]["protocol"]["clips"]), [v["key"] for v in s["videos"]])
            for side, s in suites.items()
        }
    report["enough"] = _enough(report, runs)
    report["rows"] = _settings_of(report["protocol"], names)
    output = Path(config.output)
    save_config(config, output / "config.yaml")
    write_text(output / "compare.json", json.dumps(report, indent=1, allow_nan=False))
    text = _markdown(report, names)
    write_text(output / "compare.md", text)
    fps = runs[FIRST]["protocol"]["fps"]
    write_page(output / "page.html", report, videos, fps, config.page_videos)
    return text


def read_report(folder: str) -> dict[str, Any]:
    """What `t2v eval` wrote.

    Raises:
        UserError: it wrote nothing there.
    """
    path = Path(folder, "eval.json")
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). Make it: t2v eval MODEL -o {folder}"
        ) from error


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
    off = b - a
    # equal differences leave nothing to resample: three times 0 does not prove 0
    low, high = bootstrap(off, generator) if off.min() < off.max() else (None, None)
    means = {"a": a.mean().item(), "b": b.mean().item(), "difference": off.mean().item()}
    return means | {"low": low, "high": high, "n": len(a), "chance": paired_p(off, generator)}


def verdict(found: float | None, chance: float, better: str, side: str = "B") -> str:
    """Who is better, or only more where more is neither good nor bad; or that nobody knows."""
    if found is None or chance >= ALPHA or found == 0:
        return NONE
    if better == "":
        return f"{side if found > 0 else FIRST} has more"
    return f"{side if (found > 0) == (better == 'higher') else FIRST} is better"


def _asked_alike(runs: dict[str, dict[str, Any]], names: dict[str, str]) -> list[str]:
    """The suites that all runs share."""
    first, where = runs[FIRST], names[FIRST]
    shared = list(first["suites"])
    for side, run in runs.items():
        for name in SAME:
            if first["protocol"][name] != run["protocol"][name]:
                raise UserError(
                    f"{where} has {name} {first['protocol'][name]}, {names[side]} has "
                    f"{run['protocol'][name]}: they cannot be compared. Evaluate both alike."
                )
        both = [name for name in shared if name in run["suites"]]
        if not both:
            raise UserError(
                f"{where} has the suites {shared}, {names[side]} {list(run['suites'])}: none "
                "in common. Evaluate all on the same."
            )
        shared = both
        for name in shared:
            ours, theirs = first["suites"][name], run["suites"][name]
            if ours["prompts_hash"] != theirs["prompts_hash"]:
                raise UserError(
                    f"The prompts of suite {name} differ: {ours['prompts']} in {where}, "
                    f"{theirs['prompts']} in {names[side]}. Give the same count and seed."
                )
    return shared


def _suite(suites: dict[str, dict[str, Any]], generator: torch.Generator) -> dict[str, Any]:
    """All differences from A in one suite, their tables, and every prompt's largest ones."""
    ours = suites[FIRST]
    others = {side: suite for side, suite in suites.items() if side != FIRST}
    columns = {side: _differences(ours, suite, generator) for side, suite in others.items()}
    cells = [(side, cell) for side, by_name in columns.items() for cell in by_name.values()]
    raised = holm([cell["chance"] for _, cell in cells])
    for (side, cell), chance in zip(cells, raised, strict=True):
        cell["chance_of_all"] = chance
        cell["verdict"] = verdict(cell["difference"], chance, cell["better"], side)
    everywhere = [
        name
        for name in ours["videos"][0]["values"]
        if all(name in by_name for by_name in columns.values())
    ]
    tables = {
        f"{side} and {FIRST}": {name: _row(cell, side) for name, cell in by_name.items()}
        for side, by_name in columns.items()
    }
    return {
        "prompts": ours["prompts"],
        "warnings": [
            f"{side}: {each}" for side, suite in suites.items() for each in suite["warnings"]
        ],
        "ranking": ours["ranking"] if ours["ranking"] in everywhere else None,
        "worst_topics": [],
        "columns": columns,
        "not_compared": [name for name in ours["videos"][0]["values"] if name not in everywhere],
        "tables": {"in short": _short(columns, everywhere)} | tables,
        "videos": [
            _side_by_side(dict(zip(suites, videos, strict=True)), everywhere)
            for videos in zip(*(suite["videos"] for suite in suites.values()), strict=True)
        ],
    }


def _differences(
    ours: dict[str, Any], theirs: dict[str, Any], generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """The difference in each metric that one network measured in both."""
    columns: dict[str, dict[str, Any]] = {}
    for name in ours["videos"][0]["values"]:
        cell, other = (_cell(each, name) for each in (ours, theirs))
        if cell and other and cell["method"] == other["method"]:
            values, others = (
                torch.tensor([_number(video["values"][name]) for video in each["videos"]])
                for each in (ours, theirs)
            )
            columns[name] = difference(values, others, generator) | {"better": cell["better"]}
    return columns


def _cell(suite: dict[str, Any], name: str) -> dict[str, Any] | None:
    family, _, metric = name.partition(".")
    cell = suite["tables"].get(family, {}).get("model", {}).get(metric, {})
    return cell if "method" in cell else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value


def _side_by_side(videos: dict[str, dict[str, Any]], names: list[str]) -> dict[str, Any]:
    """One prompt with the largest difference from A in each metric: sorting shows what was lost."""
    ours, values = videos[FIRST]["values"], {}
    for name in names:
        others = [video["values"][name] for side, video in videos.items() if side != FIRST]
        known = ours[name] is not None and None not in others
        values[name] = max((other - ours[name] for other in others), key=abs) if known else None
    marks = [f"{side} {mark}" for side, video in videos.items() for mark in video["marks"]]
    return {
        "prompt": videos[FIRST]["prompt"],
        "topic": videos[FIRST]["topic"],
        "values": values,
        "marks": marks,
    }


def _row(cell: dict[str, Any], side: str) -> dict[str, Any]:
    """A row of a pair's table, whose cells are texts with a method."""
    shown = {
        FIRST: {"value": cell["a"], "low": None},
        side: {"value": cell["b"], "low": None},
        f"{side} - {FIRST}": {
            "value": cell["difference"],
            "low": cell["low"],
            "high": cell["high"],
        },
        "by luck": {"value": cell["chance_of_all"], "low": None},
        "n": {"value": cell["n"], "low": None},
    }
    method = (
        "means over the prompts that both know; their difference [95 %]; how often luck alone "
        f"gives one as large, raised for all that was asked; under {ALPHA} there is a verdict"
    )
    note = {"better": "", "method": method}
    cells = {name: each | note for name, each in shown.items()}
    return cells | {"verdict": {"text": cell["verdict"], "value": None} | note}


def _short(
    columns: dict[str, dict[str, dict[str, Any]]], names: list[str]
) -> dict[str, dict[str, Any]]:
    """Metrics by runs: the means, and a word where a difference from A is shown."""
    rows: dict[str, dict[str, Any]] = {}
    for name in names:
        cells = {side: by_name[name] for side, by_name in columns.items()}
        first = next(iter(cells.values()))
        if any(cell["difference"] is None for cell in cells.values()):
            continue
        texts = {FIRST: f"{first['a']:.3g}"}
        texts |= {side: f"{cell['b']:.3g}{_word(cell, side)}" for side, cell in cells.items()}
        note: dict[str, Any] = {
            "value": None,
            "better": "",
            "method": f"means; a word where a difference from {FIRST} is shown",
        }
        rows[name] = {side: {"text": text} | note for side, text in texts.items()}
    return rows


def _word(cell: dict[str, Any], side: str) -> str:
    if cell["verdict"] == NONE:
        return ""
    if cell["better"] == "":
        return " more" if cell["verdict"].startswith(side) else " less"
    return f" {BETTER}" if cell["verdict"].startswith(side) else f" {WORSE}"


def _enough(report: dict[str, Any], runs: dict[str, dict[str, Any]]) -> str | None:
    """Of runs of one model that are worse than A in nothing, the cheapest; None of several models.

    What one step costs is known only relative to the same network: two passes with guidance.
    """
    protocols = {side: run["protocol"] for side, run in runs.items()}
    if len({json.dumps(each["weights"], sort_keys=True) for each in protocols.values()}) > 1:
        return None
    passes = {
        side: each["steps"] * (2 if each["guidance"] > 1 else 1) for side, each in protocols.items()
    }
    lost = {
        side
        for suite in report["suites"].values()
        for side, by_name in suite["columns"].items()
        if any(cell["verdict"] == f"{FIRST} is better" for cell in by_name.values())
    }
    fit = {side: count for side, count in passes.items() if side not in lost}
    cheapest = min(fit, key=fit.__getitem__)
    return (
        f"worse than {FIRST} in nothing that was shown: {', '.join(sorted(fit))}; the cheapest of "
        f"them is {cheapest}: steps {protocols[cheapest]['steps']}, guidance "
        f"{protocols[cheapest]['guidance']:g}, {fit[cheapest]} passes of the transformer"
    )


def _settings_of(protocols: dict[str, Any], names: dict[str, str]) -> dict[str, str]:
    """The folder of each run, and what draws differ by."""
    return {
        side: f"{name}, steps {protocols[side]['steps']}, guidance {protocols[side]['guidance']:g}"
        for side, name in names.items()
    }


def _markdown(report: dict[str, Any], names: dict[str, str]) -> str:
    parts = ["\n".join(f"{side}: {text}" for side, text in report["rows"].items()) + "\n"]
    for name, suite in report["suites"].items():
        parts.append(f"## {name}, {suite['prompts']} prompts\n")
        parts += [f"**{warning}**\n" for warning in suite["warnings"]]
        for side, columns in suite["columns"].items():
            parts.append(_pair_table(side, columns))
        if suite["not_compared"]:
            skipped = ", ".join(suite["not_compared"])
            parts.append(f"not compared, measured by other networks or in other ways: {skipped}\n")
        if len(names) > 2:
            parts.append(_short_table(suite["tables"]["in short"], names))
    if report["enough"]:
        parts.append(report["enough"] + "\n")
    return "\n".join(parts)


def _pair_table(side: str, columns: dict[str, dict[str, Any]]) -> str:
    heads = f"| | {FIRST} | {side} | {side} - {FIRST} [95 %] | by luck | n | verdict |"
    lines = [heads, "| --- |" + " --- |" * 6]
    for metric, c in columns.items():
        if c["difference"] is not None:
            lines.append(
                f"| {metric} | {c['a']:.3g} | {c['b']:.3g} | {c['difference']:+.3g}{_interval(c)} "
                f"| {c['chance_of_all']:.2g} | {c['n']} | {c['verdict']} |"
            )
    return "\n".join(lines) + "\n"


def _interval(cell: dict[str, Any]) -> str:
    return "" if cell["low"] is None else f" [{cell['low']:+.3g}, {cell['high']:+.3g}]"


def _short_table(rows: dict[str, dict[str, Any]], names: dict[str, str]) -> str:
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for metric, cells in rows.items():
        lines.append(f"| {metric} | " + " | ".join(cell["text"] for cell in cells.values()) + " |")
    return "\n".join(lines) + "\n"
