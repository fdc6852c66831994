"""Tiny random pipelines whose text is read by language models: Llama, Qwen, Gemma, with CLIP."""

import copy
from typing import Any

from diffusers import (
    AutoencoderKLHunyuanVideo,
    AutoencoderKLHunyuanVideo15,
    AutoencoderKLLTX2Audio,
    AutoencoderKLLTX2Video,
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    HunyuanSkyreelsImageToVideoPipeline,
    HunyuanVideo15Pipeline,
    HunyuanVideo15Transformer3DModel,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
    Kandinsky5I2VPipeline,
    Kandinsky5T2VPipeline,
    Kandinsky5Transformer3DModel,
    LTX2ImageToVideoPipeline,
    LTX2Pipeline,
    LTX2VideoTransformer3DModel,
    SanaImageToVideoPipeline,
    SanaVideoPipeline,
    SanaVideoTransformer3DModel,
)
from diffusers.pipelines.ltx2 import LTX2TextConnectors, LTX2Vocoder
from torch import nn
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    Gemma2Config,
    Gemma2Model,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    T5Config,
    T5EncoderModel,
)

Text = dict[str, Any]  # the T5 text encoder and its tokenizer
WIDTH = 16
CHAT = (  # calls cut as many tokens off the front as the real template has
    "{% for _ in range(108) %}. {% endfor %}"
    "{% for m in messages %}{{ m['role'] }} {{ m['content'] }} {% endfor %}"
)


def words(text: Text, template: str = "") -> tuple[PreTrainedTokenizerFast, dict[str, int]]:
    """The tokenizer of the text, and what a language model is told of it."""
    tokenizer = copy.deepcopy(text["tokenizer"])
    tokenizer.chat_template = template or None
    marks = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1}
    return tokenizer, {"vocab_size": len(tokenizer), **marks}


def clip(text: Text) -> dict[str, Any]:
    tokenizer, told = words(text)
    config = CLIPTextConfig(
        hidden_size=8, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2,
        projection_dim=8, **told,
    )  # fmt: skip
    tokenizer.model_max_length = config.max_position_embeddings
    return {"text_encoder_2": CLIPTextModel(config), "tokenizer_2": tokenizer}


def hunyuan_vae(**others: Any) -> nn.Module:
    shape: dict[str, Any] = dict(
        latent_channels=4, down_block_types=("HunyuanVideoDownBlock3D",) * 4,
        up_block_types=("HunyuanVideoUpBlock3D",) * 4, block_out_channels=(8,) * 4,
        layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False,
    )  # fmt: skip
    return AutoencoderKLHunyuanVideo(**shape | others)


