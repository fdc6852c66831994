"""The films inside a self-contained page, found and served one by one."""

from __future__ import annotations

import base64
import html
import mmap
import re
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

from starlette.requests import Request
from starlette.responses import Response

from t2v.serve.errors import Refused
from t2v.studio.asked import whole

MOST_BYTES = 2**32  # of a page
MOST_FILMS = 999_999  # of a page
MOST_KEPT = 50  # pages whose films are known
_TABLE = rb'<table class="videos"><thead><tr>(?P<heads>(?:<th>[^<]{0,200}</th>)*)<th data-sort>'
_PART = re.compile(
    _TABLE + rb'|(?P<row><tr><td>)|<video [^>]{0,200}?src="data:video/mp4;base64,'
    rb'(?P<film>[A-Za-z0-9+/=]*)"'
)
_HEAD = re.compile(rb"<th>([^<]*)</th>")
_RANGE = re.compile(r"bytes=([0-9]{0,15})-([0-9]{0,15})")


@dataclass(frozen=True)
class Suite:
    """The films of a suite on its page.

    Args:
        rows: names of the films that stand side by side.
        videos: how many rows of films.
        first: the number of its first film on the page.
    """

    rows: tuple[str, ...]
    videos: int
    first: int


@dataclass(frozen=True)
class Films:
    """The films of a page.

    Args:
        spans: where each begins and ends in the file, as base64.
    """

    suites: tuple[Suite, ...]
    spans: tuple[tuple[int, int], ...]


class PageFilms:
    """The films of the pages that were looked at, found once a page."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Path, int, int], Films] = OrderedDict()
        self._turn = Lock()

    def films(self, path: Path) -> Films:
        """The films of a page.

        Raises:
            Refused: it cannot be read, or is too long.
        """
        try:
            about = path.stat()
            key = (path, about.st_mtime_ns, about.st_size)
            with self._turn:
                if key not in self._kept:
                    self._kept[key] = _found(path, about.st_size)
                    while len(self._kept) > MOST_KEPT:
                        self._kept.popitem(last=False)
                return self._kept[key]
        except OSError as error:
            raise Refused(409, "The page cannot be read now; try again.", "busy") from error

    def film(self, path: Path, request: Request) -> Response:
        """The film of a page whose `number` a path asks for, or the part that a player wants.

        Raises:
            Refused: there is none of this number.
        """
        number = whole("number", request.path_params["number"], 0, MOST_FILMS)
        spans = self.films(path).spans
        if number >= len(spans):
            raise Refused(404, "There is no such film.", "film_not_found")
        begin, end = spans[number]
        try:
            with path.open("rb") as file:
                file.seek(begin)
                content = base64.b64decode(file.read(end - begin))
        except (OSError, ValueError) as error:
            raise Refused(409, "The film cannot be read now; try again.", "busy") from error
        return _part(content, request.headers.get("range", ""))


def _found(path: Path, size: int) -> Films:
    if size > MOST_BYTES:
        message = f"The page has {size:,} bytes, and at most {MOST_BYTES:,} are read."
        raise Refused(413, message, "page_too_large")
    if size == 0:
        return Films((), ())
    heads: list[tuple[str, ...]] = []
    firsts: list[int] = []
    counts: list[int] = []
    spans: list[tuple[int, int]] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as text:
        for match in _PART.finditer(text):
            if match["heads"] is not None:
                names = [each.decode("utf-8", "replace") for each in _HEAD.findall(match["heads"])]
                heads.append(tuple(map(html.unescape, names)))
                firsts.append(len(spans))
                counts.append(0)
            elif match["film"] is not None:
                spans.append(match.span("film"))
            if match["row"] is not None and counts:
                counts[-1] += 1
    suites = map(Suite, heads, counts, firsts)
    return Films(tuple(suites), tuple(spans))


def _part(content: bytes, wanted: str) -> Response:
    """A film, or a part: without parts a browser cannot go back to its beginning."""
    headers = {"Accept-Ranges": "bytes", "Cache-Control": "private, max-age=3600"}
    match = _RANGE.fullmatch(wanted)
    if match is None or not (match[1] or match[2]):
        return Response(content, media_type="video/mp4", headers=headers)
    last = len(content) - 1
    begin = int(match[1]) if match[1] else max(0, len(content) - int(match[2]))
    end = min(last, int(match[2])) if match[1] and match[2] else last
    if begin > end:
        headers["Content-Range"] = f"bytes */{len(content)}"
        return Response(status_code=416, headers=headers)
    headers["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
    return Response(content[begin : end + 1], 206, media_type="video/mp4", headers=headers)
