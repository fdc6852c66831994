"""The parts of real clips that a model is given, and copies that need no model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from t2v.evaluation.rows import AS_GIVEN, FADE, HOLD

GREY = 127


@dataclass(frozen=True)
class Given:
    """The clips of a suite, as they are given in part; what it asks for is in `Videos.real`.

    Args:
        clip: the clips that parts are given of, `n t h w c` uint8.
        made: the pixels that are the model's to make, `n t h w` bool.
        kept: those that should stay as they are in `clip`, `n t h w` bool.
        moving: whether something moves in the clip, `n` bool.
        frames: the numbers of the frames that are given whole; none: parts of all frames are.
        through_vae: `clip` through the model's VAE; None: it has none.
    """

    clip: Tensor
    made: Tensor
    kept: Tensor
    moving: Tensor
    frames: tuple[int, ...] = ()
    through_vae: Tensor | None = None

    @property
    def window(self) -> slice:
        """The frames from the first to the last in which something has to be made."""
        times = self.made.any(0).flatten(1).any(1).nonzero().flatten().tolist()
        return slice(times[0], times[-1] + 1)

    @property
    def edges(self) -> list[int]:
        """The frames at which given frames begin or end."""
        inside = [time in self.frames for time in range(self.clip.shape[1])]
        return [time for time in range(1, len(inside)) if inside[time] != inside[time - 1]]

    def shown(self) -> Tensor:
        """Return the clips with grey in place of what is not given, `n t h w c`."""
        return torch.where(
            self.unknown().unsqueeze(-1), torch.full_like(self.clip, GREY), self.clip
        )

    def unknown(self) -> Tensor:
        """Return the pixels that are not given, `n t h w` bool: of an edited clip none."""
        return self.made & ~self.made.flatten(1).all(1)[:, None, None, None]

    def copies(self) -> dict[str, Tensor]:
        """Return, by row, what needs no model: frames held, cross-faded, the clip as it is."""
        if not self.frames:
            return {AS_GIVEN: self.clip}
        count = self.clip.shape[1]
        before = [max(f for f in self.frames if f <= time) for time in range(count)]
        rows = {HOLD: self.clip[:, before]}
        if count - 1 in self.frames:
            after = [min(f for f in self.frames if f >= time) for time in range(count)]
            share = torch.tensor(
                [
                    (time - a) / (b - a) if b > a else 0.0
                    for time, a, b in zip(range(count), before, after, strict=True)
                ]
            )
            start, end = self.clip[:, before].float(), self.clip[:, after].float()
            mixed = torch.lerp(start, end, share[:, None, None, None])
            rows[FADE] = mixed.round().to(torch.uint8)
        return rows
