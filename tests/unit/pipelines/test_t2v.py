"""The pipeline: what it promises to a caller."""

from collections import Counter

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    ClassifierFreeGuidance,
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    FirstBlockCacheConfig,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    UniPCMultistepScheduler,
)
from diffusers.callbacks import SDCFGCutoffCallback
from peft import LoraConfig
from PIL import Image

from t2v.errors import UserError
from t2v.models.kv_cache import KVCache
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.t2v_generator import T2VGenerator

PROMPT, OTHER = "a red ball rolls on the grass", "blue box bounces"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def run(pipe: T2VPipeline, prompt=PROMPT, seed=0, **options) -> torch.Tensor:
    """The latents of one call: exact to compare, and nothing is clamped."""
    return pipe(prompt, generator=seeded(seed), output_type="latent", **options).frames


def test_output_types_show_the_same_frames(pipe):
    arrays, tensors, images = (
        pipe(PROMPT, generator=seeded(0), output_type=kind).frames for kind in ("np", "pt", "pil")
    )
    assert arrays.shape == (1, 9, 32, 48, 3)
    assert tensors.shape == (1, 9, 3, 32, 48)
    np.testing.assert_array_equal(arrays, tensors.permute(0, 1, 3, 4, 2).numpy())
    assert isinstance(images[0][8], Image.Image)
    np.testing.assert_allclose(np.stack(images[0]), arrays[0] * 255, atol=0.51)
    assert arrays.min() >= 0 and arrays.max() <= 1 and arrays.std() > 0.02


def test_saved_settings_are_what_a_silent_call_uses(pipe):
    said = {"height": 32, "width": 48, "num_frames": 9, "num_inference_steps": 2}
    assert torch.equal(run(pipe), run(pipe, **said, guidance_scale=4.0))
    assert run(pipe, height=16, width=16).shape == (1, 8, 3, 2, 2)
    assert pipe(PROMPT).fps == 8
    assert pipe(PROMPT, fps=12).fps == 12
    assert len(pipe(PROMPT, return_dict=False)) == 1


@pytest.mark.parametrize("frames", [1, 2, 16, 17, 18])
def test_exactly_the_frames_asked_for_come_out(pipe, frames):
    video = pipe(PROMPT, num_frames=frames, generator=seeded(0), height=16, width=16).frames
    assert video.shape[1] == frames


def test_padding_frames_do_not_change_the_others(pipe):
    exact = pipe(PROMPT, num_frames=5, generator=seeded(0)).frames
    np.testing.assert_array_equal(
        pipe(PROMPT, num_frames=3, generator=seeded(0)).frames, exact[:, :3]
    )


def test_duration_counts_frames_at_the_rate_of_the_call(pipe):
    short = {"height": 16, "width": 16, "num_inference_steps": 1}
    assert pipe(PROMPT, duration=0.8, **short).frames.shape[1] == 6
    assert pipe(PROMPT, duration=0.8, fps=10, **short).frames.shape[1] == 8


def test_latents_decode_later_to_what_the_call_gives(pipe):
    video = pipe.decode_latents(run(pipe, num_frames=6), num_frames=6)
    later = pipe.video_processor.postprocess_video(video, "np")
    np.testing.assert_array_equal(later, pipe(PROMPT, generator=seeded(0), num_frames=6).frames)


def test_a_temporal_patch_pads_the_latent_frames(pipe, transformer):
    pipe.transformer = (
        type(transformer).from_config(transformer.config, patch_size=(2, 2, 2)).eval()
    )
    assert run(pipe, num_frames=9).shape[2] == 4
    assert pipe(PROMPT, num_frames=9).frames.shape[1] == 9


def test_the_prompt_and_the_negative_prompt_matter(pipe):
    base = run(pipe)
    assert (run(pipe, OTHER) - base).abs().max() > 1e-3
    assert (run(pipe, negative_prompt="snow") - base).abs().max() > 1e-3


def test_every_prompt_of_a_batch_gets_its_own_text_and_seed(pipe):
    batch = run(pipe, [PROMPT, OTHER, PROMPT], seed=5, negative_prompt=["snow", "sky", "snow"])
    for i, (prompt, negative) in enumerate([(PROMPT, "snow"), (OTHER, "sky"), (PROMPT, "snow")]):
        assert torch.equal(batch[i], run(pipe, prompt, seed=5 + i, negative_prompt=negative)[0])


