"""Words for what a comparison shows."""

from __future__ import annotations

from string import ascii_uppercase

ALPHA = 0.05
FIRST = ascii_uppercase[0]  # the evaluation that the others are compared with
NO_DIFFERENCE = "no difference shown"


def conclusion(difference: float | None, p: float, better: str, side: str = "B") -> str:
    """Return which side is better, or has more of what is neither good nor bad, in words.

    Args:
        difference: of the means, B - A; None: unknown.
        p: of that difference, adjusted for the number of comparisons.
        better: `higher`, `lower` or "".
        side: the name of B.
    """
    if difference is None or p >= ALPHA or difference == 0:
        return NO_DIFFERENCE
    if better == "":
        return f"{side if difference > 0 else FIRST} has more"
    return f"{side if (difference > 0) == (better == 'higher') else FIRST} is better"
