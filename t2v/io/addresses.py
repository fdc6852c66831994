"""Addresses of fsspec, such as `s3://bucket/clips`: each has a working copy in the user's cache.

A working copy is a plain path, so that PyAV, safetensors and diffusers read and write what lies at
an address as they do any file: that of `s3://bucket/x` is `~/.cache/t2v/addresses/s3/bucket/x`.
Here are the names alone; `t2v.io.working_copies` brings files and puts them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from t2v.errors import UserError

# the package that a scheme needs beside fsspec; a put replaces a file at once in each, but sftp
SCHEMES = {
    **{"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "az": "adlfs", "abfs": "adlfs"},
    **{"oss": "ossfs", "oci": "ocifs", "hf": "huggingface_hub", "sftp": "paramiko"},
    **{"http": "aiohttp", "https": "aiohttp", "memory": "fsspec"},
}
READ_ONLY = ("http", "https")
ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
OUTSIDE = "outside"  # beside the schemes: paths that a manifest names and that are not read

# settings whose texts are no places, whatever they begin with
PROSE = {
    *("prompt", "prompts", "negative_prompt", "caption", "authors", "writer", "rule", "concept"),
    *("soft_prompt", "embedding", "queue", "rewrite", "instruction"),
}

_given: list[bool] = []


@dataclass(frozen=True)
class Output:
    """The working copy of a folder that is written, and what takes its files to the address.

    Args:
        begins: what names in the folder begin with, of a run that writes a file and its kin.
        put: takes a file or folder that is whole.
        withdraw: removes one there.
    """

    folder: Path
    begins: str
    put: Callable[[Path], None]
    withdraw: Callable[[Path], None]

    def holds(self, path: Path) -> bool:
        """Return whether a path is one that goes: hidden ones stay."""
        if not path.is_relative_to(self.folder):
            return False
        name = name_in(self.folder, path)
        return name.startswith(self.begins) and not is_hidden(name)


OUTPUTS: list[Output] = []  # of this process, now


def output_of(path: Path) -> Output | None:
    """The output that a path is written for, if its address is one of this process."""
    return next((output for output in OUTPUTS if output.holds(path)), None)


def publish(path: Path) -> None:
    """Put a file or folder of an output that is whole to its address, if it has one."""
    if output := output_of(path):
        output.put(path)


def withdraw(path: Path) -> None:
    """Remove a file or folder of an output at its address, if it has one."""
    if (output := output_of(path)) and path != output.folder:
        output.withdraw(path)


def remove(path: Path) -> None:
    """Remove a file of an output, where it is there, and at its address."""
    withdraw(path)
    path.unlink(missing_ok=True)


def name_in(folder: Path, path: Path) -> str:
    """The name of a path from a folder that it lies in; none of the folder itself."""
    return str(path)[len(str(folder)) + 1 :]


def is_hidden(name: str) -> bool:
    """Return whether a part of a name begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def is_address(text: str) -> bool:
    """Return whether a text is `scheme://` and what follows."""
    return ADDRESS.fullmatch(text) is not None


def root() -> str:
    """The folder of all working copies, without links: other paths are compared with it."""
    return _root(os.environ.get("XDG_CACHE_HOME", ""), os.environ.get("HOME", ""))


@cache
def _root(given: str, home: str) -> str:
    """The folder in the user's cache, as the environment names that."""
    folder = Path("/nonexistent")
    with suppress(RuntimeError):  # a user without a home
        folder = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()
    return str(folder.resolve() / "t2v" / "addresses")


