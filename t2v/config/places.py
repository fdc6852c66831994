"""Settings that name addresses: what they name is here before a command runs, and there after."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t2v.config.sampling import OUTPUTS, SampleConfig
from t2v.config.upscale import UpscaleConfig
from t2v.errors import UserError
from t2v.io.addresses import address_of

WRITTEN = {"output", "dst", "clips_kept", "cache", "json"}  # settings that name what is written
DATA = {"data", "test", "training", "collection"}  # and a manifest, whose clips come when read
FILES = (*(each for each in OUTPUTS if each != "/"), ".json", ".safetensors")


@contextmanager
def brought(
    config: Any, *, reads: bool = True, writes: bool = True, nodes: int = 1
) -> Iterator[None]:
    """Have the working copies of all addresses in settings current while a command runs.

    What is read is brought, what is written is put, as `t2v.io.working_copies.written` does it.

    Args:
        config: settings, or some of them by name.
        reads: bring what is read.
        writes: put what is written; of several processes one does.
        nodes: machines of the run.

    Raises:
        UserError: an address cannot be read or written, with the setting.
    """
    values = config if isinstance(config, dict) else asdict(config)
    found = [(name, text) for name, text in _texts(values) if address_of(text)]
    if not found:
        yield
        return
    _check(config, found, nodes)
    with ExitStack() as stack:
        for name, text in sorted(found, key=lambda each: each[0] in WRITTEN):
            try:
                if name in WRITTEN and writes:
                    _write(config, text, stack)
                elif name not in WRITTEN and reads:
                    _bring(name, Path(text))
            except UserError as error:
                raise UserError(f"{name}={error}") from error
        yield


def _bring(name: str, path: Path) -> None:
    from t2v.io.working_copies import bring, bring_data  # few runs know an address

    (bring_data if name in DATA else bring)(path)


def _write(config: Any, text: str, stack: ExitStack) -> None:
    from t2v.io.working_copies import written

    path = Path(text)
    if text.endswith(FILES) or isinstance(
        config, SampleConfig | dict
    ):  # a video, and files beside it
        stack.enter_context(written(path.parent, begins=path.name.partition(".")[0]))
    else:
        stack.enter_context(written(path))


def _check(config: Any, found: list[tuple[str, str]], nodes: int) -> None:
    if isinstance(config, UpscaleConfig) and config.output is None:
        raise UserError(f"input={address_of(config.input)}: give output=, the file to be written.")
    if nodes > 1 and (texts := [text for name, text in found if name in WRITTEN]):
        raise UserError(
            f"output={address_of(texts[0])}: {nodes} machines have no working copy in common. Give "
            "a folder that all of them see."
        )


def _texts(value: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """The texts of settings, each with the last part of its name."""
    if isinstance(value, str):
        yield name, value
    elif isinstance(value, dict):
        for key, each in value.items():
            yield from _texts(each, key)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each, name)
