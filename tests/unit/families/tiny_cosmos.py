"""Tiny random pipelines of Cosmos, which run where torchvision is installed."""

from typing import Any

from diffusers import (
    AutoencoderKLCosmos,
    AutoencoderKLWan,
    Cosmos2_5_PredictBasePipeline,
    Cosmos2VideoToWorldPipeline,
    CosmosTextToWorldPipeline,
    CosmosTransformer3DModel,
    DiffusionPipeline,
    EDMEulerScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from torch import nn

from .tiny_chat import CHAT, Text, qwen_with_eyes, words


class Permits:
    """In place of Cosmos' guardrail, whose networks are larger than a test's machine."""

    def to(self, *args: object) -> None:
        """Stay."""

    def check_text_safety(self, prompt: str) -> bool:
        return True

    def check_video_safety(self, frames: object) -> object:
        return frames


def transformer(**others: Any) -> nn.Module:
    shape: dict[str, Any] = dict(
        num_attention_heads=2, attention_head_dim=16, num_layers=2,
        mlp_ratio=2, text_embed_dim=32, adaln_lora_dim=4, max_size=(4, 32, 32),
        patch_size=(1, 2, 2), rope_scale=(2.0, 1.0, 1.0), concat_padding_mask=True,
        extra_pos_embed_type="learnable",
    )  # fmt: skip
    return CosmosTransformer3DModel(**shape | others)


def cosmos(text: Text) -> DiffusionPipeline:
    vae = AutoencoderKLCosmos(
        latent_channels=4, encoder_block_out_channels=(8,) * 4, decode_block_out_channels=(8,) * 4,
        attention_resolutions=(8,), resolution=64, num_layers=2, patch_size=4, patch_type="haar",
        scaling_factor=1.0, spatial_compression_ratio=4, temporal_compression_ratio=4,
    )  # fmt: skip
    scheduler = EDMEulerScheduler(sigma_min=0.002, sigma_max=80, sigma_data=0.5)
    return CosmosTextToWorldPipeline(
        **text, transformer=transformer(in_channels=4, out_channels=4), vae=vae,
        scheduler=scheduler, safety_checker=Permits(),
    )  # fmt: skip


def wan_parts() -> dict[str, Any]:
    """A transformer that is told which frames are known, and Wan's VAE."""
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    known = transformer(in_channels=17, out_channels=16)
    return {"transformer": known, "vae": vae, "safety_checker": Permits()}


def cosmos_2(text: Text) -> DiffusionPipeline:
    scheduler = FlowMatchEulerDiscreteScheduler(use_karras_sigmas=True)
    return Cosmos2VideoToWorldPipeline(**text, **wan_parts(), scheduler=scheduler)


def cosmos_25(text: Text) -> DiffusionPipeline:
    tokenizer, told = words(text, CHAT)
    parts = wan_parts() | {"transformer": transformer(in_channels=17, out_channels=16)}
    return Cosmos2_5_PredictBasePipeline(
        text_encoder=qwen_with_eyes(told), tokenizer=tokenizer, **parts,
        scheduler=UniPCMultistepScheduler(),
    )  # fmt: skip


COSMOS_BUILDERS = {
    "cosmos": (cosmos, (32, 32, 9)),
    "cosmos_2": (cosmos_2, (32, 32, 9)),
    "cosmos_25": (cosmos_25, (32, 32, 9)),
}
