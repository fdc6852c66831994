"""`t2v world`: a folder of captioned clips with the attributes of their scenes."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from t2v.config.load import load_config, save_config
from t2v.config.world import WorldClipsConfig
from t2v.errors import UserError
from t2v.io.addresses import remove
from t2v.io.files import complete, write_text
from t2v.io.manifest import MANIFEST, NEEDS_GIVEN, REFERRING, SUBJECTS
from t2v.io.progress import progress
from t2v.outputs import output_folder
from t2v.world.grammar import (
    caption,
    pick,
    random_collage_scene,
    random_paced_scene,
    random_repeated_scene,
    random_scene,
    referring_caption,
    subjects,
)
from t2v.world.render import render
from t2v.world.story import Story, even_starts, random_story, story_caption, story_rows

logger = logging.getLogger(__name__)

CLIPS_PER_SHARD = 256
CAPTIONS_PER_CLIP = 4
CUTS = (5, 9, 17, 17)  # first frames of second acts, the last as often as the others together
LEAST_OF_ACT = 8  # frames of a second act


def render_world(config: WorldClipsConfig) -> None:
    """Render clips into `config.output`; a folder that holds all of them already is left alone.

    Shards `clips-NNNNN.safetensors` (`video` n t h w c and `mask` n t h w, uint8) come first, then
    `manifest.jsonl`, one row a clip in order; a folder with a manifest is complete. Finished shards
    are kept when the command is run again with the same settings.

    Raises:
        UserError: the folder was begun with other settings.
    """
    output = Path(config.output)
    with output_folder(config) as kept:
        if config.overwrite:
            _remove_clips(output)
        _refuse_other_settings(kept, output / "config.yaml")
        if (output / MANIFEST).exists():
            logger.info("%s holds all %d clips already", output, config.count)
        else:
            save_config(kept, output / "config.yaml")
            _render(kept, output)


def _remove_clips(output: Path) -> None:
    """Remove clips of an earlier run, which new ones would not fit."""
    for path in (output / MANIFEST, output / "config.yaml", *output.glob("clips-*")):
        remove(path)


def clip_generator(seed: int, split: str, index: int) -> torch.Generator:
    """Make the generator of one clip: a function of seed, split and index alone."""
    mixed = (seed * 2 + (split == "heldout")) * 1_000_003 + index
    return torch.Generator().manual_seed(mixed)


def _render(config: WorldClipsConfig, output: Path) -> None:
    firsts = range(0, config.count, CLIPS_PER_SHARD)
    with _workers(min(config.workers, len(firsts))) as each:
        shards = each(partial(_write_shard, config), firsts)
        rows = [row for shard in progress(shards, "render", "shards", len(firsts)) for row in shard]
    write_text(output / MANIFEST, "".join(json.dumps(row) + "\n" for row in rows))


def _refuse_other_settings(config: WorldClipsConfig, begun_with: Path) -> None:
    if begun_with.exists():
        before = load_config(WorldClipsConfig, begun_with, [])
        if replace(before, output=config.output, workers=config.workers) != config:
            raise UserError(
                f"{config.output} was begun with the settings of {begun_with}, and its clips would "
                "not fit these. Give the old ones, choose another output, or say overwrite=true."
            )


@contextmanager
def _workers(count: int) -> Iterator[Callable[..., Iterator[Any]]]:
    """Yield `map` over processes of one thread each; a single one is this process."""
    if count == 1:
        threads = torch.get_num_threads()
        _one_thread()
        try:
            yield map
        finally:
            torch.set_num_threads(threads)
        return
    spawn = get_context("spawn")  # forked torch threads deadlock
    with ProcessPoolExecutor(count, mp_context=spawn, initializer=_one_thread) as pool:
        yield pool.map


def _one_thread() -> None:
    torch.set_num_threads(1)


def _write_shard(config: WorldClipsConfig, first: int) -> list[dict[str, Any]]:
    shard = first // CLIPS_PER_SHARD
    name = f"clips-{shard:05d}.safetensors"
    path = Path(config.output, name)
    shape = shape_of_clip(config, first)
    indices = range(first, min(first + CLIPS_PER_SHARD, config.count))
    if not path.exists():
        clips = (render(draw_story(config, index, shape[0])[0], *shape) for index in indices)
        videos, masks = zip(*clips, strict=True)
        tensors = {"video": torch.stack(videos), "mask": torch.stack(masks)}
        with complete(path) as partial:
            save_file(tensors, partial)
    return [_row(config, index, shape, name, index - first) for index in indices]


def shape_of_clip(config: WorldClipsConfig, index: int) -> tuple[int, int, int]:
    """Return the frames, height and width of a clip: the same for all of its shard."""
    shapes = config.clip_shapes()
    return shapes[index // CLIPS_PER_SHARD % len(shapes)]


def draw_story(
    config: WorldClipsConfig, index: int, num_frames: int
) -> tuple[Story, torch.Generator]:
    """Draw the story of a clip, mostly of one scene; its captions follow from the generator."""
    generator = clip_generator(config.seed, config.split, index)
    kind = 1.0
    if config.acts or config.speeds or config.collages or config.repeats:
        # else nothing is drawn: clips are those of earlier versions
        kind = float(torch.rand((), generator=generator))
    cuts = [cut for cut in CUTS if num_frames - cut >= LEAST_OF_ACT]
    if kind < config.acts and cuts:
        two = config.scenes == 2
        starts = (0, pick(cuts, generator)) if two else even_starts(config.scenes)
        return random_story(generator, starts, config.split), generator
    draw, paced = random_scene, config.acts + config.speeds
    made_up = paced + config.collages
    if config.acts <= kind < paced:
        draw = random_paced_scene
    elif paced <= kind < made_up:
        draw = random_collage_scene
    elif made_up <= kind < made_up + config.repeats:
        draw = random_repeated_scene
    return Story(scenes=(draw(generator, config.split),)), generator


def _row(
    config: WorldClipsConfig, index: int, shape: tuple[int, int, int], shard: str, position: int
) -> dict[str, Any]:
    num_frames, height, width = shape
    story, generator = draw_story(config, index, num_frames)
    first, is_story = story.scenes[0], len(story.scenes) > 1
    captions = [
        story_caption(story, generator) if is_story else caption(first, generator)
        for _ in range(CAPTIONS_PER_CLIP)
    ]
    row = {
        "shard": shard,
        "index": position,
        "fps": config.fps,
        "width": width,
        "height": height,
        "num_frames": num_frames,
        "caption": captions[0],
        "captions": captions,
        "truth": first.truth(),
        "source": "t2v world",
        "license": "Apache-2.0",
    }
    if first.collage is not None:
        row[NEEDS_GIVEN] = True
    elif config.references and not is_story:
        row[SUBJECTS] = subjects(first)
        if text := referring_caption(first, generator):
            more = [referring_caption(first, generator) for _ in range(CAPTIONS_PER_CLIP - 1)]
            row[REFERRING] = [text, *more]
    return row | {"scenes": story_rows(story, num_frames, generator)} if is_story else row
