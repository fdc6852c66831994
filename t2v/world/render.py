"""The pixels of the world: a scene rendered to a clip and the coverage of its things."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from t2v.world.collage import blob, collage, is_drawn, paint
from t2v.world.grammar import Scene
from t2v.world.landscape import BACKDROP, GROUND, HORIZON, landscape
from t2v.world.motion import FRAMES_PER_UNIT, poses
from t2v.world.shapes import FOOT, shape_surface
from t2v.world.story import Run, Story, runs

COLOUR = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.50, 0.05),
    "yellow": (0.98, 0.86, 0.12),
    "green": (0.08, 0.62, 0.20),
    "blue": (0.12, 0.30, 0.95),
    "purple": (0.52, 0.16, 0.80),
    "pink": (1.00, 0.50, 0.72),
}


FARTHEST = 0.34  # of a single thing's centre from the middle
AT_ONCE = 32  # frames: as numbers they take many times what they take as pixels
PAN_END = 22 / 16  # the camera comes to rest before a thing in the middle leaves the frame
LIGHT = torch.nn.functional.normalize(torch.tensor([-0.45, 0.62, 0.64]), dim=0)


def render(
    story: Scene | Story,
    num_frames: int = 17,
    height: int = 64,
    width: int = 64,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Render the clip of a scene or story; the same one always gives the same pixels.

    Time is counted in frames: a longer clip of a scene begins with the shorter one.

    Returns:
        The video, `t h w c` uint8, and the coverage of each pixel by things, `t h w` uint8.
    """
    story = Story(scenes=(story,)) if isinstance(story, Scene) else story
    moves = [runs(story, slot) for slot in range(len(story.scenes[0].things))]
    pieces = []
    for number, (start, end) in enumerate(story.spans(num_frames)):
        acting = [each[number] for each in moves]
        for frames in torch.arange(start, end, device=device).split(AT_ONCE):
            image, coverage = _shot(story.scenes[number], acting, frames, height, width)
            video = rearrange(image.clamp(0, 1) * 255, "t c h w -> t h w c").round()
            pieces.append((video.to(torch.uint8), (coverage * 255).round().to(torch.uint8)))
    video, mask = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    return video, mask


def _shot(
    scene: Scene, acting: list[Run], frames: Tensor, height: int, width: int
) -> tuple[Tensor, Tensor]:
    """The image of the given frames of a scene, `t c h w`, and its coverage, `t h w`."""
    device, clock = frames.device, frames / FRAMES_PER_UNIT
    y, x = torch.meshgrid(
        (torch.arange(height, device=device) + 0.5) / height,
        (torch.arange(width, device=device) + 0.5 - width / 2) / height,
        indexing="ij",
    )
    zoom, pan = _camera(scene.camera, clock)
    narrow = min(1.0, width / height)
    y = HORIZON + (y - HORIZON) / rearrange(zoom, "t -> t 1 1")
    x = x / rearrange(zoom, "t -> t 1 1")  # t h w
    pan = rearrange(narrow * pan, "t -> t 1 1")
    image = _behind(scene, x + pan + 0.12 * scene.backdrop, y, clock)  # t c h w
    coverage = torch.zeros_like(x)
    # a one pixel wide edge would alias: what moves by part of a pixel would flicker
    soft = rearrange(2 / (height * zoom), "t -> t 1 1")
    for slot, (place, run) in enumerate(zip(_places(scene), acting, strict=True)):
        since = (frames - run.frame) / FRAMES_PER_UNIT
        how = run.motion, run.speed, run.begin, since, run.times, run.pause
        radius, travel, lift, turn = poses(*how)
        if narrow < 1:
            radius, squeeze = _squeezed(radius, len(acting), narrow)
            travel = squeeze * (place + travel)
            place = 0.0
        foot = FOOT[scene.things[slot].shape] if scene.named else 1.0
        centre = GROUND - foot * radius - lift
        beside = x + pan - place - travel
        u, v = beside / radius, (centre - y) / radius
        image = image * (1 - _shadow(beside, y, radius, lift))
        alpha, shown = _thing(scene, slot, u, v, turn, soft / radius)
        image = torch.lerp(image, shown, alpha)
        coverage = torch.maximum(coverage, alpha.squeeze(1))
    return image, coverage


