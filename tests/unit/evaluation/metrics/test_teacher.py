"""Judges of students: a planted artefact moves its own column, and equal videos are equal."""

import math
from itertools import combinations, pairwise

import pytest
import torch

from t2v.evaluation.metrics import dynamics, teacher, variety
from t2v.evaluation.metrics.dynamics import block_edges, jerk, sharpness
from t2v.evaluation.metrics.variety import apart
from t2v.evaluation.types import NotRun, Taught, Videos, blurred_copy, still_copy
from t2v.nets.features import FrameNet
from t2v.world.grammar import Scene, Thing
from t2v.world.render import render

NET = FrameNet("itself", lambda frames: [frames])
THINGS = (
    Thing(shape="cube", colour="red", size="big", motion="left"),
    Thing(shape="ball", colour="blue", size="medium", motion="rise"),
    Thing(shape="star", colour="yellow", size="small", motion="right"),
)


def clips(offset):
    """Three clips of the world in which something goes somewhere, `3 9 48 64 3`, away from white
    and black."""
    scenes = [
        Scene(things=(thing,), background=place, camera="still", offset=offset)
        for thing, place in zip(THINGS, ("grass", "snow", "night"), strict=True)
    ]
    video = torch.stack([render(scene, 9, 48, 64)[0] for scene in scenes])
    return (video.float() * 0.75 + 32).round().to(torch.uint8)


@pytest.fixture(scope="module")
def real():
    return clips(0.0)


@pytest.fixture(scope="module")
def videos(real):
    """A teacher's videos as those of the model, with two further draws."""
    draws = torch.stack([clips(0.5), clips(-0.5)])
    taught = Taught("teacher 1a2b, steps 8", real, draws)
    return Videos(real, ("a", "b", "c"), 8, block=8, draws=draws, taught=taught)


