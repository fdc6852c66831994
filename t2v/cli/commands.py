"""The commands of `t2v`: their settings, what runs them, and a line of help for each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t2v.config.load import load_config, settings
from t2v.errors import UserError, shortened
from t2v.io.text_files import read_text

if TYPE_CHECKING:
    from t2v.config.plan import PlanConfig
    from t2v.config.sampling import SampleConfig


@dataclass(frozen=True)
class Command:
    """A row of `COMMANDS`.

    Settings and function are named as `module:name` and imported when the command runs, so that
    one command loads the modules of that command alone.

    Args:
        settings: the dataclass of its settings.
        run: the function that takes them; what it returns is printed. A command that needs more of
            the command line has a function here instead.
        help: one line, as `t2v --help` shows it.
        positional: settings that may be given by position; a list takes all that follow.
        options: settings that may also be given as `--name`.
    """

    settings: str
    run: str | Callable[[argparse.Namespace, list[str]], None]
    help: str
    positional: tuple[str, ...] = ()
    options: tuple[str, ...] = ()

    @property
    def schema(self) -> type:
        """The dataclass of the settings."""
        schema: type = imported(self.settings)
        return schema


def imported(place: str) -> Any:
    """Return what `module:name` stands for."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


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
    from t2v.config.sampling import SampleConfig

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
    from t2v.config.sampling import ConvertConfig
    from t2v.models.convert import convert_wan_pipeline

    config = load_config(ConvertConfig, args.config, overrides)
    convert_wan_pipeline(config.src, config.dst)
    print(Path(config.dst).resolve())


def _plan(args: argparse.Namespace, overrides: list[str]) -> None:
    config, target = load_plan(args.config, overrides)
    from t2v.plan.report import report
    from t2v.plan.run import plan

    print(report(plan(config, target)))


def load_plan(file: Path | None, overrides: Sequence[str]) -> tuple[PlanConfig, Any]:
    """The settings of `t2v plan`, and those of the command it plans, which the file is for."""
    from t2v.config.plan import PlanConfig

    own = {each for each in overrides if each.partition("=")[0] in settings(PlanConfig)}
    config = load_config(PlanConfig, None, [each for each in overrides if each in own])
    schema = COMMANDS[config.command].schema
    known = settings(schema)
    rest = [each for each in overrides if each not in own or each.partition("=")[0] in known]
    return config, load_config(schema, file, rest)


COMMANDS = {
    "sample": Command("t2v.config.sampling:SampleConfig", _sample, "prompts to mp4"),
    "world": Command(
        "t2v.config.world:WorldConfig",
        "t2v.world.run:run",
        "render the captioned world; train its text and judge",
    ),
    "train-vae": Command(
        "t2v.config.training:TrainVAEConfig",
        "t2v.training.tasks.vae:train_vae",
        "train the video autoencoder",
    ),
    "train": Command(
        "t2v.config.training:TrainDiTConfig",
        "t2v.training.tasks.dit:train_dit",
        "train the transformer; writes a pipeline folder",
    ),
    "finetune": Command(
        "t2v.config.finetune:FinetuneConfig",
        "t2v.training.tasks.finetune:finetune",
        "a saved pipeline learns new footage",
    ),
    "encode": Command(
        "t2v.config.data:EncodeConfig",
        "t2v.data.encode:encode",
        "clips to cached latents, with a report",
        ("data",),
    ),
    "convert": Command(
        "t2v.config.sampling:ConvertConfig",
        _convert,
        "turn a Wan pipeline folder into one of ours",
        ("src", "dst"),
    ),
    "eval": Command(
        "t2v.config.evaluation:EvalConfig",
        "t2v.evaluation.run:evaluate",
        "measure a pipeline on suites of prompts",
        ("model",),
    ),
    "eval footage": Command(
        "t2v.config.evaluation:FootageEvalConfig",
        "t2v.evaluation.retrieval:evaluate",
        "find the real clip nearest to each sampled caption",
        ("model",),
    ),
    "eval compare": Command(
        "t2v.config.evaluation:CompareConfig",
        "t2v.evaluation.compare:compare",
        "compare evaluations prompt by prompt",
        ("runs",),
    ),
    "scorer": Command(
        "t2v.config.scorer:ScorerConfig",
        "t2v.training.tasks.scorer:train_scorer",
        "train what tells how well a video fits a text",
    ),
    "plan": Command(
        "t2v.config.plan:PlanConfig",
        _plan,
        "memory, time and disk of a command, before it is run",
        ("command",),
    ),
    "curate": Command(
        "t2v.config.curation:CurateConfig",
        "t2v.curation.run:curate",
        "footage to a manifest of clips",
        ("input",),
        ("engine",),
    ),
    "bench": Command(
        "t2v.config.sampling:BenchConfig",
        "t2v.bench:bench",
        "time, memory and utilisation of every stage",
        ("what", "footage"),
    ),
}