def test_a_seed_is_one_video_in_any_order_and_from_any_list(pipe):
    one, two = run(pipe, seed=1), run(pipe, OTHER, seed=2)
    options = {"generator": [seeded(2), seeded(1)], "output_type": "latent"}
    swapped = pipe([OTHER, PROMPT], **options).frames
    assert torch.equal(swapped, torch.cat([two, one]))
    video = pipe([OTHER, PROMPT], **options | {"output_type": "np"}).frames
    np.testing.assert_array_equal(video[1], pipe(PROMPT, generator=seeded(1)).frames[0])


def test_a_generator_stands_for_its_seed_not_for_its_state(pipe):
    generator = seeded(3)
    first = pipe(PROMPT, generator=generator, output_type="latent").frames
    torch.randn(100, generator=generator)
    assert torch.equal(pipe(PROMPT, generator=generator, output_type="latent").frames, first)


def test_without_a_generator_every_call_differs_and_follows_the_global_seed(pipe):
    torch.manual_seed(0)
    first, second = (pipe(PROMPT, output_type="latent").frames for _ in range(2))
    assert not torch.equal(first, second)
    torch.manual_seed(0)
    assert torch.equal(pipe(PROMPT, output_type="latent").frames, first)


def test_several_videos_of_a_prompt_stand_next_to_each_other(pipe):
    both = run(pipe, [PROMPT, OTHER], num_videos_per_prompt=2)
    assert torch.equal(both[1], run(pipe, seed=1)[0])
    assert torch.equal(both[2], run(pipe, OTHER, seed=2)[0])


def test_offload_hooks_do_not_change_the_video(pipe):
    plain = pipe(PROMPT, generator=seeded(0)).frames
    pipe.enable_model_cpu_offload(device="cpu")
    np.testing.assert_array_equal(pipe(PROMPT, generator=seeded(0)).frames, plain)


def test_hooks_are_freed_at_the_end(pipe, monkeypatch):
    calls = []
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: calls.append("freed"))
    run(pipe)
    assert calls == ["freed"]


def test_given_latents_replace_the_noise(pipe):
    noise = torch.randn(1, 8, 3, 4, 6, generator=seeded(0))
    first = pipe(PROMPT, latents=noise, output_type="latent").frames
    assert torch.equal(first, run(pipe, seed=9, latents=noise))
    assert torch.equal(first, run(pipe, seed=0))


def test_embeddings_stand_for_their_prompts(pipe):
    prompt_embeds, negative_prompt_embeds = pipe.encode_prompt(PROMPT, "snow")
    given = run(
        pipe, None, prompt_embeds=prompt_embeds, negative_prompt_embeds=negative_prompt_embeds
    )
    assert torch.equal(given, run(pipe, negative_prompt="snow"))
    pipe.tokenizer = pipe.text_encoder = None
    with pytest.raises(UserError, match="no text encoder: give"):
        run(pipe, None, prompt_embeds=prompt_embeds)


def test_callbacks_see_and_change_the_tensors_and_the_guidance(pipe):
    seen = []

    def callback(pipe, step, timestep, tensors):
        seen.append((step, float(timestep), set(tensors), pipe.guidance_scale))
        pipe._guidance_scale += 1
        return {"latents": torch.zeros_like(tensors["latents"])} if step == 1 else {}

    names = ["latents", "prompt_embeds", "negative_prompt_embeds"]
    latents = run(pipe, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert seen == [(0, 1000.0, set(names), 4.0), (1, 750.0, set(names), 5.0)]
    assert not latents.any()
    assert pipe.num_timesteps == 2 and pipe.current_timestep is None


def text_calls(pipe) -> Counter:
    """How often text is embedded, and projected by the first block, from now on."""
    embedder, attention = pipe.transformer.condition_embedder, pipe.transformer.blocks[0].attn2
    calls = Counter()
    for name, part in {"embed": embedder.text_embedder, "project": attention.to_k}.items():
        part.register_forward_hook(lambda *_, name=name: calls.update([name]))
    return calls


@pytest.mark.parametrize(
    ("options", "cached", "calls"),
    [
        ({}, False, 2),  # each sample with both conditions
        ({"cfg_mode": "sequential"}, False, 4),
        ({"guider": ClassifierFreeGuidance(guidance_scale=4.0)}, False, 4),
        ({}, True, 2),  # each condition with both samples
    ],
)
def test_text_goes_through_the_transformer_once_a_run(pipe, monkeypatch, options, cached, calls):
    if cached:
        pipe.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    options |= {"prompt": [PROMPT, OTHER], "num_inference_steps": 3}
    seen = text_calls(pipe)
    kept = run(pipe, **options)
    assert seen == {"embed": calls, "project": calls}
    monkeypatch.setattr(KVCache, "get", lambda _, layer, text, compute: compute(text))
    assert torch.equal(kept, run(pipe, **options))
    assert seen == {"embed": 4 * calls, "project": 4 * calls}


def other_text(pipe, *_):
    embeds, _ = pipe.encode_prompt(OTHER, do_classifier_free_guidance=False)
    return {"prompt_embeds": embeds}


def text_in_place(pipe, step, timestep, tensors):
    tensors["prompt_embeds"].neg_()
    return {}


def no_adapters(pipe, *_):
    pipe.transformer.disable_adapters()
    return {}


@pytest.mark.parametrize("callback", [other_text, text_in_place, no_adapters])
def test_text_a_callback_changes_is_not_kept(pipe, monkeypatch, callback):
    pipe.transformer.add_adapter(LoraConfig(init_lora_weights=False, target_modules=["to_k"]))
    options = {"callback_on_step_end": callback, "num_inference_steps": 3}
    options["callback_on_step_end_tensor_inputs"] = ["prompt_embeds"]
    plain = run(pipe, num_inference_steps=3)
    changed = run(pipe, **options)
    assert (changed - plain).abs().max() > 1e-3
    pipe.transformer.enable_adapters()
    monkeypatch.setattr(KVCache, "get", lambda _, layer, text, compute: compute(text))
    assert torch.equal(changed, run(pipe, **options))


def test_text_is_kept_while_someone_watches(pipe):
    watched = []
    generator = T2VGenerator(pipe)
    conditions = generator.encode([PROMPT], generator.defaults)
    seen = text_calls(pipe)
    latents = generator.generate(
        conditions, generator.defaults, [0], watch=lambda step: watched.append(step)
    )
    assert seen == {"embed": 1, "project": 1}
    assert [step.number for step in watched] == [1, 2] and watched[1].latents is latents
    assert torch.equal(latents, run(pipe))
    run(pipe, callback_on_step_end=lambda *_: {})
    assert seen == {"embed": 4, "project": 4}


def test_guidance_follows_what_a_callback_sets(pipe):
    def double(pipe, *_):
        pipe._guidance_scale = 8.0
        return {}

    base = run(pipe, guidance_scale=2.0)
    assert (run(pipe, guidance_scale=2.0, callback_on_step_end=double) - base).abs().max() > 1e-3
    cutoff = SDCFGCutoffCallback(cutoff_step_ratio=0.5)
    assert run(pipe, callback_on_step_end=cutoff).shape == base.shape


def test_interrupt_stops_after_the_step(pipe):
    steps = []

    def stop(pipe, step, timestep, tensors):
        steps.append(step)
        pipe._interrupt = True
        return {}

    stopped = run(pipe, num_inference_steps=5, callback_on_step_end=stop)
    assert steps == [0]
    assert (stopped - run(pipe, num_inference_steps=5)).abs().max() > 1e-3


def test_guidance_of_one_is_the_plain_conditional(pipe):
    plain = run(pipe, guidance_scale=1.0)
    assert torch.equal(plain, run(pipe, guidance_scale=0.0, negative_prompt="snow"))
    almost = run(pipe, guidance_scale=1.0 + 1e-6, negative_prompt="snow")
    torch.testing.assert_close(almost, plain, atol=1e-4, rtol=1e-4)
    same = run(pipe, guidance_scale=9.0, negative_prompt=PROMPT)
    torch.testing.assert_close(same, plain, atol=1e-4, rtol=1e-4)


def test_batched_guidance_equals_sequential(pipe):
    options = {"prompt": [PROMPT, OTHER], "negative_prompt": ["snow", "sky"]}
    batched = run(pipe, cfg_mode="batched", **options)
    sequential = run(pipe, cfg_mode="sequential", **options)
    torch.testing.assert_close(batched, sequential, atol=1e-4, rtol=1e-4)
    assert torch.equal(
        batched[1:], run(pipe, OTHER, seed=1, negative_prompt="sky", cfg_mode="batched")
    )


def test_a_guider_takes_the_place_of_guidance(pipe):
    guided = run(pipe, guider=ClassifierFreeGuidance(guidance_scale=4.0), guidance_scale=1.0)
    torch.testing.assert_close(guided, run(pipe, guidance_scale=4.0), atol=1e-4, rtol=1e-4)


SCHEDULERS = {
    "flow euler": FlowMatchEulerDiscreteScheduler(shift=3.0),
    "flow euler, dynamic": FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    "flow euler, stochastic": FlowMatchEulerDiscreteScheduler(stochastic_sampling=True),
    "flow heun": FlowMatchHeunDiscreteScheduler(shift=3.0),
    "flow unipc": UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "flow dpm": DPMSolverMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    ),
    "v": DDIMScheduler(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    ),
    "epsilon": DDIMScheduler(prediction_type="epsilon", clip_sample=False),
    "euler": EulerDiscreteScheduler(prediction_type="epsilon"),
}


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers under numpy 2
@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_kind_of_scheduler_samples_and_keeps_seeds(pipe, name):
    pipe.scheduler = SCHEDULERS[name]
    batch = run(pipe, [PROMPT, OTHER], num_inference_steps=3)
    assert batch.isfinite().all() and batch.std() > 0
    assert torch.equal(batch[1], run(pipe, OTHER, seed=1, num_inference_steps=3)[0])


def test_own_sigmas_set_the_times(pipe):
    seen = []

    def watch(pipe, step, timestep, tensors):
        seen.append(float(timestep))
        return {}

    run(pipe, sigmas=[1.0, 0.5, 0.25], callback_on_step_end=watch)
    assert seen == [1000.0, 750.0, 500.0]  # the scheduler's shift of 3 applies


def test_a_wan_vae_takes_the_place_of_ours(pipe):
    pipe.vae = AutoencoderKLWan(
        base_dim=3, z_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1,
        latents_mean=[0.0] * 8, latents_std=[1.0] * 8,
    ).eval()  # fmt: skip
    assert pipe(PROMPT, num_frames=6).frames.shape == (1, 6, 32, 48, 3)


def test_half_precision_keeps_the_latents_whole(pipe):
    pipe.to(torch.bfloat16)
    assert run(pipe).dtype == torch.float32
    assert np.isfinite(pipe(PROMPT).frames).all()


def test_long_prompts_are_refused_or_cut_as_asked(pipe, caplog):
    long = PROMPT + " grass" * 20
    with pytest.raises(UserError, match="takes 28 tokens and 12 fit"):
        run(pipe, long)
    with pytest.raises(UserError, match="takes 28 tokens and 16 fit"):
        run(pipe, long, max_sequence_length=16, truncate=False)
    cut = run(pipe, long, truncate=True)
    assert "16 of 28 tokens were cut off" in caplog.text
    assert torch.equal(cut, run(pipe, PROMPT + " grass" * 4))
    assert run(pipe, long, max_sequence_length=12).shape == cut.shape
    assert pipe.count_tokens(long) == (28, 12)


def test_words_never_seen_are_named(pipe, caplog):
    run(pipe, "a red zebra bounces on the Moon, a zebra")
    assert "not trained on: zebra, moon" in caplog.text
    assert pipe.unknown_words(PROMPT) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"height": 40}, "height=40: .* multiples of 16. Nearest: 32 or 48"),
        ({"width": 8}, "width=8: .* Nearest: 16"),
        ({"height": 0}, "height=0: .* Nearest: 16"),
        ({"height": -16}, "height=-16: .* Nearest: 16"),
        ({"fps": 0}, "fps=0"),
        ({"num_frames": 0}, "num_frames=0: give more than 0"),
        ({"num_frames": 9, "duration": 1.0}, "give one of them"),
        ({"duration": float("nan")}, "duration=nan"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"num_videos_per_prompt": 0}, "num_videos_per_prompt=0: give at least 1"),
        ({"prompt": None}, "No prompt: give prompt or"),
        ({"prompt": []}, "at least one"),
        ({"prompt": 3}, "prompt=3: give a text"),
        ({"prompt": [PROMPT, None]}, "give a text"),
        ({"prompt_embeds": torch.zeros(1, 12, 32)}, "prompt and prompt_embeds are both given"),
        ({"negative_prompt": ["snow", "sky"]}, "Give one for all or one each"),
        ({"generator": [seeded(0)] * 2}, "2 generators for 1 videos"),
        ({"latents": torch.zeros(1, 8, 2, 4, 6)}, r"need \(1, 8, 3, 4, 6\)"),
        ({"callback_on_step_end_tensor_inputs": ["noise"]}, "choose from"),
        ({"sigmas": []}, "sigmas"),
    ],
)
def test_a_mistake_is_answered_with_the_way_out(pipe, options, message):
    with pytest.raises(UserError, match=message):
        pipe(**{"prompt": PROMPT} | options)


def test_a_scheduler_without_sigmas_says_so(pipe):
    pipe.scheduler = SCHEDULERS["v"]
    with pytest.raises(UserError, match="DDIMScheduler takes no sigmas"):
        run(pipe, sigmas=[1.0, 0.5])
