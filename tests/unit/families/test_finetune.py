"""Fine-tuning of other packages' pipelines: what learns is what their own call computes."""

import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from diffusers import (
    CogVideoXDPMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
)
from einops import rearrange
from PIL import Image
from safetensors.torch import load_file

from t2v.config.data import ClipsConfig
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.training import OptimConfig, SheetConfig
from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.models.lora import load_lora
from t2v.models.schedule import dynamic_shift
from t2v.models.text import encode_prompts
from t2v.training.tasks.family import build_any, finetune_any
from t2v.training.tasks.ltx import LENGTH, LTXText, LTXTransformer, shift_of

from .tiny import build, cogvideox_parts

PROMPT = "a red ball rolls"


@pytest.fixture
def text(tokenizer, text_encoder):
    return {"tokenizer": tokenizer, "text_encoder": text_encoder}


@pytest.fixture
def films(media):
    """Clips that all fit: others would be tried anew at each loading, in a process of their own."""
    for path in media.glob("[!0-5]*"):
        path.unlink()
    return media


@pytest.fixture
def pipe(text, wake):
    return build("ltx", text, wake)


def cog(kind, text, wake):
    """CogVideoX with the noise that its authors have: 2B, 5B with rotary positions, 1.5."""
    pipe = build("cogvideox_15" if kind == "1.5" else "cogvideox", text, wake)
    if kind == "5B":
        parts = cogvideox_parts(use_rotary_positional_embeddings=True)
        pipe.register_modules(transformer=wake(parts["transformer"]))
    pipe.scheduler = CogVideoXDPMScheduler(
        prediction_type="v_prediction", rescale_betas_zero_snr=True, beta_start=0.00085,
        beta_end=0.012, timestep_spacing="trailing", snr_shift_scale=3.0 if kind == "2B" else 1.0,
    )  # fmt: skip
    return pipe


def config_of(pipe, media, tmp_path, size):
    pipe.save_pretrained(tmp_path / "base")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(media), output=str(tmp_path / "tuned"),
        clips=ClipsConfig(
            fps=8, resolution=size, num_frames=9, aspects=("1:1",), lengths=(9,), max_upscale=2.0,
            workers=1,
        ),
        lora=LoRAConfig(rank=2, alpha=4), steps=2, batch_size=2, held_out=2, save_every=1,
        validate_every=2, precision="fp32", sheet=SheetConfig(steps=2), tracker="none",
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


def resumed(whole, config):
    """The last checkpoint of a run that goes on from the first one of `whole`."""
    other = whole.parent.with_name("other")
    shutil.copytree(whole.parent, other)
    shutil.rmtree(other / whole.name)
    return finetune_any(replace(config, output=str(other)))


def adapter_of(pipe):
    return [p for name, p in pipe.transformer.named_parameters() if ".lora_" in name]


@pytest.mark.parametrize("kind", ["ltx", "1.5"])
def test_a_lora_learns_resumes_and_loads_in_diffusers_and_in_sampling(
    kind, text, wake, films, tmp_path
):
    pipe = build("ltx", text, wake) if kind == "ltx" else cog(kind, text, wake)
    size = 32
    config = config_of(pipe, films, tmp_path, size)
    whole = finetune_any(config)
    again = resumed(whole, config)
    for path in whole.rglob("*.safetensors"):
        theirs = load_file(again / path.relative_to(whole))
        assert all(torch.equal(each, theirs[name]) for name, each in load_file(path).items())
    where = torch.device("cpu")
    generator = load_generator(str(whole), whole, where, torch.float32, "t2v sample")
    plain = DiffusionPipeline.from_pretrained(config.model)
    before = plain.transformer.state_dict()
    after = generator.pipeline.transformer.state_dict()
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and all(".to_" in name for name in changed)
    assert load_lora(plain, whole, 1.0) > 1e-3
    as_sampled = adapter_of(plain)
    plain.unload_lora_weights()
    plain.load_lora_weights(whole)
    for one, other in zip(adapter_of(plain), as_sampled, strict=True):
        assert torch.equal(one, other)
    plain.fuse_lora()
    plain.unload_lora_weights()
    for name, weight in plain.transformer.state_dict().items():
        torch.testing.assert_close(weight, after[name], atol=1e-6, rtol=1e-5)
    asked = replace(
        generator.defaults, height=size, width=size, num_frames=9, num_inference_steps=2, fps=8
    )
    prompts = build_any(config).prompts
    frames = []
    for prompt in prompts:
        latents = generator.generate(generator.encode([prompt], asked), asked, [config.seed])
        frames.append(generator.decode(latents, 9)[0])
    with Image.open(whole.parent / "sheets" / "000002.png") as sheet:
        drawn = np.array(sheet)
    shown = [rearrange(each[[0, 2, 4, 6, 8]], "t h w c -> h (t w) c") for each in frames]
    apart = np.abs(drawn.astype(int) - np.concatenate(shown))
    assert apart.max() <= 1 and apart.mean() < 0.01  # files and memory are aligned otherwise


