"""The motions of things: size, place and turn as functions of time, and what may follow."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

from t2v.world.grammar import REPEATS, SPEEDS, UNSPUN, Thing

FRAMES_PER_UNIT = 16  # a motion from one side to the other takes one unit of time, in any clip
RADIUS = {"small": 0.125, "medium": 0.17, "big": 0.225}  # of the frame height
PAIR_RADIUS = 0.155
LEAST, MOST = 0.10, 0.25  # radius before and after growing
TRAVEL, LIFT = 0.56, 0.42  # from the right to the left; of things that rose
PEAK = 0.88 / 4  # of a bounce
HOPS = 2  # in a unit of time, of a thing that bounces on and on
COUNTED_HOPS = max(REPEATS)  # in a unit, of one that bounces a number of times: any number fits
FAR_ENOUGH = 0.45  # part of a whole way that must be left to be called a motion
ENDING = ("left", "right", "rise", "fall", "grow", "shrink")  # they reach a limit and stay there
ON_GROUND = ("still", "bounce", "left", "right", "spin", "grow", "shrink")


@dataclass(frozen=True, kw_only=True)
class Pose:
    """The place of a thing at one moment: lengths in frame heights, the turn in radians."""

    radius: float
    travel: float = 0.0  # sideways from its own place
    lift: float = 0.0  # over the ground
    turn: float = 0.0


def first_pose(thing: Thing, count: int) -> Pose:
    """The place of one of `count` things when its motion begins with the clip."""
    radius = RADIUS[thing.size] if count == 1 else PAIR_RADIUS
    match thing.motion:
        case "left":
            return Pose(radius=radius, travel=TRAVEL / 2)
        case "right":
            return Pose(radius=radius, travel=-TRAVEL / 2)
        case "fall":
            return Pose(radius=radius, lift=LIFT)
        case "grow":
            return Pose(radius=LEAST)
        case "shrink":
            return Pose(radius=MOST)
    return Pose(radius=radius)


def done_before(motion: str, begin: Pose) -> float:
    """The part of a whole motion, 0 to 1, that a thing which begins at `begin` need not do."""
    match motion:
        case "left":
            return 0.5 - begin.travel / TRAVEL
        case "right":
            return 0.5 + begin.travel / TRAVEL
        case "rise":
            return begin.lift / LIFT
        case "grow":
            return (begin.radius - LEAST) / (MOST - LEAST)
        case "shrink":
            return (MOST - begin.radius) / (MOST - LEAST)
    return 0.0


def poses(
    motion: str,
    speed: str,
    begin: Pose,
    clock: Tensor,
    times: int | None = None,
    pause: float = 0.0,
) -> tuple[Tensor, ...]:
    """Radius, travel, lift and turn at each time since the motion began, `t 1 1` each.

    Bouncing and spinning go on for ever; the other motions stay at their end. A bounce of `times`
    hops takes as long for each, however many they are, and rests before (`pause`) and after.
    """
    clock = SPEEDS[speed][0] * rearrange(clock, "t -> t 1 1")
    still = torch.zeros_like(clock)
    radius, travel, lift, turn = (
        still + value for value in (begin.radius, begin.travel, begin.lift, begin.turn)
    )
    way = (clock + done_before(motion, begin)).clamp(max=1)
    match motion:
        case "bounce":
            hops, pace = HOPS * clock, SPEEDS[speed][0]
            if times is not None:
                hops = (COUNTED_HOPS * clock - pause * (COUNTED_HOPS - times)).clamp(0, times)
                pace = COUNTED_HOPS / HOPS
            hop = hops % 1  # on the ground at both ends
            # quick hops are low ones: a thing that crosses its own height in a frame is a smear
            lift = 4 * PEAK / max(1.0, pace) * hop * (1 - hop)
        case "left":
            travel = TRAVEL * (0.5 - way)
        case "right":
            travel = TRAVEL * (way - 0.5)
        case "rise":
            lift = LIFT * way
        case "fall":
            seconds = math.sqrt(begin.lift / LIFT)  # from lower down it takes less
            lift = begin.lift * (1 - (clock / seconds).clamp(max=1) ** 2)
        case "spin":
            turn = begin.turn + math.pi * clock
        case "grow":
            radius = LEAST + (MOST - LEAST) * way
        case "shrink":
            radius = MOST - (MOST - LEAST) * way
    return radius, travel, lift, turn


def pose_after(motion: str, speed: str, begin: Pose, frames: int) -> Pose:
    """The place of a thing some frames after its motion began."""
    clock = torch.tensor([frames / FRAMES_PER_UNIT], dtype=torch.float64)
    radius, travel, lift, turn = (each.item() for each in poses(motion, speed, begin, clock))
    return Pose(radius=radius, travel=travel, lift=lift, turn=turn)


def size_of(pose: Pose) -> str:
    """The size word nearest to a single thing's radius."""
    return min(RADIUS, key=lambda size: abs(RADIUS[size] - pose.radius))


def can_follow(motion: str, shape: str, pose: Pose) -> bool:
    """Return whether a thing of this shape can begin a motion here, with enough way to show it."""
    if motion == "spin" and shape in UNSPUN:
        return False
    if motion == "fall":
        return pose.lift > FAR_ENOUGH * LIFT
    if motion in ON_GROUND and pose.lift > 1e-6:
        return False
    return 1 - done_before(motion, pose) > FAR_ENOUGH


def goes_on(motion: str, speed: str, begin: Pose, frames: int) -> bool:
    """Return whether a motion has enough way left some frames after it began."""
    done = done_before(motion, begin) + SPEEDS[speed][0] * frames / FRAMES_PER_UNIT
    if motion == "fall":
        done /= math.sqrt(begin.lift / LIFT)
    return motion not in ENDING or 1 - done > FAR_ENOUGH
