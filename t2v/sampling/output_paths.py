"""Places of videos: free names, files held alone, and what lies there already."""

from __future__ import annotations

import resource
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, replace
from itertools import count as numbers
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError, safe_open

from t2v.config.sampling import INPUTS, SampleConfig
from t2v.errors import UserError
from t2v.io.files import InUse, locked
from t2v.io.formats import FORMATS
from t2v.io.video import ENLARGED, is_ours
from t2v.sampling import recipe as recipe_files
from t2v.sampling.kept import read_latents
from t2v.sampling.recipe import Recipe
from t2v.sampling.results import FOLDER, GIF, PICTURE, read_recipe, shape_of

COMMAND = "t2v sample"
LATENTS, SHEET, PREVIEW = ".latents.safetensors", ".sheet.png", ".preview.png"
RESULTS = (*FORMATS, PICTURE, GIF, FOLDER)
SUFFIXES = (*RESULTS, ".json", LATENTS, SHEET, PREVIEW)
BESIDE = (".json", LATENTS)  # what holds the recipe of a video too
# settings that change no frame of a video; weights, pictures and clips are compared by their hash
FRAMELESS = (
    *("model", "base", "output", "device", "sheet", "gif", "preview_every", "lora", "overwrite"),
    *("offload", "parallel"),
    *INPUTS,
)


@contextmanager
def places(config: SampleConfig, count: int) -> Iterator[list[Path]]:
    """Hold the files of `count` videos, absolute, and give their names.

    These are `X.mp4, X-1.mp4, X-2.mp4, ...` of `config.output`; without one those of `video.mp4`
    of which nothing exists yet.

    Raises:
        UserError: a place cannot be written, another run holds it, or a file there is not ours.
    """
    given = Path(config.output or "video.mp4")
    if given.is_symlink() and not given.exists():
        raise UserError(f"output={given}: is a link to a file that does not exist. Name a file.")
    first = given.resolve()
    if first.suffix != given.suffix:
        raise UserError(f"output={given}: is a link to {first}, of another ending. Name that one.")
    check_writable(first)
    if config.output is None:
        with _free_places(first, count) as paths:
            yield paths
        return
    paths = output_paths(first, count)
    if first.suffix == FOLDER:
        from t2v.io.frame_folder import check_folder  # most results are videos

        for path in paths:
            check_folder(path)
    with held(paths):
        if not config.overwrite:
            refuse_foreign(paths, config)
        yield paths


@contextmanager
def held(paths: Sequence[Path]) -> Iterator[None]:
    """Hold videos, and the files that go with them, alone.

    Raises:
        UserError: another run holds one of them.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = len(paths) + 256  # a lock is an open file
    if soft != resource.RLIM_INFINITY and soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    # a folder comes and goes with its lock inside
    alone = [path if path.suffix != FOLDER else path.with_suffix(".json") for path in paths]
    with locked(*alone, command=COMMAND):
        yield


def output_paths(output: str | Path, count: int) -> list[Path]:
    """`X.mp4, X-1.mp4, X-2.mp4, ...`, absolute."""
    return list(islice(_names(Path(output).resolve()), count))


def _names(first: Path) -> Iterator[Path]:
    yield first
    yield from (first.with_name(f"{first.stem}-{number}{first.suffix}") for number in numbers(1))


@contextmanager
def _free_places(first: Path, count: int) -> Iterator[list[Path]]:
    with ExitStack() as stack:
        paths: list[Path] = []
        names = _names(first)
        while len(paths) < count:
            path = next(names)
            if _is_taken(path):
                continue
            with suppress(InUse):
                stack.enter_context(held([path]))
                if not _is_taken(path):  # by one who has let go since
                    paths.append(path)
        yield paths


def _is_taken(path: Path) -> bool:
    beside = [path.with_suffix(suffix) for suffix in SUFFIXES]
    samples = path.parent.glob(f"{_escaped(path.stem)}.seed-*")
    return any(each.exists() or each.is_symlink() for each in beside) or any(samples)


def _escaped(stem: str) -> str:
    return "".join(f"[{each}]" if each in "*?[" else each for each in stem)


def check_writable(path: Path) -> None:
    """Make the folder of `path` and raise UserError where nothing can be written into it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except (FileExistsError, NotADirectoryError) as error:
        file = next(each for each in path.parents if each.exists())
        raise UserError(
            f"output={path}: {file} is a file, and would have to be a folder. Choose another "
            "output."
        ) from error
    except OSError as error:
        raise UserError(
            f"output={path}: cannot be written ({error.strerror}). Choose another output."
        ) from error
    if path.is_dir() and path.suffix != FOLDER:
        raise UserError(f"output={path}: is a folder. Name a file in it.")


