"""The parser of each command, the help it prints, and the settings that words stand for."""

from __future__ import annotations

import argparse
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import MISSING
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn, get_origin

from t2v.cli import sample
from t2v.cli.commands import COMMANDS, Command
from t2v.config.schema import settings, type_words
from t2v.errors import UserError
from t2v.io.addresses import local

EXIT_CODES = "exit codes: 0 done, 1 a bug, 2 something you can fix, 130 interrupted"
SETTING = re.compile(r"[A-Za-z_][\w.]*=")
WIDTH = 100  # columns of the help
WIDEST = 30  # columns of a setting's name; longer ones have a line of their own


def command_name(argv: Sequence[str]) -> str:
    """The command that words begin with: two of them where there is such a command."""
    both = " ".join(argv[:2])
    return both if both in COMMANDS else argv[0] if argv else "--help"


def overview() -> str:
    width = max(map(len, COMMANDS)) + 2
    rows = "\n".join(f"  {name:<{width}}{command.help}" for name, command in COMMANDS.items())
    return (
        "usage: t2v COMMAND [--config FILE] [name=value ...]\n\nText to video.\n\n"
        f"commands:\n{rows}\n\n`t2v COMMAND --help` lists every setting.\n{EXIT_CODES}"
    )


class _Parser(argparse.ArgumentParser):
    schema: type

    def format_help(self) -> str:
        """The help, for which alone the words of the settings are read from their source."""
        from t2v.config.words import setting_words

        words = setting_words(self.schema)
        for action in self._actions:
            action.help = action.help or words.get(action.dest)
        self.epilog = f"{settings_table(self.schema, words)}\n\n{EXIT_CODES}"
        return super().format_help()

    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        known = [option for action in self._actions for option in action.option_strings]
        close = get_close_matches(unknown[1], known, n=1, cutoff=0.7) if unknown else []
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UserError(f"{message}. {hint}`{self.prog} --help` lists what is allowed.")


def place(text: str) -> Path:
    """The path of an option, of an address its working copy."""
    try:
        return Path(local(text))
    except UserError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def parser_of(name: str) -> argparse.ArgumentParser:
    """The parser of one command; its help lists every setting of the schema."""
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"t2v {name}",
        description=command.help,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.schema = command.schema
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    parser.add_argument("--config", type=place, metavar="FILE", help="YAML with settings")
    for option in command.options:
        parser.add_argument(f"--{option}")
    free = [each.upper() for each in command.positional]
    if name == "sample":
        free = ["PROMPT"]
        sample.add_options(parser, place)
    elif name == "queue":
        free = ["ACTION", "FOLDER", "JOB|PROMPT"]
        sample.add_options(parser, place)
        parser.add_argument("--json", action="store_true", help="list as JSON")
    elif "output" in settings(command.schema):
        parser.add_argument("-o", "--output", metavar="PATH")
    free_help = "settings, by name"
    if name == "sample":
        free_help = "prompts, and settings by name; all that follows -- is a prompt"
    elif name == "queue":
        free_help = "what to do: add, list, edit, ...; the queue; jobs or prompts; settings"
    elif free:
        free_help = f"{', '.join(free)} by position, and settings by name"
    metavar = " ".join([*free, "name=value"])
    parser.add_argument("free", nargs="*", metavar=metavar, help=free_help)
    return parser


def settings_table(schema: type, words: Mapping[str, str]) -> str:
    """Return every setting with what it does, its type and choices, and its default."""
    lines = ["settings, given as name=value:"]
    for name, (hint, default) in settings(schema).items():
        kind = type_words(hint)
        told = "required" if default is MISSING else f"default {_shown(default)}"
        text = f"{words.get(name, '')} [{kind}; {told}]".strip()
        head = f"  {name:<{WIDEST}}  "
        if len(name) > WIDEST:
            lines.append(f"  {name}")
            head = " " * len(head)
        indent = " " * (WIDEST + 4)
        lines += textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=indent)
    return "\n".join(lines)


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, tuple):
        return f"[{', '.join(_shown(each) for each in default)}]"
    return str(default).lower() if isinstance(default, bool) else repr(default).strip("'") or "''"


def overrides_of(command: Command, args: argparse.Namespace) -> list[str]:
    """The settings of a command line as `name=value`; sets `args.prompts` to the free text."""
    given = [each for each in args.free if SETTING.match(each)]
    free = [each for each in args.free if not SETTING.match(each)]
    free += getattr(args, "plain", [])
    args.prompts = free
    if command in (COMMANDS["sample"], COMMANDS["queue"]):
        return given + sample.chosen(args)
    for name in ("output", *command.options):
        if getattr(args, name, None) is not None:
            given.append(f"{name}={getattr(args, name)}")
    by_position = dict(zip(command.positional, free, strict=False))
    takes = settings(command.schema)[command.positional[0]][0] if command.positional else None
    if free and get_origin(takes) is tuple:
        by_position = dict.fromkeys(command.positional, json.dumps(free, ensure_ascii=False))
        free = []
    too_many = free[len(by_position) :]  # `load_config` says that they are no settings
    return [*(f"{name}={value}" for name, value in by_position.items()), *given, *too_many]