def hunyuan(text: Text) -> DiffusionPipeline:
    tokenizer, told = words(text)
    encoder = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=16, num_attention_heads=2, num_hidden_layers=2, **told
    )
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=10, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, patch_size=1, patch_size_t=1,
        guidance_embeds=True, text_embed_dim=WIDTH, pooled_projection_dim=8,
        rope_axes_dim=(2, 4, 4),
    )  # fmt: skip
    return HunyuanVideoPipeline(
        text_encoder=LlamaModel(encoder), tokenizer=tokenizer, **clip(text),
        transformer=transformer, vae=hunyuan_vae(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
    )  # fmt: skip


def hunyuan_skyreels_i2v(text: Text) -> DiffusionPipeline:
    """The latents of the picture stand beside the noise."""
    parts = dict(hunyuan(text).components)
    shape = {**parts["transformer"].config, "in_channels": 8}
    parts["transformer"] = HunyuanVideoTransformer3DModel.from_config(shape)
    return HunyuanSkyreelsImageToVideoPipeline(**parts)


def qwen(told: dict[str, int]) -> dict[str, Any]:
    """The settings of a Qwen of two layers."""
    return dict(
        hidden_size=WIDTH, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, rope_theta=1e6,
        rope_scaling={"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        **told,
    )  # fmt: skip


def hunyuan_15(text: Text) -> DiffusionPipeline:
    tokenizer, told = words(text, CHAT)
    glyphs = T5Config(vocab_size=384, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)
    transformer = HunyuanVideo15Transformer3DModel(
        in_channels=9, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_refiner_layers=1, mlp_ratio=2.0, patch_size=1, patch_size_t=1, text_embed_dim=WIDTH,
        text_embed_2_dim=32, image_embed_dim=12, rope_axes_dim=(2, 2, 4), target_size=16,
        task_type="t2v",
    )  # fmt: skip
    vae = AutoencoderKLHunyuanVideo15(
        latent_channels=4, block_out_channels=(16, 16), layers_per_block=1,
        spatial_compression_ratio=4, temporal_compression_ratio=2, downsample_match_channel=False,
        upsample_match_channel=False,
    )  # fmt: skip
    pipeline = HunyuanVideo15Pipeline(
        text_encoder=Qwen2_5_VLTextModel(Qwen2_5_VLTextConfig(**qwen(told))), tokenizer=tokenizer,
        text_encoder_2=T5EncoderModel(glyphs), tokenizer_2=ByT5Tokenizer(),
        transformer=transformer, vae=vae, scheduler=FlowMatchEulerDiscreteScheduler(shift=7.0),
        guider=ClassifierFreeGuidance(guidance_scale=3.0),
    )  # fmt: skip
    pipeline.tokenizer_max_length, pipeline.vision_num_semantic_tokens = 128, 4  # not 1000, 729
    return pipeline


def qwen_with_eyes(told: dict[str, int]) -> nn.Module:
    eyes = dict(depth=1, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=WIDTH)
    config = Qwen2_5_VLConfig(text_config=qwen(told), vision_config=eyes, **told)
    return Qwen2_5_VLForConditionalGeneration(config)


class Reads(PreTrainedTokenizerFast):
    """In place of Qwen's processor, which needs torchvision: its tokenizer, without pictures."""

    def __call__(self, text: Any, images: None = None, videos: None = None, **others: Any) -> Any:
        return super().__call__(text, **others)


def kandinsky_parts(text: Text, visual_cond: bool) -> dict[str, Any]:
    tokenizer, told = words(text)
    tokenizer.__class__ = Reads
    transformer = Kandinsky5Transformer3DModel(
        in_visual_dim=4, in_text_dim=WIDTH, in_text_dim2=8, time_dim=16, out_visual_dim=4,
        patch_size=(1, 2, 2), model_dim=16, ff_dim=32, num_text_blocks=1, num_visual_blocks=2,
        axes_dims=(1, 1, 2), visual_cond=visual_cond, attention_type="regular",
    )  # fmt: skip
    return {
        "text_encoder": qwen_with_eyes(told),
        "tokenizer": tokenizer,
        **clip(text),
        "transformer": transformer,
        "vae": hunyuan_vae(),
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=7.0),
    }


def kandinsky(text: Text) -> DiffusionPipeline:
    return Kandinsky5T2VPipeline(**kandinsky_parts(text, visual_cond=False))


def kandinsky_i2v(text: Text) -> DiffusionPipeline:
    return Kandinsky5I2VPipeline(**kandinsky_parts(text, visual_cond=True))


def sana_parts(text: Text) -> dict[str, Any]:
    tokenizer, told = words(text)
    encoder = Gemma2Config(
        head_dim=8, hidden_size=8, intermediate_size=16, num_attention_heads=2,
        num_hidden_layers=1, num_key_value_heads=2, attn_implementation="eager", **told,
    )  # fmt: skip
    transformer = SanaVideoTransformer3DModel(
        in_channels=16, out_channels=16, num_attention_heads=2, attention_head_dim=12,
        num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=12,
        cross_attention_dim=24, caption_channels=8, mlp_ratio=2.5, sample_size=8,
        patch_size=(1, 2, 2), qk_norm="rms_norm_across_heads", rope_max_seq_len=32,
    )  # fmt: skip
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    return {
        "text_encoder": Gemma2Model(encoder),
        "tokenizer": tokenizer,
        "transformer": transformer,
        "vae": vae,
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=8.0),
    }


def sana(text: Text) -> DiffusionPipeline:
    return SanaVideoPipeline(**sana_parts(text))


def sana_i2v(text: Text) -> DiffusionPipeline:
    return SanaImageToVideoPipeline(**sana_parts(text))