def local(text: str) -> str:
    """The working copy of an address, whether it is there or not; another text as it is.

    Raises:
        UserError: the scheme is not known, or the address holds what no file's address does.
    """
    found = ADDRESS.fullmatch(text)
    if found is None:
        return text
    scheme, rest = found[1].lower(), found[2]
    if scheme in ("file", "local"):
        raise UserError(f"{text}: a file of this machine is given by its path: {rest or '/'}.")
    if scheme not in SCHEMES:
        known = ", ".join(f"{each}://" for each in SCHEMES)
        raise UserError(f"{text}: addresses begin with {known}. Give one, or a path here.")
    parts = rest.removesuffix("/").split("/")
    if "@" in parts[0] and (scheme in READ_ONLY or ":" in parts[0].partition("@")[0]):
        raise UserError(
            f"{scheme}://***@{rest.partition('@')[2]}: a password in an address would be written "
            f"into recipes. Leave it to the settings of {SCHEMES[scheme]}."
        )
    if {"", ".", ".."} & set(parts) or re.search(r"::|[\0\\]", rest):
        raise UserError(f"{text}: is no plain address. Leave out empty names, `.`, `..` and `::`.")
    if scheme in READ_ONLY and re.search("[?#]", rest):
        raise UserError(f"{text}: has a query, which says no file's name. Download it first.")
    _given[:] = [True]
    return f"{root()}/{scheme}/{rest}"


def local_in(value: Any, name: str = "") -> Any:
    """Settings, nested as they are, in which each address is told by its working copy.

    Args:
        name: of the setting.

    Raises:
        UserError: see `local`; names the setting.
    """
    if isinstance(value, dict):
        return {key: local_in(each, key) for key, each in value.items()}
    if isinstance(value, tuple):
        return tuple(local_in(each, name) for each in value)
    if not isinstance(value, str) or name.rpartition(".")[2] in PROSE or not is_address(value):
        return value
    try:
        return local(value)
    except UserError as error:
        raise UserError(f"{name}={error}") from error


def is_used() -> bool:
    """Return whether this process was given an address."""
    return bool(_given)


def address_of(path: str | Path) -> str | None:
    """The address that a path is the working copy of; None for others."""
    text, above = str(path), root()
    if not text.startswith(f"{above}/"):
        return None
    scheme, _, rest = text[len(above) + 1 :].partition("/")
    return f"{scheme}://{rest}" if scheme in SCHEMES and rest else None


def shown(text: object) -> str:
    """A text in which working copies are told by their addresses."""
    told, above = str(text), root()
    if above not in told:
        return told
    told = told.replace(f"{above}/{OUTSIDE}/", "")
    return re.sub(f"{re.escape(above)}/({'|'.join(SCHEMES)})/", r"\1://", told)


def shown_in(value: Any) -> Any:
    """A value of JSON whose texts are as `shown` gives them."""
    if isinstance(value, dict):
        return {name: shown_in(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(shown_in, value))
    return shown(value) if isinstance(value, str) else value


def named_by(folder: Path, base: str | None, named: str) -> str:
    """The place of a file that a manifest names: a path, or the working copy of an address.

    A manifest at an address is somebody else's: it may name files of its own bucket (or host)
    alone, and no path of this machine. What it may not name, and an address that cannot be one, is
    a place where nothing lies, which `shown` tells as it was named.

    Args:
        folder: of the manifest, from which paths are relative.
        base: the address of the folder, or None.
    """
    if base is None and "://" not in named:
        return os.path.abspath(folder / named)  # noqa: PTH100  no links are followed
    with suppress(UserError):
        place = local(named) if is_address(named) else os.path.abspath(folder / named)  # noqa: PTH100
        if base is None or Path(place).is_relative_to(_bucket(base)):
            return place
    return f"{root()}/{OUTSIDE}/{named.replace('..', '%2E%2E')}"


def is_outside(place: str) -> bool:
    """Return whether nothing is looked for at a place that `named_by` gave."""
    return place.startswith(f"{root()}/{OUTSIDE}/")


def _bucket(address: str) -> Path:
    """The working copy of the bucket, host or repository of an address."""
    scheme, _, rest = address.partition("://")
    parts = rest.split("/")
    count = 1 if scheme != "hf" else 3 if parts[0] in ("datasets", "spaces", "buckets") else 2
    return Path(root(), scheme, *parts[:count])
