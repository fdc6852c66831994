"""Clips that cannot be used: dropped with a reason, listed in a ledger, counted by kind."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from t2v.errors import UserError
from t2v.io.addresses import address_of, shown
from t2v.io.files import write_bytes
from t2v.io.manifest import Clip

logger = logging.getLogger(__name__)

WARNINGS = 10  # at most; the ledger has all
DROPPED_BY = "data"  # beside the names of curation stages
NO_CAPTION = 'no caption: give one in "caption", or in a .txt beside it'
OTHER_FILE = "another file: its sha256 is not the one of the manifest"
NO_FILE = "no file: it is missing, or there is no permission to read it"


def drop(clips: Sequence[Clip], reasons: dict[int, str], ledger: Path) -> list[Clip]:
    """Drop some clips, by their numbers; the ledger then lists all that are dropped.

    Raises:
        UserError: no clip is left; the reasons are counted.
    """
    marked = [
        clip.drop(DROPPED_BY, reasons[number]) if number in reasons else clip
        for number, clip in enumerate(clips)
    ]
    _write_ledger(ledger, marked)
    for number, reason in list(reasons.items())[:WARNINGS]:
        logger.warning("left out: %s: %s", shown(clips[number].path), reason)
    if len(reasons) > WARNINGS:
        logger.warning("left out: %d more, see %s", len(reasons) - WARNINGS, ledger)
    _refuse_if_none_left(marked)
    return marked


def refuse_unusable(clips: Sequence[Clip]) -> None:
    """Raise UserError where rows and files say at a glance that no clip can be encoded."""
    _refuse_if_none_left(
        [
            clip.drop(DROPPED_BY, reason) if not clip.dropped and (reason := _fault(clip)) else clip
            for clip in clips
        ]
    )


def _fault(clip: Clip) -> str:
    if not clip.texts():
        return NO_CAPTION
    is_known = clip.sha256 or address_of(clip.path) or Path(clip.path).is_file()
    return "" if is_known else NO_FILE


def count_reasons(clips: Sequence[Clip]) -> dict[str, int]:
    """Count dropped clips by stage and kind of reason, the commonest first."""
    # a reason is a kind, and details behind a colon or in parentheses
    kinds = (f"{c.dropped}: {re.split('[:(]', c.reason)[0].strip()}" for c in clips if c.dropped)
    return dict(Counter(kinds).most_common())


def _refuse_if_none_left(clips: Sequence[Clip]) -> None:
    if all(clip.dropped for clip in clips):
        counted = "; ".join(f"{count} x {kind}" for kind, count in count_reasons(clips).items())
        raise UserError(
            f"None of the {len(clips)} clips can be used ({counted}). The first: "
            f"{clips[0].reason}. Fix the clips, or the settings clips.*."
        )


def _write_ledger(path: Path, clips: Sequence[Clip]) -> None:
    """Write one line for each clip that cannot be used: path, start, end, reason.

    Nothing is written where nothing changes: the folder may be read-only.
    """
    names = ("path", "start", "end", "dropped", "reason")
    rows = [{name: getattr(clip, name) for name in names} for clip in clips if clip.dropped]
    text = shown("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    data = text.encode("utf-8", errors="backslashreplace")  # as `write_text` writes it
    if data != (path.read_bytes() if path.is_file() else b""):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, data)
