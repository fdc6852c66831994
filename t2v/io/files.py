"""Files that are whole or absent, locked by one process, hashed; lines that outlive a kill."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import socket
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.addresses import publish, shown, withdraw
from t2v.io.holders import FOLDER_LOCK, is_alive

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

logger = logging.getLogger(__name__)

REFERENCE = "base.json"  # names a model that may be moved, so no list of hashes has it
MODULAR = "modular_model_index.json"  # the index of a pipeline whose parts lie anywhere
HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
EMBEDDED = "t2v-tiny"  # the model that comes with t2v
STUDENT, OF_REFERENCES = "t2v-tiny-distilled", "t2v-tiny-references"  # which do too
EMBEDDED_MODELS = EMBEDDED, STUDENT, OF_REFERENCES
# what a training leaves of its own beside a reference to its base model
LORA, ADAPTER, WORDS = "pytorch_lora_weights.safetensors", "adapter", "words.safetensors"
ADAPTER_FILES = "adapter_config.json", "adapter_model.safetensors"  # as peft names them
DELTA = "delta.safetensors"  # of a student: what it changes in its teacher, in 8 bits
HIGH, LOW = "lora_high.safetensors", "lora_low.safetensors"  # of two transformers, by their noise
LORAS = {"transformer": (LORA, HIGH), "transformer_2": (LOW,)}
TEXT_ADAPTER = "text_adapter"  # the LoRA of the text encoder
TOKENS = "tokens.safetensors"  # that a transformer learned beside its text
LEARNED = (  # in the order of hashes, to whose end new ones go
    *(LORA, HIGH, LOW, *(f"{ADAPTER}/{name}" for name in ADAPTER_FILES), WORDS, DELTA),
    *(TOKENS, *(f"{TEXT_ADAPTER}/{name}" for name in ADAPTER_FILES)),
)
KEY = 32  # hex digits of a name in a cache: 128 bits
_NAME = 48  # characters of a name in that of its partial file: names end at 255 bytes
_HOST = f"{zlib.crc32(socket.gethostname().encode()):08x}"
_PARTIAL = re.compile(r"\..*\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-[0-9a-f]{8}\.partial")
_held: ContextVar[frozenset[Path]] = ContextVar("held", default=frozenset())
_open_locks: set[int] = set()  # their descriptors, which a forked child must not keep


class InUse(UserError):
    """Another run is at work in an output."""


def require_model(model: str) -> None:
    """Raise `UserError` for a model that is neither the embedded one, nor here, nor a Hub id."""
    if model not in EMBEDDED_MODELS and not Path(model).exists() and not HUB_ID.fullmatch(model):
        raise UserError(
            f"model={model}: there is no such folder. The embedded ones are "
            f"{EMBEDDED}, {STUDENT} and {OF_REFERENCES}."
        )


@contextmanager
def locked(*outputs: Path, command: str) -> Iterator[None]:
    """Hold outputs alone: each is a file, by `.NAME.lock` beside it, or a folder, which is made.

    The lock is the system's: it ends with the process, however that ends. What this caller holds
    already it may hold again. Partial files that dead processes left there are removed.

    Raises:
        InUse: another process holds one; it is named.
        UserError: the place cannot be locked.
    """
    wanted = [path.absolute() for path in outputs]
    new = [path for path in wanted if path not in _held.get()]
    with ExitStack() as stack:
        for path in new:
            stack.enter_context(_lock(path, command))
        for folder in {path if path.is_dir() else path.parent for path in new}:
            remove_partials(folder)
        before = _held.set(_held.get() | set(new))
        try:
            yield
        finally:
            _held.reset(before)


@contextmanager
def folder_locked(folder: Path, command: str) -> Iterator[None]:
    """Make a folder and hold it alone, as `locked` does."""
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(folder, error) from error
    try:
        with locked(folder, command=command):
            yield
    finally:
        if is_new:
            with suppress(OSError):  # not empty: something came of it
                folder.rmdir()


@contextmanager
def _lock(path: Path, command: str) -> Iterator[None]:
    place = path / FOLDER_LOCK if path.is_dir() else path.with_name(f".{path.name}.lock")
    descriptor = _acquired(path, place)
    _open_locks.add(descriptor)
    try:
        holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": command}
        holder["since"] = time.strftime("%Y-%m-%d %H:%M:%S")
        os.truncate(descriptor, 0)
        os.write(descriptor, json.dumps(holder).encode())
        yield
    finally:
        _open_locks.discard(descriptor)
        with suppress(OSError):  # gone already, or a system that removes no open file
            place.unlink()  # still held: who waits for this very file sees that it is gone
        os.close(descriptor)


def _acquired(path: Path, place: Path) -> int:
    """A descriptor of the lock file, held; a file that its last holder removed is none."""
    _forget_in_children()
    while True:
        try:
            descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise _not_writable(path, error) from error
        try:
            _try_lock(descriptor)
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), place.stat()):
                    return descriptor
            os.close(descriptor)
        except BlockingIOError as error:
            os.close(descriptor)
            raise InUse(
                f"output={path}: another run is at work there{_holder(place)}. Wait for its end, "
                "or choose another output."
            ) from error
        except OSError as error:
            os.close(descriptor)
            raise UserError(
                f"output={path}: this file system keeps no locks ({error.strerror}), so two runs "
                "could ruin each other's files. Choose an output on another one."
            ) from error


@contextmanager
def turn(place: Path, seconds: float = 10.0) -> Iterator[None]:
    """Hold a lock file for a moment, after whoever holds it now; the file stays.

    Raises:
        InUse: another process holds it longer than `seconds`.
        OSError: the file cannot be opened.
    """
    _forget_in_children()
    end = time.monotonic() + seconds
    try:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError:
        descriptor = os.open(place, os.O_RDONLY)  # enough for who only reads
    _open_locks.add(descriptor)
    try:
        while True:
            try:
                _try_lock(descriptor)
                break
            except BlockingIOError as error:
                if time.monotonic() > end:
                    raise InUse(f"{place}: held for {seconds:g} s by another process.") from error
                time.sleep(0.002)
        yield
    finally:
        _open_locks.discard(descriptor)
        os.close(descriptor)


if sys.platform == "win32":

    def _try_lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond what tells the holder
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        except OSError as error:
            raise BlockingIOError from error
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)

else:

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _forget_in_children() -> None:
    """See that forked children let go of the locks: they would hold them beyond a kill."""
    global _forgetting
    if not _forgetting and hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_close_all)
        _forgetting = True


_forgetting = False


def _close_all() -> None:
    for descriptor in _open_locks:
        os.close(descriptor)
    _open_locks.clear()
    _held.set(frozenset())


def _holder(place: Path) -> str:
    for _ in range(20):  # it may be about to write who it is
        with suppress(OSError, ValueError, KeyError, TypeError):
            told = json.loads(place.read_text(encoding="utf-8"))
            return f" ({told['command']}, process {told['pid']} on {told['host']}, since {told['since']})"  # noqa: E501
        time.sleep(0.01)
    return ""


def _not_writable(path: Path, error: OSError) -> UserError:
    return UserError(f"output={path}: cannot be written ({error.strerror}). Choose another output.")


@contextmanager
def complete(path: Path) -> Iterator[Path]:
    """A name of its own beside `path` for a file or folder, which is synced and becomes `path`
    when all is written, and vanishes when it is not. In the working copy of an address it is put
    there as well.

    Raises:
        OSError: what the disk refused, with the name of `path`.
        UserError: the address cannot be written.
    """
    partial = _partial(path)
    try:
        yield partial
        for each in (*partial.rglob("*"), partial) if partial.is_dir() else (partial,):
            sync(each)
        partial.replace(path)
        sync(path.parent)
        publish(path)
    except OSError as error:
        if error.filename in (None, str(partial)):
            with suppress(AttributeError):  # PyAV's own errors keep theirs
                error.filename = str(path)  # a write that fails does not tell where
        raise
    finally:
        _remove(partial)


def _partial(path: Path) -> Path:
    random = secrets.token_hex(4)
    return path.with_name(f".{path.name[:_NAME]}.{_HOST}-{os.getpid()}-{random}.partial")


def sync(path: Path) -> None:
    """Write a file or folder through to the disk itself."""
    if sys.platform == "win32" and path.is_dir():
        return  # has no descriptor there
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove a folder, renamed first: a kill in the middle leaves no half of it under its name."""
    withdraw(folder)
    _remove(folder.rename(_partial(folder)))


