"""`t2v sample --story`: one film of several scenes; every finished window of it is kept."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from einops import rearrange

from t2v.config.sampling import REFERENCES, SampleConfig
from t2v.config.story import StoryConfig, read_story, stored_story
from t2v.errors import UserError
from t2v.families.load import Embed
from t2v.footage.still import read_picture
from t2v.io.addresses import remove
from t2v.io.files import KEY, digest, file_sha256
from t2v.io.formats import FORMATS
from t2v.io.video import check_size, read_recipe, save_image, shape_of, video_writer
from t2v.models.device import DTYPES
from t2v.pipelines.generator import Generator, rate_of, to_uint8
from t2v.pipelines.scenes import scenes_of
from t2v.pipelines.story import Film, LatentWindows, Scene, Window
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling import recipe as recipe_files
from t2v.sampling.film_sheet import FilmSheet
from t2v.sampling.generate import request_of
from t2v.sampling.output_paths import FRAMELESS, SHEET, places, result_suffix
from t2v.sampling.recipe import Recipe
from t2v.sampling.stops import stops_as_interrupts
from t2v.sampling.versions import versions
from t2v.sampling.windows import counted, keep_window, kept_window
from t2v.sampling.wording import worded_story

if TYPE_CHECKING:
    from t2v.families.story import FrameWindows

logger = logging.getLogger(__name__)

WINDOWS = ".windows"
# settings that a story takes; it has its length and its pictures from its file
TAKEN = (
    *("model", "output", "overwrite", "negative_prompt", "seed", "height", "width", "fps"),
    *("num_inference_steps", "guidance_scale", "attention", "device", "dtype", "sheet"),
    *("truncate", "lora", "lora_scale", "lora_part", "lora_fit", "lora_preset", "shift"),
    *("offload", "quantize", "vae_tiling", "compile", "parallel", "token_merging"),
    *("attention_layout", "prompting", "codes", REFERENCES),
)

Load = Callable[[SampleConfig, Sequence[str], Embed], tuple[Generator, str]]
FollowWindows = Callable[[Path, int, int], None]  # of a film, with its windows made and all


def tell(file: Path, config: SampleConfig, load: Load) -> Path:
    """Make the film of a story file, `X.mp4`, by default with the file's own name.

    Finished windows are kept in `X.windows`. The same command goes on with them, and so does a
    story with another prompt, up to the first window that is another one.

    Args:
        load: gives the generator of settings, and the hash of its weights.

    Raises:
        UserError: something given cannot work, or the place holds another film.
    """
    if config.output is None:
        config = replace(config, output=f"{file.stem}.mp4")
    return make_film(read_story(file), config, load)


def is_story(path: Path) -> bool:
    """True for the mp4 of a story, or the json beside it."""
    try:
        values = recipe_files.read_json(path) if path.suffix == ".json" else read_recipe(path)
    except UserError:
        return False  # who reads it next says why
    return isinstance(values, dict) and "story" in values


def repeat(path: Path, overrides: Sequence[str], load: Load) -> Path:
    """Make the film of an mp4 (or of the json beside it) again, the same to the bit.

    Raises:
        UserError: the recipe is damaged, a picture or the model is no longer what it was.
    """
    values = recipe_files.read_json(path) if path.suffix == ".json" else read_recipe(path)
    suffix = result_suffix(recipe_files.read(values, path).settings)
    again = path.with_name(f"{path.stem}-again{suffix}")
    return repeat_recipe(values, path, [f"output={again}", "sheet=false", *overrides], load)


def repeat_recipe(
    values: Any,
    path: Path,
    overrides: Sequence[str],
    load: Load,
    follow: FollowWindows | None = None,
) -> Path:
    """Make the film of a recipe, where its output says.

    Args:
        values: what the recipe holds.
        path: where it was read, for messages.

    Raises:
        UserError: see `repeat`.
    """
    renamed = {each.partition("=")[0] for each in overrides}
    old = recipe_files.read(values, path, overrides)
    recipe_files.refuse_fetching(old, path, renamed)
    story, pictures = stored_story(values["story"], str(path)), values.get("pictures")
    if not isinstance(pictures, dict):
        raise UserError(f"{path}: its recipe is damaged (its pictures are missing).")
    known = {str(name): str(each) for name, each in pictures.items()}
    known |= {} if "model" in renamed else {"weights": old.weights}
    return make_film(story, replace(old.settings, num_frames=None), load, known, follow)


def make_film(
    story: StoryConfig,
    config: SampleConfig,
    load: Load,
    known: Mapping[str, str] = MappingProxyType({}),
    follow: FollowWindows | None = None,
) -> Path:
    """Make the film of a story, at `config.output`.

    Args:
        known: hashes that weights and pictures must have.
        follow: is told of each window before it is made, and may end the film as Ctrl-C does.

    Raises:
        UserError: see `tell`.
    """
    _refuse_settings(config)
    story = worded_story(story, config)
    with places(config, 1) as (path,):
        pictures = _hashes(story, config)
        prompts = [scene.prompt for scene in story.scenes]
        generator, weights = load(config, prompts, partial(_embed, story, config))
        for name, found in {**pictures, "weights": weights}.items():
            if known.get(name, found) != found:
                raise UserError(
                    f"{name if name != 'weights' else f'model={config.model}'}: not what the "
                    f"recipe was made with ({found[:12]}, and it has {known[name][:12]}). Put that "
                    "one back."
                )
        plan = _planned(generator, story, replace(config, output=str(path)))
        recipe = _recipe(generator, weights, plan)
        about = {**recipe.to_json(), "story": asdict(story), "pictures": pictures}
        if not config.overwrite and _is_made(path, about):
            logger.info("%s exists already", path)
            return path
        keys = _keys(about, plan, pictures)
        with stops_as_interrupts():
            _write(path, plan, keys, about, follow)
        recipe_files.write_values(path.with_suffix(".json"), about)
        return path


def _embed(story: StoryConfig, config: SampleConfig, generator: Generator) -> None:
    """Have all scenes embedded, for encoders that are released then.

    What a window begins with is made on the way, so a black picture stands for it, and the image
    encoder stays.
    """
    from t2v.pipelines.released import embed_first  # few models are held so

    plan = _planned(generator, story, config)
    black = VisualInputs(image=np.zeros((8, 8, 3), dtype=np.uint8))
    seen = black if "image" in generator.takes and not generator.is_trainable else None
    for prompt in dict.fromkeys(scene.prompt for scene in plan.scenes):
        embed_first(generator, [prompt], plan.maker.request, [seen], sees_others=True)


@dataclass(frozen=True, eq=False)
class Plan:
    """All that a film is made of.

    Args:
        settings: with everything filled in.
        maker: of its windows.
    """

    story: StoryConfig
    settings: SampleConfig
    maker: LatentWindows | FrameWindows
    scenes: list[Scene]
    windows: list[Window]


def _refuse_settings(config: SampleConfig) -> None:
    if config.output is not None and Path(config.output).suffix not in FORMATS:
        raise UserError(
            f"output={config.output}: a story is written as it is made, which a picture, a gif and "
            f"a folder do not take. Give a name that ends in one of {', '.join(FORMATS)}."
        )
    usual = SampleConfig()
    if config.upscale not in (None, 1):
        raise UserError(
            f"upscale={config.upscale} with --story: films of scenes are not enlarged as they are "
            "made. Leave it out, and enlarge the film with `t2v upscale`."
        )
    others = [each.name for each in fields(SampleConfig) if each.name not in (*TAKEN, "upscale")]
    given = [name for name in others if getattr(config, name) != getattr(usual, name)]
    if given:
        raise UserError(
            f"{' and '.join(given)} with --story: a story is one film, and has its length and its "
            f"pictures from its file. Leave {'it' if len(given) == 1 else 'them'} out."
        )


def _planned(generator: Generator, story: StoryConfig, config: SampleConfig) -> Plan:
    saved = generator.defaults
    is_ours = isinstance(generator.pipeline, T2VPipeline)
    names = ("height", "width", "num_inference_steps", "guidance_scale", "fps")
    own: dict[str, Any] = {
        name: getattr(saved, name) if getattr(config, name) is None else getattr(config, name)
        for name in names
    }
    dtype = generator.pipeline.dtype
    own["dtype"] = next((name for name, each in DTYPES.items() if each == dtype), config.dtype)
    own |= {"fps": float(own["fps"] or rate_of(generator)), "upscale": 1}
    scenes = _scenes(story, own["fps"])
    total = sum(scene.num_frames for scene in scenes)
    settings = replace(config, **own, num_frames=total, overwrite=False, parallel="auto")
    check_size(total, own["height"], own["width"])
    request = replace(request_of(settings), num_frames=story.windows.frames or saved.num_frames)
    references = [read_picture(Path(each)).copy() for each in config.reference_images]
    if references and not is_ours:
        kind = type(generator.pipeline).__name__
        raise UserError(f"reference_images with --story: a {kind} takes none. Leave it out.")
    visuals = VisualInputs(reference_images=references) if references else None
    for number, scene in enumerate(scenes if is_ours else [], 1):
        with _of_scene(number):
            generator.check(scene.prompt, request, visuals)
    has_bar = sys.stderr.isatty()
    generator.pipeline.set_progress_bar_config(desc="denoising", disable=not has_bar)
    maker: LatentWindows | FrameWindows
    if is_ours:
        maker = LatentWindows(generator.pipeline, request, story.windows, None, references)
    else:
        from t2v.families.story import FrameWindows  # seldom needed

        maker = FrameWindows(generator, request, story.windows)
    return Plan(story, settings, maker, scenes, maker.plan(scenes))


def _scenes(story: StoryConfig, fps: float) -> list[Scene]:
    lengths = [scene.seconds for scene in story.scenes]
    plain = scenes_of([scene.prompt for scene in story.scenes], lengths, fps, None, "crop")
    scenes = []
    for number, (scene, asked) in enumerate(zip(plain, story.scenes, strict=True)):
        image = None
        if asked.image is not None:
            with _of_scene(number + 1):
                image = read_picture(Path(asked.image)).copy()
        scenes.append(replace(scene, is_cut=story.is_cut(number), image=image))
    return scenes


@contextmanager
def _of_scene(number: int) -> Iterator[None]:
    """Name the scene in what is wrong with it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"scene {number}: {error}") from error


