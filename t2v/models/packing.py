"""Clips of several shapes through a transformer as one sequence, none of which sees another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
from einops import rearrange, repeat
from torch import Tensor

from t2v.models.attention.layer import Pack
from t2v.models.layers import modulate, sincos_table

if TYPE_CHECKING:
    from t2v.models.transformer import T2VTransformer3DModel


def predict_packed(
    model: T2VTransformer3DModel, inputs: Sequence[Mapping[str, Tensor]]
) -> list[Tensor]:
    """The predictions for several batches, each of one shape, computed as one sequence.

    Attention is block-diagonal (LWM, arXiv 2402.08268, 3.2): a clip attends to its own tokens and
    its own text, so each prediction is that of the clip alone, up to rounding.

    Args:
        model: one of `attention="full"`, without pictures.
        inputs: the keywords of its forward: `hidden_states`, `b c t h w`, `timestep`, and
            `encoder_hidden_states`. Of a text with `encoder_attention_mask` what lies past its last
            true place is not computed (VidGen-1M's unpadded text, arXiv 2408.02629).

    Returns:
        For each batch `b c t h w`.
    """
    parts = [_embedded(model, **each) for each in inputs]
    tokens, rotations, modulations, tembs, texts, groups = zip(*parts, strict=True)
    queries: list[tuple[int, int]] = []
    lengths: list[tuple[int, int]] = []
    for (count, size), text in zip(groups, texts, strict=True):
        queries += [(count, size)] if isinstance(text, Tensor) else [(1, size)] * count
        lengths += (
            [(len(text), text.shape[1])]
            if isinstance(text, Tensor)
            else [(1, len(t)) for t in text]
        )
    text = torch.cat([row for each in texts for row in each])[None]  # 1 m d
    within = Pack(groups, groups, torch.cat(rotations, 1))
    across = Pack(tuple(queries), tuple(lengths), None)
    run = partial(model._run_blocks, text, (across, None, None))
    modulation = torch.cat(modulations, 1)
    views = [within] * len(model.blocks)
    x = run(0, len(model.blocks), torch.cat(tokens, 1), modulation, views)
    table = model.scale_shift_table.unsqueeze(0) + torch.cat(tembs, 1).unsqueeze(2)
    shift, scale = table.unbind(2)
    x = model.proj_out(modulate(model.norm_out, x, scale, shift))
    sizes = [count * size for count, size in groups]
    return [
        model._unpatchify(rearrange(part, "1 (b n) d -> b n d", b=count), model._grid(given))
        for part, (count, _), given in zip(
            x.split(sizes, dim=1), groups, (each["hidden_states"] for each in inputs), strict=True
        )
    ]


Embedded = tuple[Tensor, Tensor, Tensor, Tensor, "Tensor | list[Tensor]", tuple[int, int]]


def _embedded(
    model: T2VTransformer3DModel,
    hidden_states: Tensor,
    timestep: Tensor,
    encoder_hidden_states: Tensor,
    encoder_attention_mask: Tensor | None = None,
) -> Embedded:
    """The tokens `1 (b n) d` of a batch, their rotations, modulation and time embedding in that
    order, its text (`b m d`, or a list of `m d` without padding), and `b` and `n`."""
    x = model._embed(hidden_states)
    if model.config.sincos_positions:
        x = x + sincos_table(x.shape[-1], **model._grid(hidden_states)).to(x)
    count, size = x.shape[:2]
    rotations = repeat(model.rope(hidden_states), "1 n one d -> 1 (b n) one d", b=count)
    temb, modulation, text = model.condition_embedder(
        timestep, encoder_hidden_states, encoder_attention_mask
    )
    found = text
    if encoder_attention_mask is not None:
        found = [row[:end] for row, end in zip(text, _ends(encoder_attention_mask), strict=True)]
    flat = "b n ... -> 1 (b n) ..."
    temb, modulation = (each.expand(-1, size, *each.shape[2:]) for each in (temb, modulation))
    return (
        rearrange(x, flat), rotations, rearrange(modulation, flat), rearrange(temb, flat), found,
        (count, size),
    )  # fmt: skip


def _ends(mask: Tensor) -> list[int]:
    """The number of places up to the last true one of each row, at least 1."""
    places = torch.arange(1, mask.shape[1] + 1, device=mask.device)
    found: list[int] = (places * mask).amax(1).clamp(min=1).tolist()
    return found
