"""How far a set of videos is from real clips, in the features of a named network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.types import Figure, Findings, Nets, NotRun, Videos, at_least
from t2v.nets.features import VideoNet

FEWEST = 8
PARTS = (1.0, 0.75, 0.5)  # of the videos, for what their number does to the Frechet distance


def fidelity(videos: Videos, nets: Nets) -> Findings:
    """Kernel and Frechet distance of videos to other real clips; no FVD, whose net is I3D."""
    if nets.features is None:
        return {"kernel": NotRun("no network is named: features=MODEL or oracle=FOLDER")}
    if videos.others is None:
        return {"kernel": NotRun("these prompts have no real clips")}
    if min(len(videos), len(videos.others)) < FEWEST:
        return {"kernel": NotRun(f"a distance of sets needs {FEWEST} videos")}
    return distances(videos.video, videos.others, nets.features, keyed_generator(0, "fidelity"))


def distances(
    video: Tensor, reference: Tensor, net: VideoNet, generator: torch.Generator
) -> Findings:
    """The same of `n t h w c` uint8 videos and `m t h w c` clips of any size.

    Raises:
        UserError: fewer than 8 videos or clips.
    """
    at_least(video, FEWEST, "a distance of sets")
    at_least(reference, FEWEST, "a distance of sets")
    ours, theirs = net.features(video), net.features(reference)
    distance, spread = kernel_distance(ours, theirs)
    reach = 1.96 * spread
    found: Findings = {
        "kernel": Figure(
            *(distance, distance - reach, distance + reach, len(ours), "lower"),
            f"KID's formula; 0 on average without a difference, so some fall below; {net.name}",
        )
    }
    fewest = 2 * ours.shape[1]
    if min(len(ours), len(theirs)) < fewest:
        reason = f"{ours.shape[1]} features need {fewest} videos and clips; {len(ours)} are there"
        return found | {"frechet": NotRun(reason), "frechet_unbiased": NotRun(reason)}
    plain = frechet(ours, theirs)
    limit = extrapolated(ours, theirs, generator)
    halves = theirs[torch.randperm(len(theirs), generator=generator)].chunk(2)
    bias = frechet(*halves)
    told = f"{net.name}; two halves of the real clips: {bias:.3g}"
    n, nan = len(ours), math.nan
    found["frechet"] = Figure(plain, nan, nan, n, "lower", told)
    found["frechet_unbiased"] = Figure(limit, nan, nan, n, "lower", f"{net.name}; at 1/n = 0")
    return found


def frechet(ours: Tensor, theirs: Tensor) -> float:
    """The Frechet distance of two Gaussians fitted to features `n d` and `m d` (Dowson 1982).

    It is above 0 for two samples of one source, the more so the fewer they are.
    """
    at_least(ours, 2, "a covariance")
    at_least(theirs, 2, "a covariance")
    root = _root(torch.atleast_2d(torch.cov(ours.double().T)))
    other = torch.atleast_2d(torch.cov(theirs.double().T))
    cross = torch.linalg.eigvalsh(root @ other @ root).clamp(min=0).sqrt().sum()
    means = (ours.double().mean(0) - theirs.double().mean(0)).square().sum()
    spread = root.square().sum() + other.trace() - 2 * cross
    return max(0.0, (means + spread).item())


def _root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ (values.clamp(min=0).sqrt()[:, None] * vectors.T)


def extrapolated(ours: Tensor, theirs: Tensor, generator: torch.Generator) -> float:
    """The Frechet distance that endless samples would have: a line over 1/n (Chong & Forsyth 2020).

    May fall a little below 0.
    """
    count = min(len(ours), len(theirs))
    points = []
    for part in PARTS:
        n = int(count * part)
        for _ in range(5):
            a, b = (x[torch.randperm(len(x), generator=generator)[:n]] for x in (ours, theirs))
            points.append((1 / n, frechet(a, b)))
    x, y = torch.tensor(points, dtype=torch.double).unbind(1)
    slope = ((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum()
    return (y.mean() - slope * x.mean()).item()


def kernel_distance(ours: Tensor, theirs: Tensor) -> tuple[float, float]:
    """The unbiased squared MMD of the cubic kernel (KID, Binkowski et al. 2018), and its error.

    0 on average for two samples of one source, however few; it may fall below. The features are
    taken as they are: any scaling by the data would bias it. The standard error is the jackknife's.

    Args:
        ours, theirs: features, `n d` and `m d`.

    Raises:
        UserError: fewer than 3 on one side.
    """
    n, m = len(ours), len(theirs)
    if min(n, m) < 3:
        raise UserError(f"A kernel distance needs at least 3 videos a side, there are {n} and {m}.")
    x, y = ours.double(), theirs.double()
    d = x.shape[1]
    xx, yy, xy = ((a @ b.T / d + 1) ** 3 for a, b in ((x, x), (y, y), (x, y)))
    xx.fill_diagonal_(0)
    yy.fill_diagonal_(0)
    a, b, c = xx.sum(), yy.sum(), xy.sum()
    whole = a / (n * (n - 1)) + b / (m * (m - 1)) - 2 * c / (n * m)
    without_x = (
        (a - 2 * xx.sum(1)) / ((n - 1) * (n - 2)) + b / (m * (m - 1))
        - 2 * (c - xy.sum(1)) / ((n - 1) * m)
    )  # fmt: skip
    without_y = (
        a / (n * (n - 1)) + (b - 2 * yy.sum(1)) / ((m - 1) * (m - 2))
        - 2 * (c - xy.sum(0)) / (n * (m - 1))
    )  # fmt: skip
    variance = sum(
        (k - 1) / k * (each - each.mean()).square().sum()
        for k, each in ((n, without_x), (m, without_y))
    )
    return whole.item(), math.sqrt(float(variance))
