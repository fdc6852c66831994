"""The `t2v` command: one table of commands, settings from file and command line, exit codes."""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import MISSING, dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, get_origin

from t2v.config.curation import CurateConfig
from t2v.config.data import EncodeConfig
from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.load import load_config, settings, type_words
from t2v.config.plan import PlanConfig
from t2v.config.sampling import BenchConfig, ConvertConfig, SampleConfig
from t2v.config.scorer import ScorerConfig
from t2v.config.training import TrainDiTConfig, TrainVAEConfig
from t2v.config.world import WorldConfig
from t2v.errors import UserError, shortened
from t2v.io.text_files import read_text

EXIT_CODES = "exit codes: 0 done, 1 a bug, 2 something you can fix, 130 interrupted"
REFUSED = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.EFBIG),
}  # what the disk answers where the user chose the place
LONGEST = 4000  # characters of a message
SETTING = re.compile(r"[A-Za-z_][\w.]*=")

# Options of `t2v sample` and the settings they stand for.
OPTIONS = {
    "--model": "model",
    "--output": "output",
    "--seed": "seed",
    "--height": "height",
    "--width": "width",
    "--frames": "num_frames",
    "--duration": "duration",
    "--fps": "fps",
    "--steps": "num_inference_steps",
    "--guidance": "guidance_scale",
    "--negative-prompt": "negative_prompt",
    "--num-videos": "num_videos_per_prompt",
    "--best-of": "best_of",
    "--attention": "attention",
    "--device": "device",
    "--dtype": "dtype",
    "--preview-every": "preview_every",
}
FLAGS = {"--sheet": "sheet", "--gif": "gif", "--truncate": "truncate", "--overwrite": "overwrite"}


@dataclass(frozen=True)
class Command:
    """A row of `COMMANDS`: the settings, what runs them, one line of help.

    What runs them is `module:function`, imported only then; it takes the settings, and what it
    returns is printed. Commands that need more have a function here.
    """

    schema: type
    run: str | Callable[[argparse.Namespace, list[str]], None]
    help: str
    positional: tuple[str, ...] = ()  # settings that may be given by position; a list takes all
    options: tuple[str, ...] = ()  # settings that may be given as --name


def _sample(args: argparse.Namespace, overrides: list[str]) -> None:
    prompts = [*args.prompts, *(_prompts_in(args.prompt_file) if args.prompt_file else ())]
    stored = args.resume or args.recipe
    if stored and (prompts or args.config or (args.resume and args.recipe)):
        raise UserError(
            "--resume and --recipe bring their own prompt and settings: give one of them, "
            "without prompts and without --config."
        )
    if not stored:
        config = _sample_config(args.config, overrides)
    from t2v import sampling

    if args.resume:
        paths = [sampling.resume(args.resume, overrides)]
    elif args.recipe:
        paths = [sampling.repeat(args.recipe, overrides)]
    else:
        paths = sampling.sample(config, prompts)
    for path in paths:
        print(path)


def _sample_config(file: Path | None, overrides: list[str]) -> SampleConfig:
    try:
        return load_config(SampleConfig, file, overrides)
    except UserError as error:
        if any(" " in each and str(error).startswith(shortened(each)) for each in overrides):
            hint = 'A prompt with `=` in it goes behind --, as in t2v sample -- "E=mc2 in chalk".'
            raise UserError(f"{error} {hint}") from error
        raise


def _prompts_in(file: Path) -> list[str]:
    """The lines of a prompt file that are not blank."""
    lines = read_text(file, "--prompt-file").splitlines()
    if prompts := [line.strip() for line in lines if line.strip()]:
        return prompts
    raise UserError(f"--prompt-file {file}: holds no prompt. Write one a line.")


