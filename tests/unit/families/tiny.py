"""Tiny random pipelines of diffusers' own classes, for each family."""

from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    CogVideoXDPMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CogVideoXVideoToVideoPipeline,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    LTXConditionPipeline,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    SkyReelsV2DiffusionForcingImageToVideoPipeline,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2DiffusionForcingVideoToVideoPipeline,
    SkyReelsV2ImageToVideoPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
    WanVideoToVideoPipeline,
)
from torch import nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from .tiny_chat import CHAT_BUILDERS
from .tiny_cosmos import COSMOS_BUILDERS

Text = dict[str, object]  # the T5 text encoder and its tokenizer


def unipc() -> UniPCMultistepScheduler:
    return UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )


def wan_vae() -> nn.Module:
    return AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip


def wan_transformer(**others: object) -> nn.Module:
    shape = dict(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    return WanTransformer3DModel(**{**shape, **others})


def wan(text: Text) -> DiffusionPipeline:
    return WanPipeline(
        **text, transformer=wan_transformer(), vae=wan_vae(), scheduler=unipc(), transformer_2=None
    )


def wan_a14b(text: Text) -> DiffusionPipeline:
    return WanPipeline(
        **text, transformer=wan_transformer(), transformer_2=wan_transformer(num_layers=1),
        vae=wan_vae(), scheduler=unipc(), boundary_ratio=0.875,
    )  # fmt: skip


def wan_5b(text: Text) -> DiffusionPipeline:
    """As TI2V-5B: a time for each token."""
    return WanPipeline(
        **text, transformer=wan_transformer(), vae=wan_vae(), scheduler=unipc(),
        transformer_2=None, expand_timesteps=True,
    )  # fmt: skip


def wan_5b_i2v(text: Text) -> DiffusionPipeline:
    return WanImageToVideoPipeline(
        **text, transformer=wan_transformer(), vae=wan_vae(), scheduler=unipc(),
        expand_timesteps=True,
    )  # fmt: skip


def eyes() -> dict[str, object]:
    """The CLIP that embeds a picture, and its processor."""
    config = CLIPVisionConfig(
        hidden_size=4, projection_dim=4, num_hidden_layers=2, num_attention_heads=2, image_size=8,
        intermediate_size=8, patch_size=4,
    )  # fmt: skip
    return {
        "image_encoder": CLIPVisionModelWithProjection(config),
        "image_processor": CLIPImageProcessor(crop_size=8, size=8),
    }


def wan_i2v(text: Text) -> DiffusionPipeline:
    return WanImageToVideoPipeline(
        **text, **eyes(), transformer=wan_transformer(in_channels=36, image_dim=4), vae=wan_vae(),
        scheduler=unipc(),
    )  # fmt: skip


def wan_flf(text: Text) -> DiffusionPipeline:
    """Its CLIP sees two pictures."""
    transformer = wan_transformer(in_channels=36, image_dim=4, pos_embed_seq_len=2 * 5)
    return WanImageToVideoPipeline(
        **text, **eyes(), transformer=transformer, vae=wan_vae(), scheduler=unipc()
    )


def wan_v2v(text: Text) -> DiffusionPipeline:
    return WanVideoToVideoPipeline(
        **text, transformer=wan_transformer(), vae=wan_vae(), scheduler=unipc()
    )


def vace(text: Text) -> DiffusionPipeline:
    transformer = WanVACETransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=3, vace_layers=[0, 2],
        vace_in_channels=96,
    )  # fmt: skip
    return WanVACEPipeline(**text, transformer=transformer, vae=wan_vae(), scheduler=unipc())


def skyreels_transformer(**others: object) -> nn.Module:
    shape = dict(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    return SkyReelsV2Transformer3DModel(**{**shape, **others})


def skyreels(text: Text) -> DiffusionPipeline:
    return SkyReelsV2Pipeline(
        **text, transformer=skyreels_transformer(), vae=wan_vae(), scheduler=unipc()
    )


def skyreels_i2v(text: Text) -> DiffusionPipeline:
    transformer = skyreels_transformer(in_channels=36, image_dim=4)
    return SkyReelsV2ImageToVideoPipeline(
        **text, **eyes(), transformer=transformer, vae=wan_vae(), scheduler=unipc()
    )


def forcing_parts(text: Text) -> dict[str, object]:
    return {
        **text,
        "transformer": skyreels_transformer(),
        "vae": wan_vae(),
        "scheduler": unipc(),
    }


def forcing(text: Text) -> DiffusionPipeline:
    return SkyReelsV2DiffusionForcingPipeline(**forcing_parts(text))


def forcing_i2v(text: Text) -> DiffusionPipeline:
    return SkyReelsV2DiffusionForcingImageToVideoPipeline(**forcing_parts(text))


def forcing_v2v(text: Text) -> DiffusionPipeline:
    return SkyReelsV2DiffusionForcingVideoToVideoPipeline(**forcing_parts(text))


def ltx_parts() -> dict[str, object]:
    transformer = LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, patch_size=1, patch_size_t=1, num_attention_heads=2,
        attention_head_dim=16, cross_attention_dim=32, num_layers=2, caption_channels=32,
    )  # fmt: skip
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
        spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False),
        decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4, timestep_conditioning=True, patch_size=4, patch_size_t=1,
    )  # fmt: skip
    return {"transformer": transformer, "vae": vae, "scheduler": FlowMatchEulerDiscreteScheduler()}


