"""The `t2v` command: one table of commands, settings from file and command line, exit codes."""

from __future__ import annotations

import argparse
import errno
import gc
import os
import re
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from t2v.cli.commands import COMMANDS, Command, brought, collect_garbage, imported
from t2v.cli.deferred import defer
from t2v.cli.parser import command_name, overrides_of, overview, parser_of
from t2v.config.load import load_config
from t2v.errors import UserError, shortened
from t2v.io.addresses import address_of, shown

REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EFBIG),
}  # what the disk answers where the user chose the place
# what pip installs with an extra alone, by the name of its module
EXTRAS = {"cv2": "curate", "sklearn": "curate", "peft": "train", "ray": "ray"}
EXTRAS |= dict.fromkeys(
    ("starlette", "uvicorn", "h11", "anyio", "prometheus_client", "python_multipart"), "serve"
)
LONGEST = 4000  # characters of a message


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 user error, 1 bug, 130 interrupted).

    Without `argv` this is the program, in a process of its own, and it starts faster.
    """
    if argv is not None:
        return _main(list(argv))
    defer()
    gc.disable()  # nothing that is imported is garbage, and looking takes a sixth of the time
    try:
        return _main(sys.argv[1:])
    finally:
        gc.freeze()  # at exit Python would look through all of it, which takes most of a second


def _main(argv: list[str]) -> int:
    try:
        _dispatch(argv)
        print(end="", flush=True)  # what cannot be written should be known here
    except UserError as error:
        print(f"t2v: {shortened(shown(error), LONGEST)}", file=sys.stderr)
        return 2
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            return _bug()
        print(
            f"t2v: this needs {package}, which is not installed: "
            f'pip install "t2v[{EXTRAS[package]}]".',
            file=sys.stderr,
        )
        return 2
    except KeyboardInterrupt as interrupt:
        print(shown(f"\nt2v: interrupted. {interrupt}".rstrip()), file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            return 0
        if _is_refused_by_the_disk(error):
            reason = re.sub(r"^\[Errno \d+\] ", "", shown(error))
            print(f"t2v: {reason}. Make room there, or choose another place.", file=sys.stderr)
            return 2
        return _bug()
    return 0


def _bug() -> int:
    """Show the error that is being handled; return its exit code."""
    traceback.print_exc()
    print("t2v: this is a bug; please report it with the lines above.", file=sys.stderr)
    return 1


def _reader_has_left() -> bool:
    """Return whether stdout has lost its reader, as after `| head -1`; the rest is discarded."""
    try:
        print(flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return True
    return False


def _is_refused_by_the_disk(error: Exception) -> bool:
    # safetensors and shutil raise errors of their own, with the system's words in them
    return "No space left on device" in str(error) or (
        isinstance(error, OSError) and error.errno in REFUSED
    )


def _dispatch(argv: list[str]) -> None:
    name = command_name(argv)
    if name in ("-h", "--help", "help"):
        print(overview())
        return
    if name == "--version":
        from t2v import __version__

        print(f"t2v {__version__}")
        return
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean `t2v {close[0]}`?" if close else f"Allowed: {', '.join(COMMANDS)}."
        raise UserError(f"there is no command {name!r}. {hint}")
    parser, words = parser_of(name), argv[len(name.split()) :]
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    args.plain = words[end + 1 :]  # neither settings nor options, whatever they look like
    if args.help:
        parser.print_help()
        return
    from t2v import distributed
    from t2v.io import log

    log.setup(distributed.rank())
    for path in vars(args).values():
        if isinstance(path, Path) and address_of(path) is not None:
            from t2v.io.working_copies import bring  # few options name an address

            bring(path)
    if distributed.rank():  # the first process prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _run(COMMANDS[name], args)


def _run(command: Command, args: argparse.Namespace) -> None:
    overrides = overrides_of(command, args)
    if command.whole_line:
        imported(command.run)(args, overrides)
        return
    config: Any = load_config(command.schema, args.config, overrides)
    run = imported(command.run)
    collect_garbage()
    from t2v import distributed

    with brought(config, writes=not distributed.rank(), nodes=distributed.machines()):
        result = run(config)
    if result is not None and not isinstance(result, dict):  # figures, shown as a table already
        print(shown(result))
