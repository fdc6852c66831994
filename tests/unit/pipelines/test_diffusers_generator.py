"""Pipelines of other packages as generators, by the signature of their call."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t2v.errors import UserError
from t2v.pipelines.diffusers_generator import DiffusersGenerator
from t2v.pipelines.generator import sample_videos, to_uint8

PROMPTS = ["a red ball", "a blue box", "the grass"]


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
