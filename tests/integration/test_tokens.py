"""Token generators, masked and autoregressive: trained, sampled, resumed, tuned and planned."""

from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file

from t2v.cli import main
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.models import VAEConfig
from t2v.config.training import TasksConfig, TrainVAEConfig
from t2v.errors import UserError
from t2v.families.load import generator_class, load_generator
from t2v.models.code_schedulers import code_scheduler
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.vae import AutoencoderKLT2V
from t2v.pipelines.generator import Start, sample_videos
from t2v.pipelines.token_generator import TokenGenerator
from t2v.pipelines.tokens import T2VTokenPipeline
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.dit import build_dit, train_dit
from t2v.training.tasks.finetune import finetune
from t2v.training.tasks.vae import build_vae, train_vae

CODES = 32
KINDS = ("masked", "autoregressive")
ALL_TASKS = {"masked": TasksConfig(text=1, first=1, prefix=1, ends=1, between=1, region=1)}
LAYOUT = {"masked": "full", "autoregressive": "causal"}
TAKES = {
    "masked": {"image", "mask", "video", "last_image", "conditions"},
    "autoregressive": {"image", "video"},
}
PROMPTS = ["a red ball", "the blue box rolls", "snow"]


def weights_of(checkpoint):
    paths = sorted(Path(checkpoint).rglob("*.safetensors"))
    return [tensor for path in paths for _, tensor in sorted(load_file(path).items())]


def same(one, other):
    return all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


@pytest.fixture
def code_vae(wake):
    config = VAEConfig(
        latent_channels=8, patch_size=(2, 4, 4), block_out_channels=(16, 16),
        temporal_downsample=(True,), quantizer="lfq", codebook_size=CODES,
    )  # fmt: skip
    spread = {
        "latents_mean": [i / 8 for i in range(8)],
        "latents_std": [1 + i / 8 for i in range(8)],
    }
    return wake(AutoencoderKLT2V(**asdict(config), **spread), seed=2)


@pytest.fixture
def make(code_vae, tokenizer, text_encoder, wake):
    """Makes a pipeline of a kind, of woken weights."""

    def made(kind):
        torch.manual_seed(0)
        transformer = T2VTransformer3DModel(
            patch_size=(1, 2, 2), num_attention_heads=2, attention_head_dim=16, in_channels=8,
            out_channels=12, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=2,
            attention=LAYOUT[kind], codebook_size=CODES, conditioning="tokens",
            picture_tokens=kind == "masked",
        )  # fmt: skip
        wake(transformer, seed=1)
        transformer.code_head.to_scores.weight.data.mul_(4)  # so that scores differ
        transformer.code_head.take_table(code_vae)
        pipe = T2VTokenPipeline(
            tokenizer=tokenizer, text_encoder=text_encoder, transformer=transformer, vae=code_vae,
            scheduler=code_scheduler(kind, CODES), fps=8, height=32, width=48, num_frames=9,
            num_inference_steps=3 if kind == "masked" else 1, guidance_scale=3.0,
            max_sequence_length=12,
        )  # fmt: skip
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return made


def codes_of(pipe, latents):
    """The codes of latents, each of which is one of the table."""
    codes = pipe.transformer.code_head.codes(latents)
    assert latents.equal(pipe.transformer.code_head.latents(codes))
    return codes


def made(pipe, prompt=PROMPTS[0], seed=0, **given):
    generator = torch.Generator().manual_seed(seed)
    return pipe(prompt, generator=generator, output_type="latent", **given).frames


def encoded(pipe, frames):
    """The codes of frames `t h w c`."""
    video = torch.from_numpy(frames).permute(0, 3, 1, 2) / 255
    return pipe.transformer.code_head.codes(pipe.encode_frames(video))


def clip(frames=9, seed=5):
    noise = torch.rand(1, 3, 2, 2, 2, generator=torch.Generator().manual_seed(seed))
    video = torch.nn.functional.interpolate(noise, size=(frames, 32, 48), mode="trilinear")
    return (video[0].permute(1, 2, 3, 0).numpy() * 255).astype(np.uint8)


