"""The split of one video over several processes, as it stands on the networks that predict it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Split:
    """The parts that the passes of a transformer are divided into, one for each process.

    Args:
        guidance: 2 where one half of the processes predicts with the prompt, the other without
            (CFG parallelism); else 1.
        sequence: parts of the tokens of each pass (context parallelism, by diffusers).
        ring: keys and values go round among these parts (arXiv 2310.01889); else the parts exchange
            heads (Ulysses, arXiv 2309.14509).
    """

    guidance: int = 1
    sequence: int = 1
    ring: bool = False

    @property
    def processes(self) -> int:
        return self.guidance * self.sequence

    def __str__(self) -> str:
        way = " ring" if self.ring else ""
        return f"guidance={self.guidance} sequence={self.sequence}{way}"


def split_of(network: Any) -> Split | None:
    """The split of a network whose passes several processes share; None: it is whole here."""
    return getattr(network, "t2v_split", None)
