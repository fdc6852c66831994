"""Pipelines of other packages as generators, by the signature of their call."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from transformers import UMT5Config, UMT5EncoderModel

from t2v.errors import UserError
from t2v.pipelines.diffusers_generator import DiffusersGenerator
from t2v.pipelines.generator import sample_videos, to_uint8

PROMPTS = ["a red ball", "a blue box", "the grass"]


@pytest.fixture
def wan(tokenizer):
    config = UMT5Config(
        vocab_size=64, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, pad_token_id=0
    )
    vae = AutoencoderKLWan(
        base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        temperal_downsample=[False, True, True],
    )  # fmt: skip
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=16,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    pipe = WanPipeline(
        tokenizer=tokenizer,
        text_encoder=UMT5EncoderModel(config).eval(),
        vae=vae,
        transformer=transformer,
        scheduler=FlowMatchEulerDiscreteScheduler(),
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def asked(wan):
    own = DiffusersGenerator(wan).defaults
    return replace(own, height=16, width=16, num_frames=6, num_inference_steps=2)


def test_what_it_makes_by_itself_is_what_its_call_says(wan):
    own = DiffusersGenerator(wan).defaults
    assert (own.height, own.width, own.num_frames) == (480, 832, 81)
    assert (own.num_inference_steps, own.guidance_scale, own.fps) == (50, 5.0, 16.0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_video_is_that_of_its_seed_and_has_the_frames_asked_for(wan, asked, batch_size):
    generator = DiffusersGenerator(wan)
    batches = sample_videos(generator, PROMPTS, [3, 4, 5], asked, batch_size=batch_size)
    videos = np.concatenate([generator.decode(each, asked.num_frames) for each in batches])
    assert videos.shape == (3, 6, 16, 16, 3) and videos.dtype == np.uint8
    for prompt, seed, video in zip(PROMPTS, (3, 4, 5), videos, strict=True):
        alone = wan(
            prompt,
            height=16,
            width=16,
            num_frames=9,
            num_inference_steps=2,
            generator=torch.Generator().manual_seed(seed),
            output_type="np",
        ).frames[0][:6]
        assert np.abs(to_uint8(alone).astype(int) - video).max() <= (0 if batch_size == 1 else 1)


def test_every_step_is_watched(wan, asked):
    steps = []
    list(sample_videos(DiffusersGenerator(wan), PROMPTS[:1], [0], asked, watch=steps.append))
    assert [step.number for step in steps] == [1, 2]
    assert steps[0].latents.shape == (1, 16, 3, 2, 2)


def test_a_setting_that_the_call_does_not_take_is_named(wan, asked, monkeypatch):
    generator = DiffusersGenerator(wan)
    generator.check("a ball", asked)
    generator.takes = {name: each for name, each in generator.takes.items() if name != "num_frames"}
    with pytest.raises(UserError, match="WanPipeline takes no num_frames"):
        generator.check("a ball", asked)
