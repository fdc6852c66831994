"""Stories of the world: scenes in one clip, where each changes one thing and keeps the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch

from t2v.world.grammar import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    Scene,
    caption,
    is_heldout,
    pick,
    random_scene,
)
from t2v.world.motion import (
    FRAMES_PER_UNIT,
    Pose,
    can_follow,
    first_pose,
    goes_on,
    pose_after,
    size_of,
)

LINKS = (", then", ", then", " and then")
TURNS = ("turns", "becomes")  # into a colour
CHANGES = ("motion", "motion", "colour", "background")


@dataclass(frozen=True, kw_only=True)
class Story:
    """Scenes that follow each other; `starts` are their first frames, the first of them 0.

    All have the same number of things and one camera. The VAE compresses frames by 4, so a start
    should be 4k+1: no latent then holds two scenes.
    """

    scenes: tuple[Scene, ...]
    starts: tuple[int, ...] = (0,)

    def truth(self) -> dict[str, Any]:
        """The first scene's truth; of several, `scenes` has the first frame and the truth of each.

        The end of the last one is open: null.
        """
        if len(self.scenes) == 1:
            return self.scenes[0].truth()
        ends = (*self.starts[1:], None)
        scenes = [
            {"start": start, "end": end, "truth": scene.truth()}
            for scene, start, end in zip(self.scenes, self.starts, ends, strict=True)
        ]
        return self.scenes[0].truth() | {"scenes": scenes}

    def spans(self, num_frames: int) -> list[tuple[int, int]]:
        """The first frame of each scene and the one after its last, in a clip of `num_frames`."""
        ends = (*self.starts[1:], num_frames)
        return list(zip(self.starts, ends, strict=True))


@dataclass(frozen=True, kw_only=True)
class Run:
    """A motion that may go on through several scenes: where it begins, and with which frame.

    `times` and `pause` are those of a `Scene`.
    """

    motion: str
    speed: str
    begin: Pose
    frame: int
    times: int | None = None
    pause: float = 0.0


def runs(story: Story, slot: int) -> list[Run]:
    """The motion of one thing in each scene.

    A new one begins with the last frame before the cut, so the thing moves on without a stop.
    """
    first = story.scenes[0]
    thing = first.things[slot]
    begin = first_pose(thing, len(first.things))
    run = Run(motion=thing.motion, speed=first.speed, begin=begin, frame=0)
    found = [replace(run, times=first.times, pause=first.pause)]
    for scene, start in zip(story.scenes[1:], story.starts[1:], strict=True):
        found.append(_next_run(found[-1], scene.things[slot].motion, scene.speed, start))
    return found


def _next_run(run: Run, motion: str, speed: str, start: int) -> Run:
    if (run.motion, run.speed) == (motion, speed):
        return run
    return Run(motion=motion, speed=speed, begin=_pose_before(run, start), frame=start - 1)


def _pose_before(run: Run, start: int) -> Pose:
    return pose_after(run.motion, run.speed, run.begin, start - 1 - run.frame)


def even_starts(scenes: int) -> tuple[int, ...]:
    """The first frames of scenes of 17, 16, 16 ... frames, which give a motion its whole way."""
    return tuple(FRAMES_PER_UNIT * number + bool(number) for number in range(scenes))


def random_story(generator: torch.Generator, starts: Sequence[int], split: str = "train") -> Story:
    """Pick a story of one thing and a resting camera, whose scenes begin at the given frames.

    From scene to scene the motion, the colour or the place changes, never two of them. A motion
    follows only where it can be seen: what flies falls before it bounces, what stands at the left
    does not move left.

    Args:
        starts: the first is 0, the others 5, 9, 13 ...
        split: as `random_scene` takes it; of `heldout`, at least one scene is.
    """
    while True:
        first = random_scene(generator, "train" if split == "train" else _any_split(generator))
        if len(first.things) > 1 or first.camera != "still":
            continue
        scenes = [first]
        for number in range(1, len(starts)):
            story = Story(scenes=tuple(scenes), starts=tuple(starts[:number]))
            following = _following(story, starts[number], generator)
            if following is None:
                break
            scenes.append(following)
        heldout = [is_heldout(thing) for scene in scenes for thing in scene.things]
        if len(scenes) == len(starts) and any(heldout) == (split == "heldout"):
            return Story(scenes=tuple(scenes), starts=tuple(starts))


def _any_split(generator: torch.Generator) -> str:
    return pick(("train", "heldout"), generator)


def _following(story: Story, start: int, generator: torch.Generator) -> Scene | None:
    """The next scene, which begins at frame `start`; None: the change picked cannot be shown."""
    scene, run = story.scenes[-1], runs(story, 0)[-1]
    thing, change = scene.things[0], pick(CHANGES, generator)
    if change == "motion":
        pose = _pose_before(run, start)
        possible = [
            motion
            for motion in MOTIONS
            if motion != thing.motion and can_follow(motion, thing.shape, pose)
        ]
        if not possible:
            return None
        motion = pick(possible, generator)
        # as in scenes of their own: what grows or shrinks has no size word
        size = "medium" if motion in ("grow", "shrink") else size_of(pose)
        return replace(scene, things=(replace(thing, motion=motion, size=size),))
    if not goes_on(run.motion, run.speed, run.begin, start - 1 - run.frame):
        return None  # its caption would name a motion that is over
    if change == "colour":
        return replace(
            scene, things=(replace(thing, colour=_other(COLOURS, thing.colour, generator)),)
        )
    return replace(scene, background=_other(BACKGROUNDS, scene.background, generator))


def _other(table: dict[str, tuple[str, ...]], one: str, generator: torch.Generator) -> str:
    return pick([each for each in table if each != one], generator)


def story_caption(story: Story, generator: torch.Generator) -> str:
    """Pick one of many English sentences that tell the whole story."""
    text = caption(story.scenes[0], generator)
    named = {one for one, _ in SHAPES[story.scenes[0].things[0].shape]}
    (noun,) = named & set(text.split())
    for before, scene in pairwise(story.scenes):
        who = pick(("it", "it", f"the {noun}"), generator)
        text += f"{pick(LINKS, generator)} {who} {_change(before, scene, generator)}"
    return text


def _change(before: Scene, scene: Scene, generator: torch.Generator) -> str:
    thing, was = scene.things[0], before.things[0]
    if thing.motion != was.motion:
        return pick(MOTIONS[thing.motion], generator)[0]
    if thing.colour != was.colour:
        return f"{pick(TURNS, generator)} {pick(COLOURS[thing.colour], generator)}"
    return f"is {pick(BACKGROUNDS[scene.background], generator)}"


def story_rows(story: Story, num_frames: int, generator: torch.Generator) -> list[dict[str, Any]]:
    """Each scene for a manifest: first frame, the frame after its last, caption and truth."""
    return [
        {"start": start, "end": end, "caption": caption(scene, generator), "truth": scene.truth()}
        for scene, (start, end) in zip(story.scenes, story.spans(num_frames), strict=True)
    ]
