"""Working copies of addresses: brought where they are not current, put where they are written.

Of each file its twin, in a folder of twins, tells which version of the address it is.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.addresses import (
    OUTPUTS,
    READ_ONLY,
    Output,
    address_of,
    is_hidden,
    local,
    name_in,
    output_of,
    root,
    shown,
)
from t2v.io.stores import Missing, asked, store

MOVED = ("sftp",)  # whose files grow as they are written: put under another name, then moved
INDEXES = ("model_index.json", "manifest.jsonl", "manifest.json")  # put last, in this order
AT_ONCE = 8  # files of a folder that are fetched at the same time
MOST = 2**36  # bytes of clips and shards, read one by one; the least used make room
LOOKED = 2**30  # bytes of them that are fetched between two looks at how many there are

_checked: set[str] = set()  # working copies that this process found to be current
_fetched = [LOOKED]  # bytes since the last look


def at_hand(path: str | Path) -> Path:
    """A clip or shard that may lie at an address, fetched where it is not here.

    Raises:
        Missing: there is no such file.
        UserError: the address cannot be read.
    """
    place = Path(path)
    if address_of(place) is not None:
        bring_file(place, leaves=True)
    return place


def bring_file(path: Path, leaves: bool = False) -> None:
    """Make the working copy of a file current, once in a process.

    Args:
        leaves: it may go again when `MOST` bytes of such files are here.

    Raises:
        Missing: there is no such file.
        UserError: the address cannot be read, or is a folder.
    """
    address, is_here = _address(path), path.exists()
    if is_here and (str(path) in _checked or not _twin(path).exists()):
        return  # which was written here, and is not there yet
    fs, place = store(address)
    _fetch(fs, place, address, path, leaves)
    if leaves and _fetched[0] >= LOOKED:
        _fetched[0] = 0
        _make_room(path)


def bring(path: Path, begins: str = "", depth: int | None = None) -> None:
    """Make the working copy of a file, or of all in a folder, current.

    What was deleted there goes here too; what was written here and not put there stays. Hidden
    files are left out.

    Args:
        begins: what names in the folder begin with.
        depth: how many folders deep they lie, at most.

    Raises:
        Missing: there is nothing.
        UserError: the address cannot be read.
    """
    address = _address(path)
    fs, place = store(address)
    fs.invalidate_cache()
    with _alone(path):
        if not begins and _is_file(fs, place, address):
            bring_file(path)
            return
        listed: list[str] = asked(address, "read", fs.find, place, maxdepth=depth)
        above, wanted = place.rstrip("/") + "/", dict[Path, str]()
        for name in (each[len(above) :] for each in listed if each.startswith(above)):
            with suppress(UserError):  # a server's list of links may hold anything
                if name.startswith(begins) and not is_hidden(name):
                    wanted[Path(local(f"{address}/{name}"))] = above + name
        if not wanted and not begins:
            raise Missing(f"{address}: there is no such file or folder, or nothing in it.")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            list(pool.map(lambda each: _fetch(fs, wanted[each], _address(each), each), wanted))
    if address.partition(":")[0] in READ_ONLY:  # a page need not list all
        return
    for file in _files(path):
        name = name_in(path, file)
        is_listed = name.startswith(begins) and (depth is None or name.count("/") < depth)
        if is_listed and file not in wanted and _twin(file).exists():
            _twin(file).unlink()
            file.unlink()


def brought_folder(address: str) -> Path:
    """The working copy of an address, current.

    Raises:
        Missing: there is nothing.
        UserError: no address, or it cannot be read.
    """
    path = Path(local(address))
    bring(path)
    return path


def bring_data(path: Path) -> None:
    """Bring a manifest, or a folder's manifest, settings and latents; its clips come when read.

    A folder without a manifest is brought whole.

    Raises:
        Missing: there is nothing.
        UserError: the address cannot be read.
    """
    try:
        with _alone(path):
            bring_file(path / INDEXES[1])
    except Missing:
        bring(path)
        return
    for each in (path / "config.yaml", path / "latents"):
        with suppress(Missing):
            bring(each)


@contextmanager
def written(path: Path, begins: str = "") -> Iterator[None]:
    """Have what is written below a folder put to its address; what lies there already is brought.

    Files go as soon as they are whole, what is left goes when the block ends, however it does. The
    indexes of a folder go last.

    Args:
        begins: what names in the folder begin with, of a run that writes a file and its kin.

    Raises:
        UserError: the scheme is read only, or the address cannot be read or written.
    """
    address = address_of(path)
    if address is None:
        raise UserError(f"{shown(path)}: names no bucket. Give one, as in memory://bucket/x.mp4.")
    scheme = address.partition(":")[0]
    if scheme in READ_ONLY:
        raise UserError(f"{address}: {scheme}:// is read only. Give a path, or s3:// or the like.")
    output = Output(path, begins, partial(_publish, path), _withdraw)
    OUTPUTS.append(output)
    try:
        with suppress(Missing):
            bring(path, begins, depth=2 if begins else None)
        yield
        _put_all(path)
    except BaseException:
        with suppress(UserError):  # the first error tells more
            _put_all(path)
        raise
    finally:
        OUTPUTS.remove(output)


def _publish(output: Path, path: Path) -> None:
    """Put a file or folder of an output; an index takes along what is not there yet."""
    _put_all(output if path.name in INDEXES and path.parent == output else path)


def _withdraw(path: Path) -> None:
    address = _address(path)
    _twin(path).unlink(missing_ok=True)
    fs, place = store(address)
    with suppress(Missing):
        asked(address, "removed", fs.rm, place, recursive=True)


def _address(path: Path) -> str:
    address = address_of(path)
    assert address is not None
    return address


def _files(folder: Path) -> list[Path]:
    found = (each for each in folder.rglob("*") if not is_hidden(name_in(folder, each)))
    return [each for each in found if each.is_file()]


def _put_all(path: Path) -> None:
    found = [path] if path.is_file() else _files(path)
    last = {name: number for number, name in enumerate(INDEXES)}
    for file in sorted(found, key=lambda each: (last.get(each.name, -1), each)):
        if output_of(file) is not None:
            _put(file)


def _put(file: Path) -> None:
    address, about = _address(file), _about(file)
    if _told(file).get("about") == about:
        return
    fs, place = store(address)
    is_moved = address.partition(":")[0] in MOVED
    name = f"{place}.{secrets.token_hex(4)}.partial" if is_moved else place
    asked(address, "written", fs.put_file, str(file), name, counts=True)
    if is_moved:
        asked(address, "written", fs.mv, name, place)
    fs.invalidate_cache()
    _tell(file, about, _version(asked(address, "read", fs.info, place)))


def _fetch(fs: Any, place: str, address: str, path: Path, leaves: bool = False) -> None:
    info = asked(address, "read", fs.info, place)
    if info["type"] != "file":
        raise UserError(f"{address}: is a folder, not a file.")
    version, told = _version(info), _told(path)
    is_ours = output_of(path) is not None  # and may be newer than what is there
    is_same = told.get("version") == version and path.exists()
    if is_same and (is_ours or told["about"] == _about(path)):
        _tell(path, told["about"], version, leaves and told.get("leaves", False))  # used just now
        _checked.add(str(path))
        return
    partial = _twin(path).with_suffix(f".{secrets.token_hex(4)}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.parent.mkdir(parents=True, exist_ok=True)
        asked(address, "read", fs.get_file, place, str(partial), counts=True)
        stamp = int(version[:8], 16) * 10**9  # by its time too a version is known, to curation
        os.utime(partial, ns=(stamp, stamp))
        about = _about(partial)
        if info.get("size") not in (None, about[-1]):
            raise UserError(f"{address}: broke off at {about[-1]:,} of {info['size']:,} bytes.")
        partial.replace(path)
        _tell(path, about, version, leaves)
    except OSError as error:
        raise UserError(f"{address}: cannot be kept as {path} ({error.strerror}).") from error
    finally:
        partial.unlink(missing_ok=True)
    _fetched[0] += about[-1] if leaves else 0
    _checked.add(str(path))


def _is_file(fs: Any, place: str, address: str) -> bool:
    info = asked(address, "read", fs.info, place)
    # of a web server all are files; the page of a folder lists it
    is_page = str(info.get("mimetype", "")).startswith("text/html")
    return bool(info["type"] == "file" and not is_page)


def _version(info: dict[str, Any]) -> str:
    """A hash of what a store tells of a file, but for the place where it was found."""
    told = sorted((name, repr(each)) for name, each in info.items() if name not in ("url", "name"))
    return sha256(repr(told).encode()).hexdigest()[:32]


def _about(path: Path) -> list[int]:
    """Return what changes when somebody writes a file here."""
    told = path.stat()
    return [told.st_ino, told.st_mtime_ns, told.st_size]


def _twin(path: Path) -> Path:
    """The file that tells which version of its address a working copy is."""
    name = sha256(str(path).encode(errors="surrogateescape")).hexdigest()[:40]
    return Path(f"{root()}-twins", name[:2], f"{name[2:]}.json")


def _told(path: Path) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        told = json.loads(_twin(path).read_text())
        if isinstance(told, dict) and {"version", "about"} <= told.keys():
            return told
    return {}


def _tell(path: Path, about: list[int], version: str, leaves: bool = False) -> None:
    twin = _twin(path)
    partial = twin.with_suffix(f".{secrets.token_hex(4)}.partial")
    twin.parent.mkdir(parents=True, exist_ok=True)
    told = {"version": version, "about": about, "path": str(path), "leaves": leaves}
    partial.write_text(json.dumps(told))
    partial.replace(twin)


def _make_room(keep: Path) -> None:
    """Remove the files that are least used, where those that may go take more than `MOST`."""
    found = []
    for twin in Path(f"{root()}-twins").glob("*/*.json"):
        with suppress(OSError, ValueError, KeyError):
            told = json.loads(twin.read_text())
            if told["leaves"]:
                found.append((twin.stat().st_mtime_ns, told["about"][-1], Path(told["path"])))
    total = sum(size for _, size, _ in found)
    for _, size, file in sorted(found):
        if total <= MOST or file == keep:
            return
        _twin(file).unlink(missing_ok=True)
        file.unlink(missing_ok=True)
        total -= size


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for another process that brings the same, where the system has such locks."""
    file = None
    with suppress(ImportError, OSError):
        import fcntl

        lock = _twin(path).with_suffix(".lock")
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("w")
        fcntl.flock(file, fcntl.LOCK_EX)
    try:
        yield
    finally:
        if file is not None:
            file.close()
