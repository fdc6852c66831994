"""The interval of a share, for what counts without torch."""

from __future__ import annotations

import math


def wilson(right: float, n: int, z: float = 1.96) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share (Wilson 1927, JASA 22:209)."""
    if n == 0:
        return math.nan, math.nan
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - reach), min(1.0, centre + reach)  # outside by rounding alone