@pytest.mark.parametrize("kind", KINDS)
def test_a_call_gives_codes_by_seed_prompt_and_guidance(make, kind):
    pipe = make(kind)
    latents = made(pipe)
    assert latents.shape == (1, 8, 3, 4, 6)
    codes_of(pipe, latents)
    assert made(pipe).equal(latents) and not made(pipe, seed=1).equal(latents)
    assert not made(pipe, PROMPTS[1]).equal(latents)
    assert not made(pipe, guidance_scale=1.0).equal(latents)
    frames = pipe(PROMPTS[0], generator=torch.Generator().manual_seed(0)).frames
    assert frames.shape == (1, 9, 32, 48, 3) and np.isfinite(frames).all()
    if kind == "masked":
        assert not made(pipe, num_inference_steps=5).equal(latents)


@pytest.mark.parametrize("kind", KINDS)
def test_a_video_does_not_depend_on_its_batch(make, kind):
    generator = TokenGenerator(make(kind))
    request = generator.defaults
    alone = [
        list(sample_videos(generator, [p], [s], request))
        for p, s in zip(PROMPTS, range(3), strict=True)
    ]
    together = list(sample_videos(generator, PROMPTS, range(3), request, batch_size=3))
    assert torch.cat([each for one in alone for each in one]).equal(torch.cat(together))


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_pipeline_is_found_by_its_name(make, kind, tmp_path):
    pipe = make(kind)
    pipe.save_pretrained(tmp_path)
    assert generator_class("x", tmp_path, "t2v eval", ["is_trainable"]) is TokenGenerator
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert isinstance(again, T2VTokenPipeline)
    again.set_progress_bar_config(disable=True)
    assert made(again).equal(made(pipe))
    loaded = load_generator("x", tmp_path, torch.device("cpu"), torch.float32, "t2v sample")
    assert loaded.can_resume == (kind == "masked")
    wanted = {
        "masked": {"image", "mask", "video", "last_image", "conditions"},
        "autoregressive": {"image", "video"},
    }
    assert loaded.takes == wanted[kind]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_keeps_its_codes(make, kind):
    pipe, video = make(kind), clip()
    first = pipe.transformer.code_head.codes(
        pipe.encode_frames(torch.from_numpy(video[:1]).permute(0, 3, 1, 2) / 255)
    )
    codes = codes_of(pipe, made(pipe, image=video[0]))
    assert codes[:, :1].equal(first)
    goes_on = codes_of(pipe, made(pipe, video=video[:5], num_frames=9))
    whole = pipe.transformer.code_head.codes(
        pipe.encode_frames(torch.from_numpy(video[:5]).permute(0, 3, 1, 2) / 255)
    )
    assert goes_on[:, :2].equal(whole)
    assert not goes_on.equal(codes)
    mask = np.zeros((32, 48, 3), np.uint8)
    mask[:, 32:] = 255
    if kind == "autoregressive":
        with pytest.raises(UserError, match="goes on from first frames alone"):
            made(pipe, video=video, mask=mask)
        return
    kept = codes_of(pipe, made(pipe, video=video, mask=mask))
    source = pipe.transformer.code_head.codes(
        pipe.encode_frames(torch.from_numpy(video).permute(0, 3, 1, 2) / 255)
    )
    assert kept[..., :4].equal(source[..., :4]) and not kept[..., 4:].equal(source[..., 4:])


def test_a_masked_video_goes_on_at_any_step_to_the_bit(make):
    generator, seen = TokenGenerator(make("masked")), []
    request = replace(generator.defaults, num_inference_steps=4)
    conditions = generator.encode([PROMPTS[0]], request)
    whole = generator.generate(conditions, request, [7], seen.append)
    assert [each.number for each in seen] == [1, 2, 3, 4] and seen[-1].latents.equal(whole)
    left = [
        int(
            (each.latents == generator.pipeline.transformer.code_head.unknown[:, None, None, None])
            .all(dim=1)
            .sum()
        )
        for each in seen
    ]
    assert left == sorted(left, reverse=True) and left[-1] == 0 and left[0] > 0
    for number in (1, 2, 3, 4):
        start = Start(seen[number - 1].latents, number)
        assert generator.generate(conditions, request, [7], start=start).equal(whole)


