"""Tiny random pipelines of diffusers' own classes, for each family."""

from collections.abc import Callable

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    AutoencoderKLCosmos,
    AutoencoderKLLTXVideo,
    AutoencoderKLMochi,
    AutoencoderKLWan,
    CogVideoXDPMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    LTXImageToVideoPipeline,
    LTXPipeline,
    LTXVideoTransformer3DModel,
    MochiPipeline,
    MochiTransformer3DModel,
    SkyReelsV2DiffusionForcingPipeline,
    SkyReelsV2Pipeline,
    SkyReelsV2Transformer3DModel,
    UniPCMultistepScheduler,
    WanImageToVideoPipeline,
    WanPipeline,
    WanTransformer3DModel,
    WanVACEPipeline,
    WanVACETransformer3DModel,
)
from torch import nn

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


def wan_i2v(text: Text) -> DiffusionPipeline:
    return WanImageToVideoPipeline(
        **text, transformer=wan_transformer(in_channels=36), vae=wan_vae(), scheduler=unipc()
    )


def vace(text: Text) -> DiffusionPipeline:
    transformer = WanVACETransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=3, vace_layers=[0, 2],
        vace_in_channels=96,
    )  # fmt: skip
    return WanVACEPipeline(**text, transformer=transformer, vae=wan_vae(), scheduler=unipc())


def skyreels_transformer() -> nn.Module:
    return SkyReelsV2Transformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
    )  # fmt: skip


def skyreels(text: Text) -> DiffusionPipeline:
    return SkyReelsV2Pipeline(
        **text, transformer=skyreels_transformer(), vae=wan_vae(), scheduler=unipc()
    )


def forcing(text: Text) -> DiffusionPipeline:
    return SkyReelsV2DiffusionForcingPipeline(
        **text, transformer=skyreels_transformer(), vae=wan_vae(), scheduler=unipc()
    )


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


def cogvideox(text: Text, **others: object) -> DiffusionPipeline:
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
    return CogVideoXPipeline(
        **text, transformer=transformer, vae=vae, scheduler=CogVideoXDPMScheduler()
    )


def cogvideox_15(text: Text) -> DiffusionPipeline:
    return cogvideox(text, patch_size_t=2, patch_bias=False, use_rotary_positional_embeddings=True)


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


class Permits:
    """In place of Cosmos' guardrail, whose networks are larger than a test's machine."""

    def to(self, *args: object) -> None:
        """Stay."""

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: object) -> object:
        return frames


def cosmos(text: Text) -> DiffusionPipeline:
    transformer = CosmosTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=16, num_layers=2,
        mlp_ratio=2, text_embed_dim=32, adaln_lora_dim=4, max_size=(4, 32, 32),
        patch_size=(1, 2, 2), rope_scale=(2.0, 1.0, 1.0), concat_padding_mask=True,
        extra_pos_embed_type="learnable",
    )  # fmt: skip
    vae = AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8,) * 4, decode_block_out_channels=(8,) * 4,
        attention_resolutions=(8,), resolution=64, num_layers=2, patch_size=4, patch_type="haar",
        scaling_factor=1.0, spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5)
    return CosmosTextToWorldPipeline(
        **text, transformer=transformer, vae=vae, scheduler=scheduler, safety_checker=Permits()
    )


# a builder, and the least height, width, frames
BUILDERS: dict[str, tuple[Callable[[Text], DiffusionPipeline], tuple[int, int, int]]] = {
    "wan": (wan, (16, 16, 9)),
    "wan_a14b": (wan_a14b, (16, 16, 9)),
    "wan_i2v": (wan_i2v, (16, 16, 9)),
    "vace": (vace, (16, 16, 9)),
    "skyreels": (skyreels, (16, 16, 9)),
    "forcing": (forcing, (16, 16, 9)),
    "ltx": (ltx, (32, 32, 9)),
    "ltx_i2v": (ltx_i2v, (32, 32, 9)),
    "cogvideox": (cogvideox, (16, 16, 9)),
    "cogvideox_15": (cogvideox_15, (16, 16, 9)),
    "mochi": (mochi, (16, 16, 7)),
    "cosmos": (cosmos, (32, 32, 9)),
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
