"""The block of the transformer."""

from __future__ import annotations

from typing import Any

import torch
from diffusers.hooks._helpers import TransformerBlockMetadata, TransformerBlockRegistry
from diffusers.models.normalization import FP32LayerNorm
from torch import Tensor, nn

from t2v.models.attention.layer import Attention
from t2v.models.attention.layout import Chosen
from t2v.models.kv_cache import KVCache
from t2v.models.layers import FeedForward, add_gated, in_fp32, modulate, zero


class T2VTransformerBlock(nn.Module):
    """Self-attention over the video, text cross-attention and MLP, modulated by the time."""

    def __init__(
        self,
        dim: int,
        heads: int,
        ffn_dim: int,
        *,
        chosen: Chosen,
        qk_norm: str,
        cross_attn_norm: bool,
        eps: float,
        added_kv_proj_dim: int | None = None,
    ) -> None:
        super().__init__()
        self.chosen = chosen
        self.norm1 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.attn1 = Attention(dim, heads, dim // heads, qk_norm=qk_norm, eps=eps)
        self.attn2 = Attention(
            dim,
            heads,
            dim // heads,
            qk_norm=qk_norm,
            eps=eps,
            is_cross_attention=True,
            added_kv_proj_dim=added_kv_proj_dim,
        )
        self.norm2 = FP32LayerNorm(dim, eps) if cross_attn_norm else nn.Identity()
        self.ffn = FeedForward(dim, ffn_dim)
        self.norm3 = FP32LayerNorm(dim, eps, elementwise_affine=False)
        self.scale_shift_table = nn.Parameter(torch.randn(1, 6, dim) / dim**0.5)
        for name, part in chosen.layout.parts(dim, heads, qk_norm=qk_norm, eps=eps).items():
            self.add_module(name, part)
        self.zero_layout()

    @property
    def turn(self) -> int:
        """The form that this layer's layout takes."""
        return self.chosen.turn

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        temb: Tensor,
        view: Any,
        encoder_attention_mask: Tensor | None = None,
        kv_cache: KVCache | None = None,
        encoder_hidden_states_image: Tensor | None = None,
    ) -> Tensor:
        # hidden_states: b n d    encoder_hidden_states, ..._image: b m d    temb: b 1|n 6 d
        x = hidden_states
        modulation = (self.scale_shift_table.unsqueeze(0) + temb.float()).unbind(2)
        shift1, scale1, gate1, shift3, scale3, gate3 = modulation  # b 1|n d
        h = modulate(self.norm1, x, scale1, shift1)
        x = self.chosen.layout.attend(self, x, h, gate1, view)
        h = in_fp32(self.norm2, x)
        x = x + self.attn2(
            h,
            encoder_hidden_states,
            encoder_attention_mask,
            None,
            kv_cache,
            encoder_hidden_states_image,
        )
        h = modulate(self.norm3, x, scale3, shift3)
        return add_gated(x, self.ffn(h), gate3)

    def zero_layout(self) -> None:
        """Set the outputs of what the layout adds to zero."""
        for name in self.chosen.layout.zero_start:
            zero(getattr(self, name).to_out[0])


TransformerBlockRegistry.register(
    T2VTransformerBlock,
    TransformerBlockMetadata(return_hidden_states_index=0, return_encoder_hidden_states_index=None),
)
