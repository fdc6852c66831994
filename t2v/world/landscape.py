"""The landscapes of the world: sky, sun, clouds, hills and ground, in closed form."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor

HORIZON, GROUND = 0.46, 0.83  # rows of the horizon and of the things' feet, of the height
RIDGE = 1 / 64  # how far the hills' ridge lies below its formula


@dataclass(frozen=True, kw_only=True)
class Backdrop:
    """One landscape; colours are RGB in [0, 1], lengths are parts of the frame height."""

    sky: tuple[tuple[float, ...], tuple[float, ...]]  # top, horizon
    ground: tuple[tuple[float, ...], tuple[float, ...]]  # far, near
    hills: tuple[tuple[float, ...], float, float]  # colour, height, waves per height
    disc: tuple[tuple[float, ...], float, float, float, float]  # colour, x, y, radius, glow
    clouds: float
    texture: tuple[float, float, float]  # strength, waves across, waves deep
    light: tuple[float, float, float] = (1.0, 1.0, 1.0)
    waves: float = 0.0
    stars: float = 0.0


SUN = (1.0, 0.95, 0.72)
BACKDROP = {
    "grass": Backdrop(
        sky=((0.25, 0.52, 0.92), (0.78, 0.90, 1.00)),
        ground=((0.44, 0.72, 0.28), (0.20, 0.52, 0.14)),
        hills=((0.24, 0.55, 0.38), 0.07, 2.2),
        disc=(SUN, 0.30, 0.14, 0.065, 0.25),
        clouds=0.85,
        texture=(0.05, 7.0, 3.0),
    ),
    "sand": Backdrop(
        sky=((0.35, 0.63, 0.95), (0.93, 0.93, 0.88)),
        ground=((0.95, 0.83, 0.58), (0.86, 0.68, 0.40)),
        hills=((0.88, 0.72, 0.45), 0.09, 1.4),
        disc=(SUN, -0.28, 0.13, 0.075, 0.30),
        clouds=0.25,
        texture=(0.05, 2.0, 6.0),
    ),
    "snow": Backdrop(
        sky=((0.55, 0.68, 0.85), (0.86, 0.91, 0.96)),
        ground=((0.90, 0.94, 0.99), (0.97, 0.98, 1.00)),
        hills=((0.66, 0.75, 0.87), 0.15, 1.7),
        disc=((1.0, 1.0, 0.95), 0.10, 0.12, 0.05, 0.2),
        clouds=0.5,
        texture=(0.02, 3.0, 3.0),
    ),
    "sea": Backdrop(
        sky=((0.18, 0.50, 0.90), (0.75, 0.91, 1.00)),
        ground=((0.20, 0.58, 0.80), (0.05, 0.28, 0.58)),
        hills=((0.45, 0.65, 0.75), 0.0, 1.0),
        disc=(SUN, 0.26, 0.13, 0.065, 0.3),
        clouds=0.6,
        texture=(0.0, 1.0, 1.0),
        waves=0.10,
    ),
    "night": Backdrop(
        sky=((0.02, 0.02, 0.12), (0.12, 0.13, 0.36)),
        ground=((0.10, 0.12, 0.26), (0.05, 0.06, 0.15)),
        hills=((0.05, 0.06, 0.20), 0.08, 1.9),
        disc=((0.98, 0.96, 0.85), -0.27, 0.15, 0.075, 0.12),
        clouds=0.0,
        texture=(0.02, 3.0, 3.0),
        light=(0.72, 0.76, 1.00),
        stars=0.9,
    ),
    "sunset": Backdrop(
        sky=((0.36, 0.20, 0.52), (1.00, 0.62, 0.30)),
        ground=((0.50, 0.28, 0.36), (0.24, 0.14, 0.26)),
        hills=((0.38, 0.18, 0.40), 0.06, 1.6),
        disc=((1.0, 0.85, 0.45), 0.05, 0.40, 0.12, 0.35),
        clouds=0.0,
        texture=(0.03, 4.0, 3.0),
        light=(1.0, 0.86, 0.76),
    ),
}
CLOUDS = ((-0.42, 0.16, 0.13, 0.035), (-0.30, 0.13, 0.10, 0.04), (0.02, 0.27, 0.16, 0.03))
STARS = ((-0.05, 0.10), (0.12, 0.22), (0.24, 0.08), (0.38, 0.26), (-0.44, 0.30), (0.44, 0.12))


def landscape(backdrop: Backdrop, x: Tensor, y: Tensor, clock: Tensor) -> Tensor:
    """Colour a landscape at the given points of the world.

    Args:
        backdrop: a value of `BACKDROP`.
        x: sideways from the middle, in frame heights, `t h w`.
        y: down from the top, in frame heights, `t h w`.
        clock: time, `t`; waves take half a unit from one crest to the next.

    Returns:
        RGB, `t c h w`, about [0, 1].
    """
    if not backdrop.waves and bool((x == x[:1]).all() and (y == y[:1]).all()):
        x, y = x[:1], y[:1]  # nothing moves: one frame serves the clip
    edge = 2 / x.shape[1]  # outlines fade over two pixels: nothing aliases
    sky = _sky(backdrop, x, y, edge)
    slope = torch.sin(2 * math.pi * backdrop.hills[2] * x * 0.5 + 0.8)
    ridge = HORIZON - backdrop.hills[1] * (0.45 + 0.40 * slope + 0.15 * torch.sin(11 * x + 2.0))
    # The ridge lies half an outline of 64 rows below its formula: there, the hills' outline once
    # began where it should have had its middle, and clips of 64 rows keep their pixels.
    hidden = ((y - ridge) / edge + (0.5 - RIDGE / edge)).clamp(0, 1)
    hills = _blend(sky, _colour(backdrop.hills[0], x), hidden)
    ground = _ground(backdrop, x, y, clock)
    image = _blend(hills, ground, ((y - HORIZON) / edge + 0.5).clamp(0, 1))
    vignette = 1 - 0.14 * (x * x + (y - 0.5) ** 2) * 2
    return image * vignette.unsqueeze(1)


def _colour(colour: tuple[float, ...], like: Tensor) -> Tensor:
    return rearrange(torch.tensor(colour, device=like.device, dtype=like.dtype), "c -> 1 c 1 1")


def _blend(below: Tensor, above: Tensor, alpha: Tensor) -> Tensor:
    return torch.lerp(below, above.expand_as(below), alpha.unsqueeze(1))


def _ramp(ends: tuple[tuple[float, ...], tuple[float, ...]], along: Tensor) -> Tensor:
    first, last = (_colour(end, along) for end in ends)
    return torch.lerp(first, last, along.clamp(0, 1).unsqueeze(1))


def _sky(backdrop: Backdrop, x: Tensor, y: Tensor, edge: float) -> Tensor:
    image = _ramp(backdrop.sky, y / HORIZON)
    colour, disc_x, disc_y, radius, glow = backdrop.disc
    distance = torch.hypot(x - disc_x, y - disc_y)
    halo = glow * torch.exp(-(((distance - radius).clamp(min=0) / 0.12) ** 2))
    image = _blend(image, _colour(colour, x), halo)
    image = _blend(image, _colour(colour, x), ((radius - distance) / edge + 0.5).clamp(0, 1))
    if backdrop.clouds:
        haze = torch.zeros_like(x)
        for cx, cy, rx, ry in CLOUDS:
            haze += torch.exp(-(((x - cx) / rx) ** 2) - ((y - cy) / ry) ** 2)
        image = _blend(
            image, _colour((1.0, 1.0, 1.0), x), backdrop.clouds * (1.3 * haze).clamp(0, 1)
        )
    if backdrop.stars:
        shine = torch.zeros_like(x)
        for sx, sy in STARS:
            shine += torch.exp(-((x - sx) ** 2 + (y - sy) ** 2) / 0.018**2)
        image = _blend(image, _colour((1.0, 1.0, 0.95), x), backdrop.stars * shine.clamp(0, 1))
    return image


def _ground(backdrop: Backdrop, x: Tensor, y: Tensor, clock: Tensor) -> Tensor:
    depth = ((y - HORIZON) / (1 - HORIZON)).clamp(0, 1)  # 0 at the horizon, 1 at our feet
    image = _ramp(backdrop.ground, depth)
    strength, across, deep = backdrop.texture
    near = 0.35 + 0.65 * depth
    texture = torch.sin(2 * math.pi * across * x / near) * torch.sin(2 * math.pi * deep * depth)
    if backdrop.waves:
        phase = 4 * math.pi * rearrange(clock, "t -> t 1 1")  # two swells a unit
        swell = torch.sin(9 * x / near + phase) + torch.sin(30 * depth.sqrt() - phase)
        texture, strength = 0.5 * swell, backdrop.waves
    return image * (1 + strength * near * texture).unsqueeze(1)