def _hashes(story: StoryConfig, config: SampleConfig) -> dict[str, str]:
    """The SHA-256 of each scene's picture, and of the subjects', by its path."""
    found = {config.files[name]: each for name, each in recipe_files.input_hashes(config).items()}
    for number, scene in enumerate(story.scenes, 1):
        if scene.image is not None:
            try:
                found[scene.image] = file_sha256(Path(scene.image))
            except OSError as error:
                raise UserError(
                    f"scene {number}: image={scene.image} cannot be read ({error.strerror}). "
                    "Give a picture; its path is relative to the story file."
                ) from error
    return found


def _recipe(generator: Generator, weights: str, plan: Plan) -> Recipe:
    device = generator.pipeline.device.type
    return Recipe(
        prompt="\n".join(scene.prompt for scene in plan.scenes),
        settings=plan.settings,
        weights=weights,
        lora=recipe_files.lora_hashes(plan.settings),
        inputs=recipe_files.input_hashes(plan.settings),
        device=device,
        versions=versions(
            device, getattr(generator.pipeline, "transformer", None), plan.settings.attention
        ),
    )


def _is_made(path: Path, about: dict[str, Any]) -> bool:
    """True if this very film is there whole.

    Raises:
        UserError: another one is.
    """
    if not path.exists():
        return False
    about = json.loads(json.dumps(about))  # as a file gives it back: lists, not tuples
    old, settings = read_recipe(path), about["settings"]
    names = ("weights", "lora", "story", "pictures")
    same = all(old.get(name) == about[name] for name in names) and all(
        old["settings"].get(name) == settings[name] for name in settings if name not in FRAMELESS
    )
    if not same:
        raise UserError(
            f"output={path}: is of another video. Choose another output, or give overwrite=true: "
            "windows that stay the same are not made again."
        )
    size = settings["num_frames"], settings["height"], settings["width"]
    return path.with_suffix(".json").exists() and shape_of(path) == size


