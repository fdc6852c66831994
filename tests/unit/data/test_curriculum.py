"""Batches are functions of seed and step: one shape each, every clip in its turn, stated ratios."""

from collections import Counter

import pytest
import torch

from t2v.config.data import ClipsConfig, CurriculumStage
from t2v.data.buckets import Bucket
from t2v.data.curriculum import BatchOrder, Curriculum, Item
from t2v.data.rng import step_indices
from t2v.errors import UserError

SHAPES = ["wide"] * 17 + ["tall"] * 6 + ["square"] * 1 + ["long"] * 11


def stage(**settings):
    filled = {"resolution": 64, "num_frames": 17, "image_ratio": 0.0} | settings
    return CurriculumStage(**filled)


def items_of(lengths, resolution=64, first=0):
    return [
        Item(first + number, resolution, Bucket(length, 48 + 16 * (number % 2), 64))
        for number, length in enumerate(lengths)
    ]


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_no_batch_mixes_shapes_and_every_item_has_its_turn(batch_size):
    order = BatchOrder(SHAPES, batch_size, seed=3)
    seen = Counter()
    for step in range(3 * len(SHAPES)):
        batch = order.batch(step).tolist()
        assert len(batch) == batch_size
        assert len({SHAPES[each] for each in batch}) == 1
        seen.update(batch)
        for shape in set(SHAPES):  # within a shape nobody is drawn twice before all were once
            turns = [seen[number] for number, each in enumerate(SHAPES) if each == shape]
            assert max(turns) - min(turns) <= 1 or batch_size > len(turns)
    # after n steps all have been drawn equally often: batch_size times every n steps
    assert set(seen.values()) == {3 * batch_size}


def test_at_any_moment_a_shape_has_been_drawn_in_proportion():
    order = BatchOrder(SHAPES, 1, seed=0)
    drawn = Counter()
    for step in range(200):
        drawn[SHAPES[int(order.batch(step))]] += 1
        for shape, count in Counter(SHAPES).items():
            assert abs(drawn[shape] - (step + 1) * count / len(SHAPES)) < 3


def test_one_shape_is_the_order_of_step_indices():
    order = BatchOrder(["same"] * 10, 4, seed=5)
    for step in (0, 1, 7, 1000):
        assert torch.equal(order.batch(step, 1, 2), step_indices(10, 4, 5, step, 1, 2))


def test_order_is_a_function_of_seed_and_step():
    one, other = BatchOrder(SHAPES, 4, seed=1), BatchOrder(SHAPES, 4, seed=2)
    whole = [one.batch(step).tolist() for step in range(60)]
    resumed = BatchOrder(SHAPES, 4, seed=1)
    assert [resumed.batch(step).tolist() for step in range(59, -1, -1)] == whole[::-1]
    assert [other.batch(step).tolist() for step in range(60)] != whole


def test_ranks_share_a_shape_and_together_draw_the_joint_batch():
    order, joint = BatchOrder(SHAPES, 3, seed=1), BatchOrder(SHAPES, 6, seed=1)
    for step in range(50):
        ranks = [order.batch(step, rank, 2) for rank in (0, 1)]
        assert torch.equal(torch.cat(ranks), joint.batch(step))


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.25, 0.5, 1.0])
def test_images_come_at_the_stated_ratio_and_every_clip_is_one_too(ratio):
    items = [*items_of([17] * 7), *items_of([1] * 3, first=7)]
    curriculum = Curriculum(items, [stage(image_ratio=ratio)], (17, 9, 5), 2, seed=0)
    batches = [curriculum.batch(step) for step in range(200)]
    images = [batch for batch in batches if batch.num_frames == 1]
    assert len(images) == round(200 * ratio)
    for batch in batches:
        buckets = {items[each].bucket[1:] for each in batch.indices.tolist()}
        assert len(buckets) == 1
        assert batch.num_frames in (1, 17)
        assert all(
            items[each].bucket.num_frames >= batch.num_frames for each in batch.indices.tolist()
        )
    if ratio > 0.1:
        assert {each for batch in images for each in batch.indices.tolist()} == set(range(10))
    videos = {each for batch in batches if batch.num_frames > 1 for each in batch.indices.tolist()}
    assert videos == (set(range(7)) if ratio < 1 else set())


def test_a_curriculum_goes_from_short_and_small_to_long_and_large():
    items = [*items_of([17, 9, 17, 5, 17, 17]), *items_of([17] * 4, resolution=128)]
    stages = [
        stage(num_frames=5),
        stage(from_step=40, num_frames=13, image_ratio=0.25),
        stage(from_step=80, resolution=128),
    ]
    curriculum = Curriculum(items, stages, (17, 13, 9, 5), 2, seed=0)
    batches = [curriculum.batch(step) for step in range(120)]
    frames = [batch.num_frames for batch in batches]
    assert set(frames[:40]) == {5}
    assert set(frames[40:80]) == {1, 5, 9, 13}
    assert frames[40:80].count(1) == 10
    assert set(frames[80:]) == {17}
    resolutions = [{items[each].resolution for each in batch.indices.tolist()} for batch in batches]
    assert resolutions == [{64}] * 80 + [{128}] * 40
    first_stage = {each for batch in batches[:40] for each in batch.indices.tolist()}
    assert first_stage == set(range(6))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"resolution": 256}, "resolution=256.*has no videos to train on"),
        ({"resolution": 256, "image_ratio": 1.0}, "has no images to train on"),
        ({"num_frames": 1}, "num_frames=1.*has no videos to train on"),
    ],
)
def test_a_stage_without_clips_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Curriculum(items_of([17]), [stage(**settings)], (17,), 1, seed=0)


def test_stages_take_over_what_they_do_not_say():
    clips = ClipsConfig(
        resolution=64, num_frames=17, image_ratio=0.1,
        stages=(CurriculumStage(num_frames=5), CurriculumStage(from_step=9, image_ratio=0.0)),
    )  # fmt: skip
    first, second = clips.all_stages()
    assert (first.num_frames, first.resolution, first.image_ratio) == (5, 64, 0.1)
    assert (second.from_step, second.num_frames, second.image_ratio) == (9, 17, 0.0)
    assert ClipsConfig(resolution=64).all_stages() == (
        CurriculumStage(resolution=64, num_frames=None, image_ratio=0.0),
    )
