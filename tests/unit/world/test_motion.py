"""How things move: in frames, from where they are, and only where it can be seen."""

import pytest
import torch

from t2v.world.grammar import MOTIONS, REPEATS, Thing
from t2v.world.motion import (
    ENDING,
    FRAMES_PER_UNIT,
    LIFT,
    Pose,
    can_follow,
    first_pose,
    goes_on,
    pose_after,
    poses,
    size_of,
)


def begin(motion: str, size: str = "medium") -> Pose:
    return first_pose(Thing(shape="cube", colour="red", size=size, motion=motion), count=1)


@pytest.mark.parametrize("motion", MOTIONS)
def test_a_motion_in_two_parts_is_the_whole_motion(motion):
    whole = pose_after(motion, "normal", begin(motion), 8)
    if motion == "fall":  # after a stop a thing falls from rest
        assert whole.lift == pytest.approx(LIFT * 0.75)
        return
    halfway = pose_after(motion, "normal", begin(motion), 4)
    parts = pose_after(motion, "normal", halfway, 4)
    if motion != "bounce":  # hops begin on the ground
        assert vars(parts) == pytest.approx(vars(whole), abs=1e-6)


@pytest.mark.parametrize("motion", MOTIONS)
def test_what_reaches_an_end_stays_there_and_the_rest_goes_on(motion):
    then, later = (pose_after(motion, "normal", begin(motion), frames) for frames in (16, 18))
    assert (then == later) == (motion in ENDING or motion == "still")


def test_slow_is_half_as_far_and_fast_is_as_far_in_two_thirds_of_the_time():
    full = pose_after("left", "normal", begin("left"), 12).travel
    assert pose_after("left", "slow", begin("left"), 24).travel == pytest.approx(full)
    assert pose_after("left", "fast", begin("left"), 8).travel == pytest.approx(full)


@pytest.mark.parametrize("times", REPEATS)
@pytest.mark.parametrize("pause", [0.0, 0.4, 1.0])
def test_a_number_of_hops_fits_a_clip_and_each_takes_as_long(times, pause):
    clock = torch.arange(0, 1601) / 1600
    lift = poses("bounce", "normal", begin("bounce"), clock, times, pause)[2].flatten()
    flying = (lift > 0.01).long()
    assert int((flying.diff() == 1).sum()) == times  # counted as they leave the ground
    assert flying.float().mean().item() == pytest.approx(times / 3, abs=0.04)
    assert lift[0] == 0 and lift[-1] < 1e-4


@pytest.mark.parametrize("motion", MOTIONS)
def test_no_motion_is_faster_than_the_vae_can_follow(motion):
    clock = torch.arange(33) / FRAMES_PER_UNIT
    normal, fast = (
        max(
            (64 * part.flatten().diff()).abs().max().item()
            for part in poses(motion, speed, begin(motion), clock)[:3]
        )
        for speed in ("normal", "fast")
    )
    assert fast <= max(5.1, normal)  # pixels of 64, a frame


def test_motions_follow_only_where_they_can_be_seen():
    ground, air, left = (
        Pose(radius=0.17),
        Pose(radius=0.17, lift=0.42),
        Pose(radius=0.17, travel=-0.28),
    )
    assert {m for m in MOTIONS if can_follow(m, "cube", air)} == {"fall"}
    assert not can_follow("fall", "cube", ground)
    assert not can_follow("left", "cube", left) and can_follow("right", "cube", left)
    assert not can_follow("spin", "ball", ground)
    assert not can_follow("grow", "cube", Pose(radius=0.25))


def test_a_motion_that_is_nearly_over_does_not_go_on():
    assert goes_on("left", "normal", begin("left"), 8)
    assert not goes_on("left", "normal", begin("left"), 16)
    assert goes_on("bounce", "normal", begin("bounce"), 160)


def test_what_has_grown_is_big():
    assert size_of(pose_after("grow", "normal", begin("grow"), 16)) == "big"
    assert [size_of(begin("still", size)) for size in ("small", "medium", "big")] == [
        "small", "medium", "big",
    ]  # fmt: skip
