"""`t2v queue` on the command line: jobs are added, listed, changed, and worked on."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from typing import Any

from t2v.cli import sample
from t2v.errors import UserError, shortened
from t2v.io.addresses import shown, shown_in

ACTIONS = ("add", "list", "edit", "move", "duplicate", "cancel", "retry", "clear")
WIDTH = 60  # characters of a prompt in the table
REASON = 200  # characters of why a job failed


def queue(args: argparse.Namespace, overrides: list[str]) -> None:
    """Carry out a command line about a queue, and print what came of it."""
    action, folder, words = _words(args.prompts)
    if action not in ("add", "edit", "duplicate", "retry") and overrides:
        raise UserError(f"{overrides[0]}: settings go with add, edit, duplicate and retry.")
    if args.json and action != "list":
        raise UserError(f"--json goes with `t2v queue list`, not with {action}.")
    if action == "add":
        args.prompts, args.queue = words, folder
        sample.sample(args, overrides)
        return
    from t2v.queue.folder import ENDED, Queue

    place = Queue(folder)
    if action == "list":
        _list(place, _states(words), args.json)
    elif action == "clear":
        print(f"{place.clear(_states(words) or ENDED)} jobs are forgotten")
    else:
        _change(place, action, words, overrides)


def _words(words: Sequence[str]) -> tuple[str, str, list[str]]:
    """The action, the folder and what follows."""
    if not words or words[0] not in ACTIONS:
        given = shortened(repr(words[0])) if words else "nothing"
        raise UserError(
            f"{given} is no action of a queue. Give one of {', '.join(ACTIONS)}, or `t2v queue run "
            "FOLDER` for a worker."
        )
    if len(words) < 2:
        raise UserError(f"queue {words[0]}: give the folder of the queue next.")
    return words[0], words[1], list(words[2:])


def _states(words: Sequence[str]) -> Any:
    from t2v.queue.job import STATES

    if unknown := [each for each in words if each not in STATES]:
        raise UserError(f"{shortened(unknown[0])}: no state. Allowed: {', '.join(STATES)}.")
    return words


def _list(place: Any, states: Any, as_json: bool) -> None:
    from t2v.queue.job import STATES

    jobs = place.jobs(states or STATES)
    if as_json:
        print(json.dumps(shown_in([as_json_of(job) for job in jobs]), indent=1))
        return
    counts = {state: sum(job.state == state for job in jobs) for state in STATES}
    for job in jobs:
        print(shown(_row(job)))
    print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no jobs")


def as_json_of(job: Any) -> dict[str, Any]:
    """A job as `t2v queue list --json` prints it."""
    return {
        "id": job.id,
        "state": job.state,
        "position": job.position,
        "prompt": job.prompt,
        "settings": job.settings,
        "output": str(job.output),
        "problem": job.problem,
        "progress": job.progress,
        "result": job.result,
        "has_worker": job.has_worker,
    }


def _row(job: Any) -> str:
    """A line of the table: id, state, position, progress, seconds, prompt."""
    from t2v.io.text_files import one_line
    from t2v.queue.store import number

    position = "" if job.position is None else str(job.position)
    share, told, note = "", job.result, job.prompt
    if job.state == "running":
        told = job.progress
        share = f"{100 * number(told, 'share'):.0f} %" if job.has_worker else "no worker"
    if job.state == "failed":
        note = job.result.get("message")
    # of a job that failed, why: without the file that it was in, and longer
    reason = re.sub(r"^\S*/\d{16}-[0-9a-f]{32}\.json: ", "", str(note or job.problem))
    shown = " ".join(one_line(reason).split())[: REASON if job.state == "failed" else WIDTH]
    seconds = f"{number(told, 'seconds'):.0f} s" if "seconds" in told else ""
    return f"{job.id[:8]}  {job.state:<9} {position:>5} {share:>9} {seconds:>7}  {shown}"


def _change(place: Any, action: str, words: Sequence[str], overrides: Sequence[str]) -> None:
    if not words:
        raise UserError(f"queue {action}: give the id of a job, as `t2v queue list` shows it.")
    id, rest = words[0], list(words[1:])
    if action == "move":
        job = place.move(id, _position(rest))
        print(f"{job.id[:8]}  position {job.position}")
        return
    if action == "cancel":
        for each in words:
            print(f"{place.cancel(each).id[:8]}  cancelled")
        return
    if len(rest) > 1:
        raise UserError(f"{action}: {shortened(repr(rest[1]))} is too much. One prompt is taken.")
    prompt = rest[0] if rest else None
    if action == "edit" and prompt is None and not overrides:
        raise UserError("edit: give another prompt, or settings as name=value.")
    if action == "duplicate":
        print(place.duplicate(id, prompt, overrides))
        return
    job = (place.edit if action == "edit" else place.retry)(id, prompt, overrides)
    print(f"{job.id[:8]}  {job.state}{f', position {job.position}' if job.position else ''}")


def _position(words: Sequence[str]) -> int:
    named = {"first": 1, "last": sys.maxsize}
    if len(words) == 1 and (words[0] in named or words[0].isdecimal()):
        return named.get(words[0]) or int(words[0][:18])
    raise UserError("move: give the job and its new position: first, last or a number from 1.")
