"""Distances of a set of videos from a set of real clips, in the features of a network."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from t2v.data.rng import keyed_generator
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.evaluation.metrics.attributes import oracle_name
from t2v.evaluation.networks import Networks
from t2v.evaluation.types import Measurements, NotRun, PerSet, Videos, at_least
from t2v.nets.features import VideoNet, load_video_net
from t2v.world.oracle import WorldOracle

FEWEST = 8
PARTS = (1.0, 0.75, 0.5)  # of the videos, for what their number does to the Frechet distance


def load(networks: Networks) -> VideoNet | None:
    """Load the network that `features` names, else the oracle; None: neither is named.

    Raises:
        UserError: it cannot be loaded.
    """
    if name := networks.config.features:
        return load_video_net(name, networks.device)
    return oracle_features(networks.oracle) if networks.oracle else None


def oracle_features(oracle: WorldOracle) -> VideoNet:
    """Return the oracle as a network of videos: the logits of all its heads, side by side."""

    def compute(video: Tensor) -> Tensor:
        return torch.cat(list(oracle(pixels(video).to(oracle.device)).values()), dim=1)

    return VideoNet(oracle_name(oracle), compute)


def measure(videos: Videos, net: VideoNet | None) -> Measurements:
    """Return kernel and Frechet distance to other real clips; no FVD, whose network is I3D."""
    if net is None:
        return {"kernel": NotRun("no network is named: features=MODEL or oracle=FOLDER")}
    if videos.others is None:
        return {"kernel": NotRun("these prompts have no real clips")}
    if min(len(videos), len(videos.others)) < FEWEST:
        return {"kernel": NotRun(f"a distance of sets needs {FEWEST} videos")}
    return distances(videos.video, videos.others, net, keyed_generator(0, "fidelity"))


def distances(
    video: Tensor, reference: Tensor, net: VideoNet, generator: torch.Generator
) -> Measurements:
    """Return the same of `n t h w c` uint8 videos and `m t h w c` clips of any size.

    Raises:
        UserError: fewer than 8 videos or clips.
    """
    at_least(video, FEWEST, "a distance of sets")
    at_least(reference, FEWEST, "a distance of sets")
    ours, theirs = net.features(video), net.features(reference)
    distance, spread = kernel_distance(ours, theirs)
    reach = 1.96 * spread
    found: Measurements = {
        "kernel": PerSet(
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
    method = f"{net.name}; two halves of the real clips: {bias:.3g}"
    n, nan = len(ours), math.nan
    found["frechet"] = PerSet(plain, nan, nan, n, "lower", method)
    found["frechet_unbiased"] = PerSet(limit, nan, nan, n, "lower", f"{net.name}; at 1/n = 0")
    return found


def frechet(ours: Tensor, theirs: Tensor) -> float:
    """Return the Frechet distance of Gaussians fitted to features `n d` and `m d` (Dowson 1982).

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
    """Return the Frechet distance of infinitely many samples, by a line over 1/n.

    Chong & Forsyth 2020. May fall a little below 0.
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
    """Return the unbiased squared MMD of the cubic kernel, and its standard error.

    KID (Binkowski et al. 2018): 0 on average for two samples of one source, however few, so it may
    be negative. The features are taken as they are: any scaling by the data would bias it. The
    standard error is the jackknife's.

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
