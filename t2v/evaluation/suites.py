"""Suites of prompts: held-out scenes of the world, the files in `suites/`, or a user's own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2v.errors import UserError
from t2v.evaluation.tasks import REFERENCE, REGION, TASKS, changed, differ
from t2v.evaluation.types import Kind
from t2v.io.prompts import read_prompts
from t2v.io.text_files import parse_json
from t2v.world.grammar import (
    BACKGROUNDS,
    Scene,
    Thing,
    caption,
    pick,
    random_scene,
    referring_caption,
)
from t2v.world.motion import FRAMES_PER_UNIT
from t2v.world.render import render
from t2v.world.run import clip_generator
from t2v.world.story import Story, even_starts, random_story

FOLDER = Path(__file__).parent / "suites"
WORLD, STORY = "world", "story"
STARTS = even_starts(5)  # of the scenes of a story
STORY_FRAMES = STARTS[-1] + FRAMES_PER_UNIT


@dataclass(frozen=True)
class Suite:
    """Prompts, the topic of each, and the scenes they describe, where these are of the world.

    Args:
        task: a name in `TASKS`; None: nothing is given but the prompt.
        sources: the scenes of the given clips, where they differ from those that are asked for; of
            `reference`, whose first frames are given.
        scene_prompts: of stories, the prompt of each scene; none: the prompts are of one scene.
        story_frames: the length of stories, all of whose scenes begin at the same frames.
    """

    name: str
    prompts: tuple[str, ...]
    topics: tuple[str, ...]
    scenes: tuple[Scene | Story, ...] | None
    task: str | None = None
    sources: tuple[Scene, ...] | None = None
    scene_prompts: tuple[tuple[str, ...], ...] = ()
    story_frames: int = STORY_FRAMES

    @property
    def kind(self) -> Kind:
        """Its kind, of which each metric takes some."""
        return "story" if self.scene_prompts else "given" if self.task else "plain"

    def truths(self) -> tuple[dict[str, Any], ...] | None:
        """Return the scenes as their `truth` gives them; None: there are none."""
        return tuple(scene.truth() for scene in self.scenes) if self.scenes else None

    def real(self, num_frames: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """Render the clips that the prompts describe, `n t h w c`, and their masks `n t h w`."""
        return None if self.scenes is None else _rendered(self.scenes, num_frames, height, width)

    def given_clips(self, num_frames: int, height: int, width: int) -> tuple[Tensor, Tensor]:
        """Render the clips that parts are given of, `n t h w c`, and their masks `n t h w`."""
        scenes = self.sources or self.scenes
        assert scenes is not None
        return _rendered(scenes, num_frames, height, width)


def _rendered(
    scenes: tuple[Scene | Story, ...], num_frames: int, height: int, width: int
) -> tuple[Tensor, Tensor]:
    clips = [render(scene, num_frames, height, width) for scene in scenes]
    video, mask = zip(*clips, strict=True)
    return torch.stack(video), torch.stack(mask)


def heldout_prompts(count: int, seed: int) -> tuple[list[Scene], list[str]]:
    """Return scenes that training never saw, and one caption of each, by seed."""
    scenes, prompts = [], []
    for index in range(count):
        # not those of `split=heldout`, which training is followed with
        generator = clip_generator(seed + 1_000, "heldout", index)
        scenes.append(random_scene(generator, "heldout"))
        prompts.append(caption(scenes[-1], generator))
    return scenes, prompts


def load_suite(name: str, count: int, seed: int) -> Suite:
    """Load the first `count` prompts of a suite.

    Args:
        name: `world`, whose scenes follow from `seed`; a name in `TASKS`, with the same scenes;
            `story`, stories of five scenes; a
            file of `suites/`; or the path of a file with one prompt a line, or one JSON object with
            `prompt` and perhaps `topic` and `truth`.

    Raises:
        UserError: there is no such suite, or a line of it cannot be read.
    """
    if name == WORLD:
        scenes, prompts = heldout_prompts(count, seed)
        topics = tuple(scene.things[0].motion for scene in scenes)
        return Suite(name, tuple(prompts), topics, tuple(scenes))
    if name == STORY:
        return _story_suite(count, seed)
    if name == REFERENCE:
        return _reference_suite(count, seed)
    if name in TASKS:
        return _given_suite(name, count, seed)
    own = {path.stem: path for path in sorted(FOLDER.glob("*.jsonl"))}
    path = own.get(name, Path(name))
    if not path.is_file():
        raise UserError(
            f"suites={name}: no such suite or file. Allowed: "
            f"{', '.join((WORLD, *TASKS, STORY, *own))}, or a file with one prompt a line."
        )
    lines = read_prompts(path, "suites")[:count]
    rows = [_row(path, number, line) for number, line in enumerate(lines, start=1)]
    known = all("truth" in row for row in rows)
    return Suite(
        path.stem,
        tuple(row["prompt"] for row in rows),
        tuple(str(row.get("topic", "")) for row in rows),
        tuple(_scene(path, row["truth"]) for row in rows) if known else None,
    )


def _given_suite(name: str, count: int, seed: int) -> Suite:
    """The scenes of `world`, of which a part is given; where another thing is asked for, those."""
    scenes, prompts = heldout_prompts(count, seed)
    topics = tuple(scene.things[0].motion for scene in scenes)
    names = TASKS[name].changes
    if not names:
        return Suite(name, tuple(prompts), topics, tuple(scenes), name)
    asked, captions = [], []
    for index, scene in enumerate(scenes):
        generator = clip_generator(seed + 2_000, "heldout", index)
        asked.append(changed(scene, names, generator))
        captions.append(caption(asked[-1], generator))
    if name == REGION:
        topics = tuple("half" if differ(scene) else "box" for scene in scenes)
    return Suite(name, tuple(captions), topics, tuple(asked), name, tuple(scenes))


def _reference_suite(count: int, seed: int) -> Suite:
    """Scenes of one thing that prompts leave open, and others of the same thing elsewhere."""
    asked, captions, shown = [], [], []
    for index in range(count):
        generator = clip_generator(seed + 4_000, "heldout", index)
        scene = random_scene(generator, "heldout")
        while len(scene.things) > 1:
            scene = random_scene(generator, "heldout")
        asked.append(scene)
        captions.append(referring_caption(scene, generator))
        others = [each for each in BACKGROUNDS if each != scene.background]
        thing = replace(scene.things[0], size="medium", motion="still")
        offset, backdrop = (2 * torch.rand(2, generator=generator) - 1).tolist()
        place = {"background": pick(others, generator), "offset": offset, "backdrop": backdrop}
        shown.append(Scene(things=(thing,), camera="still", **place))
    topics = tuple(scene.things[0].motion for scene in asked)
    return Suite(REFERENCE, tuple(captions), topics, tuple(asked), REFERENCE, tuple(shown))


def _story_suite(count: int, seed: int) -> Suite:
    stories, prompts = [], []
    for index in range(count):
        generator = clip_generator(seed + 3_000, "heldout", index)
        story = random_story(generator, STARTS, "heldout")
        stories.append(story)
        prompts.append(tuple(caption(scene, generator) for scene in story.scenes))
    topics = tuple(story.scenes[0].things[0].motion for story in stories)
    joined = tuple("; ".join(each) for each in prompts)
    return Suite(STORY, joined, topics, tuple(stories), scene_prompts=tuple(prompts))


def _row(path: Path, number: int, line: str) -> dict[str, Any]:
    if path.suffix != ".jsonl":
        return {"prompt": line}
    row = parse_json(line, f"{path}, line {number}")
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
        raise UserError(f'{path}, line {number}: needs a text under "prompt".')
    return row


def _scene(path: Path, truth: dict[str, Any]) -> Scene:
    try:
        things = tuple(Thing(**thing) for thing in truth["things"])
        return Scene(things=things, background=truth["background"], camera=truth["camera"])
    except (KeyError, TypeError) as error:
        raise UserError(f'{path}: a "truth" is no scene of the world ({error}).') from error