def test_a_callback_sees_codes_and_may_change_them(make):
    pipe, head = make("masked"), None
    head = pipe.transformer.code_head

    left = []

    def first_is_seven(pipeline, index, t, tensors):
        latents = tensors["latents"].clone()
        left.append(int((head.codes_so_far(latents) == CODES).sum()))
        latents[:, :, 0, 0, 0] = head.table[7]
        return {"latents": latents}

    latents = made(pipe, callback_on_step_end=first_is_seven)
    assert codes_of(pipe, latents)[0, 0, 0, 0] == 7
    assert left[0] > left[1] > left[2] == 0  # what is masked stays so


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"video": clip(), "strength": 0.5}, "has no noise"),
        ({"sigmas": [1.0, 0.5]}, "has no noise"),
        ({"image_guidance_scale": 2.0}, "image_guidance_scale=2"),
        ({"num_inference_steps": 0}, "num_inference_steps=0"),
        ({"latents": torch.zeros(1, 8, 2, 4, 6)}, "latents of shape"),
    ],
)
def test_what_codes_cannot_do_is_refused(make, kind, given, said):
    with pytest.raises(UserError, match=said):
        made(make(kind), **given)


def test_steps_of_a_causal_model_are_refused(make):
    with pytest.raises(UserError, match="one code after the other"):
        made(make("autoregressive"), num_inference_steps=8)


@pytest.fixture
def code_config(dit_config, code_vae, tmp_path):
    """Settings of a training by an objective."""
    code_vae.save_pretrained(tmp_path / "codes" / "vae")

    def settings(kind):
        model = replace(
            dit_config.model, codebook_size=CODES, out_channels=12, attention=(LAYOUT[kind],),
            conditioning="tokens", picture_tokens=True,
        )  # fmt: skip
        return replace(
            dit_config, objective=kind, vae=str(tmp_path / "codes"), model=model,
            tasks=ALL_TASKS.get(kind, TasksConfig()), known_noise=0.5 if kind == "masked" else 0.0,
            num_inference_steps=3 if kind == "masked" else 1,
        )  # fmt: skip

    return settings


@pytest.mark.parametrize("kind", KINDS)
def test_trained_and_resumed_equals_trained_to_the_bit_and_is_sampled(
    code_config, kind, tmp_path, capsys
):
    config = code_config(kind)
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=2))
    assert same(whole, train_dit(other))
    head = T2VTokenPipeline.from_pretrained(whole).transformer.code_head
    assert head.table.equal(build_dit(config).model["transformer"].code_head.table)
    film = tmp_path / "film.mp4"
    assert main(["sample", "--model", str(whole), "a red ball", "-o", str(film), "seed=3"]) == 0
    assert film.is_file()
    recipe = film.with_suffix(".json")
    assert '"codes"' not in recipe.read_text()
    again = [
        "sample",
        "--model",
        str(whole),
        "a red ball",
        "-o",
        str(tmp_path / "two.mp4"),
        "seed=3",
    ]
    assert main([*again, "codes.temperature=0.1", "codes.top_k=4"]) == 0
    assert '"top_k": 4' in (tmp_path / "two.json").read_text()
    choice = main([*again, "--overwrite", "codes.choice_temperature=1"])
    assert choice == (0 if kind == "masked" else 2)
    assert main([*again, "codes.top_p=2"]) == 2
    capsys.readouterr()
    assert main(["sample", "--model", str(whole), "a ball", "-o", str(film), "cache=taylor:2"]) == 2
    assert "this one is of codes" in capsys.readouterr().err


def test_a_model_of_codes_is_not_calibrated(make, tmp_path, capsys):
    make("masked").save_pretrained(tmp_path / "model")
    given = ["calibrate", str(tmp_path / "model"), "count=4", "-o", str(tmp_path / "table.json")]
    assert main(given) == 2
    assert "draws codes" in capsys.readouterr().err


def test_a_model_of_latents_draws_no_codes(pipe, tmp_path, capsys):
    pipe.save_pretrained(tmp_path / "model")
    given = ["sample", "--model", str(tmp_path / "model"), "a ball", "codes.top_k=4"]
    assert main([*given, "-o", str(tmp_path / "film.mp4")]) == 2
    assert "codes.top_k=4: a T2VPipeline with a" in capsys.readouterr().err


def test_condition_dropout_empties_captions_and_what_is_given(code_config):
    task = build_dit(replace(code_config("masked"), caption_dropout=1.0, known_dropout=1.0 - 1e-6))
    batch = task.read(0)
    assert batch.given is None and (batch.lengths <= 1).all()


def test_a_masked_step_tells_its_three_losses(code_config):
    task = build_dit(code_config("masked"))
    loss, parts = task.loss(task.batch(1), torch.Generator().manual_seed(0))
    assert set(parts) == {"mask", "refine", "reconstruct"} and loss > 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_latents_becomes_one_of_codes(code_config, dit_config, kind, tmp_path):
    plain = train_dit(replace(dit_config, output=str(tmp_path / "plain")))
    task = build_dit(replace(code_config(kind), start_from=str(plain)))
    assert task.model["transformer"].config.codebook_size == CODES
    train_dit(replace(code_config(kind), start_from=str(plain), steps=2))


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_of_codes_takes_a_lora(make, clips, kind, tmp_path):
    pipe = make(kind)
    pipe.register_to_config(num_frames=5, height=16, width=32)
    pipe.save_pretrained(tmp_path / "base")
    tuned = finetune(
        FinetuneConfig(
            device="cpu",
            model=str(tmp_path / "base"),
            data=str(clips),
            output=str(tmp_path / "tuned"),
            lora=LoRAConfig(rank=2, alpha=4),
            steps=2,
            batch_size=2,
            held_out=3,
            save_every=2,
            validate_every=2,
            precision="fp32",
            base_ratio=0.0,
        )
    )
    before = made(pipe, num_frames=5, height=16, width=32)
    pipe.load_lora_weights(tuned)
    assert made(pipe, num_frames=5, height=16, width=32).shape == before.shape


@pytest.mark.parametrize("kind", KINDS)
def test_plans_count_the_steps_of_codes(code_config, make, kind, tmp_path, capsys):
    size = Size(batch=2, frames=5, height=32, width=32, tokens=6)
    config = code_config(kind)
    assert estimate(config, size, UNKNOWN).phases
    make(kind).save_pretrained(tmp_path / "model")
    assert main(["plan", "sample", f"model={tmp_path / 'model'}"]) == 0
    assert "denoise" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("kind", "changed", "said"),
    [
        ("masked", {"codebook_size": 64}, "give a VAE|one of 32"),
        ("masked", {"codebook_size": 0}, "give the number of codes"),
        ("masked", {"attention": ("causal",)}, "depends on all the rest"),
        ("autoregressive", {"attention": ("full",)}, "no token may see a later one"),
        ("masked", {"learned_tokens": 4}, "learned_tokens=4"),
    ],
)
def test_settings_that_make_no_token_generator_are_refused(code_config, kind, changed, said):
    config = code_config(kind)
    with pytest.raises(UserError, match=said):
        build_dit(replace(config, model=replace(config.model, **changed)))


def test_tasks_that_an_objective_has_not_are_refused(code_config):
    with pytest.raises(UserError, match=r"tasks\.frames=1: codes have no noise level"):
        replace(code_config("masked"), tasks=TasksConfig(frames=1))
    with pytest.raises(UserError, match=r"tasks\.region=1: it goes on from any first codes"):
        replace(code_config("autoregressive"), tasks=TasksConfig(region=1))
    with pytest.raises(UserError, match="objective=masked or autoregressive"):
        replace(code_config("masked"), objective="flow")


@pytest.mark.parametrize("quantizer", [("vq", 16), ("lfq", 16), ("fsq", 64)])
def test_a_vae_with_a_quantizer_learns_and_resumes_to_the_bit(vae_config, quantizer, tmp_path):
    kind, size = quantizer
    model = replace(vae_config.model, quantizer=kind, codebook_size=size)
    plain = train_vae(replace(vae_config, output=str(tmp_path / "plain"), steps=2))
    config: TrainVAEConfig = replace(vae_config, model=model, start_from=str(plain))
    whole = train_vae(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_vae(replace(other, steps=2))
    assert same(whole, train_vae(other))
    task = build_vae(replace(config, output=str(tmp_path / "third")))
    task.prepare()
    figures = task.validate().figures
    assert 0 < figures["val_codes_used"] <= 1 <= figures["val_perplexity"] <= size
