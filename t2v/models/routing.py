"""Blocks of a transformer that some of the tokens pass by, in training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from einops import repeat
from torch import Tensor

# blocks first to last - 1 over tokens `b n d` with their modulation, and a view for each block
Run = Callable[[int, int, Tensor, Tensor, list[Any]], Tensor]


class Route(NamedTuple):
    """The tokens that some blocks see, and these blocks; all other tokens pass them unchanged.

    As in TREAD (arXiv 2501.04765, 3.1): nothing is added to the model, and without a route it is
    the same one. The blocks attend fully, so that any tokens go together.

    Args:
        kept: indices of the tokens, `b k`, ascending, as many in each row.
        first: number of the first of these blocks.
        last: that after the last of them.
    """

    kept: Tensor
    first: int
    last: int

    def through(
        self, run: Run, count: int, x: Tensor, modulation: Tensor, views: Sequence[Any]
    ) -> Tensor:
        """The tokens `b n d` after `count` blocks.

        Args:
            modulation: `b 1|n 6 d`.
            views: of each block; those of the blocks of the route are rotations, `1|b n 1 d`.
        """
        assert 0 <= self.first < self.last <= count
        x = run(0, self.first, x, modulation, list(views))
        some = self._of(modulation) if modulation.shape[1] > 1 else modulation
        seen = run(self.first, self.last, self._of(x), some, self._views(views))
        index = repeat(self.kept, "b k -> b k d", d=x.shape[2])
        x = x.to(seen.dtype).scatter(1, index, seen)
        return run(self.last, count, x, modulation, list(views))

    def _of(self, tokens: Tensor) -> Tensor:
        """The kept rows of `b n ...`."""
        index = self.kept.reshape(*self.kept.shape, *(1,) * (tokens.ndim - 2))
        return tokens.gather(1, index.expand(-1, -1, *tokens.shape[2:]))

    def _views(self, views: Sequence[Any]) -> list[Any]:
        """The views with the rotations of kept tokens; equal ones are computed once."""
        found: dict[int, Tensor] = {}
        for view in views[self.first : self.last]:
            if id(view) not in found:
                found[id(view)] = self._of(view.expand(len(self.kept), -1, -1, -1))
        return [found.get(id(view), view) for view in views]
