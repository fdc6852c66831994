"""Likely pairs of copies among any number of clips, without comparing all pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from einops import rearrange

from t2v.curation.copies.correlation import correlate
from t2v.curation.copies.prints import COARSE, COARSE_CHANGES
from t2v.curation.copies.summaries import MIRROR, Summaries

LAYOUT = 0.84  # least cosine of the layouts of a pair; copies have .86 and more
COARSE_CORRELATION = 0.5  # least of their coarse changes; copies have .55 and more
EXACT = 4e8  # pairs of layouts up to which all are compared
BLOCK = 2_000_000  # pairs of layouts at a time
CHUNK = 512  # pairs of clips whose changes are compared at a time
BUCKET = 128  # layouts of one bucket that each is compared with
LIKE, MISSED = 0.93, 0.01  # share of the pairs of layouts so alike that no table may find
FINE = 10  # bits that order the layouts of a bucket


Pairs = Iterator[tuple[np.ndarray, np.ndarray]]


def candidates(
    ours: Summaries,
    theirs: Summaries | None,
    overlap: float,
    speeds: Sequence[float] = (1.0,),
) -> Iterator[tuple[int, int, float]]:
    """Pairs of clips whose pictures have one layout and change in the same way, each pair once.

    Args:
        theirs: the clips to find them among; None: those of `ours` itself, each pair in order.
        overlap: the least share of the shorter clip that both have in common.
        speeds: how many times as fast ours may have to be played to change as theirs does; the
            third of each result is the best of them.
    """
    known = np.zeros(0, np.int64)
    among = ours if theirs is None else theirs
    for a, b in _alike(ours, theirs):
        if theirs is None:
            a, b = np.minimum(a, b), np.maximum(a, b)
            a, b = a[a != b], b[a != b]
        found = np.unique(a * len(among) + b)
        found = found[~np.isin(found, known, assume_unique=True)]
        known = np.union1d(known, found)
        a, b = np.divmod(found, max(1, len(among)))
        same = ours.static[a] == among.static[b]
        a, b = a[same], b[same]
        for at in range(0, len(a), CHUNK):
            yield from _changing_alike(ours, among, a[at:][:CHUNK], b[at:][:CHUNK], overlap, speeds)


def _changing_alike(
    ours: Summaries,
    theirs: Summaries,
    a: np.ndarray,
    b: np.ndarray,
    overlap: float,
    speeds: Sequence[float],
) -> Iterator[tuple[int, int, float]]:
    """The pairs whose coarse changes correlate, mirrored or not, at the best speed; still ones."""
    other, counts = theirs.padded_changes(b, 1.0)
    turned = rearrange(other, "n t (h w) -> n t h w", h=COARSE[0])[..., ::-1]
    both = other, rearrange(turned, "n t h w -> n t (h w)")
    found = []
    for speed in speeds:
        mine, lengths = ours.padded_changes(a, speed)
        how = {"overlap": overlap, "least": COARSE_CHANGES}
        values = [correlate(mine, each, lengths, counts, **how)[0] for each in both]
        found.append(np.maximum(*values))
    best = np.stack(found)  # speeds n
    fast = np.array(speeds)[best.argmax(0)]
    likely = ours.static[a] | (best.max(0) > COARSE_CORRELATION)
    rows = zip(a[likely].tolist(), b[likely].tolist(), fast[likely].tolist(), strict=True)
    yield from rows


def _alike(ours: Summaries, theirs: Summaries | None) -> Pairs:
    """Pairs of clips with layouts alike: whole or middle, mirrored or not; some pairs repeat."""
    among = ours if theirs is None else theirs
    views = [(0, 0), (1, 0)] if theirs is None else [(0, 0), (1, 0), (0, 1)]
    queries, entries = len(ours.layouts) * 2 * len(views), len(among.layouts)
    search = _all_near if queries * entries <= EXACT else _hashed_near
    for mine, other in views:
        for signs in (1.0, MIRROR):
            layouts = ours.layouts[:, mine] * np.float32(signs)
            for a, b in search(layouts, among.layouts[:, other]):
                yield ours.owners[a], among.owners[b]


def _all_near(a: np.ndarray, b: np.ndarray) -> Pairs:
    rows = max(1, BLOCK // max(1, len(b)))
    for at in range(0, len(a), rows):
        first, second = np.nonzero(a[at : at + rows] @ b.T > LAYOUT)
        yield first + at, second


def _hashed_near(a: np.ndarray, b: np.ndarray) -> Pairs:
    """Pairs that share a bucket of a table of random hyperplanes (Charikar, 2002), and are alike.

    The tables are as many as it takes to miss `MISSED` of the pairs with a cosine of `LIKE`.
    """
    bits = min(max(8, round(math.log2(len(b))) - 2), b.shape[1] - 1)
    agree = (1 - math.acos(LIKE) / math.pi) ** bits
    tables = math.ceil(math.log(MISSED) / math.log1p(-agree))
    generator = np.random.default_rng(0)
    for _ in range(tables):
        axes = np.linalg.qr(generator.standard_normal((b.shape[1], b.shape[1])))[0]
        axes = axes[:, : bits + 1].astype(np.float32)
        keys = _keys(b, axes)
        order = np.argsort(keys, kind="stable")
        yield from _bucketed(a, b, _keys(a, axes), keys[order], order)


def _keys(layouts: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """The bucket of each layout, by the sides of all axes but one, and its place along that one."""
    along = layouts @ axes
    sides = (along[:, :-1] > 0) @ (1 << np.arange(axes.shape[1] - 1))
    place = ((along[:, -1] + 1) / 2 * (2**FINE - 1)).astype(np.int64)
    return (sides << FINE) | np.clip(place, 0, 2**FINE - 1)


def _bucketed(
    a: np.ndarray, b: np.ndarray, wanted: np.ndarray, keys: np.ndarray, order: np.ndarray
) -> Pairs:
    """Pairs alike of one table: `keys` are sorted, `order` tells whose they are."""
    bucket = wanted >> FINE
    place = np.searchsorted(keys, wanted)
    first = np.maximum(np.searchsorted(keys, bucket << FINE), place - BUCKET // 2)
    last = np.minimum(np.searchsorted(keys, (bucket + 1) << FINE), place + BUCKET // 2)
    counts = np.maximum(last - first, 0)
    running = np.cumsum(counts)
    at = 0
    while at < len(a):
        done = running[at - 1] if at else 0
        end = max(at + 1, int(np.searchsorted(running, done + BLOCK, side="right")))
        some = counts[at:end]
        ours = np.repeat(np.arange(at, end), some)
        steps = np.arange(len(ours)) - np.repeat(np.cumsum(some) - some, some)
        theirs = order[first[ours] + steps]
        near = np.einsum("nc,nc->n", a[ours], b[theirs]) > LAYOUT
        yield ours[near], theirs[near]
        at = end
