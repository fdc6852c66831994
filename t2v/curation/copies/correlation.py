"""The correlation of two sequences of pictures at their best offset in time."""

from __future__ import annotations

import numpy as np


def correlate(
    a: np.ndarray,
    b: np.ndarray,
    lengths_a: np.ndarray,
    lengths_b: np.ndarray,
    *,
    overlap: float,
    least: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Correlate pairs of sequences over the pictures that they share, at every offset.

    Each shared part is compared with its own mean over time, so that neither what stands still nor
    what a trimmed copy has lost counts.

    Args:
        a, b: pairs of sequences, `n t d` each, any of them filled up with zeros behind its length.
        lengths_a, lengths_b: pictures of each, `n`.
        overlap: the least share of the shorter one that both have in common.
        least: root mean square of the changes below which a shared part does not count.

    Returns:
        The best correlation, from 0 to 1, and its offset: picture k of `a` is k + offset of `b`;
        `n` each.
    """
    rows, columns, width = a.shape[1], b.shape[1], a.shape[2]
    offset = np.arange(1 - rows, columns)[None]
    count_a, count_b = lengths_a[:, None], lengths_b[:, None]
    first = np.clip(-offset, 0, count_a)
    last = np.clip(count_b - offset, first, count_a)
    count = last - first  # n o
    sums_a, power_a = _shared(a, first, last)
    sums_b, power_b = _shared(b, first + offset, last + offset)
    number = np.maximum(count, 1)
    change_a = power_a - (sums_a**2).sum(2) / number
    change_b = power_b - (sums_b**2).sum(2) / number
    products = _diagonals(a @ b.transpose(0, 2, 1)) - (sums_a * sums_b).sum(2) / number
    floor = number * width * least**2
    shorter = np.minimum(count_a, count_b)
    counts = count >= np.maximum(2, np.round(overlap * shorter))
    counts &= (change_a >= floor) & (change_b >= floor)
    values = np.where(counts, products / np.sqrt(np.maximum(change_a * change_b, 1e-12)), 0.0)
    best = values.argmax(1)
    return np.clip(values[np.arange(len(a)), best], 0.0, 1.0), offset[0, best]


def aligned(a: np.ndarray, b: np.ndarray) -> float:
    """Return the correlation of two sequences, `t d` each, whose pictures belong together."""
    a, b = a - a.mean(0), b - b.mean(0)
    return float((a * b).sum() / max(1e-6, np.sqrt((a**2).sum() * (b**2).sum())))


def _shared(x: np.ndarray, first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sums over time from `first` to before `last`, `n o d`, and of all squares, `n o`."""
    running = np.zeros((x.shape[0], x.shape[1] + 1, x.shape[2]), np.float32)
    np.cumsum(x, axis=1, out=running[:, 1:])
    power = np.zeros(running.shape[:2])
    np.cumsum((x**2).sum(2), axis=1, out=power[:, 1:])
    first, last = (np.clip(at, 0, x.shape[1]) for at in (first, last))
    each = np.arange(len(x))[:, None]
    return running[each, last] - running[each, first], power[each, last] - power[each, first]


def _diagonals(matrix: np.ndarray) -> np.ndarray:
    """The sums of all diagonals of each matrix, the lowest first: every row is shifted by one."""
    number, rows, columns = matrix.shape
    wide = np.zeros((number, rows, columns + rows), matrix.dtype)
    wide[:, :, :columns] = matrix[:, ::-1]
    shifted = wide.reshape(number, -1)[:, :-rows].reshape(number, rows, columns + rows - 1)
    return shifted.sum(1)
