"""Pipelines of other packages as generators, by the signature of their call."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import WanImageToVideoPipeline, WanTransformer3DModel, WanVideoToVideoPipeline
from PIL import Image

from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.pipelines.generator import sample_videos, to_uint8
from t2v.pipelines.visuals import VisualInputs

PROMPTS = ["a red ball", "a blue box", "the grass"]


@pytest.fixture
def asked(wan):
    own = FamilyGenerator(wan).defaults
    return replace(own, height=16, width=16, num_frames=6, num_inference_steps=2)


def test_what_it_makes_by_itself_is_what_its_call_says(wan):
    own = FamilyGenerator(wan).defaults
    assert (own.height, own.width, own.num_frames) == (480, 832, 81)
    assert (own.num_inference_steps, own.guidance_scale, own.fps) == (50, 5.0, 16.0)


@pytest.mark.parametrize("batch_size", [1, 2])
def test_each_video_is_that_of_its_seed_and_has_the_frames_asked_for(wan, asked, batch_size):
    generator = FamilyGenerator(wan)
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
    list(sample_videos(FamilyGenerator(wan), PROMPTS[:1], [0], asked, watch=steps.append))
    assert [step.number for step in steps] == [1, 2]
    assert steps[0].latents.shape == (1, 16, 3, 2, 2)


def test_a_setting_that_the_call_does_not_take_is_named(wan, asked, monkeypatch):
    generator = FamilyGenerator(wan)
    generator.check("a ball", asked)
    generator.parameters = {
        name: each for name, each in generator.parameters.items() if name != "num_frames"
    }
    with pytest.raises(UserError, match="WanPipeline takes no num_frames"):
        generator.check("a ball", asked)


@pytest.mark.parametrize(("name", "value"), [("num_frames", 4097), ("width", 16400)])
def test_more_tokens_than_the_model_has_positions_for_are_refused(wan, asked, name, value):
    with pytest.raises(UserError, match=f"{name}={value}: 10.. tokens.* knows 1024 positions"):
        FamilyGenerator(wan).check("a ball", replace(asked, **{name: value}))


def clip(count: int, generator: int = 0) -> np.ndarray:
    return np.random.default_rng(generator).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


def images(frames: np.ndarray) -> list[Image.Image]:
    return [Image.fromarray(frame) for frame in frames]


@pytest.fixture
def edits(wan):
    names = ("tokenizer", "text_encoder", "vae", "transformer", "scheduler")
    pipe = WanVideoToVideoPipeline(**{name: wan.components[name] for name in names})
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def animates(wan):
    parts = {name: wan.components[name] for name in ("tokenizer", "text_encoder", "vae")}
    transformer = WanTransformer3DModel(
        patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=12, in_channels=36,
        out_channels=16, text_dim=32, freq_dim=32, ffn_dim=32, num_layers=2,
    )  # fmt: skip
    pipe = WanImageToVideoPipeline(**parts, transformer=transformer, scheduler=wan.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_what_it_takes_is_what_its_call_names(wan, edits, animates):
    taken = [FamilyGenerator(pipe).takes for pipe in (wan, edits, animates)]
    assert taken == [frozenset(), {"video", "strength"}, {"image", "last_image"}]


def test_a_clip_is_handed_to_the_call_as_images_and_padded_to_what_the_vae_holds(edits, asked):
    request, video = replace(asked, strength=0.7, num_frames=6), clip(6)
    seen = [VisualInputs(video=video), VisualInputs(video=clip(6, 1))]
    generator = FamilyGenerator(edits)
    (latents,) = sample_videos(generator, PROMPTS[:2], [3, 4], request, visuals=seen, batch_size=2)
    found = generator.decode(latents, 6)
    padded = np.concatenate([video, video[-1:].repeat(3, 0)])
    wanted = edits(
        video=images(padded),
        prompt=PROMPTS[0],
        height=16,
        width=16,
        strength=0.7,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).frames[0]
    assert found.shape == (2, 6, 16, 16, 3)
    assert (found[0] == to_uint8(wanted[:6])).all() and (found[0] != found[1]).any()


def test_first_and_last_pictures_are_handed_to_the_call(animates, asked):
    first, last = clip(2)
    seen = [VisualInputs(image=first, last_image=last)]
    generator, request = FamilyGenerator(animates), replace(asked, num_frames=9)
    (latents,) = sample_videos(generator, PROMPTS[:1], [3], request, visuals=seen)
    wanted = animates(
        image=Image.fromarray(first),
        last_image=Image.fromarray(last),
        prompt=PROMPTS[0],
        height=16,
        width=16,
        num_frames=9,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(3),
    ).frames
    assert (generator.decode(latents, 9) == to_uint8(wanted)).all()