def ltx(text: Text) -> DiffusionPipeline:
    return LTXPipeline(**text, **ltx_parts())


def ltx_i2v(text: Text) -> DiffusionPipeline:
    return LTXImageToVideoPipeline(**text, **ltx_parts())


def ltx_condition(text: Text) -> DiffusionPipeline:
    return LTXConditionPipeline(**text, **ltx_parts())


def cogvideox_parts(**others: object) -> dict[str, object]:
    shape = dict(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4,
        time_embed_dim=2, text_embed_dim=32, num_layers=2, sample_width=4, sample_height=4,
        sample_frames=9, patch_size=2, temporal_compression_ratio=4, max_text_seq_length=226,
    )  # fmt: skip
    vae = AutoencoderKLCogVideoX(
        down_block_types=("CogVideoXDownBlock3D",) * 4, up_block_types=("CogVideoXUpBlock3D",) * 4,
        block_out_channels=(8, 8, 8, 8), latent_channels=4, layers_per_block=1, norm_num_groups=2,
        temporal_compression_ratio=4,
    )  # fmt: skip
    transformer = CogVideoXTransformer3DModel(**{**shape, **others})
    return {"transformer": transformer, "vae": vae, "scheduler": CogVideoXDPMScheduler()}


def cogvideox(text: Text) -> DiffusionPipeline:
    return CogVideoXPipeline(**text, **cogvideox_parts())


def cogvideox_15(text: Text) -> DiffusionPipeline:
    parts = cogvideox_parts(patch_size_t=2, patch_bias=False, use_rotary_positional_embeddings=True)
    return CogVideoXPipeline(**text, **parts)


def cogvideox_i2v(text: Text) -> DiffusionPipeline:
    parts = cogvideox_parts(in_channels=8, use_rotary_positional_embeddings=True)
    return CogVideoXImageToVideoPipeline(**text, **parts)


def cogvideox_v2v(text: Text) -> DiffusionPipeline:
    return CogVideoXVideoToVideoPipeline(**text, **cogvideox_parts())


def mochi(text: Text) -> DiffusionPipeline:
    transformer = MochiTransformer3DModel(
        patch_size=2, num_attention_heads=2, attention_head_dim=8, num_layers=2,
        pooled_projection_dim=16, in_channels=12, qk_norm="rms_norm", text_embed_dim=32,
        time_embed_dim=4, activation_fn="swiglu", max_sequence_length=16,
    )  # fmt: skip
    vae = AutoencoderKLMochi(
        latent_channels=12, encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4, layers_per_block=(1,) * 5,
    )  # fmt: skip
    return MochiPipeline(
        **text, transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler()
    )


# a builder, and the least height, width, frames
BUILDERS: dict[str, tuple[Callable[[Text], DiffusionPipeline], tuple[int, int, int]]] = {
    "wan": (wan, (16, 16, 9)),
    "wan_a14b": (wan_a14b, (16, 16, 9)),
    "wan_5b": (wan_5b, (16, 16, 9)),
    "wan_5b_i2v": (wan_5b_i2v, (16, 16, 9)),
    "wan_i2v": (wan_i2v, (16, 16, 9)),
    "wan_flf": (wan_flf, (16, 16, 9)),
    "wan_v2v": (wan_v2v, (16, 16, 9)),
    "vace": (vace, (16, 16, 9)),
    "skyreels": (skyreels, (16, 16, 9)),
    "skyreels_i2v": (skyreels_i2v, (16, 16, 9)),
    "forcing": (forcing, (16, 16, 9)),
    "forcing_i2v": (forcing_i2v, (16, 16, 9)),
    "forcing_v2v": (forcing_v2v, (16, 16, 25)),  # it goes on from 17 frames
    "ltx": (ltx, (32, 32, 9)),
    "ltx_i2v": (ltx_i2v, (32, 32, 9)),
    "ltx_condition": (ltx_condition, (32, 32, 9)),
    "cogvideox": (cogvideox, (16, 16, 9)),
    "cogvideox_15": (cogvideox_15, (16, 16, 9)),
    "cogvideox_i2v": (cogvideox_i2v, (16, 16, 9)),
    "cogvideox_v2v": (cogvideox_v2v, (16, 16, 9)),
    "mochi": (mochi, (16, 16, 7)),
    **CHAT_BUILDERS,
    **COSMOS_BUILDERS,
}


def build(name: str, text: Text, woken: Callable[[nn.Module], nn.Module]) -> DiffusionPipeline:
    """The pipeline of a name, with random weights that a seed decides."""
    torch.manual_seed(0)
    pipeline = BUILDERS[name][0](text)
    for part in pipeline.components.values():
        if isinstance(part, nn.Module) and part is not text["text_encoder"]:
            woken(part)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
