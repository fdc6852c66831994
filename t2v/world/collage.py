"""Made-up pictures to play in, for scenes that are in no landscape of the world.

Colours, patches and textures are random (domain randomisation; Tobin et al. 2017, arXiv
1703.06907). A model that goes on from a given frame cannot know them beforehand, so it learns to
keep what it sees.
"""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor

DRAWN, GREY = 0.3, 0.1  # shares of pictures on paper with outlines, and of those without colour
PAPER = (0.96, 0.95, 0.92)
PATCHES, GRATINGS = 14, 4  # at most
LINE = 1 / 32  # width of drawn lines, of the frame height
WAVES = 5  # in the outline of a thing without a name


def collage(seed: int, x: Tensor, y: Tensor) -> Tensor:
    """Colour the picture of a seed at the given points of the world.

    Args:
        seed: all of the picture follows from it.
        x: sideways from the middle, in frame heights, `t h w`.
        y: down from the top, in frame heights, `t h w`.

    Returns:
        RGB, `t c h w`, about [0, 1].
    """
    edge, times = 2 / x.shape[1], len(x)  # outlines fade over two pixels: nothing aliases
    if bool((x == x[:1]).all() and (y == y[:1]).all()):
        x, y = x[:1], y[:1]  # nothing moves: one frame serves the clip
    generator, drawn = _generator(seed, 0), is_drawn(seed)
    grey = _number(generator) < GREY
    image = _ground(x, y, edge, drawn, generator)
    for _ in range(int(_number(generator, 0, PATCHES + 1))):
        image = _with_patch(image, x, y, edge, drawn, generator)
    for _ in range(0 if drawn else int(_number(generator, 0, GRATINGS + 1))):
        image = image * _grating(x, y, _number(generator, 0.02, 0.14), generator)
    if grey:
        image = image.mean(1, keepdim=True).expand_as(image)
    return image.expand(times, -1, -1, -1)


def is_drawn(seed: int) -> bool:
    """True for a picture on paper, false for one with light and texture."""
    return _number(_generator(seed, 1)) < DRAWN


def paint(
    seed: int, slot: int, named: Tensor | None, u: Tensor, v: Tensor, turn: Tensor, normal: Tensor
) -> Tensor:
    """Colour a thing of the picture, `t c h w`, before light falls on it.

    Args:
        slot: the number of the thing.
        named: RGB of its colour word; None: it has none, and takes any two colours.
        u: right, in radii, `t h w`.
        v: up, in radii, `t h w`.
        turn: the angle by which it has spun, radians, `t 1 1`.
        normal: of its surface, `t 3 h w`; a drawn one is dark where that points aside.
    """
    generator, drawn = _generator(seed, 2 + slot), is_drawn(seed)
    u, v = turn.cos() * u + turn.sin() * v, turn.cos() * v - turn.sin() * u
    one, other = (_spread(_colour(generator), u) for _ in range(2))
    if named is not None:
        one = other = torch.lerp(_spread(named, u), one, 0.2)
    stripes = _wave(u, v, _number(generator, 0.2, 1.2), generator)
    body = torch.lerp(one, other, (0.5 + 3 * stripes).clamp(0, 1).unsqueeze(1))
    if drawn:
        return body * (normal[:, 2:] / 0.5).clamp(0.15, 1)
    return body * _grating(u, v, _number(generator, 0.0, 0.2), generator)


def blob(
    seed: int, slot: int, u: Tensor, v: Tensor, turn: Tensor, soft: Tensor
) -> tuple[Tensor, Tensor]:
    """Coverage and normals of a thing with a random outline, as `shape_surface` gives them."""
    generator = _generator(seed, 5 + slot)
    radius = torch.hypot(u, v).clamp(min=1e-6)
    angle = torch.atan2(v, u) + turn
    reach = torch.ones_like(radius)
    for wave in range(1, WAVES + 1):
        height, phase = _number(generator, 0, 0.45 / wave), _number(generator, 0, 2 * math.pi)
        reach = reach + height * torch.cos(wave * angle + phase)
    reach = reach.clamp(min=0.3) / 1.3
    x, y = 0.95 * u / reach, 0.95 * v / reach
    z = (1 - x * x - y * y).clamp(min=0).sqrt()
    coverage = ((reach - radius) / soft + 0.5).clamp(0, 1)
    return coverage, torch.nn.functional.normalize(torch.stack((x, y, z), dim=1), dim=1)