def _convert(args: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(ConvertConfig, args.config, overrides)
    from t2v.models.convert import convert_wan_pipeline

    convert_wan_pipeline(config.src, config.dst)
    print(Path(config.dst).resolve())


def _eval(args: argparse.Namespace, overrides: list[str]) -> None:
    config = load_config(EvalConfig, args.config, overrides)
    if config.data is None:
        from t2v.evaluation.run import evaluate
    else:
        from t2v.evaluation.retrieval import evaluate
    print(evaluate(config))


def _plan(args: argparse.Namespace, overrides: list[str]) -> None:
    config, target = load_plan(args.config, overrides)
    from t2v.plan.report import report
    from t2v.plan.run import plan

    print(report(plan(config, target)))


def load_plan(file: Path | None, overrides: Sequence[str]) -> tuple[PlanConfig, Any]:
    """The settings of `t2v plan`, and those of the command it plans, which the file is for."""
    own = {each for each in overrides if each.partition("=")[0] in settings(PlanConfig)}
    config = load_config(PlanConfig, None, [each for each in overrides if each in own])
    schema = COMMANDS[config.command].schema
    known = settings(schema)
    rest = [each for each in overrides if each not in own or each.partition("=")[0] in known]
    return config, load_config(schema, file, rest)


COMMANDS = {
    "sample": Command(SampleConfig, _sample, "prompts to mp4"),
    "world": Command(
        WorldConfig, "t2v.world.run:run", "render the captioned world; train its text and judge"
    ),
    "train-vae": Command(
        TrainVAEConfig, "t2v.training.tasks.vae:train_vae", "train the video autoencoder"
    ),
    "train": Command(
        TrainDiTConfig,
        "t2v.training.tasks.dit:train_dit",
        "train the transformer; writes a pipeline folder",
    ),
    "finetune": Command(
        FinetuneConfig,
        "t2v.training.tasks.finetune:finetune",
        "a saved pipeline learns new footage",
    ),
    "encode": Command(
        EncodeConfig,
        "t2v.data.encode:encode",
        "clips to cached latents, with a report",
        ("data",),
    ),
    "convert": Command(
        ConvertConfig, _convert, "turn a Wan pipeline folder into one of ours", ("src", "dst")
    ),
    "eval": Command(EvalConfig, _eval, "judge a pipeline by prompts or real clips", ("model",)),
    "eval compare": Command(
        CompareConfig, "t2v.evaluation.compare:compare", "tell evaluations apart", ("runs",)
    ),
    "scorer": Command(
        ScorerConfig,
        "t2v.training.tasks.scorer:train_scorer",
        "train what tells how well a video fits a text",
    ),
    "plan": Command(
        PlanConfig, _plan, "memory, time and disk of a command, before it is run", ("command",)
    ),
    "curate": Command(
        CurateConfig,
        "t2v.curation.run:curate",
        "footage to a manifest of clips",
        ("input",),
        ("engine",),
    ),
    "bench": Command(
        BenchConfig,
        "t2v.bench:bench",
        "time, memory and utilisation of every stage",
        ("what", "footage"),
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code (0 done, 2 user error, 1 bug, 130 interrupted)."""
    try:
        _dispatch(list(sys.argv[1:] if argv is None else argv))
        print(end="", flush=True)  # what cannot be written should be known here
    except UserError as error:
        print(f"t2v: {shortened(error, LONGEST)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as interrupt:
        print(f"\nt2v: interrupted. {interrupt}".rstrip(), file=sys.stderr)
        return 130
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_has_left():
            return 0
        if _is_refused_by_the_disk(error):
            reason = re.sub(r"^\[Errno \d+\] ", "", str(error))
            print(f"t2v: {reason}. Make room there, or choose another place.", file=sys.stderr)
            return 2
        traceback.print_exc()
        print("t2v: this is a bug; please report it with the lines above.", file=sys.stderr)
        return 1
    return 0


def _reader_has_left() -> bool:
    """Does nobody read stdout any more, as after `| head -1`? The rest then goes nowhere."""
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
        print(_overview())
        return
    if name == "--version":
        from t2v import __version__

        print(f"t2v {__version__}")
        return
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean `t2v {close[0]}`?" if close else f"Allowed: {', '.join(COMMANDS)}."
        raise UserError(f"there is no command {name!r}. {hint}")
    parser, words = _parser(name), argv[len(name.split()) :]
    end = words.index("--") if "--" in words else len(words)
    args = parser.parse_intermixed_args(words[:end])
    args.plain = words[end + 1 :]  # neither settings nor options, whatever they look like
    if args.help:
        parser.print_help()
        return
    from t2v import distributed
    from t2v.io import log

    log.setup(distributed.rank())
    if distributed.rank():  # the first process prints
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    _run(COMMANDS[name], args)


def _run(command: Command, args: argparse.Namespace) -> None:
    overrides = _overrides(command, args)
    if not isinstance(command.run, str):
        command.run(args, overrides)
        return
    config: Any = load_config(command.schema, args.config, overrides)
    module, _, function = command.run.partition(":")
    result = getattr(import_module(module), function)(config)
    if result is not None:
        print(result)


def command_name(argv: Sequence[str]) -> str:
    """The command that words begin with: two of them where there is such a command."""
    both = " ".join(argv[:2])
    return both if both in COMMANDS else argv[0] if argv else "--help"


def _overview() -> str:
    rows = "\n".join(f"  {name:<13}{command.help}" for name, command in COMMANDS.items())
    return (
        "usage: t2v COMMAND [--config FILE] [name=value ...]\n\nText to video.\n\n"
        f"commands:\n{rows}\n\n`t2v COMMAND --help` lists every setting.\n{EXIT_CODES}"
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        unknown = re.search(r"unrecognized arguments: (--[\w-]+)", message)
        known = [option for action in self._actions for option in action.option_strings]
        close = get_close_matches(unknown[1], known, n=1) if unknown else []
        hint = f"Did you mean {close[0]}? " if close else ""
        raise UserError(f"{message}. {hint}`{self.prog} --help` lists what is allowed.")


def _parser(name: str) -> argparse.ArgumentParser:
    """The parser of one command; its help lists every setting of the schema."""
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"t2v {name}",
        description=command.help,
        epilog=f"{_settings_table(command.schema)}\n\n{EXIT_CODES}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        add_help=False,
    )
    parser.add_argument("-h", "--help", action="store_true", help="show this and stop")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML with settings")
    for option in command.options:
        parser.add_argument(f"--{option}", help=f"the setting {option}")
    free = [each.upper() for each in command.positional]
    if name == "sample":
        free = ["PROMPT"]
        _add_sample_options(parser)
    elif "output" in settings(command.schema):
        parser.add_argument("-o", "--output", help="the setting output")
    metavar = " ".join([*free, "name=value"])
    parser.add_argument("free", nargs="*", metavar=metavar, help="what follows -- is no setting")
    return parser


def _add_sample_options(parser: argparse.ArgumentParser) -> None:
    for option, setting in OPTIONS.items():
        short = ["-o"] if option == "--output" else []
        parser.add_argument(*short, option, dest=setting, help=f"the setting {setting}")
    for option, setting in FLAGS.items():
        parser.add_argument(
            option, dest=setting, action="store_const", const="true", help=f"{setting}=true"
        )
    parser.add_argument("--prompt-file", type=Path, metavar="FILE", help="one prompt a line")
    parser.add_argument(
        "--resume", type=Path, metavar="FILE", help="go on from the latents an interrupted run kept"
    )
    parser.add_argument(
        "--recipe", type=Path, metavar="MP4", help="make the video of this mp4 (or json) again"
    )


def _settings_table(schema: type) -> str:
    rows = [
        (name, type_words(hint), "required" if default is MISSING else _shown(default))
        for name, (hint, default) in settings(schema).items()
    ]
    wide = [max(len(row[column]) for row in rows) for column in (0, 1)]
    lines = [f"  {name:<{wide[0]}}  {hint:<{wide[1]}}  {default}" for name, hint, default in rows]
    return "settings, given as name=value (name, type, default):\n" + "\n".join(lines)


def _shown(default: Any) -> str:
    if default is None:
        return "null"
    if isinstance(default, tuple):
        return f"[{', '.join(_shown(each) for each in default)}]"
    return str(default).lower() if isinstance(default, bool) else repr(default).strip("'") or "''"


def _overrides(command: Command, args: argparse.Namespace) -> list[str]:
    """The settings of a command line as `name=value`; sets `args.prompts` to the free text."""
    given = [each for each in args.free if SETTING.match(each)]
    free = [each for each in args.free if not SETTING.match(each)]
    free += getattr(args, "plain", [])
    args.prompts = free
    if command.schema is SampleConfig:
        chosen = {name: getattr(args, name) for name in [*OPTIONS.values(), *FLAGS.values()]}
        return given + [f"{name}={value}" for name, value in chosen.items() if value is not None]
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
