"""LTX-Video in the form that fine-tuning works with: networks that are called as our own are."""

from __future__ import annotations

from math import exp
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_outputs import BaseModelOutput

from t2v.models.schedule import dynamic_shift
from t2v.training.tasks.dit_parts import DiTParts
from t2v.training.tasks.family_networks import FamilyTransformer, FamilyVAE

LENGTH = 128  # tokens of a prompt, as the pipeline's call has them


class LTXTransformer(FamilyTransformer):
    """The transformer with latents `b c t h w` for its row of tokens, and a mask made of the text.

    Args:
        fps: frames per second of the clips, by which it scales their places in time.
    """

    def __init__(self, pipeline: Any, fps: float) -> None:
        super().__init__(
            pipeline.transformer, (1, 1, 1), pipeline.transformer.config.caption_channels
        )
        space, time = (
            pipeline.vae_spatial_compression_ratio,
            pipeline.vae_temporal_compression_ratio,
        )
        self.scale = (time / fps, space, space)

    def forward(
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        return_dict: bool = False,
    ) -> tuple[Tensor]:
        """Return the velocity `b c t h w`, in a tuple as diffusers does.

        Args:
            hidden_states: noisy latents, `b c t h w`.
            timestep: in [0, 1000], `b`.
            encoder_hidden_states: text with zeros past its end, `b m d`.
        """
        assert not return_dict, "training takes the tuple"
        t, h, w = hidden_states.shape[2:]
        (tokens,) = self.inner(
            hidden_states=rearrange(hidden_states, "b c t h w -> b (t h w) c"),
            encoder_hidden_states=encoder_hidden_states,
            timestep=timestep,
            encoder_attention_mask=encoder_hidden_states.ne(0).any(dim=-1),
            num_frames=t,
            height=h,
            width=w,
            rope_interpolation_scale=self.scale,
            return_dict=False,
        )
        return (rearrange(tokens, "b (t h w) c -> b c t h w", t=t, h=h, w=w),)


class LTXText(nn.Module):
    """The text encoder as the pipeline asks it: with padding that it attends to.

    Args:
        length: tokens that every text is padded to.
    """

    def __init__(self, pipeline: Any, length: int) -> None:
        super().__init__()
        self.inner, self.length = pipeline.text_encoder, length
        self.config, self.pad = self.inner.config, pipeline.tokenizer.pad_token_id

    @property
    def dtype(self) -> torch.dtype:
        """The number format of its weights."""
        return self.inner.dtype

    @property
    def device(self) -> torch.device:
        """The device of its weights."""
        return self.inner.device

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        """The embeddings of texts of one length, `b m d`."""
        assert attention_mask.all(), "each text is embedded alone"
        count = input_ids.shape[1]
        padded = F.pad(input_ids, (0, self.length - count), value=self.pad)
        text = self.inner(padded).last_hidden_state
        return BaseModelOutput(last_hidden_state=text[:, :count])


def shift_of(pipeline: Any, tokens: int) -> float:
    """The shift of a flow's times towards noise for videos of so many tokens."""
    config = pipeline.scheduler.config
    if not config.get("use_dynamic_shifting", False):
        return float(config.get("shift", 1.0))
    return exp(dynamic_shift(pipeline.scheduler, tokens))


def ltx_parts(pipeline: Any, fps: float) -> DiTParts:
    """The parts of a training: those of the pipeline, in the form of ours."""
    vae = pipeline.vae
    parts: dict[str, Any] = {
        "transformer": LTXTransformer(pipeline, fps),
        "text_encoder": LTXText(pipeline, LENGTH),
        "vae": FamilyVAE(
            vae,
            mean=vae.latents_mean.tolist(),
            spread=(vae.latents_std / vae.config.scaling_factor).tolist(),
            temporal=pipeline.vae_temporal_compression_ratio,
            spatial=pipeline.vae_spatial_compression_ratio,
            patch=pipeline.transformer_spatial_patch_size,
        ),
    }
    return DiTParts(
        **parts,
        tokenizer=pipeline.tokenizer,
        scheduler=pipeline.scheduler,
        objective="flow",
        shift=1.0,
        defaults={"max_sequence_length": LENGTH},
    )
