"""Text that people wrote, in files: read, as JSON and as YAML, whatever is wrong with it."""

from __future__ import annotations

import codecs
import json
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NoReturn

from t2v.errors import UserError

MOST_BYTES = 2**32  # of a text: a manifest of ten million clips
MOST_YAML = 2**18  # characters of YAML: settings are a page or two, a manifest is JSON
MOST_NODES = 100_000  # of YAML, its aliases written out
DEEPEST = 20  # lists and groups within each other, of YAML
LONGEST_NUMBER = 400  # digits; Python itself reads 4,300 at most
BYTE_ORDER_MARKS = (  # the longer first: UTF-16's is how UTF-32's begins
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# YAML 1.2's core schema (https://yaml.org/spec/1.2.2/#103-core-schema)
NULLS = ("", "~", "null", "Null", "NULL")
BOOLS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
INT = re.compile(r"[-+]?[0-9]+")
OTHER_INT = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
SURROGATE = re.compile("[\ud800-\udfff]")
INFINITE = re.compile(r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")


@dataclass(frozen=True)
class Plain:
    """A scalar of YAML without quotes: the text that was written, and what the text says."""

    text: str

    @property
    def value(self) -> Any:
        """None, a bool, an int or a float where YAML 1.2 reads one, else the text."""
        if self.text in NULLS:
            return None
        if self.text in BOOLS:
            return BOOLS[self.text]
        if len(self.text) > LONGEST_NUMBER:
            return self.text
        if INT.fullmatch(self.text):
            return int(self.text)
        if OTHER_INT.fullmatch(self.text):
            return int(self.text, base=0)
        if FLOAT.fullmatch(self.text):
            return float(self.text)
        if INFINITE.fullmatch(self.text):
            return float(self.text.replace(".", ""))
        return self.text


def read_text(path: Path, what: str = "", most: int = MOST_BYTES) -> str:
    """The text of a file, its lines ended by `\\n`; UTF-8, or what a byte order mark tells.

    Args:
        what: how the path was given, `--config`; begins the message.
        most: bytes; a longer file is refused.

    Raises:
        UserError: there is no such file, it is a folder, a pipe or a device, it is too long, it
            is no text. Never waits for a writer.
    """
    where = f"{what} {path}".strip()
    data = _bytes(path, where, most)
    encoding = next((name for mark, name in BYTE_ORDER_MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: cannot be read as text ({error.reason} at byte {error.start}). "
            "Save it as UTF-8."
        ) from error
    if "\0" in text:
        raise UserError(f"{where}: holds zero bytes, so it is no text. Save it as UTF-8.")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def check_file(path: str | Path, where: str) -> None:
    """Raise `UserError` where `path` is no file of bytes, such as a pipe, whose reader may hang.

    Args:
        where: begins the message.
    """
    try:
        _refuse_others(Path(path).stat(), where)
    except UserError:  # which is a ValueError
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({reason_of(error)}).") from error


def reason_of(error: Exception) -> str:
    """Return the system's reason, without number and path, which the message has already."""
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _bytes(path: Path, where: str, most: int) -> bytes:
    try:
        # without O_NONBLOCK a pipe would be waited for before it can be told that it is one
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
        with open(descriptor, "rb") as file:  # noqa: PTH123  a descriptor is no path
            about = os.fstat(descriptor)
            _refuse_others(about, where)
            _refuse_long(about.st_size, where, most)
            data = file.read(most + 1)
    except FileNotFoundError as error:
        raise UserError(f"{where}: there is no such file.") from error
    except IsADirectoryError as error:
        raise UserError(f"{where}: is a folder, not a file.") from error
    except UserError:  # which is a ValueError
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{where}: cannot be read ({reason_of(error)}).") from error
    _refuse_long(len(data), where, most)
    return data


def _refuse_others(about: os.stat_result, where: str) -> None:
    if stat.S_ISDIR(about.st_mode):
        raise UserError(f"{where}: is a folder, not a file.")
    if not stat.S_ISREG(about.st_mode):
        raise UserError(f"{where}: is a pipe or a device. Write what it gives into a file.")


def _refuse_long(size: int, where: str, most: int) -> None:
    if size > most:
        raise UserError(f"{where}: has {size:,} bytes or more, and at most {most:,} are read.")


def is_text(value: Any) -> bool:
    """Return whether a value is a text that files and tokenizers take: no zero byte, and no half
    of a surrogate pair, which is a character of JSON."""
    return isinstance(value, str) and "\0" not in value and not SURROGATE.search(value)


def one_line(text: object) -> str:
    """A text as a log or a terminal shows it: what ends a line or moves the cursor is a space."""
    return "".join(each if each.isprintable() else " " for each in str(text))


def read_json(path: Path, what: str = "", most: int = MOST_BYTES) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: see `read_text` and `parse_json`.
    """
    return parse_json(read_text(path, what, most), f"{what} {path}".strip())


def parse_json(text: str, where: str) -> Any:
    """Return the value of a JSON text.

    Raises:
        UserError: it is no JSON (NaN and Infinity are none), is nested too deeply or has a number
            of thousands of digits; begins with `where`.
    """
    try:
        return _JSON.decode(text)
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply.") from error
    except ValueError as error:
        raise UserError(f"{where}: cannot be read as JSON ({error}).") from error


def _no_number(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


_JSON = json.JSONDecoder(parse_constant=_no_number)


def parse_yaml(text: str, where: str) -> Any:
    """Return the value of a YAML text: dicts, lists, `str` for quoted text, `Plain` for the rest.

    Read by the rules of YAML 1.2: `no` and `16:9` are text, `1e5` is a number. Tags are refused
    and nothing is interpolated.

    Raises:
        UserError: it is no YAML, a key stands twice, it is too long or too deep; begins with
            `where`.
    """
    from yaml import YAMLError  # type: ignore[import-untyped]

    if len(text) > MOST_YAML:
        raise UserError(f"{where}: has {len(text):,} characters, and {MOST_YAML:,} are read.")
    try:
        node = _loader()(text).get_single_node()
        return _plain(node, where, 0, iter(range(MOST_NODES))) if node else Plain("")
    except RecursionError as error:
        raise UserError(f"{where}: is nested too deeply.") from error
    except YAMLError as error:
        raise UserError(
            f"{where}: cannot be read as YAML. {' '.join(str(error).split())}"
        ) from error


@cache
def _loader() -> Any:
    from yaml import BaseLoader
    from yaml.composer import ComposerError  # type: ignore[import-untyped]

    class Loader(BaseLoader):  # which resolves nothing: a tag was written
        depth = 0

        def compose_node(self, parent: Any, index: Any) -> Any:
            self.depth += 1
            if self.depth > DEEPEST:
                raise ComposerError(None, None, f"nested more than {DEEPEST} deep", None)
            node = super().compose_node(parent, index)
            self.depth -= 1
            return node

    return Loader


def _plain(node: Any, where: str, depth: int, left: Iterator[int]) -> Any:
    from yaml import MappingNode, ScalarNode

    if depth > DEEPEST or next(left, None) is None:
        raise UserError(
            f"{where}: is nested more than {DEEPEST} deep or, its aliases written out, holds more "
            f"than {MOST_NODES:,} values."
        )
    if node.tag.rpartition(":")[2] not in ("str", "seq", "map"):
        raise UserError(f"{where}: has the tag {node.tag}. Tags are not read; leave it out.")
    if isinstance(node, ScalarNode):
        return node.value if node.style else Plain(node.value)
    if not isinstance(node, MappingNode):
        return [_plain(each, where, depth + 1, left) for each in node.value]
    found: dict[str, Any] = {}
    for key, value in node.value:
        if not isinstance(key, ScalarNode):
            raise UserError(f"{where}: a list or group stands where a name belongs.")
        if key.value in found:
            raise UserError(f"{where}: {key.value} stands there twice. Leave one of them out.")
        found[key.value] = _plain(value, where, depth + 1, left)
    return found