def _behind(scene: Scene, x: Tensor, y: Tensor, clock: Tensor) -> Tensor:
    """The landscape or the made-up picture behind the things, `t c h w`."""
    if scene.collage is not None:
        return collage(scene.collage, x, y)
    return landscape(BACKDROP[scene.background], x, y, clock)


def _thing(
    scene: Scene, slot: int, u: Tensor, v: Tensor, turn: Tensor, soft: Tensor
) -> tuple[Tensor, Tensor]:
    """The coverage of a thing, `t 1 h w`, and its lit surface, `t c h w`."""
    thing, colour = scene.things[slot], None
    if scene.named:
        alpha, normal = shape_surface(thing.shape, u, v, turn, soft)
        colour = torch.tensor(COLOUR[thing.colour], device=u.device)
    else:
        assert scene.collage is not None
        alpha, normal = blob(scene.collage, slot, u, v, turn, soft)
    if scene.collage is None:
        assert colour is not None
        light = torch.tensor(BACKDROP[scene.background].light, device=u.device)
        shown = _shade(normal, rearrange(colour * light, "c -> c 1 1"), v)
    else:
        shown = paint(scene.collage, slot, colour, u, v, turn, normal)
        if not is_drawn(scene.collage):
            shown = _shade(normal, shown, v)
    return alpha.unsqueeze(1), shown


def _squeezed(radius: Tensor, count: int, narrow: float) -> tuple[Tensor, Tensor]:
    """The radius in a frame that is `narrow` times as wide as high, and the factor of all places.

    One thing keeps its size, so that its size word stays true, and has a shorter way; of several,
    which all are of medium size, both shrink.
    """
    if count > 1:
        return narrow * radius, torch.full_like(radius, narrow)
    return radius, ((narrow / 2 - radius) / FARTHEST).clamp(0, narrow)


def _camera(camera: str, clock: Tensor) -> tuple[Tensor, Tensor]:
    """Zoom factor and sideways position of the view at each time, `t` each."""
    still = torch.zeros_like(clock)
    sweep = 0.36 * (clock.clamp(max=PAN_END) - 0.5)
    clock = clock.clamp(max=1)
    match camera:
        case "pan left":
            return still + 1, -sweep
        case "pan right":
            return still + 1, sweep
        case "zoom in":
            return 0.85 + 0.45 * clock, still
        case "zoom out":
            return 1.30 - 0.45 * clock, still
        case "still":
            return still + 1, still
    raise AssertionError(camera)


def _places(scene: Scene) -> list[float]:
    """The place of each thing, sideways from the middle."""
    spread = {1: (0.0,), 2: (-0.24, 0.24), 3: (-0.32, 0.0, 0.32)}[len(scene.things)]
    return [0.06 * scene.offset / len(scene.things) + place for place in spread]


def _shadow(x: Tensor, y: Tensor, radius: Tensor, lift: Tensor) -> Tensor:
    """Darkening of the ground below a thing, `t 1 h w`: wider and fainter with its height."""
    reach = radius * (1.0 + 0.8 * lift)
    distance = (x / reach) ** 2 + ((y - GROUND - 0.01) / (0.30 * reach)) ** 2
    dark = 0.55 * torch.exp(-1.2 * distance) / (1 + 3 * lift)
    return dark.unsqueeze(1)


def _shade(normal: Tensor, colour: Tensor, v: Tensor) -> Tensor:
    """Lambert and hemisphere light with a highlight and a dark rim, `t c h w`.

    Args:
        colour: `c 1 1` or `t c h w`.
    """
    lit = (normal * LIGHT.to(normal)[:, None, None]).sum(1, keepdim=True)  # t 1 h w
    ambient = 0.46 + 0.14 * normal[:, 1:2]
    half = torch.nn.functional.normalize(LIGHT + torch.tensor([0.0, 0.0, 1.0]), dim=0)
    gloss = (normal * half.to(normal)[:, None, None]).sum(1, keepdim=True).clamp(min=0) ** 24
    contact = 1 - 0.25 * (-v.unsqueeze(1)).clamp(0, 1) ** 2
    body = colour * (ambient + 0.62 * lit.clamp(min=0)) * contact
    return body + 0.45 * gloss
