"""`t2v eval compare A B ...`: evaluations compared with the first, prompt by prompt."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from string import ascii_uppercase
from typing import Any

import torch
from torch import Tensor

from t2v.config.evaluation import CompareConfig
from t2v.config.load import save_config
from t2v.config.story import WindowsConfig
from t2v.data.cache import read_kept
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.ballots import ballot_of, pairs_of
from t2v.evaluation.differences import difference
from t2v.evaluation.intervals import holm
from t2v.evaluation.report.comparison import (
    SUMMARY,
    comparison_markdown,
    pair_rows,
    summary_rows,
)
from t2v.evaluation.report.page import write_page
from t2v.evaluation.report.vote import write_vote_page
from t2v.evaluation.verdicts import FIRST, conclusion
from t2v.evaluation.votes import BALLOT, PAGE
from t2v.io.files import write_text
from t2v.io.text_files import read_json
from t2v.outputs import output_folder

SAME = ("size", "fps")  # parts of the protocol without which figures cannot be compared


def compare(config: CompareConfig) -> str:
    """Compare the model's videos of folders of `t2v eval` with those of the first, A, by prompt.

    Each metric of each other folder gets the mean difference from A with a 95 % interval (BCa
    bootstrap), a p-value (McNemar's exact test for shares, else signs flipped at random), adjusted
    for the number of metrics and folders (Holm), and a verdict at 5 %. Of the folders that are not
    shown to be worse than A, the one with the fewest passes of the transformer is named. Writes
    `compare.json`, `compare.md`, `page.html`, and for a blind vote `vote.html` with `ballot.json`;
    returns the tables.

    Raises:
        UserError: a folder holds no finished evaluation, or their prompts differ.
    """
    with output_folder(config) as config:
        return _compare(config)


def _compare(config: CompareConfig) -> str:
    names = dict(zip(ascii_uppercase, config.runs, strict=False))
    runs = {side: read_report(run) for side, run in names.items()}
    shared = _shared_suites(runs, names)
    protocol = {"title": "t2v eval compare"} | {side: run["protocol"] for side, run in runs.items()}
    report: dict[str, Any] = {"protocol": protocol, "suites": {}}
    videos: dict[str, dict[str, Tensor]] = {}
    for name in shared:
        suites = {side: run["suites"][name] for side, run in runs.items()}
        report["suites"][name] = _compare_suite(suites, keyed_generator(config.seed, name))
        videos[name] = {
            side: read_kept(Path(runs[side]["protocol"]["clips"]), [v["key"] for v in s["videos"]])
            for side, s in suites.items()
        }
    report["enough"], report["vote"] = _cheapest(report, runs), PAGE
    report["rows"] = {
        side: f"{names[side]}, {_sampling(run['protocol'])}" for side, run in runs.items()
    }
    output = Path(config.output)
    save_config(config, output / "config.yaml")
    write_text(output / "compare.json", json.dumps(report, indent=1, allow_nan=False))
    text = comparison_markdown(report, names)
    write_text(output / "compare.md", text)
    fps = runs[FIRST]["protocol"]["fps"]
    write_page(output / "page.html", report, videos, fps, config.page_videos)
    _write_ballot(output, report, runs, videos, names, config)
    return text


def _write_ballot(
    output: Path,
    report: dict[str, Any],
    runs: dict[str, dict[str, Any]],
    videos: dict[str, dict[str, Tensor]],
    names: dict[str, str],
    config: CompareConfig,
) -> None:
    """The page for a blind vote, and the file that says which video is of which run."""
    suites = {
        name: [video["prompt"] for video in each["videos"]]
        for name, each in report["suites"].items()
    }
    pairs = pairs_of(suites, list(names), config.seed, config.page_videos)
    compared = [run["suites"][name] for run in runs.values() for name in suites]
    keys = [video["key"] for suite in compared for video in suite["videos"]]
    ballot = ballot_of(pairs, keys, names)
    write_text(output / BALLOT, json.dumps(ballot, indent=1))
    write_vote_page(output / PAGE, ballot, pairs, videos, runs[FIRST]["protocol"]["fps"])


def read_report(folder: str) -> dict[str, Any]:
    """Return what `t2v eval` wrote into a folder.

    Raises:
        UserError: there is nothing of it.
    """
    path = Path(folder, "eval.json")
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise UserError(
            f"{path}: cannot be read ({error}). Make it: t2v eval MODEL -o {folder}"
        ) from error


def _shared_suites(runs: dict[str, dict[str, Any]], names: dict[str, str]) -> list[str]:
    """The suites that all runs share, measured at one size on the same prompts."""
    first, where = runs[FIRST], names[FIRST]
    shared = list(first["suites"])
    for side, run in runs.items():
        for name in SAME:
            if first["protocol"][name] != run["protocol"][name]:
                raise UserError(
                    f"{where} has {name} {first['protocol'][name]}, {names[side]} has "
                    f"{run['protocol'][name]}: they cannot be compared. Evaluate both "
                    "at one size and frame rate."
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


def _compare_suite(suites: dict[str, dict[str, Any]], generator: torch.Generator) -> dict[str, Any]:
    """The differences from A in one suite, their tables, and the largest ones of every prompt."""
    ours = suites[FIRST]
    others = {side: suite for side, suite in suites.items() if side != FIRST}
    columns = {side: _differences(ours, suite, generator) for side, suite in others.items()}
    cells = [(side, cell) for side, by_name in columns.items() for cell in by_name.values()]
    adjusted = holm([cell["chance"] for _, cell in cells])
    for (side, cell), p in zip(cells, adjusted, strict=True):
        cell["chance_of_all"] = p
        cell["verdict"] = conclusion(cell["difference"], p, cell["better"], side)
    everywhere = [
        name
        for name in ours["videos"][0]["values"]
        if all(name in by_name for by_name in columns.values())
    ]
    tables = {f"{side} and {FIRST}": pair_rows(each, side) for side, each in columns.items()}
    return {
        "prompts": ours["prompts"],
        "warnings": [
            f"{side}: {each}" for side, suite in suites.items() for each in suite["warnings"]
        ],
        "ranking": ours["ranking"] if ours["ranking"] in everywhere else None,
        "worst_topics": [],
        "columns": columns,
        "not_compared": [name for name in ours["videos"][0]["values"] if name not in everywhere],
        "tables": {SUMMARY: summary_rows(columns, everywhere)} | tables,
        "videos": [
            _side_by_side(dict(zip(suites, videos, strict=True)), everywhere)
            for videos in zip(*(suite["videos"] for suite in suites.values()), strict=True)
        ],
    }


def _differences(
    ours: dict[str, Any], theirs: dict[str, Any], generator: torch.Generator
) -> dict[str, dict[str, Any]]:
    """The difference in each metric that both measured by the same network and method."""
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
    """One prompt with its largest difference from A in each metric, by which the page sorts."""
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


def _cheapest(report: dict[str, Any], runs: dict[str, dict[str, Any]]) -> str | None:
    """Of the runs that are nowhere worse than A, the cheapest, in words; None of several models.

    The cost of a step is known only relative to the same network: two passes with guidance, one
    outside its interval. What a cache leaves out is not known.
    """
    protocols = {side: run["protocol"] for side, run in runs.items()}
    if len({json.dumps(each["weights"], sort_keys=True) for each in protocols.values()}) > 1:
        return None
    if any(each["steps"] is None or "cache" in each for each in protocols.values()):
        return None
    passes = {side: _passes(each) for side, each in protocols.items()}
    worse = {
        side
        for suite in report["suites"].values()
        for side, by_name in suite["columns"].items()
        if any(cell["verdict"] == f"{FIRST} is better" for cell in by_name.values())
    }
    fit = {side: count for side, count in passes.items() if side not in worse}
    cheapest = min(fit, key=fit.__getitem__)
    count = fit[cheapest]
    return (
        f"Not shown to be worse than {FIRST} in any metric: {', '.join(sorted(fit))}. The cheapest "
        f"is {cheapest}: {_sampling(protocols[cheapest])}, {count} transformer "
        f"pass{'es' if count > 1 else ''}."
    )


def _passes(protocol: dict[str, Any]) -> int:
    """The passes of the transformer for a video."""
    steps: int = protocol["steps"]
    if (protocol["guidance"] or 0) <= 1:
        return steps
    first, last = (round(share * steps) for share in protocol.get("guidance_interval", (0, 1)))
    return steps + last - first


def _sampling(protocol: dict[str, Any]) -> str:
    """The settings of sampling that runs differ by, in words."""
    named = (("steps", "steps"), ("guidance", "guidance"))
    said = [f"{word} {protocol[key]:g}" for word, key in named if protocol[key] is not None]
    if "cache" in protocol:
        said.append(f"cache {protocol['cache']}")
    if "guidance_interval" in protocol:
        said.append("guidance from {:g} to {:g}".format(*protocol["guidance_interval"]))
    usual = asdict(WindowsConfig())
    windows = protocol.get("windows", usual)
    said += [f"{name} {each}" for name, each in windows.items() if each != usual.get(name)]
    return ", ".join(said) or "the model's own settings"