def ltx2_parts(text: Text) -> dict[str, Any]:
    tokenizer, told = words(text)
    reads = dict(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, **told,
    )  # fmt: skip
    sees = dict(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        image_size=16, patch_size=8,
    )  # fmt: skip
    encoder = Gemma3Config(text_config=reads, vision_config=sees, mm_tokens_per_image=4)
    transformer = LTX2VideoTransformer3DModel(
        in_channels=4, out_channels=4, patch_size=1, patch_size_t=1, num_attention_heads=2,
        attention_head_dim=8, cross_attention_dim=16, audio_in_channels=4, audio_out_channels=4,
        audio_num_attention_heads=2, audio_attention_head_dim=4, audio_cross_attention_dim=8,
        num_layers=2, caption_channels=16, rope_double_precision=False, rope_type="split",
    )  # fmt: skip
    connector = dict(
        video_connector_num_attention_heads=2, video_connector_attention_head_dim=8,
        audio_connector_num_attention_heads=2, audio_connector_attention_head_dim=8,
        connector_rope_base_seq_len=32, rope_theta=1e4, rope_type="split",
        rope_double_precision=False, causal_temporal_positioning=False,
    )  # fmt: skip
    connectors = LTX2TextConnectors(
        caption_channels=16, text_proj_in_factor=3, video_connector_num_layers=1,
        video_connector_num_learnable_registers=None, audio_connector_num_layers=1,
        audio_connector_num_learnable_registers=None, **connector,
    )  # fmt: skip
    vae = AutoencoderKLLTX2Video(
        latent_channels=4, block_out_channels=(8,), decoder_block_out_channels=(8,),
        layers_per_block=(1,), decoder_layers_per_block=(1, 1), spatio_temporal_scaling=(True,),
        decoder_spatio_temporal_scaling=(True,), decoder_inject_noise=(False, False),
        downsample_type=("spatial",), upsample_residual=(False,), upsample_factor=(1,),
        patch_size=4, patch_size_t=1,
    )  # fmt: skip
    vae.use_framewise_encoding = vae.use_framewise_decoding = False
    audio_vae = AutoencoderKLLTX2Audio(
        base_channels=4, output_channels=2, ch_mult=(1,), num_res_blocks=1, attn_resolutions=None,
        resolution=32, latent_channels=2, causality_axis="height", mid_block_add_attention=False,
        sample_rate=16000, mel_hop_length=160, mel_bins=8,
    )  # fmt: skip
    vocoder = LTX2Vocoder(
        in_channels=16, hidden_channels=32, out_channels=2, upsample_kernel_sizes=[20, 32],
        upsample_factors=[10, 16], resnet_kernel_sizes=[3], resnet_dilations=[[1, 3, 5]],
        output_sampling_rate=16000,
    )  # fmt: skip
    return {
        "text_encoder": Gemma3ForConditionalGeneration(encoder),
        "tokenizer": tokenizer,
        "transformer": transformer,
        "connectors": connectors,
        "vae": vae,
        "audio_vae": audio_vae,
        "vocoder": vocoder,
        "scheduler": FlowMatchEulerDiscreteScheduler(),
    }


def ltx2(text: Text) -> DiffusionPipeline:
    return LTX2Pipeline(**ltx2_parts(text))


def ltx2_i2v(text: Text) -> DiffusionPipeline:
    return LTX2ImageToVideoPipeline(**ltx2_parts(text))


CHAT_BUILDERS = {
    "hunyuan": (hunyuan, (16, 16, 9)),
    "hunyuan_skyreels_i2v": (hunyuan_skyreels_i2v, (16, 16, 9)),
    "hunyuan_15": (hunyuan_15, (16, 16, 9)),
    "kandinsky": (kandinsky, (16, 16, 9)),
    "kandinsky_i2v": (kandinsky_i2v, (16, 16, 17)),
    "ltx2": (ltx2, (32, 32, 9)),
    "ltx2_i2v": (ltx2_i2v, (32, 32, 9)),
    "sana": (sana, (32, 32, 9)),
    "sana_i2v": (sana_i2v, (32, 32, 9)),
}
