"""The layouts of attention: who attends to whom among the tokens of a video.

To add one: its functions, in a file of their own where they are long, and a row in `LAYOUTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from diffusers.models.normalization import FP32LayerNorm
from einops import rearrange
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.attention.layer import Attention
from t2v.models.layers import add_gated, in_fp32

Grid = Mapping[str, int]  # `t`, `h` and `w` in tokens


class MakeParts(Protocol):
    """A function that makes the parts a block has for a layout, besides `attn1`, by name."""

    def __call__(
        self, dim: int, heads: int, *, qk_norm: str, eps: float
    ) -> dict[str, nn.Module]: ...


class Attend(Protocol):
    """A function that adds the output of self-attention to the tokens of a block.

    Args:
        block: its `attn1`, and the parts that the layout added.
        x: tokens, `b n d`, in the order of `t`, `h`, `w`.
        h: `x`, normalised and modulated.
        gate: the weight of the output of `attn1`, `b 1|n d`.
        rotary_emb: as the layout's `rotary` gives it.
    """

    def __call__(
        self, block: Any, x: Tensor, h: Tensor, gate: Tensor, rotary_emb: Any
    ) -> Tensor: ...


def all_rotations(rotations: Tensor, grid: Grid) -> Tensor:
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
        motion: the parts of a block that mix frames, the ones that `method=frozen_spatial` trains.
        can_split: may the tokens be split over devices (context parallelism)?
        rotary: the rotations (`1 n 1 d`) of all tokens in the form that `attend` takes.
        parts: what a block needs besides `attn1`.
        norms: the norms among `parts`; they stay in float32 in a model of half precision.
        zero_start: the attention layers among `parts` whose output is initialised to zero.
    """

    attend: Attend
    motion: tuple[str, ...]
    can_split: bool
    rotary: Callable[[Tensor, Grid], Any] = all_rotations
    parts: MakeParts = no_parts
    norms: tuple[str, ...] = ()
    zero_start: tuple[str, ...] = ()


def attend_fully(block: Any, x: Tensor, h: Tensor, gate: Tensor, rotary_emb: Tensor) -> Tensor:
    """Let every token attend to all tokens of the video."""
    return add_gated(x, block.attn1(h, None, None, rotary_emb), gate)


def temporal_parts(dim: int, heads: int, *, qk_norm: str, eps: float) -> dict[str, nn.Module]:
    """The attention along time and its norm."""
    return {
        "norm_temporal": FP32LayerNorm(dim, eps),
        "attn_temporal": Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=eps),
    }


def rotations_within_and_along(rotations: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The rotations of one frame and of one position; the others differ from them by a constant."""
    positions = grid["h"] * grid["w"]
    return rotations[:, :positions], rotations[:, ::positions]


def attend_within_and_along(
    block: Any, x: Tensor, h: Tensor, gate: Tensor, rotary_emb: tuple[Tensor, Tensor]
) -> Tensor:
    """Let tokens attend within their frame, then along time at their position.

    As in xGen-VideoSyn-1 (arXiv 2408.12590, 3.2). The temporal output is initialised to zero, so
    a new block treats every frame as its own clip.
    """
    in_space, in_time = rotary_emb
    x = add_gated(x, _within_frames(block.attn1, h, in_space), gate)
    h = in_fp32(block.norm_temporal, x)
    return x + _along_time(block.attn_temporal, h, in_time)


def _within_frames(attn: nn.Module, x: Tensor, rotary_emb: Tensor) -> Tensor:
    h = rearrange(x, "b (t p) d -> (b t) p d", p=rotary_emb.shape[1])
    h = attn(h, None, None, rotary_emb)
    return rearrange(h, "(b t) p d -> b (t p) d", b=len(x))


def _along_time(attn: nn.Module, x: Tensor, rotary_emb: Tensor) -> Tensor:
    h = rearrange(x, "b (t p) d -> (b p) t d", t=rotary_emb.shape[1])
    h = attn(h, None, None, rotary_emb)
    return rearrange(h, "(b p) t d -> b (t p) d", b=len(x))


LAYOUTS: dict[str, Layout] = {
    "full": Layout(attend=attend_fully, motion=("attn1",), can_split=True),
    "factorized": Layout(
        attend=attend_within_and_along,
        motion=("attn_temporal", "norm_temporal"),
        can_split=False,  # a frame cut in two could not attend within itself
        rotary=rotations_within_and_along,
        parts=temporal_parts,
        norms=("norm_temporal",),
        zero_start=("attn_temporal",),
    ),
}


def layout_of(name: str) -> Layout:
    """The layout of that name.

    Raises:
        UserError: there is none.
    """
    if name not in LAYOUTS:
        raise UserError(f"attention={name!r} is unknown. Choose one of {', '.join(LAYOUTS)}.")
    return LAYOUTS[name]
