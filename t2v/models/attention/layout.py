"""A layout of attention, and what every layout is made of: its parts, and the sight of tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from einops import rearrange, repeat
from torch import Tensor, nn

from t2v.models.layers import add_gated

# `t`, `h` and `w` in tokens; pictures beside the video are frames after its last one
Grid = Mapping[str, int]


class MakeParts(Protocol):
    """A function that makes the parts a block has for a layout, besides `attn1`, by name."""

    def __call__(
        self, dim: int, heads: int, *, qk_norm: str, eps: float
    ) -> dict[str, nn.Module]: ...


class View(Protocol):
    """A function that gives what `attend` is told of the tokens, once for all blocks of a kind.

    Args:
        rotations: of all tokens, `1|b n 1 d`.
        grid: of the tokens.
        options: the numbers of the layout, such as the sides of its windows.
        turn: which of the forms that the layout takes from layer to layer, from 0.
    """

    def __call__(
        self, rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int
    ) -> Any: ...


class Attend(Protocol):
    """A function that adds the output of self-attention to the tokens of a block.

    Args:
        block: its `attn1`, the parts that the layout added, and its `turn`.
        x: tokens, `b n d`, in the order of `t`, `h`, `w`.
        h: `x`, normalised and modulated.
        gate: the weight of the output of `attn1`, `b 1|n d`.
        view: as the layout's `view` gives it.
    """

    def __call__(self, block: Any, x: Tensor, h: Tensor, gate: Tensor, view: Any) -> Tensor: ...


def all_rotations(rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int) -> Tensor:
    """The rotations of all tokens, unchanged."""
    return rotations


def no_parts(dim: int, heads: int, *, qk_norm: str, eps: float) -> dict[str, nn.Module]:
    """Nothing besides `attn1`."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One way in which video tokens attend to each other.

    Args:
        attend: the self-attention of a block.
        motion: the parts of a block that mix frames and nothing within one, which
            `method=frozen_spatial` trains; empty where one attention does both.
        can_split: may the tokens be split over devices (context parallelism)?
        splits_rotations: is each of them told the rotations of its tokens, or those of all?
        view: what `attend` is told of the tokens.
        parts: what a block needs besides `attn1`.
        zero_start: the attention layers among `parts` whose output is initialised to zero.
        options: the numbers that the word takes, as it has them where none are given.
        turns: forms that it takes in turn, from one layer of this word to the next.
        motion_turns: the turns that mix frames.
        heads: fewest heads of a layer.
    """

    attend: Attend
    motion: tuple[str, ...] = ()
    can_split: bool = False  # a group of tokens cut in two could not attend within itself
    splits_rotations: bool = True
    view: View = all_rotations
    parts: MakeParts = no_parts
    zero_start: tuple[str, ...] = ()
    options: tuple[int, ...] = ()
    turns: int = 1
    motion_turns: tuple[int, ...] = tuple(range(8))
    heads: int = 1


@dataclass(frozen=True)
class Chosen:
    """The layout of one layer.

    Args:
        word: as it was given: `window`, `window:2x4x4`.
        options: the numbers of the layout.
        turn: which of the layout's forms this layer takes.
    """

    word: str
    layout: Layout
    options: tuple[int, ...]
    turn: int = 0

    @property
    def motion(self) -> tuple[str, ...]:
        """The parts of the layer that mix frames alone."""
        return self.layout.motion if self.turn in self.layout.motion_turns else ()


def attend_fully(block: Any, x: Tensor, h: Tensor, gate: Tensor, view: Tensor) -> Tensor:
    """Let every token attend to all tokens of the video."""
    return add_gated(x, block.attn1(h, None, None, view), gate)


def attend_to_seen(block: Any, x: Tensor, h: Tensor, gate: Tensor, view: Any) -> Tensor:
    """Let every token attend to the ones it sees; `view` is rotations and sights."""
    rotations, sights = view
    return add_gated(x, block.attn1(h, None, None, rotations, sights=sights), gate)


def view_within_and_along(
    rotations: Tensor, grid: Grid, options: tuple[int, ...], turn: int
) -> tuple[Tensor, Tensor]:
    """The rotations of one frame and of one position; the others differ from them by a constant.

    Pictures give each sample its own places in time, so then both are `(b t|p) ... 1 d`.
    """
    positions = grid["h"] * grid["w"]
    in_space, in_time = rotations[:, :positions], rotations[:, ::positions]
    if len(rotations) > 1:
        in_space = repeat(in_space, "b p k d -> (b t) p k d", t=grid["t"])
        in_time = repeat(in_time, "b t k d -> (b p) t k d", p=positions)
    return in_space, in_time


def within_frames(attn: nn.Module, x: Tensor, rotary_emb: Tensor) -> Tensor:
    """The output of `attn` for tokens (`b n d`) that attend within their frame."""
    h = rearrange(x, "b (t p) d -> (b t) p d", p=rotary_emb.shape[1])
    h = attn(h, None, None, rotary_emb)
    return rearrange(h, "(b t) p d -> b (t p) d", b=len(x))


def along_time(attn: nn.Module, x: Tensor, rotary_emb: Tensor) -> Tensor:
    """The output of `attn` for tokens (`b n d`) that attend along time at their position."""
    h = rearrange(x, "b (t p) d -> (b p) t d", t=rotary_emb.shape[1])
    h = attn(h, None, None, rotary_emb)
    return rearrange(h, "(b p) t d -> b (t p) d", b=len(x))
