"""`Clip`, one row of a dataset, and the files that hold clips: a manifest, or a media folder."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from t2v.errors import UserError, shortened
from t2v.io.addresses import address_of, is_outside, named_by, shown
from t2v.io.files import complete
from t2v.io.text_files import parse_json, read_text

logger = logging.getLogger(__name__)

MANIFEST = "manifest.jsonl"
NEEDS_GIVEN = "needs_given"  # true in a row: its captions leave the look open (see `GivenChoice`)
SUBJECTS = "subjects"  # in a row: what its clip shows, in the same words in every row that does
REFERRING = "referring"  # in a row: captions that leave open what the subjects are ("it moves")
MOST = 1e15  # of any number of a row; NaN is not below it either
VIDEO_SUFFIXES = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".gif"}
IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
SHARD_SUFFIX = ".safetensors"  # of the files in which `t2v world` keeps its clips


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A span of a media file, what is known of it, and what became of it.

    In memory `path` is absolute, so that a clip can move between manifests; on disk it is relative
    to the manifest's folder where it lies inside. What is not known is None or empty. Keys of a
    row that are no field here wait in `extra` and are written back.
    """

    path: str
    start: float = 0.0  # seconds on the file's own clock, counted from its first frame
    end: float | None = None  # None: to the end of the file
    fps: float | None = None  # average over the file
    width: int | None = None  # as shown: upright, with square pixels
    height: int | None = None
    num_frames: int | None = None  # of the span
    caption: str = ""
    captions: tuple[str, ...] = ()  # all of them, `caption` among them
    scores: dict[str, float] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    source: str = ""
    license: str = ""
    sha256: str = ""  # of the file's bytes
    dropped: str = ""  # the name of what dropped it (a curation stage); empty: kept
    reason: str = ""  # why, in words
    extra: dict[str, Any] = field(default_factory=dict)

    def drop(self, by: str, reason: str) -> Clip:
        """This clip as one that is not to be used."""
        return replace(self, dropped=by, reason=reason)

    @property
    def is_rendered(self) -> bool:
        """True in a shard of `t2v world`, whose clips have a size and a rate of their own."""
        return self.path.endswith(SHARD_SUFFIX)

    def texts(self) -> tuple[str, ...]:
        """Every caption, or none."""
        return self.captions or ((self.caption,) if self.caption else ())