def blocked(video, amount, side=8):
    """Every second square of `side` pixels lighter by `amount`, as on a board."""
    rows, columns = (torch.arange(n) // side for n in video.shape[2:4])
    board = (rows[:, None] + columns) % 2
    return (video.int() + amount * board[..., None]).clamp(0, 255).to(torch.uint8)


def jittered(video):
    steps = torch.tensor([0, 2, -1, 1, -2, 0, 2, -2, 1])
    return torch.stack([video[:, t].roll(int(steps[t]), dims=2) for t in range(9)], dim=1)


def shuffled(video):
    return video[:, [0, 7, 2, 5, 4, 3, 6, 1, 8]]


def figures(video):
    return {
        "block_edges": block_edges(video, 8), "jerk": jerk(video), "sharpness": sharpness(video),
    }  # fmt: skip


def test_blocks_of_the_latents_size_raise_block_edges_and_no_jerk(real):
    plain = figures(real)
    ladder = [figures(blocked(real, amount)) for amount in (0, 2, 4, 8)]
    for less, more in pairwise(ladder):
        assert (more["block_edges"] > less["block_edges"]).all()
        assert torch.allclose(more["jerk"], plain["jerk"])
    other = figures(blocked(real, 8, side=6))["block_edges"]  # no edges where latents meet
    assert (other < ladder[-1]["block_edges"] - 1).all()
    flat = torch.full_like(real, 90)
    assert (block_edges(flat, 8) == 1).all() and block_edges(flat, 64).isnan().all()


def test_blur_lowers_sharpness_and_raises_nothing(real):
    plain, soft = figures(real), figures(blurred_copy(real))
    assert (soft["sharpness"] < 0.6 * plain["sharpness"]).all()
    assert (soft["jerk"] < plain["jerk"]).all()
    assert (soft["block_edges"] < 1.35).all()  # of single clips it goes by what they show


@pytest.mark.parametrize("damage", [jittered, shuffled])
def test_shaking_raises_jerk_alone(real, damage):
    plain, shaken = figures(real), figures(damage(real))
    assert (shaken["jerk"] > 1.2 * plain["jerk"]).all()
    for name in ("block_edges", "sharpness"):
        same = plain[name] * (1 if damage is shuffled else 1.15)
        assert (shaken[name] <= same * (1 + 1e-5)).all()


def test_a_teacher_is_equal_to_itself(videos):
    found = teacher.measure(videos, None)
    assert list(found) == ["psnr", "jerk", "sharpness", "block_edges", "variety"]
    assert found["psnr"].values.tolist() == [100, 100, 100]
    for name in ("jerk", "sharpness", "block_edges", "variety"):
        assert (found[name].value, found[name].low, found[name].high) == (1, 1, 1)
        assert found[name].n == 3 and "teacher 1a2b, steps 8" in found[name].method


def test_a_worse_student_is_told_by_the_column_of_its_flaw(videos, real):
    def shares(video, draws=videos.draws):
        student = Videos(video, videos.prompts, 8, block=8, draws=draws, taught=videos.taught)
        found = teacher.measure(student, None)
        return found["psnr"].values, {
            name: each.value for name, each in found.items() if name != "psnr"
        }

    near, far = (shares(blocked(real, amount))[0] for amount in (2, 8))
    half_off_by_2 = 10 * math.log10(255**2 / 2)
    assert near.tolist() == pytest.approx([half_off_by_2] * 3, abs=0.01)
    assert far.tolist() == pytest.approx([half_off_by_2 - 20 * math.log10(4)] * 3, abs=0.01)
    draws = torch.stack([blocked(each, 8) for each in videos.draws])
    _, blocks = shares(blocked(real, 8), draws)
    assert blocks["block_edges"] > 1.5
    assert [blocks["jerk"], blocks["variety"]] == pytest.approx([1, 1])
    _, soft = shares(blurred_copy(real))
    assert soft["sharpness"] < 0.6
    _, shaken = shares(shuffled(real))
    assert shaken["jerk"] > 1.2 and shaken["sharpness"] == pytest.approx(1)
    _, alike = shares(real, torch.stack([real, real]))
    assert alike["variety"] == 0


def test_without_a_teacher_or_motion_no_number_is_made_up(videos, real):
    alone = Videos(real, videos.prompts, 8, block=8)
    assert "teacher=MODEL" in teacher.measure(alone, None)["psnr"].reason
    still = Taught("still", still_copy(real))
    found = teacher.measure(Videos(real, videos.prompts, 8, taught=still), None)
    assert isinstance(found["jerk"], NotRun) and "in all videos of still" in found["jerk"].reason
    assert "block_edges" not in found and "variety" not in found
    unknown = dynamics.measure(Videos(real, videos.prompts, 8), None)["block_edges"]
    assert isinstance(unknown, NotRun)
    assert "seeds=4" in variety.measure(alone, None)["pixels"].reason


def test_variety_is_the_mean_distance_of_pairs_and_0_of_equal_videos(videos, real):
    found = variety.measure(videos, NET)
    films = torch.cat((videos.video[None], videos.draws)).double() / 255
    pairs = [
        1000 * (films[a] - films[b]).square().flatten(1).mean(1)
        for a, b in combinations(range(3), 2)
    ]
    wanted = torch.stack(pairs).mean(0).tolist()
    assert found["pixels"].values.tolist() == pytest.approx(wanted, rel=1e-5)
    assert (found["perceptual"].values > 0).all()
    equal = Videos(real, videos.prompts, 8, draws=torch.stack([real, real, real]))
    for each in variety.measure(equal, NET).values():
        assert each.values.tolist() == pytest.approx([0, 0, 0], abs=1e-9)
    assert (apart(real, blocked(real, 8)[None]) > apart(real, blocked(real, 2)[None])).all()


def test_one_by_one_is_the_same_as_all_at_once(videos):
    def one(index):
        chosen = slice(index, index + 1)
        draws = videos.draws[:, chosen]
        taught = Taught(videos.taught.name, blurred_copy(videos.video[chosen]), draws)
        return Videos(videos.video[chosen], ("a",), 8, block=8, draws=draws, taught=taught)

    taught = Taught(videos.taught.name, blurred_copy(videos.video), videos.draws)
    whole = Videos(videos.video, videos.prompts, 8, block=8, draws=videos.draws, taught=taught)
    columns = {(teacher, "psnr"): None, (variety, "pixels"): NET, (variety, "perceptual"): NET}
    columns[dynamics, "block_edges"] = None
    for (family, name), net in columns.items():
        singly = [family.measure(one(index), net)[name].values.item() for index in range(3)]
        together = family.measure(whole, net)[name].values.tolist()
        assert together == pytest.approx(singly, rel=1e-6), name
