"""What clips are given in training: shares, masks, and all of it a function of the generator."""

from collections import Counter

import pytest
import torch

from t2v.config.training import TasksConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.training.tasks.known import GivenChoice, frame_times

ALL = TasksConfig(
    text=0.4, first=0.2, prefix=0.1, ends=0.05, between=0.05, region=0.1, frames=0.05, pictures=0.05
)
SHAPE = (6, 16, 5, 8, 8)
NO_SCENES = torch.zeros(6, dtype=torch.long)


def choice(tasks: TasksConfig, dropout: float = 0.0, noise: float = 0.0) -> GivenChoice:
    return GivenChoice(tasks, (1, 2, 2), 4, dropout, noise)


def of_step(choose: GivenChoice, step: int, shape=SHAPE, starts=NO_SCENES, needs=None):
    needs = torch.zeros(shape[0], dtype=torch.bool) if needs is None else needs
    return choose(shape, starts, needs, keyed_generator(0, step, "tasks"))


def test_shares_are_met_and_something_is_always_left_to_make():
    counts: Counter[str] = Counter()
    for step in range(600):
        given = of_step(choice(ALL), step)
        tasks = ("text",) * 6 if given is None else given.tasks
        counts.update(tasks)
        for mask, task in zip([] if given is None else given.mask, tasks, strict=False):
            assert (mask == 0).any(), task
            assert (mask == 1).any() == (task not in ("text", "frames", "pictures")) or (
                task == "pictures" or mask.eq(0).all()
            )
    for task, share in {"text": 0.4, "first": 0.2, "region": 0.1, "ends": 0.05}.items():
        assert counts[task] / counts.total() == pytest.approx(share, abs=0.03), task


def test_what_is_given_is_a_function_of_the_generator():
    one, same = of_step(choice(ALL), 3), of_step(choice(ALL), 3)
    assert one.tasks == same.tasks and torch.equal(one.mask, same.mask)
    others = [of_step(choice(ALL), step) for step in range(4, 9)]
    assert any(other is None or other.tasks != one.tasks for other in others)


def test_each_task_gives_its_frames():
    first = of_step(choice(TasksConfig(text=0, first=1)), 0)
    assert first.mask[:, :, 0].eq(1).all() and first.mask[:, :, 1:].eq(0).all()
    ends = of_step(choice(TasksConfig(text=0, ends=1)), 0)
    assert ends.frames.tolist() == [[16]] * 6 and ends.mask[:, :, 0].eq(1).all()
    between = of_step(choice(TasksConfig(text=0, between=1)), 0).mask[:, 0, :, 0, 0]
    assert between[:, 0].eq(1).all() and between[:, -1].eq(1).all()
    assert (between.min(dim=1).values == 0).all()
    pictures = of_step(choice(TasksConfig(text=0, pictures=1)), 0)
    assert ((pictures.frames > 0) & (pictures.frames < 17)).all()
    assert (pictures.frames.diff(dim=1) > 0).all()
    region = of_step(choice(TasksConfig(text=0, region=1)), 0).mask
    tokens = region.unflatten(-1, (4, 2)).unflatten(-3, (4, 2))
    assert torch.equal(tokens.amin((-1, -3)), tokens.amax((-1, -3)))  # whole tokens


def test_the_frames_before_the_last_scene_are_given():
    starts = torch.tensor([5, 9, 13, 0, 5, 9])
    mask = of_step(choice(TasksConfig(text=0, prefix=1)), 0, starts=starts).mask[:, 0, :, 0, 0]
    assert mask.sum(1)[[0, 1, 2, 4, 5]].tolist() == [2, 3, 4, 2, 3]


def test_a_picture_alone_is_made_whole_or_in_part():
    for step in range(20):
        given = of_step(choice(ALL), step, (6, 16, 1, 8, 8))
        assert given is None or set(given.tasks) <= {"text", "region"}


def test_given_frames_are_dropped_and_noised_in_their_share():
    dropped = [of_step(choice(TasksConfig(text=0, first=1), dropout=0.5), s) for s in range(50)]
    share = torch.cat([g.mask.amax((1, 2, 3, 4)) for g in dropped if g is not None]).mean()
    assert float(share) == pytest.approx(0.5, abs=0.1)
    noised = of_step(choice(TasksConfig(text=0, first=1), noise=0.2), 0).mask[:, :, 0]
    assert noised.min() >= 0.8 and noised.max() <= 1 and noised.min() < noised.max()


def test_single_frames_have_times_of_their_own_and_the_others_the_clips():
    given = of_step(choice(TasksConfig(text=0, frames=1)), 0)
    t = torch.full((6,), 0.5)
    assert (frame_times(t, given, 1.0).std(dim=1) > 0).all()
    first = of_step(choice(TasksConfig(text=0, first=1)), 0)
    assert frame_times(t, first, 1.0) is t


def test_tasks_without_any_share_are_refused():
    with pytest.raises(UserError, match="every share is 0"):
        TasksConfig(text=0)
    with pytest.raises(UserError, match="first=-1"):
        TasksConfig(first=-1)


def test_clips_whose_captions_leave_the_look_open_are_always_given_a_part():
    needs = torch.tensor([True, True, False, False, False, False])
    texts = 0
    for step in range(60):
        open_ones = of_step(choice(ALL, dropout=0.5), step, needs=needs)
        others = of_step(choice(ALL, dropout=0.5), step)
        assert "text" not in open_ones.tasks[:2]
        if others is not None:
            assert open_ones.tasks[2:] == others.tasks[2:]
        texts += open_ones.tasks[2:].count("text")
        pictures = of_step(choice(ALL), step, shape=(6, 16, 1, 8, 8), needs=needs)
        assert pictures.tasks[:2] == ("region", "region")
    assert texts > 60
    assert of_step(choice(TasksConfig(text=1)), 0, needs=needs) is None
