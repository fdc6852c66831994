"""The table of layouts: who attends to whom among the tokens of a video, one row a word.

To add one: a file of its own in this folder, and a row in `LAYOUTS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor

from t2v.errors import UserError
from t2v.models.attention.layout import Chosen, Grid, Layout, attend_fully

FULL = Layout(attend=attend_fully, can_split=True)


# few models have another layout, and a video of the others need not wait for its code
def _factorized() -> Layout:
    from t2v.models.attention.factorized import FACTORIZED

    return FACTORIZED


def _factorized_heads() -> Layout:
    from t2v.models.attention.heads import FACTORIZED_HEADS

    return FACTORIZED_HEADS


def _window() -> Layout:
    from t2v.models.attention.window import WINDOW

    return WINDOW


def _axial() -> Layout:
    from t2v.models.attention.axial import AXIAL

    return AXIAL


def _strided() -> Layout:
    from t2v.models.attention.sparse import STRIDED

    return STRIDED


def _fixed() -> Layout:
    from t2v.models.attention.sparse import FIXED

    return FIXED


def _roll() -> Layout:
    from t2v.models.attention.roll import ROLL

    return ROLL


def _message() -> Layout:
    from t2v.models.attention.message import MESSAGE

    return MESSAGE


def _swap() -> Layout:
    from t2v.models.attention.swap import SWAP

    return SWAP


def _causal() -> Layout:
    from t2v.models.attention.causal import CAUSAL

    return CAUSAL


def _causal_axial() -> Layout:
    from t2v.models.attention.causal import CAUSAL_AXIAL

    return CAUSAL_AXIAL


LAYOUTS: dict[str, Callable[[], Layout]] = {
    "full": lambda: FULL,
    "factorized": _factorized,
    "factorized_heads": _factorized_heads,
    "window": _window,
    "axial": _axial,
    "strided": _strided,
    "fixed": _fixed,
    "roll": _roll,
    "message": _message,
    "swap": _swap,
    "causal": _causal,
    "causal_axial": _causal_axial,
}
# parts that layouts add to a block, by their names: the norms stay in fp32 in a model of half
# precision, and a model without any of them may become one with them
NORMS = ("norm_temporal", "norm_message", "norm_swap_query", "norm_swap_key")
ADDED = (*NORMS, "attn_temporal", "to_message", "attn_message", "attn_swap")


def stack(attention: str | Sequence[str], num_layers: int, heads: int) -> list[Chosen]:
    """The layout of each layer: the words one after the other, from the first again.

    A word that takes turns counts its own layers: those of `axial` in `[axial, full]` go along
    time, along rows, along columns.

    Raises:
        UserError: there is no such word, or no such option, or too few heads.
    """
    words = [attention] if isinstance(attention, str) else list(attention)
    if not words:
        raise UserError(f"No layout of attention: name at least one of {', '.join(LAYOUTS)}.")
    read = [_read(word, heads) for word in words]
    seen: dict[str, int] = {}
    layers = []
    for number in range(num_layers):
        chosen = read[number % len(read)]
        name = chosen.word.partition(":")[0]
        turn = seen.get(name, 0)
        seen[name] = turn + 1
        layers.append(
            Chosen(chosen.word, chosen.layout, chosen.options, turn % chosen.layout.turns)
        )
    return layers


def in_config(attention: str | Sequence[str]) -> str | list[str]:
    """The words as a config holds them: one alone is a text, as it always was."""
    if isinstance(attention, str):
        return attention
    return attention[0] if len(attention) == 1 else list(attention)


def views_of(layers: Sequence[Chosen], rotations: Tensor, grid: Grid) -> list[Any]:
    """For each layer, what its layout is told of the tokens; the same for equal ones.

    Args:
        rotations: of all tokens, `1|b n 1 d`.
    """
    made: dict[tuple[str, int], Any] = {}
    for chosen in layers:
        key = chosen.word, chosen.turn
        if key not in made:
            made[key] = chosen.layout.view(rotations, grid, chosen.options, chosen.turn)
    return [made[chosen.word, chosen.turn] for chosen in layers]


def _read(word: str, heads: int) -> Chosen:
    name, colon, numbers = word.partition(":")
    if name not in LAYOUTS:
        raise UserError(
            f"The layout of attention {word!r} is unknown. Choose among {', '.join(LAYOUTS)}."
        )
    layout = LAYOUTS[name]()
    if heads < layout.heads:
        raise UserError(
            f"The layout of attention {word} divides the heads of a layer into {layout.heads} "
            f"kinds, and this model has {heads}. Choose another layout."
        )
    if not colon:
        return Chosen(word, layout, layout.options)
    given = re.fullmatch("(-1|[0-9]{1,6})(x(-1|[0-9]{1,6}))*", numbers)
    options = tuple(map(int, numbers.split("x"))) if given else ()
    if not options or len(options) != len(layout.options) or 0 in options:
        takes = {
            0: f"{name} takes no numbers. Give {name}",
            1: f"{name} takes its stride, a number of tokens of at least 1: {name}:64. Or {name}",
            3: f"{name} takes frames, rows and columns of its windows, each at least 1, or -1 for "
            f"all: {name}:-1x4x4. Or {name}",
        }[len(layout.options)]
        raise UserError(f"The layout of attention {word!r}: {takes} alone.")
    if len(options) == 1 and options[0] < 1:
        raise UserError(
            f"The layout of attention {word}: the stride must be at least 1, such as {name}:64."
        )
    return Chosen(word, layout, options)