def test_what_a_family_does_not_learn_is_one_message(text, wake, films, tmp_path):
    for name, advice in (("Mochi", "a LoRA of CogVideoXPipeline"), ("Wan", "t2v convert .* DST")):
        (tmp_path / "model_index.json").write_text(f'{{"_class_name": "{name}Pipeline"}}')
        with pytest.raises(UserError, match=rf"does not train a {name}Pipeline\..*{advice}\."):
            build_any(FinetuneConfig(model=str(tmp_path), data="x", output="y"))
    config = config_of(cog("2B", text, wake), films, tmp_path, 32)
    with pytest.raises(UserError, match=r"method=full: a CogVideoXPipeline learns from clips and"):
        build_any(replace(config, method="full"))
    with pytest.raises(UserError, match=r"shift=3: a CogVideoXPipeline of v-prediction has no"):
        build_any(replace(config, shift=3.0))
    CogVideoXDPMScheduler(prediction_type="sample").save_pretrained(tmp_path / "base/scheduler")
    with pytest.raises(UserError, match=r"prediction_type=sample: .* takes v_prediction or eps"):
        build_any(config)


@torch.no_grad()
def cog_loss(pipe, encoded, captions, noise, timesteps):
    """The loss of each clip by the arithmetic of diffusers' `train_cogvideox_lora.py`."""
    latents = (encoded * pipe.vae.config.scaling_factor).permute(0, 2, 1, 3, 4)
    if over := latents.shape[1] % (pipe.transformer.config.patch_size_t or 1):
        latents = torch.cat([latents[:, :1].repeat(1, over, 1, 1, 1), latents], dim=1)
    text, _ = pipe.encode_prompt(captions, do_classifier_free_guidance=False)
    rotary, config = None, pipe.transformer.config
    if config.use_rotary_positional_embeddings:
        height, width = (8 * side for side in latents.shape[3:])
        rotary = pipe._prepare_rotary_positional_embeddings(
            height, width, latents.shape[1], torch.device("cpu")
        )
    noise = noise.permute(0, 2, 1, 3, 4)
    noisy = pipe.scheduler.add_noise(latents, noise, timesteps)
    output = pipe.transformer(
        hidden_states=noisy, encoder_hidden_states=text, timestep=timesteps,
        image_rotary_emb=rotary, return_dict=False,
    )[0]  # fmt: skip
    found = pipe.scheduler.get_velocity(output, noisy, timesteps)
    weights = 1 / (1 - pipe.scheduler.alphas_cumprod[timesteps])
    error = weights[:, None, None, None, None] * (found - latents) ** 2
    return error.flatten(1).mean(dim=1)


def test_the_loss_of_cogvideox_is_that_of_diffusers_training(text, wake, films, tmp_path):
    for kind in ("2B", "5B", "1.5"):
        pipe = cog(kind, text, wake)
        task = build_any(config_of(pipe, films, tmp_path, size=32))
        (items,) = task.data.held_out
        clips, t = task.data.clips(items), torch.tensor([0.999, 0.3])
        batch = task._batch(items, *task.captions.first(clips))
        noise = torch.randn(batch.latents.shape)
        captions = [task.data.rows[clip]["caption"] for clip in clips.tolist()]
        encoded = task.data.read(items).float()
        wanted = cog_loss(pipe, encoded, captions, noise, (999 * t).round().long())
        with torch.no_grad():
            found = task._losses(batch, noise, t)
        torch.testing.assert_close(found, wanted.float(), atol=1e-5, rtol=1e-4)
