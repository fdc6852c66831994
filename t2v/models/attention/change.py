"""A trained transformer with other layouts, and the first weights of the parts they add."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from diffusers.models.normalization import FP32LayerNorm
from torch import nn

from t2v.errors import UserError


@torch.no_grad()
def change_layouts(
    transformer: Any, layers: Sequence[Any], generator: torch.Generator | None
) -> None:
    """Give each block of `transformer` its layout among `layers` (`stack` makes them).

    Args:
        generator: of the first weights of parts that are added; None: none may be.

    Raises:
        UserError: a layout needs parts and there is no generator, or the model has parts that it
            would no longer use.
    """
    config = transformer.config
    given = ",".join(dict.fromkeys(chosen.word for chosen in layers))
    changes = []
    for block, chosen in zip(transformer.blocks, layers, strict=True):
        has, needed = _parts(block.chosen, config), _parts(chosen, config)
        if unused := has.keys() - needed.keys():
            raise UserError(
                f"The layout of attention {given}: this model has {config.attention}, whose "
                f"{', '.join(sorted(unused))} would be left out. Keep that layout."
            )
        added = {name: part for name, part in needed.items() if name not in has}
        if added and generator is None:
            raise UserError(
                f"The layout of attention {given}: {chosen.word} needs weights that this model has "
                f"not ({', '.join(sorted(added))}). They are trained: t2v finetune method=full "
                f"attention_layout={given}."
            )
        changes.append((block, chosen, added))
    for block, chosen, added in changes:
        block.chosen = chosen
        for name, part in added.items():
            weight = block.attn1.to_out[0].weight
            block.add_module(name, part.to_empty(device=weight.device).to(weight.dtype))
            assert generator is not None
            _begin(part, generator)
            _adopt(block, name)
        if added:
            block.zero_layout()


@torch.no_grad()
def adopt_projections(transformer: Any, added: Collection[str]) -> None:
    """Give each added attention the projections of `attn1`, where a model was begun without it.

    Args:
        added: names of the weights that the model was begun without.
    """
    for number, block in enumerate(transformer.blocks):
        for name in block.chosen.layout.zero_start:
            if f"blocks.{number}.{name}.to_q.weight" in added:
                _adopt(block, name)


def _adopt(block: Any, name: str) -> None:
    # `attn1` knows the tokens already; the output stays at zero
    part = getattr(block, name)
    if type(part) is type(block.attn1):
        known = {
            key: value
            for key, value in block.attn1.state_dict().items()
            if not key.startswith("to_out.")
        }
        part.load_state_dict(known, strict=False)


def _parts(chosen: Any, config: Any) -> dict[str, nn.Module]:
    """The parts of a layer, without content."""
    heads = config.num_attention_heads
    with torch.device("meta"):
        return chosen.layout.parts(
            heads * config.attention_head_dim, heads, qk_norm=config.qk_norm, eps=config.eps
        )


def _begin(part: nn.Module, generator: torch.Generator) -> None:
    """Set the weights of a part as `T2VTransformer3DModel.initialize` does."""
    for module in part.modules():
        if isinstance(module, nn.Linear):
            drawn = torch.empty(module.weight.shape, device="cpu")
            nn.init.xavier_uniform_(drawn, generator=generator)
            module.weight.copy_(drawn)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, FP32LayerNorm | nn.RMSNorm):
            module.reset_parameters()
