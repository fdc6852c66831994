"""The `t2v sample` command: what is asked for is checked, resolved into recipes, and made."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from t2v.config.checks import is_spread
from t2v.config.sampling import INPUTS, SampleConfig
from t2v.errors import UserError
from t2v.families.load import (
    Embed,
    check_room,
    compile_blocks,
    load_generator,
    set_attention,
    set_layout,
)
from t2v.io.addresses import address_of, remove
from t2v.io.video import ENLARGED
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import (
    model_folder,
    scheduler_hash,
    single_hash,
    upscaler_hash,
    weights_hash,
)
from t2v.models.hold import Hold, Offload
from t2v.models.load import loading
from t2v.pipelines.generator import Generator
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling import recipe as recipe_files
from t2v.sampling.generate import Ready, Score, make, make_videos, request_of
from t2v.sampling.kept import check_latents, read_latents
from t2v.sampling.output_paths import (
    held,
    is_finished,
    place_of_latents,
    places,
    refuse_other_videos,
    result_suffix,
)
from t2v.sampling.recipe import Choice, Recipe
from t2v.sampling.resolve import check, resolve, within_budget
from t2v.sampling.results import FOLDER, PICTURE, read_recipe, spelled
from t2v.sampling.versions import versions
from t2v.sampling.watch import Follow
from t2v.sampling.wording import Wording, refuse_rewording, rewritten, wordings

logger = logging.getLogger(__name__)

COMMAND = "t2v sample"
Loader = Callable[[SampleConfig, Sequence[str]], tuple[Generator, str]]
# what may change in a resume; pictures and clips may have another name, and must be the same
FREE = (
    *("model", "base", "output", "overwrite", "device", "attention", "offload", "sheet", "gif"),
    *("preview_every", "parallel"),
    *INPUTS,
)


def sample(
    config: SampleConfig,
    prompts: Sequence[str],
    loader: Loader | None = None,
    follow: Follow | None = None,
) -> list[Path]:
    """Make the videos of every prompt, one after the other, and return the files.

    The first video is `config.output` and the others `X-1.mp4, X-2.mp4, ...`: all of the first
    prompt, then all of the second. Video j of a prompt has the seed `config.seed + j`, whatever
    else is made. Videos that exist there whole are not made again. Beside each file lies its
    recipe, `X.json`. With `best_of` N it is the best of the seeds `config.seed + j * N` and the
    N - 1 next.

    Args:
        loader: in the place of `load`, for what has the model already.
        follow: of a single video: is told of its steps. One that was begun before, with latents in
            its place, goes on from them.

    Raises:
        UserError: something given cannot work; nothing was made.
    """
    found = wordings(config, prompts)
    with places(config, len(found)) as paths:
        recipe_files.input_hashes(config)  # a missing file is named before weights are read
        if is_spread(config):
            if loader is not None or follow is not None:
                raise UserError(
                    f"engine={config.engine} workers={config.workers}: several workers make the "
                    "videos of prompts, each with a model of its own; this one is made with a "
                    "model that is there already. Leave both out."
                )
            if address_of(paths[0]) is not None:
                raise UserError(
                    f"output={config.output} engine={config.engine} workers={config.workers}: "
                    "workers write videos to a folder that their machines share, not to an "
                    "address. Give a folder, or leave engine and workers out."
                )
            from t2v.sampling.spread import make_on_workers  # most videos are made here

            alone = replace(config, engine="local", workers=None)  # which is how a worker works
            found = rewritten(config.prompting, found)
            return make_on_workers(config, partial(_ready, alone, found, paths), paths)
        if loader is not None:
            refuse_too_large(config)
        ready = _ready(config, rewritten(config.prompting, found), paths, loader)
        if follow is None:
            return make(ready)
        from t2v.sampling.again import begun  # videos of a command line start over

        return make(ready, follow=follow, begun=begun)


def _ready(
    config: SampleConfig, found: Sequence[Wording], paths: list[Path], loader: Loader | None = None
) -> Ready:
    """The model, and what it is to make of all prompts, checked."""
    choice, score = _scorer_of(config)
    generator, weights = (loader or load)(config, [each.prompt for each in found])
    config = within_budget(config, generator, weights)
    recipes, visuals = _recipes(generator, weights, found, config, paths, choice)
    with_pictures = None
    if config.via_image:
        from t2v.sampling import via_image  # most videos need none

        with_pictures = via_image.with_pictures
    return Ready(generator, recipes, visuals, score, config.overwrite, with_pictures)


def repeat(path: Path, overrides: Sequence[str], loader: Loader | None = None) -> Path:
    """Make the video of a result (or of the json beside it) again, the same to the bit.

    Args:
        overrides: `name=value` over the settings of the recipe. Without an output the new file is
            `X-again.mp4` beside the old one.
        loader: in the place of `load`.

    Raises:
        UserError: no recipe, or the model is no longer the one that made the video.
    """
    values = recipe_files.read_json(path) if path.suffix == ".json" else read_recipe(path)
    if isinstance(values, dict) and ENLARGED in values:
        logger.warning("%s was enlarged since: its recipe makes the film of before", path)
    suffix = result_suffix(recipe_files.read(values, path).settings)
    if suffix == FOLDER and path.suffix == PICTURE:  # the first of its frames
        path = path.resolve().parent
    again = path.with_name(f"{path.stem}-again{suffix}")
    # files beside the old video are not made again unless they are asked for
    alone = [f"output={spelled(again)}", "sheet=false", "gif=false", "preview_every=0"]
    return repeat_recipe(values, path, [*alone, *overrides], loader)


def repeat_recipe(
    values: Any,
    path: Path,
    overrides: Sequence[str],
    loader: Loader | None = None,
    follow: Follow | None = None,
) -> Path:
    """Make the video of a recipe, where its output says.

    Args:
        values: what the recipe holds.
        path: where it was read, for messages.
        loader: see `sample`, as for `follow`.

    Raises:
        UserError: see `repeat`.
    """
    from t2v.sampling.again import begun, refuse_changed  # new videos need none

    renamed = {each.partition("=")[0] for each in overrides}
    old = recipe_files.read(values, path, overrides)
    for name in ("num_videos_per_prompt", "best_of"):
        if getattr(old.settings, name) > 1:
            raise UserError(f"A recipe makes one video, whose seed it has: leave {name} out.")
    refuse_rewording(old.settings.prompting)
    recipe_files.refuse_fetching(replace(old, choice=None), path, renamed)
    refuse_changed(old, renamed)
    with places(old.settings, 1):
        generator, new, visuals = _load_again(old, renamed, loader)
        if old.choice and not old.choice.left and renamed <= set(FREE) - {"model", *INPUTS}:
            new = replace(new, choice=old.choice)
        if not old.settings.overwrite:
            refuse_other_videos([new])
        done, start = list[Path](), None
        if follow is not None:
            done = [new.path] if is_finished(new) else []
            new, start = begun(new, generator)
        return make_videos(generator, [new], [visuals], start, done=done, follow=follow)[0]


def resume(path: Path, overrides: Sequence[str], loader: Loader | None = None) -> Path:
    """Finish a video from the latents that an interrupted run kept.

    The video lies beside the latents, under their name, or where an override says.

    Args:
        overrides: `name=value` for what does not change the video, such as output or device.
        loader: in the place of `load`.

    Raises:
        UserError: no such latents, or of another shape or step than their recipe can have, another
            model, or an override that would change the video.
    """
    from t2v.sampling.again import check_start, refuse_changed  # new videos need none

    kept, values = read_latents(path)
    beside = place_of_latents(path, recipe_files.read(values, path).settings)
    old = _with_free(values, path, overrides, f"output={spelled(beside)}")
    check_latents(path, kept, old.settings)
    refuse_changed(old, renamed=set())
    with held([beside]), places(old.settings, 1):
        is_choosing = old.choice is not None and bool(old.choice.left)
        score = None
        if is_choosing:
            from t2v.sampling.best_of import same_scorer  # networks that nothing else needs

            score = same_scorer(old, str(beside))
        generator, new, visuals = _load_again(old, set(), loader)
        new = replace(new, choice=old.choice)
        start = kept if kept.step else None
        if start:
            check_start(path, start, generator, new.settings)
        if not old.settings.overwrite:
            refuse_other_videos([new])
        (made,) = make_videos(generator, [new], [visuals], start, score)
        remove(path)
        return made


def refuse_too_large(config: SampleConfig) -> None:
    """Raise `UserError` where the frames of a video alone are larger than the memory."""
    folder, device = model_folder(config.folder), pick_device(config.device)
    sizes = config.height, config.width, config.num_frames
    check_room(folder, device, *sizes, config.duration, config.fps, config.upscale)


def load(
    config: SampleConfig, prompts: Sequence[str], embed: Embed | None = None
) -> tuple[Generator, str]:
    """The generator of `config.model`, ready on its device, and the hash of its weights.

    Args:
        prompts: of all that it will make.
        embed: has it embed them, for encoders that are released then; None: as `sample` will ask.

    Raises:
        UserError: the model, device, LoRA or attention backend is not there, or the frames alone
            are larger than the memory.
    """
    refuse_too_large(config)
    if config.parallel != "auto":  # `leading` asks without it
        raise UserError(
            f"parallel={config.parallel}: one process makes the video. Start several, with "
            "torchrun --nproc-per-node 2 -m t2v sample ..., or leave it out."
        )
    device = pick_device(config.device)
    folder = model_folder(config.folder)
    single = None if config.base is None else Path(config.model)
    with loading(f"model={config.model}"):
        weights = weights_hash(folder) if single is None else single_hash(single, folder)
    dtype = pick_dtype(config.dtype, device)
    offload: Offload = "none" if config.offload == "auto" else config.offload
    hold = Hold(offload=offload, quantize=config.quantize, vae_tiling=config.vae_tiling)
    sees = config.sees
    about: dict[str, Any] = {"hold": hold, "sees": sees, "single": single}
    about["embed"] = embed or partial(_embed, config, prompts)
    if not config.lora and config.shift is None:
        generator = load_generator(config.model, folder, device, dtype, COMMAND, **about)
    else:
        from t2v.sampling.loras import insertion, settle  # few videos have any

        adapt = insertion(config) if config.lora else None
        about["adapt"] = adapt
        generator = load_generator(config.model, folder, device, dtype, COMMAND, **about)
        settle(generator.pipeline, config)
    if config.codes.given():
        from t2v.sampling.codes import settle_codes  # few models have any

        settle_codes(generator.pipeline, config.codes)
    set_layout(generator.pipeline, config.attention_layout)
    set_attention(generator.pipeline, config.attention)
    if config.motion:
        from t2v.families.picture_films import with_motion  # few videos are made so

        generator = with_motion(generator)
    if config.compile:
        compile_blocks(generator.pipeline, device)
    return generator, weights


def _embed(config: SampleConfig, prompts: Sequence[str], generator: Generator) -> None:
    from t2v.pipelines.released import embed_first  # few models are held so

    full, visuals = resolve(generator, config)
    for prompt in dict.fromkeys(prompts):
        check(generator, prompt, full, visuals)
        embed_first(generator, [prompt], request_of(full), [visuals])


def _scorer_of(config: SampleConfig) -> tuple[Choice | None, Score | None]:
    """The choice that `best_of` asks for, still without a seed, and the score that decides it."""
    if config.best_of == 1:
        return None, None
    from t2v.sampling.best_of import chosen_by  # networks that nothing else needs

    return chosen_by(config)


def _recipes(
    generator: Generator,
    weights: str,
    found: Sequence[Wording],
    config: SampleConfig,
    paths: list[Path],
    choice: Choice | None,
) -> tuple[list[Recipe], list[VisualInputs | None]]:
    """The recipes of all videos, in the order of `paths`, and what each video is given to see."""
    single = replace(
        config, num_videos_per_prompt=1, best_of=1, scorer=None, keep_draws=False, overwrite=False
    )
    resolved, visuals = resolve(generator, single)
    inputs = recipe_files.input_hashes(resolved)
    for prompt in dict.fromkeys(each.prompt for each in found):
        check(generator, prompt, resolved, visuals)
    recipes = []
    for each, path in zip(found, paths, strict=True):
        own = replace(resolved, output=spelled(path), seed=each.seed)
        chosen = choice and replace(choice, first_seed=each.seed)
        recipes.append(_recipe(generator, weights, each, own, inputs, chosen))
    return recipes, [visuals] * len(recipes)


def _recipe(
    generator: Generator,
    weights: str,
    wording: Wording,
    resolved: SampleConfig,
    inputs: dict[str, str],
    choice: Choice | None = None,
) -> Recipe:
    device = generator.pipeline._execution_device.type
    return Recipe(
        prompt=wording.prompt,
        written=wording.written,
        settings=resolved,
        weights=weights,
        lora=recipe_files.lora_hashes(resolved),
        upscaler=None if resolved.upscale == 1 else upscaler_hash(model_folder(resolved.folder)),
        scheduler=scheduler_hash(model_folder(resolved.folder)),
        device=device,
        versions=versions(
            device, getattr(generator.pipeline, "transformer", None), resolved.attention
        ),
        choice=choice,
        inputs=inputs,
    )


def _load_again(
    old: Recipe, renamed: set[str], loader: Loader | None
) -> tuple[Generator, Recipe, VisualInputs | None]:
    """The generator of a recipe, the recipe as it is here and now, and what its video is given."""
    from t2v.sampling.again import check_same  # new videos need none

    generator, weights = (loader or load)(old.settings, [old.prompt])
    settings = within_budget(old.settings, generator, weights)
    resolved, visuals = resolve(generator, settings)
    check(generator, old.prompt, resolved, visuals)
    wording = Wording(old.prompt, resolved.seed, old.written)
    new = _recipe(generator, weights, wording, resolved, recipe_files.input_hashes(resolved))
    check_same(old, new, renamed)
    return generator, new, visuals


def _with_free(values: Any, path: Path, overrides: Sequence[str], output: str) -> Recipe:
    """The recipe of kept latents with overrides of what may change.

    Raises:
        UserError: another setting is overridden, or something would have to be fetched.
    """
    scorer = [each for each in overrides if each.startswith("scorer=")]
    rest = [each for each in overrides if each not in scorer]
    kept = asdict(recipe_files.read(values, path, [output]).settings)
    recipe = recipe_files.read(values, path, [output, *rest])
    if scorer and recipe.choice:
        chosen = replace(recipe.choice, scorer=scorer[-1].partition("=")[2])
        recipe = replace(recipe, choice=chosen)
    recipe_files.refuse_fetching(recipe, path, {each.partition("=")[0] for each in overrides})
    changed = [name for name, value in asdict(recipe.settings).items() if kept[name] != value]
    if fixed := [name for name in changed if name not in FREE]:
        raise UserError(f"{', '.join(fixed)}: fixed by {path}. Free: {', '.join(FREE)}.")
    return recipe