def remove_partials(folder: Path) -> None:
    """Remove what processes of this machine that are dead left half written in a folder."""
    for path in folder.glob(".*.partial"):
        told = _PARTIAL.fullmatch(path.name)
        if told and told["host"] == _HOST and not is_alive(int(told["pid"])):
            _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole, see `complete`."""
    with complete(path) as partial:
        partial.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write a file whole, see `complete`; UTF-8, and bytes of a name that are no text escaped.

    Working copies in it are told by their addresses.
    """
    write_bytes(path, shown(text).encode("utf-8", errors="backslashreplace"))


class Lines:
    """A JSONL file that grows; each line is on the disk before `add` returns."""

    def __init__(self, path: Path) -> None:
        self.path, self.file = path, path.open("a+b")
        self.file.seek(0, os.SEEK_END)
        if self.file.tell():
            self.file.seek(-1, os.SEEK_END)
            if self.file.read(1) != b"\n":  # a kill tore the last line: it must not spoil the next
                self.file.write(b"\n")

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def add(self, row: dict[str, Any]) -> None:
        """Append one row as a line."""
        self.file.write(json.dumps(row).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())

    def close(self) -> None:
        """Let go of the file."""
        self.file.close()
        publish(self.path)


def read_lines(path: Path, *needed: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file that can be read; none where there is no file.

    A kill or a power cut leaves torn lines and runs of zero bytes: those are left out, and a
    warning counts them.

    Args:
        needed: keys without which a row does not count.
    """
    if not path.is_file():
        return []
    lines = [line.strip(b"\0\r \t") for line in path.read_bytes().split(b"\n")]
    torn = lines.pop()  # what follows the last newline is not finished
    rows = [_row(line) for line in lines if line]
    whole = [row for row in rows if row is not None and all(name in row for name in needed)]
    if lost := len(rows) - len(whole) + bool(torn):
        logger.warning("%s: %d damaged lines are left out, %d are whole", path, lost, len(whole))
    return whole


def _row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Write a JSONL file whole, see `complete`."""
    write_bytes(path, b"".join(json.dumps(row).encode() + b"\n" for row in rows))


def sha256(content: bytes | str) -> str:
    """Return the hash of bytes, or of a text in UTF-8; undecodable bytes keep their value.

    The result has 64 digits; callers cut it where a file name should be short.
    """
    if isinstance(content, str):
        content = content.encode(errors="surrogateescape")
    return hashlib.sha256(content).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the hash of a file's bytes, read in pieces.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(*parts: object) -> str:
    """Return a hash of the `repr` of `parts`, `KEY` digits: equal parts, equal name."""
    return sha256(repr(parts))[:KEY]
