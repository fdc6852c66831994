"""The inputs of one pass of the transformers of diffusers, as zeros of the right shapes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

Guided = Literal["twice", "doubled", "embedded"]


@dataclass(frozen=True)
class Asked:
    """A pass to make.

    Args:
        config: of the transformer.
        latents: of one video, as the VAE has them, `1 c t h w`.
        batch: videos in the pass.
        rows: tokens of text.
        fps: of the video.
        pictures: tokens that the image encoder makes of a picture.
        by_token: whether each token has a time of its own.
        by_frame: whether each latent frame has, as in diffusion forcing.
    """

    config: Any
    latents: tuple[int, ...]
    batch: int
    rows: int
    fps: float
    pictures: int = 257
    by_token: bool = False
    by_frame: bool = False

    def video(self, channels: int) -> Tensor:
        """Latents `b c t h w` of so many channels."""
        return torch.zeros(self.batch, channels, *self.latents[2:])

    def text(self, width: int) -> Tensor:
        """Embeddings `b m d`."""
        return torch.zeros(self.batch, self.rows, width)

    def mask(self) -> Tensor:
        """A mask of text, `b m`, that hides nothing."""
        return torch.ones(self.batch, self.rows, dtype=torch.long)

    def time(self) -> Tensor:
        """A time for each video, `b`."""
        return torch.zeros(self.batch)


Inputs = dict[str, Any]


@dataclass(frozen=True)
class Pass:
    """The call of one class of transformers.

    Args:
        inputs: the arguments of `forward`.
        layers: the names in its config that say how many blocks it has, one for each kind.
        guided: how a guided step calls it: twice, once with two videos, or once, being told.
    """

    inputs: Callable[[Asked], Inputs]
    layers: tuple[str, ...] = ("num_layers",)
    guided: Guided = "twice"


def _wan(asked: Asked) -> Inputs:
    config, (_, _, t, h, w) = asked.config, asked.latents
    patch = config.patch_size
    tokens = t * h * w // prod(patch)
    time = torch.zeros(asked.batch, tokens) if asked.by_token else asked.time()
    inputs = {
        "hidden_states": asked.video(config.in_channels),
        "timestep": time,
        "encoder_hidden_states": asked.text(config.text_dim),
    }
    if config.image_dim is not None:
        rows, tokens = asked.batch, asked.pictures
        if config.pos_embed_seq_len is not None:  # of two pictures, each a row of its own
            rows, tokens = 2 * asked.batch, config.pos_embed_seq_len // 2
        inputs["encoder_hidden_states_image"] = torch.zeros(rows, tokens, config.image_dim)
    return inputs


def _vace(asked: Asked) -> Inputs:
    control = asked.video(asked.config.vace_in_channels)
    return {**_wan(asked), "control_hidden_states": control}


def _skyreels(asked: Asked) -> Inputs:
    inputs = _wan(asked)
    if asked.by_frame:
        time = torch.zeros(asked.batch, asked.latents[2])
        inputs |= {"timestep": time, "enable_diffusion_forcing": True}
    if asked.config.inject_sample_info:
        inputs["fps"] = [1] * asked.batch  # the number of its rate, of two that are known
    return inputs


def _ltx(asked: Asked) -> Inputs:
    config, (_, _, t, h, w) = asked.config, asked.latents
    return {
        "hidden_states": torch.zeros(asked.batch, t * h * w, config.in_channels),
        "encoder_hidden_states": asked.text(config.caption_channels),
        "timestep": asked.time(),
        "encoder_attention_mask": asked.mask(),
        **{"num_frames": t, "height": h, "width": w},
        "rope_interpolation_scale": (8 / asked.fps, 32, 32),
    }


def _hunyuan(asked: Asked) -> Inputs:
    config = asked.config
    guidance = {"guidance": asked.time()} if config.guidance_embeds else {}
    return {
        "hidden_states": asked.video(config.in_channels),
        "timestep": asked.time(),
        "encoder_hidden_states": asked.text(config.text_embed_dim),
        "encoder_attention_mask": asked.mask(),
        "pooled_projections": torch.zeros(asked.batch, config.pooled_projection_dim),
        **guidance,
    }


def _cogvideox(asked: Asked) -> Inputs:
    config, (_, _, t, h, w) = asked.config, asked.latents
    inputs: Inputs = {}
    if config.patch_size_t:
        t = -(-t // config.patch_size_t) * config.patch_size_t  # filled up in front
    if config.use_rotary_positional_embeddings:
        tokens = t // (config.patch_size_t or 1) * (h // config.patch_size)
        tokens *= w // config.patch_size
        table = torch.zeros(tokens, config.attention_head_dim)
        inputs["image_rotary_emb"] = (table, table)
    return inputs | {
        "hidden_states": torch.zeros(asked.batch, t, config.in_channels, h, w),
        "encoder_hidden_states": asked.text(config.text_embed_dim),
        "timestep": asked.time(),
    }


def _mochi(asked: Asked) -> Inputs:
    return {
        "hidden_states": asked.video(asked.config.in_channels),
        "encoder_hidden_states": asked.text(asked.config.text_embed_dim),
        "timestep": asked.time(),
        "encoder_attention_mask": asked.mask(),
    }


def _sana(asked: Asked) -> Inputs:
    config = asked.config
    return {
        "hidden_states": asked.video(config.in_channels),
        "encoder_hidden_states": asked.text(config.caption_channels),
        "timestep": asked.time(),
        "encoder_attention_mask": asked.mask(),
        **({"guidance": asked.time()} if config.guidance_embeds else {}),
    }


def _kandinsky(asked: Asked) -> Inputs:
    config, (_, _, t, h, w) = asked.config, asked.latents
    channels = 2 * config.in_visual_dim + 1 if config.visual_cond else config.in_visual_dim
    sides = (side // patch for side, patch in zip((t, h, w), config.patch_size, strict=True))
    return {
        "hidden_states": torch.zeros(asked.batch, t, h, w, channels),
        "encoder_hidden_states": asked.text(config.in_text_dim),
        "timestep": asked.time(),
        "pooled_projections": torch.zeros(asked.batch, config.in_text_dim2),
        "visual_rope_pos": [torch.arange(side) for side in sides],
        "text_rope_pos": torch.arange(asked.rows),
    }


PASSES: Mapping[str, Pass] = {
    "WanTransformer3DModel": Pass(_wan),
    "WanVACETransformer3DModel": Pass(_vace, layers=()),
    "SkyReelsV2Transformer3DModel": Pass(_skyreels),
    "LTXVideoTransformer3DModel": Pass(_ltx, guided="doubled"),
    "HunyuanVideoTransformer3DModel": Pass(
        _hunyuan, layers=("num_layers", "num_single_layers"), guided="embedded"
    ),
    "CogVideoXTransformer3DModel": Pass(_cogvideox, guided="doubled"),
    "MochiTransformer3DModel": Pass(_mochi, guided="doubled"),
    "SanaVideoTransformer3DModel": Pass(_sana, guided="doubled"),
    "Kandinsky5Transformer3DModel": Pass(_kandinsky, layers=("num_visual_blocks",)),
}
OTHERS = Pass(lambda _: {}, layers=())  # of transformers that are not known: see `formula`
