"""Tiny random pipelines of diffusers that make pictures: of a U-Net, and of a transformer."""

import torch
from diffusers import (
    AuraFlowPipeline,
    AuraFlowTransformer2DModel,
    AutoencoderKL,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel


def kl() -> AutoencoderKL:
    return AutoencoderKL(
        block_out_channels=(8, 8), norm_num_groups=2, latent_channels=4, sample_size=32,
        down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    ).eval()  # fmt: skip


def stable_diffusion(tokenizer: object) -> DiffusionPipeline:
    """Pictures of 32x32 by a U-Net of two levels on latents of 16x16."""
    torch.manual_seed(0)
    tokenizer.model_max_length = 12
    unet = UNet2DConditionModel(
        sample_size=16, block_out_channels=(8, 16), norm_num_groups=2, layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"), attention_head_dim=4,
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), cross_attention_dim=16,
    )  # fmt: skip
    text = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=12, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    pipe = StableDiffusionPipeline(
        vae=kl(), unet=unet.eval(), text_encoder=CLIPTextModel(text).eval(), tokenizer=tokenizer,
        scheduler=PNDMScheduler(skip_prk_steps=True, steps_offset=1, beta_schedule="scaled_linear"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def aura_flow(tokenizer: object, text_encoder: object) -> DiffusionPipeline:
    """Pictures of 32x32 by a transformer that knows places, on latents of 16x16."""
    torch.manual_seed(0)
    transformer = AuraFlowTransformer2DModel(
        sample_size=16, patch_size=2, in_channels=4, num_mmdit_layers=1, attention_head_dim=8,
        num_single_dit_layers=1, num_attention_heads=2, joint_attention_dim=32,
        caption_projection_dim=16, out_channels=4, pos_embed_max_size=256,
    )  # fmt: skip
    pipe = AuraFlowPipeline(
        tokenizer=tokenizer, text_encoder=text_encoder, vae=kl(), transformer=transformer.eval(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=1.7),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe
