"""Films of models that make pictures: where frames lie, what stays, and what is refused."""

import json

import numpy as np
import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    PNDMScheduler,
    StableDiffusionPipeline,
    UniPCMultistepScheduler,
    VQDiffusionScheduler,
    WanPipeline,
)
from diffusers.models.attention_processor import Attention
from peft import LoraConfig, get_peft_model_state_dict

from t2v.cli import main
from t2v.errors import UserError
from t2v.io.video import read_video
from t2v.models.lora import load_loras
from t2v.pipelines.moving_pictures import (
    Move,
    film_of_pictures,
    first_attended,
    levels,
    makes_pictures,
    steady,
)
from t2v.pipelines.t2v import T2VPipeline

from .tiny_pictures import aura_flow, stable_diffusion

PROMPT = "a red ball rolls"
SIZE = {"height": 32, "width": 32, "guidance_scale": 3.0}


def film(pipe, motion, num_frames=3, steps=4, **given):
    settings = {"num_frames": num_frames, "seed": 1, "num_inference_steps": steps, **given}
    return film_of_pictures(pipe, PROMPT, motion=motion, **settings)


def apart(a, b, right, down=0):
    """The mean square of `b` to `a` moved by pixels, where both have some."""
    height, width = a.shape[:2]
    a = a[max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)]
    b = b[max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)]
    return float(np.square(a - b).mean())


def test_frames_of_a_unet_lie_where_the_motion_says(tokenizer):
    pipe = stable_diffusion(tokenizer)
    own = pipe.scheduler
    first, *others = film(pipe, (4, -2), **SIZE)
    for number, frame in enumerate(others, 1):
        there = apart(first, frame, 4 * number, -2 * number)
        elsewhere = [apart(first, frame, *at) for at in ((0, 0), (4 * number, 2 * number))]
        assert there < 0.2 * min(elsewhere)
    assert pipe.scheduler is own
    pipe.scheduler = steady(own)
    generator = torch.Generator().manual_seed(1)
    given = {"generator": generator, "num_inference_steps": 4, "output_type": "np", **SIZE}
    np.testing.assert_allclose(pipe(PROMPT, **given).images[0], first, atol=1e-5)


@pytest.mark.parametrize("kind", ["unet", "transformer", "ours"])
def test_without_motion_all_frames_are_the_picture_of_the_seed(kind, tokenizer, text_encoder, pipe):
    if kind == "ours":
        still = film(pipe, (0.0, 0.0), num_frames=9)
        generator = torch.Generator().manual_seed(1)
        (plain,) = pipe(PROMPT, num_frames=1, num_inference_steps=4, generator=generator).frames
        assert np.array_equal(still[0], plain[0])
    elif kind == "transformer":
        pipe = aura_flow(tokenizer, text_encoder)
        still = film(pipe, (0.0, 0.0), num_frames=3, **SIZE)
        moved = film(pipe, (3.0, 1.0), num_frames=3, **SIZE)
        np.testing.assert_allclose(moved[0], still[0], atol=1e-5)
        assert np.abs(moved[1] - still[1]).max() > 1e-2
    else:
        still = film(stable_diffusion(tokenizer), (0.0, 0.0), num_frames=3, **SIZE)
    assert len(still) == (9 if kind == "ours" else 3)
    assert np.abs(still - still[0]).max() < 1e-6  # of a batch, else to the bit


def test_a_picture_of_the_embedded_model_is_found_at_fractions_of_a_latent():
    pipe = T2VPipeline.from_pretrained("t2v-tiny")
    pipe.set_progress_bar_config(disable=True)
    first, second = film(pipe, (5.0, 0.0), num_frames=2, steps=8)
    errors = {right: apart(first, second, right) for right in range(-8, 17)}
    assert min(errors, key=errors.get) in (4, 5, 6)
    assert errors[5] < 0.3 * errors[0]


def test_frames_see_the_keys_and_values_of_the_first():
    attention = Attention(query_dim=8, heads=2, dim_head=4).eval()
    x = torch.randn(4, 5, 8, generator=torch.Generator().manual_seed(0))  # 2 conditions, 2 frames
    with torch.no_grad():
        with first_attended(attention, 2):
            seen = attention(x)
        own, first = attention(x), attention(x[[1, 3]], x[[0, 2]])
    torch.testing.assert_close(seen[[0, 2]], own[[0, 2]])
    torch.testing.assert_close(seen[[1, 3]], first)
    assert (seen[1] - own[1]).abs().max() > 1e-3
    with pytest.raises(UserError, match="no self-attention"), first_attended(torch.nn.ReLU(), 2):
        pass


