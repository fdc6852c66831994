"""Scenes that come in another order are not found where the story has them, and clauses fail."""

from pathlib import Path

import pytest
import torch

from t2v.evaluation.joints import Joints
from t2v.evaluation.metrics.events import measure
from t2v.evaluation.types import NotRun, Videos
from t2v.nets.scorer import load_scorer
from t2v.world.grammar import caption
from t2v.world.render import render
from t2v.world.story import even_starts, random_story

ACTS, FILMS = 3, 4


@pytest.fixture(scope="module")
def scorer():
    return load_scorer(Path(__file__).parents[4] / "assets/world-scorer")


@pytest.fixture(scope="module")
def stories():
    """Real films of three scenes each, and what each scene shows."""
    generator = torch.Generator().manual_seed(3)
    told = [random_story(generator, even_starts(ACTS)) for _ in range(FILMS)]
    frames = told[0].starts[-1] + 17
    video = torch.stack([render(story, frames)[0] for story in told])
    prompts = tuple(tuple(caption(scene, generator) for scene in story.scenes) for story in told)
    spans = tuple(told[0].spans(frames))
    return Videos(video, ("x",) * FILMS, 8, joints=Joints(spans, ()), scene_prompts=prompts)


def means(found):
    return {name: each.values.nanmean().item() for name, each in found.items()}


def test_swapped_scenes_and_other_films_lower_what_is_found(stories, scorer):
    swapped = torch.cat([stories.video[:, -17:], stories.video[:, :-17]], 1)
    real = means(measure(stories, scorer))
    late = means(measure(stories.showing(swapped), scorer))
    other = means(measure(stories.showing(stories.video.roll(1, 0)), scorer))
    assert real["event"] > 0.7 and real["film"] > 0.8 and real["clauses"] > 0.7
    assert late["event"] < real["event"] - 0.4 and late["clauses"] < real["clauses"] - 0.1
    assert late["film"] > other["film"] + 0.4  # the scenes are all there
    assert other["film"] < 0.3 and other["clauses"] < real["clauses"] - 0.4


def test_the_trail_tells_what_is_seen_instead_and_where(stories, scorer):
    prompts = tuple(("a red ball bounces on grass",) * ACTS for _ in range(FILMS))
    told = Videos(stories.video, stories.prompts, 8, joints=stories.joints, scene_prompts=prompts)
    found = measure(told, scorer)["clauses"]
    assert found.values.min() >= 0 and found.values.max() < 1
    for share, trail in zip(found.values.tolist(), found.texts, strict=True):
        assert (trail == "all hold") == (share == 1)
        assert trail.startswith("scene 1: '") and " for '" in trail


def test_one_film_has_no_others_and_without_a_scorer_nothing_is_claimed(stories, scorer):
    one = Videos(
        stories.video[:1], ("x",), 8, joints=stories.joints, scene_prompts=stories.scene_prompts[:1]
    )
    found = measure(one, scorer)
    assert isinstance(found["film"], NotRun) and found["event"].values.item() > 0.5
    assert list(measure(one, None)) == ["event"]
