"""`t2v sample` on the command line: its options, and prompts from words and files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from t2v.cli.commands import brought, collect_garbage, imported
from t2v.cli.siblings import with_sibling
from t2v.config.load import given_names, load_config
from t2v.config.sampling import OUTPUTS, REFERENCES, SampleConfig
from t2v.distributed import rank, world_size
from t2v.errors import UserError, shortened
from t2v.io.addresses import address_of, local_in, shown
from t2v.io.files import require_model

if TYPE_CHECKING:
    from t2v.sampling.devices import Load

# Options, and the settings they stand for.
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
    "--engine": "engine",
    "--dtype": "dtype",
    "--preview-every": "preview_every",
    "--image": "image",
    "--last-image": "last_image",
    "--video": "video",
    "--mask": "mask",
    "--strength": "strength",
    "--interpolate": "interpolate",
    "--fit": "fit",
    "--image-guidance": "image_guidance_scale",
}
FLAGS = {
    "--via-image": "via_image",
    "--grid": "grid",
    "--sheet": "sheet",
    "--gif": "gif",
    "--truncate": "truncate",
    "--prompt-syntax": "prompting.syntax",
    "--overwrite": "overwrite",
}


def add_options(parser: argparse.ArgumentParser, place: Callable[[str], Path]) -> None:
    """Add the options of `t2v sample`; those of settings have the words of theirs as help.

    Args:
        place: the path that a text stands for.
    """
    for option, setting in OPTIONS.items():
        short = ["-o"] if option == "--output" else []
        parser.add_argument(*short, option, dest=setting)
    parser.add_argument("--reference", dest=REFERENCES, action="append", metavar="FILE")
    for option, setting in FLAGS.items():
        parser.add_argument(option, dest=setting, action="store_const", const="true")
    parser.add_argument("--prompt-file", type=place, metavar="FILE", help="one prompt a line")
    parser.add_argument(
        "--story", type=place, metavar="FILE", help="one film of the scenes of a YAML file"
    )
    parser.add_argument(
        "--interactive",
        action="store_true",
        help="a prompt a line on standard input, with the model ready; an empty line ends",
    )
    parser.add_argument(
        "--resume",
        type=place,
        metavar="FILE",
        help="go on from the latents an interrupted run kept",
    )
    parser.add_argument(
        "--recipe", type=place, metavar="FILE", help="make this video (or that of this json) again"
    )
    parser.add_argument(
        "--queue", metavar="FOLDER", help="add jobs to this queue instead (t2v queue)"
    )


def chosen(args: argparse.Namespace) -> list[str]:
    """Return the options that were given, as `name=value`."""
    given = {name: getattr(args, name) for name in [*OPTIONS.values(), *FLAGS.values()]}
    if files := getattr(args, REFERENCES):
        given[REFERENCES] = f"[{', '.join(map(json.dumps, files))}]"
    return [f"{name}={value}" for name, value in given.items() if value is not None]


def sample(args: argparse.Namespace, overrides: list[str]) -> None:
    """Make the videos of a command line, and print their paths.

    Of several processes the first does so, and the others compute for it.
    """
    if world_size() == 1:
        _sample(args, overrides, None)
        return
    from t2v.sampling.devices import follow, leading  # most videos are made by one process

    if rank():
        follow()
        return
    from t2v.sampling import run

    with leading(run.load) as load:
        _sample(args, overrides, load)


def _sample(args: argparse.Namespace, overrides: list[str], shared: Load | None) -> None:
    prompts = list(args.prompts)
    if args.prompt_file:
        from t2v.io.prompts import read_prompts  # the others need none

        prompts += read_prompts(args.prompt_file, "--prompt-file")
    stored = args.resume or args.recipe
    if stored and (prompts or args.config or (args.resume and args.recipe)):
        raise UserError(
            "--resume and --recipe bring their own prompt and settings: give one of them, "
            "without prompts and without --config."
        )
    _check_stored(args)
    if not stored:
        config = _sample_config(args.config, overrides)
    if args.story and (prompts or stored):
        given = repr(prompts[0][:60]) if prompts else "--resume" if args.resume else "--recipe"
        raise UserError(
            f"--story {args.story} and {given}: a story brings its own prompts, and the same "
            "command goes on with it. Give one of the two."
        )
    asks_grid = "grid=true" in overrides if stored else config.grid
    if asks_grid:
        _check_grid(is_alone=not (args.story or stored))
    if stored or args.story or args.interactive or asks_grid or args.queue or shared:
        _check_alone(overrides, None if stored else config)
    if stored and not stored.exists():
        raise UserError(f"{stored}: cannot be read (No such file or directory).")
    if args.queue and (args.interactive or args.resume or asks_grid):
        raise UserError(
            "--queue takes prompts, stories and recipes to make later, without --interactive, "
            "--resume and --grid."
        )
    if args.queue and stored:
        _enqueue_again(args.queue, stored, overrides)
        return
    if args.interactive:
        _check_interactive(config, bool(prompts or args.story or stored or asks_grid))
    if stored:
        named = dict(each.split("=", 1) for each in overrides)
        with brought(local_in(named)), _beside(stored, overrides):
            print(shown(_made_again(args, overrides, shared)))
        return
    with brought(config, writes=not args.queue):
        _make(args, overrides, prompts, config, shared)


@contextmanager
def _beside(stored: Path, overrides: list[str]) -> Iterator[None]:
    """Have the video of a recipe, or of kept latents, that lies at an address written there too."""
    has_output = any(each.startswith("output=") for each in overrides)
    if address_of(stored) is None or has_output:
        yield
        return
    from t2v.io.working_copies import written  # few videos lie at one

    with written(stored.parent, begins=stored.name.partition(".")[0]):
        yield


def _made_again(args: argparse.Namespace, overrides: list[str], shared: Load | None) -> Path:
    """The video of a recipe or of kept latents."""
    from t2v.sampling import run

    load = shared or run.load
    collect_garbage()
    if args.resume:
        return run.resume(args.resume, overrides, load)
    return _repeat(args.recipe, overrides, load)


def _make(
    args: argparse.Namespace,
    overrides: list[str],
    prompts: list[str],
    config: SampleConfig,
    shared: Load | None,
) -> None:
    """Make new videos, whose settings and files are at hand, and print their paths."""
    if not args.story and not args.interactive:
        _check_prompts(prompts)
    _check_places(config)
    if not args.story and not args.interactive:
        config = with_sibling(config, given_names(args.config, overrides))
    if args.queue:
        _enqueue(args, config, prompts)
        return
    config = imported("t2v.cli.fitted:as_memory_allows")(config)
    from t2v.sampling import run  # torch, and seconds: what can be known before is told before

    load = shared or run.load
    collect_garbage()
    if args.interactive:
        from t2v.cli.interactive import interact
        from t2v.sampling.engine import Engine

        _check_interactive(config, False)  # as the memory allows
        parse = partial(_sample_config, args.config)
        interact(config, parse, overrides, Engine(load).load, run.sample)
        return
    if config.grid:
        from t2v.evaluation.grid import grid  # other videos need no page

        print(shown(grid(config, prompts, run.sample, run.load)))
        return
    if args.story:
        from t2v.config.story import read_story  # other videos need none
        from t2v.sampling import story

        with brought(read_story(args.story)):  # its pictures
            print(shown(story.tell(args.story, config, load)))
        return
    for path in run.sample(config, prompts, shared):
        print(shown(path))


def _check_interactive(config: SampleConfig, has_prompts: bool) -> None:
    if has_prompts:
        raise UserError(
            "--interactive takes its prompts from standard input, a line each, after it has "
            "read the model: give no prompts, and none of --prompt-file, --story, --resume, "
            "--recipe and --grid."
        )
    from t2v.cli.interactive import check_interactive  # few type their prompts

    check_interactive(config)


def _enqueue(args: argparse.Namespace, config: SampleConfig, prompts: Sequence[str]) -> None:
    """Add the videos of a command line to a queue, and print the ids of the jobs."""
    from t2v.config.story import read_story
    from t2v.queue.folder import Queue
    from t2v.queue.job import as_jobs, as_story

    jobs = [as_story(config, read_story(args.story))] if args.story else as_jobs(config, prompts)
    print(*Queue.make(args.queue).add_all(jobs), sep="\n")


def _enqueue_again(folder: str, path: Path, overrides: Sequence[str]) -> None:
    """Add the video of a recipe to a queue, and print the id of the job."""
    from t2v.io.text_files import read_json
    from t2v.queue.folder import Queue
    from t2v.queue.job import as_repeated
    from t2v.sampling.results import read_recipe

    values = as_repeated(
        read_json(path) if path.suffix == ".json" else read_recipe(path), str(path)
    )
    print(Queue.make(folder).add(values, overrides))


def _check_grid(is_alone: bool) -> None:
    if not is_alone:
        raise UserError("--grid goes with prompts alone, without --story, --resume and --recipe.")
    if world_size() > 1:
        raise UserError(
            f"--grid with {world_size()} processes: its LoRAs take turns in the model of one "
            "process. Start it without torchrun."
        )


def _check_stored(args: argparse.Namespace) -> None:
    """Raise `UserError` where a finished video and kept latents were taken for each other."""
    if args.recipe and args.recipe.suffix == ".safetensors":
        raise UserError(
            f"--recipe {args.recipe}: is the place of latents that an interrupted run kept. Go on "
            f"from them: --resume {args.recipe}."
        )
    finished = {*OUTPUTS, ".json"} - {"/"}
    if args.resume and args.resume.suffix in finished:
        raise UserError(
            f"--resume {args.resume}: goes on from X.latents.safetensors, which an interrupted run "
            f"leaves. To make a video that is finished again: --recipe {args.resume}."
        )


def _check_alone(overrides: Sequence[str], config: SampleConfig | None) -> None:
    """Raise `UserError` where one video or page is to be made by several workers."""
    given = [each for each in overrides if each.partition("=")[0] in ("engine", "workers")]
    if config is not None and not given and (config.engine != "local" or config.workers):
        given = [f"engine={config.engine} workers={config.workers}"]
    if given:
        raise UserError(
            f"{' '.join(given)}: goes with prompts, as of --prompt-file, whose videos are made by "
            "several. Leave it out with --story, --interactive, --grid, --queue, "
            "--recipe and --resume, and under torchrun."
        )


def _check_prompts(prompts: Sequence[str]) -> None:
    if not prompts:
        raise UserError('There is no prompt. Give one: t2v sample "a red ball bounces on grass".')
    if any(not prompt.strip() for prompt in prompts):
        raise UserError("A prompt is empty. Say what the video should show.")


def _check_places(config: SampleConfig) -> None:
    """Raise `UserError` where settings name a model, a file or an engine that is not there."""
    if config.engine == "ray":
        from t2v.io.engine import require_engine  # most videos are made here

        require_engine(config)
    require_model(config.folder)
    if config.files:
        from t2v.sampling.reading import require_files  # most videos are of a prompt alone

        require_files(config)


def _repeat(path: Path, overrides: list[str], load: Load) -> Path:
    from t2v.sampling import run, story

    if story.is_story(path):
        return story.repeat(path, overrides, load)
    return run.repeat(path, overrides, load)


def _sample_config(file: Path | None, overrides: list[str]) -> SampleConfig:
    try:
        return load_config(SampleConfig, file, overrides)
    except UserError as error:
        if any(" " in each and str(error).startswith(shortened(each)) for each in overrides):
            hint = 'A prompt with `=` in it goes after --, as in t2v sample -- "E=mc2 in chalk".'
            raise UserError(f"{error} {hint}") from error
        raise