def refuse_foreign(paths: Sequence[Path], config: SampleConfig) -> None:
    """Raise UserError where a file that `config` would replace was not made by `t2v sample`."""
    foreign = []
    for number, path in enumerate(paths):
        asked = [path.suffix, ".json", LATENTS]
        asked += [PICTURE] if config.via_image else []
        asked += [".gif"] if config.gif else []
        asked += [PREVIEW] if config.preview_every else []
        asked += [SHEET] if config.sheet and number == 0 else []
        beside = [path.with_suffix(suffix) for suffix in asked]
        if config.keep_draws:
            beside += path.parent.glob(f"{_escaped(path.stem)}.seed-*")
        foreign += [each.name for each in beside if each.exists() and not _is_ours(each)]
    if foreign:
        shown = ", ".join(foreign[:5]) + (f" and {len(foreign) - 5} more" if foreign[5:] else "")
        raise UserError(
            f"output={paths[0]}: {shown} would be replaced, and `{COMMAND}` did not make "
            f"{'it' if len(foreign) == 1 else 'them'}. Choose another output, or give "
            "overwrite=true."
        )


def _is_ours(path: Path) -> bool:
    if path.suffix == FOLDER and path.is_dir() and not any(path.iterdir()):
        return True  # nothing is lost with it
    is_result = path.suffix in RESULTS and not path.name.endswith((SHEET, PREVIEW))
    if is_result or path.suffix == ".json":
        is_beside = path.suffix == GIF and is_ours(path)  # that of `gif=true` has no recipe
        return recipe_in(path) is not None or is_beside
    if path.name.endswith(LATENTS):
        try:
            with safe_open(path, framework="pt") as file:
                return {"recipe", "step"} <= (file.metadata() or {}).keys()
        except (OSError, SafetensorError):
            return False
    return is_ours(path)


def recipe_in(path: Path) -> Recipe | None:
    """The recipe in a result, a json or kept latents, or None."""
    if not (path.is_dir() if path.suffix == FOLDER else path.is_file()):
        return None
    try:
        if path.suffix == ".json":
            values = recipe_files.read_json(path)
        elif path.name.endswith(LATENTS):
            values = read_latents(path)[1]
        else:
            values = read_recipe(path)
        if ENLARGED in values:
            return None  # it is more than the recipe makes
        return recipe_files.read(values, path)
    except (UserError, ValueError):
        return None


def refuse_other_videos(recipes: Sequence[Recipe], beside: Sequence[str] = BESIDE) -> None:
    """Raise UserError where a recipe's place holds another video of ours, finished or not.

    Args:
        beside: what the names of its other files end in.
    """
    for recipe in recipes:
        for suffix in (recipe.path.suffix, *beside):
            path = recipe.path.with_suffix(suffix)
            other = recipe_in(path)
            if other is not None and not _is_same_video(other, recipe):
                raise UserError(
                    f"output={recipe.path}: {path.name} is of another video "
                    f"({other.prompt[:60]!r}, seed {other.settings.seed}). Choose another output, "
                    "remove it, or give overwrite=true."
                )


def is_finished(recipe: Recipe, beside: Sequence[str] = (".json",)) -> bool:
    """True if the video of a recipe, and all that is asked for with it, exists whole."""
    made, config = recipe_in(recipe.path), recipe.settings
    if made is None or not _is_same_video(made, recipe) or (made.choice and made.choice.left):
        return False
    wanted = [*beside, *([".gif"] if config.gif else [])]
    if not all(recipe.path.with_suffix(suffix).is_file() for suffix in wanted):
        return False
    sides = [(config.upscale or 1) * (side or 0) for side in (config.height, config.width)]
    try:
        return shape_of(recipe.path) == (config.num_frames, *sides)
    except UserError:
        return False


def _is_same_video(one: Recipe, other: Recipe) -> bool:
    def content(recipe: Recipe) -> tuple[object, ...]:
        choice = recipe.choice and replace(recipe.choice, scores={}, scorer="")
        settings = asdict(recipe.settings)
        if choice:
            settings["seed"] = choice.first_seed  # its own is that of the best sample so far
        kept = {name: value for name, value in settings.items() if name not in FRAMELESS}
        return recipe.prompt, recipe.weights, recipe.lora, recipe.inputs, kept, choice

    schedulers = {one.scheduler, other.scheduler} - {None}  # recipes of before have none
    return content(one) == content(other) and len(schedulers) < 2


def place_of_latents(path: Path, settings: SampleConfig) -> Path:
    """The result that kept latents are for: beside them, whatever path their recipe names."""
    name = path.name.removesuffix(LATENTS) if path.name.endswith(LATENTS) else path.stem
    return path.resolve().with_name(f"{name}{result_suffix(settings)}")


def result_suffix(settings: SampleConfig) -> str:
    """The end of the name of a result, none of a folder's."""
    return Path(settings.output or "video.mp4").suffix
