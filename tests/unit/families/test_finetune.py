"""Fine-tuning of other packages' pipelines: what learns is what their own call computes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline, FlowMatchEulerDiscreteScheduler
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file

from t2v.config.data import ClipsConfig
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.training import OptimConfig, SheetConfig
from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.models.schedule import dynamic_shift
from t2v.models.text import encode_prompts
from t2v.training.tasks.family import build_any, finetune_any
from t2v.training.tasks.ltx import LENGTH, LTXText, LTXTransformer, shift_of

from .tiny import build

PROMPT = "a red ball rolls"


@pytest.fixture
def pipe(tokenizer, text_encoder, wake):
    pipe = build("ltx", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def config(pipe, media, tmp_path):
    pipe.save_pretrained(tmp_path / "base")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(media), output=str(tmp_path / "tuned"),
        clips=ClipsConfig(
            fps=8, resolution=64, num_frames=9, aspects=("1:1",), lengths=(9,), max_upscale=2.0,
            workers=1,
        ),
        lora=LoRAConfig(rank=2, alpha=4), steps=4, batch_size=2, held_out=2, save_every=2,
        validate_every=4, precision="fp32", sheet=SheetConfig(steps=2), tracker="none",
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


@torch.no_grad()
def test_the_transformer_and_the_text_of_a_step_are_those_of_the_call(pipe):
    seen = []
    pipe.transformer.register_forward_hook(
        lambda _, args, given, out: seen.append((given, out[0])), with_kwargs=True
    )
    sizes = dict(height=64, width=96, num_frames=17, frame_rate=8.0)
    pipe(PROMPT, **sizes, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    ((given, velocity),) = seen
    text = encode_prompts(pipe.tokenizer, LTXText(pipe, LENGTH), [PROMPT], LENGTH)
    kept = given["encoder_attention_mask"][0].bool()
    torch.testing.assert_close(text[0, kept], given["encoder_hidden_states"][0, kept])
    shape = {"t": 3, "h": 2, "w": 3}
    latents = rearrange(given["hidden_states"], "b (t h w) c -> b c t h w", **shape)
    found = LTXTransformer(pipe, fps=8.0)(latents, given["timestep"], text)[0]
    wanted = rearrange(velocity, "b (t h w) c -> b c t h w", **shape)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, max_shift=2.05)
    shift = shift_of(pipe, 2048)
    pipe.scheduler.set_timesteps(sigmas=[0.5], mu=dynamic_shift(pipe.scheduler, 2048))
    assert pipe.scheduler.sigmas[0].item() == pytest.approx(shift / (1 + shift))


def test_a_lora_of_ltx_learns_resumes_and_loads_in_diffusers(config, tmp_path):
    whole = finetune_any(config)
    other = replace(config, output=str(tmp_path / "other"))
    finetune_any(replace(other, steps=2))
    resumed = finetune_any(other)
    for path in whole.rglob("*.safetensors"):
        theirs = load_file(resumed / path.relative_to(whole))
        assert all(torch.equal(each, theirs[name]) for name, each in load_file(path).items())
    where = torch.device("cpu")
    generator = load_generator(str(whole), whole, where, torch.float32, "t2v sample")
    plain = DiffusionPipeline.from_pretrained(config.model)
    before = plain.transformer.state_dict()
    after = generator.pipeline.transformer.state_dict()
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(".to_" in name for name in changed)
    plain.load_lora_weights(whole)
    plain.fuse_lora()
    plain.unload_lora_weights()
    for name, weight in plain.transformer.state_dict().items():
        torch.testing.assert_close(weight, after[name], atol=1e-6, rtol=1e-5)
    asked = replace(
        generator.defaults, height=64, width=64, num_frames=9, num_inference_steps=2, fps=8
    )
    prompts = build_any(config).prompts
    frames = []
    for prompt in prompts:
        latents = generator.generate(generator.encode([prompt], asked), asked, [config.seed])
        frames.append(generator.decode(latents, 9)[0])
    with Image.open(whole.parent / "sheets" / "000004.png") as sheet:
        drawn = np.array(sheet)
    shown = [rearrange(each[[0, 2, 4, 6, 8]], "t h w c -> h (t w) c") for each in frames]
    apart = np.abs(drawn.astype(int) - np.concatenate(shown))
    assert apart.max() <= 1 and apart.mean() < 0.01  # files and memory are aligned otherwise


def test_what_ltx_does_not_learn_is_one_message(config):
    with pytest.raises(UserError, match=r"method=full: a LTXPipeline learns from clips and"):
        build_any(replace(config, method="full"))