def _generator(seed: int, part: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed * 8 + part)


def _number(generator: torch.Generator, low: float = 0.0, high: float = 1.0) -> float:
    return low + (high - low) * float(torch.rand((), generator=generator))


def _colour(generator: torch.Generator) -> Tensor:
    """A colour, more often a pale or dark one than a pure one."""
    colour, grey = torch.rand(3, generator=generator), torch.rand(1, generator=generator)
    return torch.lerp(grey.expand(3), colour, _number(generator, 0.2, 1.0))


def _spread(colour: Tensor, like: Tensor) -> Tensor:
    return rearrange(colour.to(like), "c -> 1 c 1 1")


def _ground(x: Tensor, y: Tensor, edge: float, drawn: bool, generator: torch.Generator) -> Tensor:
    """A wall and a floor, each from one colour to another; or paper."""
    first, second, third = (_spread(_colour(generator), x) for _ in range(3))
    angle, row = _number(generator, 0, 2 * math.pi), _number(generator, 0.2, 0.9)
    slope, has_floor = _number(generator, -0.3, 0.3), _number(generator) < 0.6
    if drawn:
        first = second = _spread(torch.tensor(PAPER), x)
    along = (0.5 + x * math.cos(angle) + (y - 0.5) * math.sin(angle)).clamp(0, 1)
    image = torch.lerp(first, second, along.unsqueeze(1))
    if not has_floor:
        return image
    below = y - row - slope * x
    if drawn:  # a line on the paper
        return image * (below.abs() / LINE).clamp(0.2, 1).unsqueeze(1)
    return torch.lerp(image, third * (1 - 0.4 * along.unsqueeze(1)), _over(below, edge))


def _over(inside: Tensor, edge: float) -> Tensor:
    return (inside / edge + 0.5).clamp(0, 1).unsqueeze(1)


def _with_patch(
    image: Tensor, x: Tensor, y: Tensor, edge: float, drawn: bool, generator: torch.Generator
) -> Tensor:
    """The image with an ellipse or a rounded box on it, lit from one side."""
    colour, angle = _spread(_colour(generator), x), _number(generator, 0, math.pi)
    x, y = x - _number(generator, -0.75, 0.75), y - _number(generator, 0, 1)
    across, along = (_number(generator, 0.02, 0.3) for _ in range(2))
    power = 2 if _number(generator) < 0.5 else 8
    u = (x * math.cos(angle) + y * math.sin(angle)) / across
    v = (y * math.cos(angle) - x * math.sin(angle)) / along
    far = (u.abs() ** power + v.abs() ** power + 1e-9) ** (1 / power)
    inside = (1 - far) * min(across, along)
    lit = colour * (1 + _number(generator, -0.5, 0.5) * u).clamp(0.3, 1.7).unsqueeze(1)
    if drawn:
        lit = colour * (inside / LINE - 0.5).clamp(0.15, 1).unsqueeze(1)  # its outline is dark
    return torch.lerp(image, lit, _over(inside, edge))


def _grating(x: Tensor, y: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """A factor of brightness and tint that varies like grain, cloth or leaves, `t c h w`."""
    wave = _wave(x, y, _number(generator, 1.0, 12.0), generator).unsqueeze(1)
    tint = 1 + 0.3 * (2 * torch.rand(3, generator=generator) - 1)
    return 1 + strength * wave * _spread(tint, x)


def _wave(x: Tensor, y: Tensor, frequency: float, generator: torch.Generator) -> Tensor:
    """A wave of the given crests per unit whose front is bent by another one, `t h w`."""
    angle, phase, bend = (_number(generator, 0, 2 * math.pi) for _ in range(3))
    front = x * math.cos(angle) + y * math.sin(angle)
    beside = y * math.cos(angle) - x * math.sin(angle)
    slower = torch.sin(math.pi * frequency * _number(generator, 0.1, 1) * beside + phase)
    return torch.sin(2 * math.pi * frequency * front + bend / 2 * slower)
