"""Facts of trainings, read from their folders: how far they are, how fast, what they say."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, is_dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from t2v.config.load import MARK, settings
from t2v.config.written import wrote_config
from t2v.errors import UserError
from t2v.io.holders import is_held, lock_of
from t2v.io.text_files import MOST_YAML, Plain, parse_yaml, read_json, read_text
from t2v.outputs import FAILED, OUTPUTS
from t2v.serve.errors import Refused
from t2v.studio.records import Record, Records, tail
from t2v.studio.shelf import Run, own_file

CONFIG, METRICS, VALIDATIONS = "config.yaml", "metrics.jsonl", "validations.jsonl"
RECENT = 50  # steps that tell the pace
QUIET = 600.0  # seconds without a line after which a lock of another machine is not believed
MOST_STEPS = 1e12  # beyond it a number is none of a training
SHEET = re.compile(r"\d{6,12}\.png")
_TRAININGS = {schema: about.command for schema, about in OUTPUTS.items() if METRICS in about.names}


@dataclass(frozen=True)
class Facts:
    """A training in short.

    Args:
        command: that writes it; empty where its settings are of none.
        steps: to be done in all; 0: unknown.
        state: running, finished, failed, stopped, or killed: its lock outlived it.
        samples: a second; None: no steps yet.
        left: seconds; None where it does not run.
        verdict: of the last validation, a word and the sentence.
        failure: the message that it ended with.
        problem: a file of it that cannot be read.
    """

    run: Run
    command: str
    step: int
    steps: int
    state: str
    samples: float | None
    left: float | None
    verdict: tuple[str, str]
    failure: str
    problem: str


def facts(run: Run) -> Facts:
    """The facts of a training now, of its last lines alone."""
    problem, config = "", {}
    lines: list[dict[str, Any]] = []
    last = None
    try:
        config = config_of(run)
    except UserError as error:
        problem = str(error).replace(f"{run.folder}/", "")
    try:
        lines, last = tail(own_file(run, METRICS), RECENT)
    except (OSError, Refused):
        problem = problem or f"{METRICS} cannot be read."
    step = max([_finite(line.get("step")) for line in lines], default=0.0)
    paces = [pace for line in lines if (pace := _finite(line.get("seconds"))) > 0]
    seconds = median(paces) if paces else 0.0
    steps = config.get("steps")
    steps = steps if isinstance(steps, int) and 0 < steps < MOST_STEPS else 0
    state = _state(run, step, steps)
    return Facts(
        run=run,
        command=_command(run),
        step=int(step),
        steps=steps,
        state=state,
        samples=_of_a_step(run, config) / seconds if seconds else None,
        left=seconds * (steps - step) if state == "running" and seconds and steps else None,
        verdict=_verdict(last),
        failure=_failure(run) if state == "failed" else "",
        problem=problem,
    )


def _finite(value: Any) -> float:
    """A number of a line that makes sense as a step or seconds; else 0."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and 0 <= value < MOST_STEPS else 0.0


def record_of(run: Run, records: Records) -> Record:
    """The metrics of a training, up to their last whole line.

    Raises:
        OSError: they cannot be read.
        Refused: they are gone, or a link.
    """
    return records.of(own_file(run, METRICS))


def untrained(run: Run) -> dict[str, float]:
    """The figures of a training's validation before its first step, by name."""
    try:
        with own_file(run, VALIDATIONS).open("rb") as file:
            first = json.loads(file.readline(2**24))
        figures = first["figures"] if first["step"] == 0 else {}
        return {name: float(value) for name, value in figures.items() if math.isfinite(value)}
    except (OSError, Refused, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}  # none was kept, or its line is torn


def sheets(run: Run) -> list[int]:
    """The steps of which there is a sheet of samples."""
    folder = run.folder / "sheets"
    if folder.is_symlink() or not folder.is_dir():
        return []
    names = (path.name for path in folder.iterdir())
    return sorted(int(name.removesuffix(".png")) for name in names if SHEET.fullmatch(name))


def config_of(run: Run) -> dict[str, Any]:
    """The settings of a training by their dotted names.

    Raises:
        UserError: they cannot be read.
    """
    try:
        path = own_file(run, CONFIG)
        return _config_at(path, path.stat().st_mtime_ns)
    except (Refused, OSError) as error:
        raise UserError(f"{CONFIG}: cannot be read now.") from error


@lru_cache(maxsize=2000)  # a file of YAML takes as long as a thousand lines of metrics
def _config_at(path: Path, changed: int) -> dict[str, Any]:
    found = parse_yaml(read_text(path, most=4 * MOST_YAML), CONFIG)
    return _flat(found) if isinstance(found, dict) else {}


def defaults_of(run: Run) -> dict[str, Any]:
    """The defaults of a training's command by their dotted names; none where that is unknown."""
    schema = _schema(run)
    if schema is None:
        return {}
    known = {name: each for name, (_, each) in settings(schema).items()}
    return {name: None if each is MISSING else _plain(each) for name, each in known.items()}


def _command(run: Run) -> str:
    schema = _schema(run)
    return "" if schema is None else _TRAININGS[schema]


def _schema(run: Run) -> type | None:
    path = run.folder / CONFIG
    try:
        return _schema_at(path, path.stat().st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=1000)
def _schema_at(path: Path, changed: int) -> type | None:
    try:
        with path.open(encoding="utf-8") as file:
            first = file.readline(200)
    except (OSError, UnicodeDecodeError):
        return None
    if first.startswith(MARK):
        name = first.removeprefix(MARK).strip()
        known = ((s, (s.__name__, *getattr(s, "FORMERLY", ()))) for s in _TRAININGS)
        return next((schema for schema, names in known if name in names), None)
    return next((schema for schema in _TRAININGS if wrote_config(path, schema)), None)


def _state(run: Run, step: float, steps: int) -> str:
    told = lock_of(run.folder)
    held = None if told is None else is_held(told)
    if told is not None and held is None:  # another machine's, which ends with its lines
        held = time.time() - run.changed < QUIET
    if held:
        return "running"
    if steps and step >= steps:
        return "finished"
    if told is not None:
        return "killed"
    return "failed" if _failure(run) else "stopped"


def _failure(run: Run) -> str:
    try:
        message = read_json(own_file(run, FAILED), most=100_000)["message"]
    except (Refused, UserError, KeyError, TypeError):
        return ""
    return message[:1000] if isinstance(message, str) else ""


def _of_a_step(run: Run, config: dict[str, Any]) -> int:
    """The samples of a step: of all processes, as the newest checkpoint tells, or of one."""
    shards: Any = config.get("accumulate", 1)
    for folder in sorted(run.folder.glob("checkpoint-*"), reverse=True)[:1]:
        try:
            shards = read_json(folder / "training" / "state.json", most=100_000).get("shards", 1)
        except (UserError, AttributeError):
            break
    numbers = [each for each in (config.get("batch_size"), shards) if isinstance(each, int)]
    return max(1, math.prod(numbers)) if numbers else 1


def _verdict(line: Mapping[str, Any] | None) -> tuple[str, str]:
    sentence = line["verdict"] if line else ""
    return sentence.partition(":")[0][:60], sentence[:1000]


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        name = f"{prefix}{name}"
        found |= _flat(value, f"{name}.") if isinstance(value, dict) else {name: _plain(value)}
    return found


def _plain(value: Any) -> Any:
    """A value of YAML or of a dataclass in the types of JSON."""
    if isinstance(value, Plain):
        return value.value
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {str(name): _plain(each) for name, each in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return _plain(asdict(value))
    return str(value) if isinstance(value, Path) else value
