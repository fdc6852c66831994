"""Likely pairs of copies among any number of clips, without comparing all pairs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
from einops import rearrange

from t2v.curation.copies.correlation import correlate
from t2v.curation.copies.prints import COARSE, COARSE_CHANGES, CROPS
from t2v.curation.copies.summaries import MIRROR, Summaries

LAYOUT = 0.88  # least cosine of the layouts of a pair; copies have .97, with a large logo .88
COARSE_CORRELATION = 0.5  # least of their coarse changes; copies have .55 and more
EXACT = 1e9  # pairs of layouts up to which all are compared
BLOCK = 2_000_000  # pairs of layouts at a time
CHUNK = 512  # pairs of clips whose changes are compared at a time
BUCKET = 128  # layouts of one bucket that each is compared with
LIKE, MISSED = 0.93, 0.05  # share of the pairs of layouts so alike that no table may find
OTHER_SPEED = 0.03  # how much more alike another speed has to make two clips
FINE = 10  # bits that order the layouts of a bucket
SIGNS, APART = 64, 17  # signs that sketch a layout, and how many differ at most: 10 do at `LAYOUT`


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
    slower = np.where(np.array(speeds) == 1, 0, OTHER_SPEED)[:, None]
    best = np.stack(found) - slower  # speeds n
    fast = np.array(speeds)[best.argmax(0)]
    likely = ours.static[a] | (best.max(0) > COARSE_CORRELATION)
    rows = zip(a[likely].tolist(), b[likely].tolist(), fast[likely].tolist(), strict=True)
    yield from rows


def _alike(ours: Summaries, theirs: Summaries | None) -> Pairs:
    """Pairs of clips with layouts alike, one of them cropped or mirrored; some pairs repeat."""
    among = ours if theirs is None else theirs
    searches = [(ours, among)] if theirs is None else [(ours, among), (among, ours)]
    for turn, (some, others) in enumerate(searches):
        entries = others.layouts[:, 0]
        exact = len(some.layouts) * len(CROPS) * 2 * len(entries) <= EXACT
        for a, b in (_all_near if exact else _hashed_near)(some.layouts, entries):
            pair = some.owners[a], others.owners[b]
            yield pair[::-1] if turn else pair


def _views(layouts: np.ndarray) -> Iterator[np.ndarray]:
    """The layouts of `m v c` within each crop, mirrored or not, `m c` each."""
    for number in range(layouts.shape[1]):
        yield np.ascontiguousarray(layouts[:, number])
        yield layouts[:, number] * MIRROR


def _all_near(queries: np.ndarray, entries: np.ndarray) -> Pairs:
    rows = max(1, BLOCK // max(1, len(entries)))
    for view in _views(queries):
        for at in range(0, len(view), rows):
            first, second = np.nonzero(view[at : at + rows] @ entries.T > LAYOUT)
            yield first + at, second


def _hashed_near(queries: np.ndarray, entries: np.ndarray) -> Pairs:
    """Pairs that share a bucket of a table of random hyperplanes (Charikar, 2002), and are alike.

    The tables are as many as it takes to miss `MISSED` of the pairs with a cosine of `LIKE`.
    """
    width = entries.shape[1]
    bits = min(max(8, round(math.log2(len(entries))) - 2), width - 1)
    agree = (1 - math.acos(LIKE) / math.pi) ** bits
    generator = np.random.default_rng(0)
    sketched = np.random.default_rng(1).standard_normal((width, SIGNS), np.float32)
    signs = _signs(entries, sketched)
    asking = [_signs(view, sketched) for view in _views(queries)]
    for _ in range(math.ceil(math.log(MISSED) / math.log1p(-agree))):
        axes = np.linalg.qr(generator.standard_normal((width, width)))[0]
        axes = axes[:, : bits + 1].astype(np.float32)
        keys = _keys(entries, axes)
        order = np.argsort(keys, kind="stable")
        table, written = keys[order], signs[order]
        for view, sketch in zip(_views(queries), asking, strict=True):
            wanted = _keys(view, axes)
            asked = np.argsort(wanted)  # in order, since that is several times as fast
            for first, second in _bucketed(wanted[asked], table, sketch[asked], written):
                a, b = asked[first], order[second]
                near = np.einsum("nc,nc->n", view[a], entries[b]) > LAYOUT
                yield a[near], b[near]


def _signs(layouts: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """The sides of `SIGNS` axes that each layout is on, as the bits of a number."""
    found = np.packbits(layouts @ axes > 0, axis=1).view(np.uint64)
    return found[:, 0]


def _keys(layouts: np.ndarray, axes: np.ndarray) -> np.ndarray:
    """The bucket of each layout, by the sides of all axes but one, and its place along that one."""
    along = layouts @ axes
    sides = (along[:, :-1] > 0) @ (1 << np.arange(axes.shape[1] - 1))
    place = ((along[:, -1] + 1) / 2 * (2**FINE - 1)).astype(np.int64)
    return (sides << FINE) | np.clip(place, 0, 2**FINE - 1)


def _bucketed(
    wanted: np.ndarray, table: np.ndarray, sketch: np.ndarray, written: np.ndarray
) -> Pairs:
    """Places of pairs of one bucket whose signs are alike.

    Sketches are read in the order of the table, where those of a bucket lie together; to gather the
    layouts of all such pairs takes several times as long.

    Args:
        wanted, table: the sorted keys of those that ask and of the entries.
        sketch, written: their signs, in the same order.
    """
    bucket = wanted >> FINE
    place = np.searchsorted(table, wanted)
    first = np.maximum(np.searchsorted(table, bucket << FINE), place - BUCKET // 2)
    last = np.minimum(np.searchsorted(table, (bucket + 1) << FINE), place + BUCKET // 2)
    running = np.cumsum(last - first)
    at = 0
    while at < len(wanted):
        done = running[at - 1] if at else 0
        end = max(at + 1, int(np.searchsorted(running, done + BLOCK, side="right")))
        some = slice(at, end)
        b = _ranges(first[some], last[some])
        a = np.repeat(np.arange(at, end), (last - first)[some])
        alike = np.bitwise_count(sketch[a] ^ written[b]) <= APART
        yield a[alike], b[alike]
        at = end


def _ranges(first: np.ndarray, last: np.ndarray) -> np.ndarray:
    """All whole numbers from each `first` to before each `last`, one after the other."""
    counts = last - first
    behind = np.cumsum(counts) - counts
    return np.repeat(first - behind, counts) + np.arange(int(counts.sum()))
