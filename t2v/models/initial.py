"""The first weights of a transformer that is trained from scratch."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.models.normalization import FP32LayerNorm
from torch import nn

from t2v.models.context_tokens import STD, context_tokens
from t2v.models.layers import zero


@torch.no_grad()
def initialize(transformer: Any, generator: torch.Generator) -> None:
    """Set all weights as `T2VTransformer3DModel.initialize` says."""
    for module in transformer.modules():
        if isinstance(module, nn.Linear | nn.Conv3d):
            nn.init.xavier_uniform_(module.weight.flatten(1), generator=generator)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, FP32LayerNorm | nn.RMSNorm):
            module.reset_parameters()
    embedder = transformer.condition_embedder
    for part in (embedder.time_embedder, embedder.text_embedder):
        nn.init.normal_(part.linear_1.weight, std=0.02, generator=generator)
        nn.init.normal_(part.linear_2.weight, std=0.02, generator=generator)
    std = transformer.scale_shift_table.shape[-1] ** -0.5
    nn.init.normal_(transformer.scale_shift_table, std=std, generator=generator)
    for block in transformer.blocks:
        nn.init.normal_(block.scale_shift_table, std=std, generator=generator)
        block.scale_shift_table[:, [2, 5]] += 0.5  # the two gates
        zero(block.attn2.to_out[0])
        block.zero_layout()
    if transformer.config.learned_tokens:
        transformer.token_learner.begin()
    if transformer.config.codebook_size:
        transformer.code_head.initialize(generator)
    for tokens in context_tokens(transformer).values():
        nn.init.normal_(tokens, std=STD, generator=generator)
    zero(transformer.proj_out)