def read_manifest(path: str | Path) -> list[Clip]:
    """The clips of a JSONL file, of a folder with `manifest.jsonl`, or of a folder of media files.

    In a folder of media files each one is a clip in the order of their names; the lines of
    `x.txt` beside `x.mp4` are its captions.

    Raises:
        UserError: there is nothing to read, or a line is no clip; file and line are named.
    """
    path = Path(path)
    if path.is_dir():
        manifest = path / MANIFEST
        return read_manifest(manifest) if manifest.is_file() else _media_folder(path)
    try:
        # only a newline ends a row: U+2028 and its like may stand in a name
        lines = read_text(path).split("\n")
    except UserError as error:
        raise UserError(
            f"{error} So it cannot be read as a manifest. Give a JSONL file of clips, "
            f"a folder with {MANIFEST}, or a folder of videos and their captions (x.mp4, x.txt)."
        ) from error
    base = address_of(path.parent)
    clips = [
        _clip(line, path.parent, base, f"{path} line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not clips:
        raise UserError(f"{path} lists no clips.")
    if outside := [each.path for each in clips if is_outside(each.path) and not each.dropped]:
        logger.warning(
            "%s: %d of %d clips are not looked for, the first at %s: a manifest names files by a "
            "path or a plain address, one at an address those of its own bucket alone",
            *(path, len(outside), len(clips), shown(outside[0])),
        )
    return clips


def manifest_of(data: str | Path) -> Path:
    """The manifest that `data` names: itself, or `manifest.jsonl` in a folder."""
    return Path(data) / MANIFEST if Path(data).is_dir() else Path(data)


def is_rendered(data: str | Path) -> bool:
    """True for a folder of `t2v world`, by the first row of its manifest."""
    manifest = manifest_of(data)
    if not manifest.is_file():
        return False
    with manifest.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return False  # `read_manifest` will name the line
    return isinstance(row, dict) and str(row.get("path", row.get("shard"))).endswith(SHARD_SUFFIX)


def write_manifest(path: Path, clips: Iterable[Clip]) -> None:
    """Write one row a clip in the given order, under a temporary name until all are written.

    Equal clips give equal bytes: keys are sorted and every field is written.
    """
    folder = Path(_absolute(path.parent))
    # bytes that are no text in a name become JSON escapes: \udcff
    with (
        complete(path) as partial,
        partial.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file,
    ):
        for clip in clips:
            row = {each.name: getattr(clip, each.name) for each in fields(Clip)}
            row |= {"path": _relative(clip.path, folder)} | row.pop("extra")
            file.write(json.dumps(row, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n")


def _absolute(path: str | Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100  resolve() would follow links out of the folder


def _relative(path: str, folder: Path) -> str:
    if is_outside(path):
        return shown(path)
    absolute = Path(_absolute(path))
    is_away = address_of(absolute) is not None and address_of(folder) is None
    inside = absolute.is_relative_to(folder) and not is_away  # where the cache is in the folder
    return absolute.relative_to(folder).as_posix() if inside else shown(absolute.as_posix())


def _media_folder(folder: Path) -> list[Clip]:
    media = sorted(
        each
        for each in folder.rglob("*")
        if each.suffix.lower() in VIDEO_SUFFIXES | IMAGE_SUFFIXES and not each.name.startswith(".")
    )
    if not media:
        raise UserError(
            f"{folder} holds neither {MANIFEST} nor videos or images "
            f"({' '.join(sorted(VIDEO_SUFFIXES | IMAGE_SUFFIXES))}). "
            "If it is to hold clips of `t2v world`, run that command to its end."
        )
    return [_with_sidecar(Path(_absolute(each))) for each in media]


def _with_sidecar(path: Path) -> Clip:
    sidecar = path.with_suffix(".txt")
    text = read_text(sidecar) if sidecar.exists() else ""
    captions = tuple(line.strip() for line in text.splitlines() if line.strip())
    return Clip(path=str(path), caption=captions[0] if captions else "", captions=captions)


def _clip(line: str, folder: Path, base: str | None, where: str) -> Clip:
    row = parse_json(line, where)
    if not isinstance(row, dict):
        raise UserError(f"{where}: holds {line.strip()[:40]}; a clip is a JSON object.")
    row = row if "path" in row else row | {"path": row.get("shard", "")}  # a clip of `t2v world`
    for name, (wanted, is_right) in _RULES.items():
        if name in row and not is_right(row[name]):
            raise UserError(f"{where}: {name}={shortened(repr(row[name]))} should be {wanted}.")
    if not row["path"]:
        raise UserError(f'{where}: names no file. Add "path", relative to {folder} or absolute.')
    if row.get("end") is not None and row["end"] <= row.get("start", 0.0):
        raise UserError(
            f"{where}: start={row.get('start', 0.0)} end={row['end']}: the end comes first."
        )
    _check_scenes(row, where)
    given = {name: value for name, value in row.items() if name in _KNOWN}
    given |= {name: tuple(given[name]) for name in ("captions", "tags") if name in given}
    given["path"] = named_by(folder, base, row["path"])
    return Clip(**given, extra={name: value for name, value in row.items() if name not in _KNOWN})


def _check_scenes(row: dict[str, Any], where: str) -> None:
    """Raise `UserError` where the scenes of a row do not follow each other within its frames."""
    last = 0
    for scene in row.get("scenes", ()):
        if scene["start"] < last or scene["end"] <= scene["start"]:
            raise UserError(
                f"{where}: a scene from frame {scene['start']} to {scene['end']} behind frame "
                f"{last}. Scenes come in order: each ends later than it starts, and none starts "
                "before the last one ends."
            )
        last = scene["end"]
    if (row.get("num_frames") or last) < last:
        raise UserError(
            f"{where}: its scenes end at frame {last}, and the clip has {row['num_frames']}."
        )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < MOST


def _is_count(value: Any) -> bool:
    return value is None or (
        isinstance(value, int) and not isinstance(value, bool) and 0 < value < MOST
    )


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and "\0" not in value


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _are_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _are_scenes(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(each, dict)
        and all(type(each.get(name)) is int and 0 <= each[name] < MOST for name in ("start", "end"))
        and isinstance(each.get("caption"), str)
        for each in value
    )


_KNOWN = {each.name for each in fields(Clip)} - {"extra"}  # the others wait in `extra`
_COUNT = ("a whole number from 1, or null", _is_count)
_TEXT = ("text", _is_text)
_TEXTS = ("a list of texts", _are_texts)
_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "start": ("seconds from 0", lambda value: _is_number(value) and value >= 0),
    "end": ("seconds, or null", lambda value: value is None or _is_number(value)),
    "fps": ("more than 0, or null", lambda v: v is None or (_is_number(v) and v > 0)),
    "scores": ("numbers by name", _are_scores),
    "scenes": ("a list of scenes with start and end (frames) and caption", _are_scenes),
    NEEDS_GIVEN: ("true or false", lambda value: isinstance(value, bool)),
    **dict.fromkeys(("width", "height", "num_frames"), _COUNT),
    **dict.fromkeys(("captions", "tags", SUBJECTS, REFERRING), _TEXTS),
    **dict.fromkeys(("path", "caption", "source", "license", "sha256", "dropped", "reason"), _TEXT),
}
