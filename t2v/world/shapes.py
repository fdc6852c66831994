"""Coverage and surface normals of each shape, in closed form on a pixel grid."""

from __future__ import annotations

import math

import torch
from torch import Tensor

FOOT = {"ball": 1.0, "cube": 0.98, "pyramid": 0.82, "star": 0.84, "ring": 1.0, "heart": 0.95}
TILT = 0.42  # of the camera down to solids, radians
YAW = 0.55  # of solids at rest, radians


def shape_surface(
    shape: str, u: Tensor, v: Tensor, turn: Tensor, soft: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute one shape of unit radius, viewed along -z.

    Args:
        shape: a key of `FOOT`.
        u: right, in radii, `t h w`.
        v: up, in radii, `t h w`.
        turn: the angle by which the shape has spun, radians, `t 1 1`.
        soft: the width of the edges, in radii, `t 1 1`.

    Returns:
        Coverage in [0, 1], `t h w`, and unit normals (right, up, towards the eye), `t 3 h w`.
    """
    match shape:
        case "ball":
            distance = torch.hypot(u, v)
            return _soft(1 - distance, soft), _dome(u, v)
        case "ring":
            distance = torch.hypot(u, v).clamp(min=1e-6)
            across = ((distance - 0.67) / 0.33).clamp(-1, 1)
            return (
                _soft(0.33 - (distance - 0.67).abs(), soft),
                _dome(across * u / distance, across * v / distance),
            )
        case "star":
            return _star(*_rotate(u, v, turn), turn, soft)
        case "heart":
            return _heart(*_rotate(u, v, turn), turn, soft)
        case "cube":
            return _solid(u, v, _cube_planes(turn), soft)
        case "pyramid":
            return _solid(u, v, _pyramid_planes(turn), soft)
    raise AssertionError(shape)


def _soft(inside: Tensor, soft: Tensor) -> Tensor:
    return (inside / soft + 0.5).clamp(0, 1)


def _dome(x: Tensor, y: Tensor) -> Tensor:
    """Normals whose sideways part is (x, y): `t 3 h w`."""
    z = (1 - x * x - y * y).clamp(min=0).sqrt()
    return torch.stack((x, y, z), dim=1)


def _rotate(x: Tensor, y: Tensor, angle: Tensor) -> tuple[Tensor, Tensor]:
    cos, sin = angle.cos(), angle.sin()
    return cos * x + sin * y, cos * y - sin * x


def _star(u: Tensor, v: Tensor, turn: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """Five points with a ridge down each; the bevel of a half point is one flat facet."""
    sector = 2 * math.pi / 5
    angle = torch.atan2(u, v)
    nearest = (angle / sector).round() * sector  # the direction of the nearest point
    x, y = _rotate(u, v, -nearest)  # that point is now straight up
    side = (x / soft).clamp(-1, 1)  # the ridge
    inner = 0.52
    tip, notch = (0.0, 1.05), (inner * math.sin(sector / 2), inner * math.cos(sector / 2))
    edge = (notch[0] - tip[0], notch[1] - tip[1])
    length = math.hypot(*edge)
    nx, ny = -edge[1] / length, edge[0] / length  # outward for the right half
    distance = x.abs() * nx + (y - tip[1]) * ny
    slope = 0.6
    fx, fy = _rotate(side * nx * slope, torch.full_like(u, ny * slope), nearest)
    return _soft(-distance, soft), _dome(*_rotate(fx, fy, -turn))


def _heart(u: Tensor, v: Tensor, turn: Tensor, soft: Tensor) -> tuple[Tensor, Tensor]:
    """Two discs over a corner, puffed up towards the middle."""
    here = _heart_distance(u, v)
    step = 0.02
    gx = (_heart_distance(u + step, v) - here) / step
    gy = (_heart_distance(u, v + step) - here) / step
    steep = 0.8 * (1 + here / 0.3).clamp(0, 1)  # a round rim on a gently domed body
    x, y = torch.lerp(0.5 * u, gx, steep), torch.lerp(0.5 * v, gy, steep)
    return _soft(-here, soft), _dome(*_rotate(x, y, -turn))


def _heart_distance(u: Tensor, v: Tensor) -> Tensor:
    """Signed distance to a heart about 2 wide and 1.9 high, negative inside."""
    scale = 1.62
    x, y = u.abs() / scale, (v + 0.95) / scale  # the tip is at the origin
    disc = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(2) / 4
    corner = torch.minimum(x * x + (y - 1) ** 2, _square_to_diagonal(x, y))
    inside = torch.where(x > y, 1.0, -1.0)
    return scale * torch.where(x + y > 1, disc, corner.clamp(min=1e-9).sqrt() * inside)


def _square_to_diagonal(x: Tensor, y: Tensor) -> Tensor:
    along = 0.5 * (x + y).clamp(min=0)
    return (x - along) ** 2 + (y - along) ** 2


def _turned(normals: list[tuple[float, float, float]], turn: Tensor) -> Tensor:
    """Normals turned about the upright axis, then tilted towards the eye: `t k 3`."""
    base = torch.tensor(normals, device=turn.device, dtype=turn.dtype)
    x, z = _rotate(base[:, 0], base[:, 2], turn.flatten(1) + YAW)
    y, z = _rotate(base[:, 1].expand_as(z), z, torch.full_like(z, -TILT))
    return torch.stack((x, y, z), dim=-1)


def _cube_planes(turn: Tensor) -> tuple[Tensor, Tensor]:
    faces = [(1.0, 0.0, 0.0), (-1.0, 0.0, 0.0), (0.0, 1.0, 0.0)]
    faces += [(0.0, -1.0, 0.0), (0.0, 0.0, 1.0), (0.0, 0.0, -1.0)]
    normals = _turned(faces, turn)
    return normals, normals.new_full((6,), 0.68)


def _pyramid_planes(turn: Tensor) -> tuple[Tensor, Tensor]:
    rise = math.atan2(0.85, 1.75)  # of a side's normal over the ground: half base over height
    side, up = math.cos(rise), math.sin(rise)
    faces = [(side, up, 0.0), (-side, up, 0.0), (0.0, up, side), (0.0, up, -side), (0.0, -1.0, 0.0)]
    normals = _turned(faces, turn)
    top = 1.1 * up  # every side passes through the apex, 1.1 above the centre
    return normals, normals.new_tensor([top, top, top, top, 0.65])


def _solid(
    u: Tensor, v: Tensor, planes: tuple[Tensor, Tensor], soft: Tensor
) -> tuple[Tensor, Tensor]:
    """Compute a convex solid: where no parallel ray leaves one face before it enters another."""
    normals, distances = planes  # t k 3, k
    facing = normals[..., 2] > 0
    # Eliminating depth from a face towards us and one away leaves a half-plane of the outline.
    towards, away = normals[:, :, None], normals[:, None]  # t k 1 3, t 1 k 3
    lines = away * towards[..., 2:] - towards * away[..., 2:]  # t k k 3
    reach = distances * towards[..., 2] - distances[:, None] * away[..., 2]  # t k k
    length = lines[..., :2].norm(dim=-1)
    outlines = facing[:, :, None] & ~facing[:, None] & (length > 1e-4)
    lines = lines[..., :2] / length.clamp(min=1e-4)[..., None]
    reach = torch.where(outlines, reach / length.clamp(min=1e-4), torch.inf)
    across = torch.einsum("tijc,cthw->tijhw", lines, torch.stack((u, v)))
    inside = (reach[..., None, None] - across).amin((1, 2))
    nx, ny, nz = (part[..., None, None] for part in normals.unbind(-1))  # t k 1 1
    depth = (distances[:, None, None] - nx * u.unsqueeze(1) - ny * v.unsqueeze(1)) / nz
    shown = torch.where(nz > 1e-3, depth, torch.inf)
    bevel = torch.softmax(-shown / 0.09, dim=1)  # t k h w
    normal = torch.einsum("tkhw,tkc->tchw", bevel, normals)
    return _soft(inside, soft), torch.nn.functional.normalize(normal, dim=1)