@pytest.mark.parametrize(
    "scheduler",
    [
        PNDMScheduler(skip_prk_steps=True, beta_schedule="scaled_linear"),
        DDPMScheduler(prediction_type="v_prediction"),
        UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
        FlowMatchEulerDiscreteScheduler(shift=2.0, stochastic_sampling=True),
    ],
)
def test_both_ends_of_a_step_are_told_apart_into_picture_and_noise(scheduler):
    scheduler = steady(scheduler)
    picture, noise = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    scheduler.set_timesteps(5)
    for index, time in enumerate(scheduler.timesteps[:4]):
        if isinstance(scheduler, DDIMScheduler):
            kept = scheduler.alphas_cumprod[time]
            a, s = kept**0.5, (1 - kept) ** 0.5
            is_v = scheduler.config.prediction_type == "v_prediction"
            prediction = a * noise - s * picture if is_v else noise
        else:
            a, s = 1 - scheduler.sigmas[index], scheduler.sigmas[index]
            prediction = noise - picture
        after = scheduler.step(prediction, time, a * picture + s * noise)[0]
        (own_a, own_s), (a_next, s_next) = levels(scheduler, index)
        assert (own_a, own_s) == pytest.approx((float(a), float(s)), abs=1e-6)
        torch.testing.assert_close(after, a_next * picture + s_next * noise, atol=1e-4, rtol=1e-4)


def test_what_makes_no_pictures_or_cannot_move_is_refused(wan, pipe, tokenizer):
    assert makes_pictures(StableDiffusionPipeline) and makes_pictures(FluxPipeline)
    assert not makes_pictures(WanPipeline) and not makes_pictures(T2VPipeline)
    with pytest.raises(UserError, match="a WanPipeline makes no pictures of prompts"):
        film(wan, (1.0, 0.0))
    with pytest.raises(UserError, match="num_inference_steps=2: frames move between two steps"):
        film(pipe, (1.0, 0.0), steps=2)
    with pytest.raises(UserError, match="packs its latents into a row"):
        Move(pipe, [(0.0, 0.0)], 4)(0, torch.zeros(1, 4, 8))
    with pytest.raises(UserError, match="neither of noise or v"):
        steady(VQDiffusionScheduler(num_vec_classes=8))


def test_t2v_sample_makes_a_film_of_an_image_model_and_makes_it_again(tokenizer, tmp_path, capsys):
    model = stable_diffusion(tokenizer)
    model.save_pretrained(tmp_path / "pictures")
    output = tmp_path / "film.mp4"
    given = ["sample", PROMPT, "--model", str(tmp_path / "pictures"), "height=32", "width=32"]
    asked = [*given, "--steps", "4", "--frames", "3", "--output", str(output)]
    assert main([*asked, "motion=[4,0]"]) == 0
    frames, fps = read_video(output)[:2]
    assert len(frames) == 3 and fps == 4
    recipe = json.loads(output.with_suffix(".json").read_text())
    assert recipe["settings"]["motion"] == [4.0, 0.0] and recipe["settings"]["seed"] == 0
    expected = film(model, (4.0, 0.0), seed=0, height=32, width=32, guidance_scale=7.5)
    assert np.abs(frames / 255 - expected).mean() < 0.1
    assert main(["sample", "--recipe", str(output)]) == 0
    again, _ = read_video(tmp_path / "film-again.mp4")[:2]
    assert np.array_equal(again, frames)
    capsys.readouterr()
    for change, words in (
        ([], "makes pictures. Give motion="),
        (["motion=[1]"], "give two numbers"),
        (["motion=[1,0]", "token_merging=0.3"], "films of pictures that move take none"),
        (["motion=[1,0]", "image=x.png"], "what moves is a picture of the prompt"),
        (["motion=[1,0]", "truncate=true"], "reads its prompts itself"),
        (["motion=[1,0]", "height=33"], "height=33"),
    ):
        assert main([*given, *change]) == 2
        assert words in capsys.readouterr().err


def test_a_lora_for_a_pipeline_of_a_unet_is_refused_with_the_reason(tokenizer, pipe, tmp_path):
    pipe.transformer.add_adapter(LoraConfig(r=1, target_modules=["to_q"]))
    T2VPipeline.save_lora_weights(
        tmp_path, transformer_lora_layers=get_peft_model_state_dict(pipe.transformer)
    )
    with pytest.raises(UserError, match="StableDiffusionPipeline has no transformer") as refused:
        load_loras(stable_diffusion(tokenizer), [tmp_path])
    assert "one transformer" not in str(refused.value)
