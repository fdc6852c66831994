"""The pipeline gives no black film, waits for itself, and says where its training ends."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from t2v.errors import UserError
from t2v.models.finite import refuse_bad
from t2v.pipelines.t2v import T2VPipeline

PROMPT = "a red ball rolls on the grass"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def spoil(module, value="nan"):
    """A bad number in the last weight: what comes out holds one."""
    list(module.parameters())[-1].data.view(-1)[0] = float(value)


@pytest.mark.parametrize("value", ["nan", "inf"])
@pytest.mark.parametrize(
    ("part", "words"),
    [
        ("text_encoder", "NaN or inf in the output of the text encoder: .* of .* values"),
        ("transformer", "NaN or inf in the output of the transformer: .* of .* values"),
        ("vae", "NaN or inf in the output of the vae: .* of .* values"),
    ],
)
def test_a_part_that_gives_bad_numbers_is_named_instead_of_a_black_film(pipe, part, words, value):
    spoil(getattr(pipe, part), value)
    for kind in ("np", "pt", "pil"):
        with pytest.raises(UserError, match=words) as error:
            pipe(PROMPT, generator=seeded(0), output_type=kind)
        assert "computes in float32" in str(error.value) and "fp32" not in str(error.value)
    if part != "text_encoder":
        latents = pipe(PROMPT, generator=seeded(0), output_type="latent").frames
        assert latents.isfinite().all() == (part == "vae")


@pytest.mark.parametrize(
    ("dtype", "words"),
    [
        (torch.float16, "fp16 overflows above 65504: use dtype=bf16 or"),
        (torch.bfloat16, "Use dtype=fp32"),
        (torch.float32, "It computes in float32, so its weights"),
    ],
)
def test_the_advice_fits_the_number_format(dtype, words):
    refuse_bad("vae", torch.ones(3, dtype=dtype), dtype)
    with pytest.raises(UserError, match=rf"in the output of the vae: 1 of 3 values\. {words}"):
        refuse_bad("vae", torch.tensor([1, float("inf"), 2], dtype=dtype), dtype)


@pytest.mark.parametrize("name", ["latents", "prompt_embeds", "negative_prompt_embeds"])
def test_bad_numbers_given_are_refused_before_anything_is_sampled(pipe, name, monkeypatch):
    embeds = pipe.encode_prompt([PROMPT], dtype=torch.float32)
    given = {"latents": torch.randn(1, 8, 3, 4, 6)} | dict(
        zip(("prompt_embeds", "negative_prompt_embeds"), embeds, strict=True)
    )
    given[name][0, 0, 0] = float("nan")
    monkeypatch.setattr("t2v.pipelines.t2v.denoise", None)
    with pytest.raises(UserError, match=rf"NaN or inf in (the )?{name}"):
        pipe(**given)


def test_bad_latents_are_not_decoded(pipe):
    latents = torch.randn(1, 8, 5, 4, 6)
    latents[0, 3, 2, 1, 1] = float("-inf")
    with pytest.raises(UserError, match="output of the transformer: 1 of"):
        pipe.decode_latents(latents)


def test_a_pipeline_without_a_transformer_decodes(pipe):
    latents = torch.randn(1, 8, 3, 4, 6)
    frames = pipe.decode_latents(latents)
    pipe.transformer = None
    assert torch.equal(pipe.decode_latents(latents), frames)


def films(pipe, prompts):
    return [pipe(prompt, generator=seeded(i)).frames for i, prompt in enumerate(prompts)]


PROMPTS = ["a red ball", "blue box bounces on the snow", "a ball", "grass under the sky"]


@pytest.mark.parametrize("scheduler", ["own", "shared", "remembers"])
def test_two_threads_sample_what_one_samples(pipe, scheduler):
    if scheduler == "remembers":
        pipe.scheduler = UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True
        )
    alone = films(pipe, PROMPTS)
    other = T2VPipeline(**pipe.components, **{n: pipe.config[n] for n in SAVED})
    other.set_progress_bar_config(disable=True)
    used = [pipe, other if scheduler == "shared" else pipe]
    for _ in range(3):
        with ThreadPoolExecutor(2) as pool:
            threaded = [
                pool.submit(used[i % 2], prompt, generator=seeded(i))
                for i, prompt in enumerate(PROMPTS)
            ]
        for film, truth in zip(threaded, alone, strict=True):
            np.testing.assert_array_equal(film.result().frames, truth)


SAVED = ("fps", "height", "width", "num_frames", "num_inference_steps", "guidance_scale",
         "max_sequence_length")  # fmt: skip


def test_a_callback_may_sample_with_the_pipeline_that_calls_it(pipe):
    seen = []

    def callback(pipe, index, timestep, tensors):
        seen.append(pipe.decode_latents(tensors["latents"]))
        return {}

    pipe(PROMPT, generator=seeded(0), callback_on_step_end=callback)
    assert len(seen) == 2


def test_a_size_or_length_outside_the_training_is_warned_of_once(pipe, caplog):
    for size in ({}, {"num_frames": 5}, {"height": 48, "width": 32}):
        pipe(PROMPT, output_type="latent", **size)
    assert "outside" not in caplog.text
    sizes = {"num_frames": 10}, {"height": 48}, {"duration": 2.0}, {"width": 32}, {"num_frames": 10}
    for size in sizes:
        pipe(PROMPT, output_type="latent", **size)
    warnings = [each for each in caplog.records if "outside the sizes this model" in each.message]
    assert [each.levelno for each in warnings] == [logging.WARNING] * 4
    assert "10 frames of 32x48 are outside" in warnings[0].message
    assert "(9 frames of 32x48)" in warnings[1].message