def _keys(about: dict[str, Any], plan: Plan, pictures: dict[str, str]) -> list[str]:
    """A hash of all that each window is made of, the windows before it included."""
    no_part = (*FRAMELESS, "num_frames", "fps", "seed")
    settings = {name: each for name, each in about["settings"].items() if name not in no_part}
    settings["offload"] = "auto"  # changes no frame; earlier keys hold it
    names = ("weights", "lora", "device", "versions", *(["inputs"] if "inputs" in about else []))
    base = digest(
        [about[name] for name in names], sorted(settings.items()), asdict(plan.story.windows),
        plan.maker.request.num_frames,
    )  # fmt: skip
    keys, before = [], ""
    for window in plan.windows:
        asked = plan.story.scenes[window.scene]
        own: tuple[object, ...] = (
            asked.prompt,
            window.seed(plan.settings.seed),
            window.known,
            window.goes_on,
        )
        if window.number == 0:
            own += (pictures.get(asked.image or "", ""),)
        keys.append(digest(base, own, before if window.known else ""))
        before = digest(before if window.known else "", keys[-1], window.frames)
    return keys


def _write(
    path: Path,
    plan: Plan,
    keys: list[str],
    about: dict[str, Any],
    follow: FollowWindows | None,
) -> None:
    """Make the windows that are not there, and the film of all of them."""
    folder, film, settings = path.with_suffix(WINDOWS), Film(), plan.settings
    folder.mkdir(exist_ok=True)
    assert settings.height is not None and settings.width is not None and settings.fps is not None
    sheet = FilmSheet(plan.scenes) if settings.sheet else None
    with (
        counted(folder, keys, path),
        video_writer(path, settings.height, settings.width, settings.fps, about) as add,
    ):
        for number, (window, key) in enumerate(zip(plan.windows, keys, strict=True), 1):
            if follow is not None:
                follow(path, number - 1, len(keys))
            scene, started = plan.scenes[window.scene], time.perf_counter()
            latents = kept_window(folder / f"{key}.safetensors")
            known = latents is not None
            if latents is None:
                latents = plan.maker.make(scene, window, film, settings.seed)
                keep_window(folder / f"{key}.safetensors", latents)
            frames = plan.maker.show(window, film, latents)
            shown = to_uint8(rearrange(frames, "t c h w -> t h w c").cpu().float().numpy())
            add(shown)
            if sheet is not None:
                sheet.add(window, shown)
            logger.info(
                "window %d/%d, scene %d: %s %.2f s",
                *(number, len(keys), window.scene + 1, "kept," if known else "made in"),
                time.perf_counter() - started,
            )
    if sheet is not None:
        save_image(path.with_suffix(SHEET), sheet.drawn())
    for old in folder.glob("*.safetensors"):
        if re.fullmatch(f"[0-9a-f]{{{KEY}}}", old.stem) and old.stem not in keys:
            remove(old)
