"""Stories of the world: one change from scene to scene, told and shown."""

from itertools import pairwise

import pytest
import torch

from t2v.world.grammar import Scene, Thing, is_heldout, words
from t2v.world.render import render
from t2v.world.story import Story, even_starts, random_story, story_caption, story_rows

STARTS = (0, 9, 25)


def test_even_scenes_have_the_whole_way_of_a_motion():
    assert even_starts(4) == (0, 17, 33, 49)
    (story,) = stories(1, starts=even_starts(5))
    assert story.spans(81)[-1] == (65, 81)
    assert [each["start"] for each in story.truth()["scenes"]] == list(even_starts(5))
    assert story.truth()["scenes"][-1]["truth"] == story.scenes[-1].truth()


def stories(count: int, split: str = "train", starts: tuple[int, ...] = STARTS) -> list[Story]:
    generator = torch.Generator().manual_seed(0)
    return [random_story(generator, starts, split) for _ in range(count)]


def changed(one: Scene, other: Scene) -> set[str]:
    (a,), (b,) = one.things, other.things
    found = {name for name in ("shape", "colour", "motion") if getattr(a, name) != getattr(b, name)}
    return found | ({"background"} if one.background != other.background else set())


def test_from_scene_to_scene_one_thing_changes_and_every_kind_of_change_comes():
    kinds = [changed(*pair) for story in stories(100) for pair in pairwise(story.scenes)]
    assert all(len(kind) == 1 for kind in kinds)
    assert {each for kind in kinds for each in kind} == {"colour", "motion", "background"}


def test_held_out_combinations_stay_out_of_training_stories_and_are_in_every_other():
    def holds(story: Story) -> bool:
        return any(is_heldout(thing) for scene in story.scenes for thing in scene.things)

    assert not any(map(holds, stories(100)))
    assert all(map(holds, stories(50, "heldout")))


def test_the_same_generator_tells_the_same_story():
    def draw() -> tuple[Story, str]:
        generator = torch.Generator().manual_seed(7)
        story = random_story(generator, STARTS)
        return story, story_caption(story, generator)

    assert draw() == draw()


@pytest.mark.parametrize("story", stories(12), ids=lambda story: story.scenes[1].things[0].motion)
def test_at_a_cut_the_thing_stands_where_it_stood_or_one_step_on(story):
    masks = render(story, num_frames=41)[1].float()
    columns = torch.arange(64.0)
    rows = columns[:, None]
    total = masks.sum((1, 2))
    places = torch.stack([(masks * axis).sum((1, 2)) / total for axis in (rows, columns)], dim=1)
    steps = places.diff(dim=0).norm(dim=1)  # between frames
    assert max(steps[8], steps[24]) < 7.5  # pixels: the first frame of a hop


def test_a_story_begins_as_its_first_scene_alone():
    (story,) = stories(1)
    assert torch.equal(
        render(story, num_frames=33)[0][:9], render(story.scenes[0], num_frames=9)[0]
    )


def test_a_change_of_colour_or_place_leaves_the_motion_alone():
    thing = Thing(shape="cube", colour="red", size="medium", motion="left")
    first = Scene(things=(thing,), background="grass", camera="still")
    for second in (
        Scene(
            things=(Thing(**vars(thing) | {"colour": "blue"}),), background="grass", camera="still"
        ),
        Scene(things=(thing,), background="night", camera="still"),
    ):
        story = Story(scenes=(first, second), starts=(0, 9))
        assert torch.equal(render(story)[1], render(first)[1])
        assert not torch.equal(render(story)[0][9:], render(first)[0][9:])


def test_the_whole_caption_tells_every_change_in_words_that_are_known():
    generator = torch.Generator().manual_seed(1)
    known = {word.replace(",", "") for word in words()} | {"then", "it", "the", "is", "turns"}
    for story in stories(100):
        text = story_caption(story, generator)
        assert text.count(" then ") == 2
        assert set(text.replace(",", "").split()) <= known


def test_a_red_ball_bounces_then_moves_left():
    ball = Thing(shape="ball", colour="red", size="medium", motion="bounce")
    scenes = [
        Scene(
            things=(Thing(**vars(ball) | {"motion": motion}),), background="grass", camera="still"
        )
        for motion in ("bounce", "left")
    ]
    story = Story(scenes=tuple(scenes), starts=(0, 17))
    texts = {story_caption(story, torch.Generator().manual_seed(seed)) for seed in range(2000)}
    assert "a red ball bounces on grass, then it moves left" in texts
    (first, second) = story_rows(story, 33, torch.Generator().manual_seed(0))
    assert (first["start"], first["end"], second["start"], second["end"]) == (0, 17, 17, 33)
    assert second["truth"] == scenes[1].truth()
    assert "left" in second["caption"] and "then" not in second["caption"]
