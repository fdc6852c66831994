"""VAE and transformer training on tiny parts, end to end."""

import json
import shutil
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from t2v.config.models import TransformerConfig, VAEConfig
from t2v.config.training import TasksConfig
from t2v.data.latents import latents_encoder
from t2v.data.world_shards import load_clips, pixels
from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.models.device import ALIGNMENT
from t2v.models.load import load_text
from t2v.models.text import encode_tokens, pad_text
from t2v.models.vae import AutoencoderKLT2V
from t2v.models.vae_folder import load_vae
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.engine.loop import fit, start_state
from t2v.training.engine.significance import copies
from t2v.training.tasks.dit import build_dit, train_dit
from t2v.training.tasks.vae import build_vae, train_vae


def state_of(checkpoint):
    return {
        f"{path.relative_to(checkpoint)}:{name}": tensor
        for path in sorted(checkpoint.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def losses_of(output):
    lines = (output / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_a_batch_larger_than_the_memory_is_refused_before_it_is_made(kind, request):
    config = replace(request.getfixturevalue(f"{kind}_config"), batch_size=10**9)
    with pytest.raises(UserError, match=r"batch_size=1000000000: needs at least [\d,]+ GiB"):
        {"vae": train_vae, "dit": train_dit}[kind](config)


@pytest.mark.parametrize("kind", ["vae", "dit"])
def test_two_and_two_steps_equal_four_to_the_bit(kind, tmp_path, request):
    config = request.getfixturevalue(f"{kind}_config")
    train = {"vae": train_vae, "dit": train_dit}[kind]
    whole = train(config)
    other = replace(config, output=str(tmp_path / "other"))
    train(replace(other, steps=2))
    resumed = train(other)
    a, b = state_of(whole), state_of(resumed)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert losses_of(whole.parent) == losses_of(resumed.parent)


def test_with_tasks_two_and_two_steps_equal_four_to_the_bit(dit_config, tmp_path):
    tasks = TasksConfig(
        text=0.3, image=0.2, first=1, prefix=1, ends=1, region=1, frames=1, pictures=1
    )
    model = replace(dit_config.model, conditioning="tokens", picture_tokens=True)
    config = replace(dit_config, tasks=tasks, model=model, known_noise=0.2, steps=6)
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=3))
    a, b = state_of(whole), state_of(train_dit(other))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert losses_of(whole.parent) == losses_of(Path(other.output))
    saved = T2VPipeline.from_pretrained(whole).transformer
    assert saved.config.conditioning == "tokens" and saved.picture_embedding.any()


def test_a_clip_whose_row_says_so_is_never_learned_from_text_alone(dit_config):
    manifest = Path(dit_config.data, "manifest.jsonl")
    rows = [json.loads(line) for line in manifest.read_text().splitlines()]
    needs = [number % 2 == 0 for number in range(len(rows))]
    rows = [row | {"needs_given": need} for row, need in zip(rows, needs, strict=True)]
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = replace(dit_config.model, conditioning="tokens")
    task = build_dit(replace(dit_config, tasks=TasksConfig(text=9, first=1), model=model))
    seen = Counter()
    for step in range(20):
        clips, batch = task.data.clips(task.data.train.batch(step)).tolist(), task.batch(step)
        given = batch.given.tasks if batch.given else ("text",) * len(clips)
        seen.update(zip((needs[clip] for clip in clips), given, strict=True))
    assert seen[True, "text"] == 0 and seen[True, "first"] > 10 and seen[False, "text"] > 10


def test_tasks_need_a_model_that_takes_known_frames(dit_config):
    with pytest.raises(UserError, match=r"Set model\.conditioning=tokens"):
        replace(dit_config, tasks=TasksConfig(first=1))
    model = replace(dit_config.model, conditioning="tokens")
    with pytest.raises(UserError, match=r"Set model\.picture_tokens=true"):
        replace(dit_config, tasks=TasksConfig(ends=1), model=model)
    with pytest.raises(UserError, match="need a flow"):
        train_dit(
            replace(dit_config, tasks=TasksConfig(frames=1), model=model, objective="epsilon")
        )
    with pytest.raises(UserError, match="Give one of them"):
        replace(
            dit_config,
            tasks=TasksConfig(image=0.2),
            clips=replace(dit_config.clips, image_ratio=0.1),
        )


def test_training_begins_with_a_model_that_takes_no_known_frames_yet(dit_config, tmp_path):
    before = train_dit(dit_config)
    model = replace(dit_config.model, conditioning="tokens", picture_tokens=True)
    tasks = TasksConfig(text=1, first=1)
    config = replace(
        dit_config, start_from=str(before), model=model, tasks=tasks, steps=0,
        output=str(tmp_path / "second"),
    )  # fmt: skip
    a = T2VPipeline.from_pretrained(before).transformer.state_dict()
    b = T2VPipeline.from_pretrained(train_dit(config)).transformer.state_dict()
    assert not b.pop("picture_embedding").any()
    assert all(torch.equal(a[name], b[name]) for name in b) and a.keys() == b.keys()


def test_a_vae_checkpoint_loads_with_the_statistics_of_its_latents(vae_config, clips):
    checkpoint = train_vae(replace(vae_config, precision="fp32"))
    vae = AutoencoderKLT2V.from_pretrained(checkpoint / "vae")
    with torch.no_grad():
        posterior = vae.encode(pixels(load_clips(clips).video[:9])).latent_dist
    axes = (0, 2, 3, 4)
    spread = (posterior.mean.var(dim=axes) + posterior.var.mean(dim=axes)).sqrt()
    mean, std = torch.tensor(vae.config.latents_mean), torch.tensor(vae.config.latents_std)
    torch.testing.assert_close(posterior.mean.mean(dim=axes), mean, atol=1e-4, rtol=1e-4)
    assert std.argmax() == spread.argmax()  # a fainter channel is divided by more than its own
    torch.testing.assert_close((spread * spread.max()).sqrt(), std, atol=1e-4, rtol=1e-4)
    line = json.loads((checkpoint.parent / "metrics.jsonl").read_text().splitlines()[-1])
    assert line["val_psnr"] > 10
    assert line["val_psnr_object"] > 10
    with Image.open(checkpoint.parent / "sheets" / "000004.png") as sheet:
        assert sheet.size == (5 * 32, 2 * 3 * 16)


def test_a_decoder_learns_alone_and_the_latents_stay(vae_config, tmp_path):
    first = train_vae(vae_config)
    with pytest.raises(UserError, match="start_from"):
        replace(vae_config, train_encoder=False)
    alone = replace(vae_config, train_encoder=False, start_from=str(first), seed=5)
    second = train_vae(replace(alone, output=str(tmp_path / "alone")))
    before, after = (AutoencoderKLT2V.from_pretrained(folder / "vae") for folder in (first, second))
    assert before.config.latents_std == after.config.latents_std
    for name, weight in before.state_dict().items():
        same = torch.equal(weight, after.state_dict()[name])
        assert same == (name.startswith("encoder.") or "shortcut" in name)


def test_a_vae_learns_and_sees_images_too(vae_config):
    config = replace(vae_config, steps=30, precision="fp32")
    task = build_vae(config)
    assert {task.batch(step, 0).video.shape[2] for step in range(10)} == {1, 5}
    losses = [metrics.extra["mse"] for metrics in fit(task, config, start_state(task, config))]
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


@pytest.mark.parametrize("attention", ["full", "factorized"])
@pytest.mark.parametrize("objective", ["flow", "v", "epsilon"])
def test_both_layouts_learn_every_objective(dit_config, attention, objective):
    config = replace(
        dit_config, steps=30, batch_size=9, precision="fp32", objective=objective,
        model=replace(dit_config.model, attention=attention),
    )  # fmt: skip
    task = build_dit(config)
    before = task.validate().figures["val_loss"]
    for metrics in fit(task, config, start_state(task, config)):
        assert metrics.loss > 0
    assert task.validate().figures["val_loss"] < 0.97 * before


@pytest.mark.parametrize("attention", [("full", "window"), ("message", "swap")])
def test_a_model_with_other_layouts_starts_from_a_full_one_and_goes_on(
    dit_config, tmp_path, attention
):
    plain = train_dit(replace(dit_config, output=str(tmp_path / "plain"), steps=1))
    config = replace(
        dit_config,
        output=str(tmp_path / "other"),
        start_from=str(plain),
        steps=2,
        save_every=1,
        model=replace(dit_config.model, attention=attention),
    )
    first = train_dit(replace(config, steps=1))
    before, after = (
        T2VPipeline.from_pretrained(each).transformer.state_dict() for each in (plain, first)
    )
    assert before.keys() <= after.keys()
    assert all((after[name] - before[name]).abs().max() < 0.2 for name in before)
    went_on = T2VPipeline.from_pretrained(train_dit(config)).transformer
    assert tuple(went_on.config.attention) == attention
    last = went_on.blocks[-1]
    if attention[1] == "swap":  # its projections are those of attn1, moved by two steps
        moved = last.attn_swap.to_q.weight - before["blocks.1.attn1.to_q.weight"]
        assert moved.abs().max() < 0.2 and last.attn_swap.to_out[0].weight.any()


def test_a_transformer_checkpoint_is_a_pipeline_that_draws_the_same_sheet(dit_config):
    checkpoint = train_dit(dit_config)
    pipe = T2VPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    assert pipe.config.num_frames == 5
    assert pipe.scheduler.config.shift == dit_config.shift
    alone = [
        pipe(prompt, generator=torch.Generator().manual_seed(dit_config.seed), output_type="pt")
        for prompt in dit_config.prompts
    ]
    frames = torch.cat([each.frames for each in alone])
    with Image.open(checkpoint.parent / "sheets" / "000004.png") as sheet:
        drawn = torch.frombuffer(bytearray(sheet.tobytes()), dtype=torch.uint8)
    expected = (frames.permute(0, 3, 1, 4, 2).reshape(-1) * 255).round().to(torch.uint8)
    assert torch.equal(drawn, expected)


def test_a_sample_of_a_training_is_what_t2v_sample_draws_from_the_checkpoint(
    dit_config, sampled_later
):
    config = replace(dit_config, seed=7)
    checkpoint = train_dit(config)
    with Image.open(checkpoint.parent / "sheets" / "000004.png") as sheet:
        drawn = torch.from_numpy(np.array(sheet))
    assert torch.equal(drawn, sampled_later(checkpoint, 7, config.prompts))


def test_a_transformer_is_told_how_near_its_samples_are_to_what_it_was_trained_on(dit_config):
    task = build_dit(dit_config)
    trained = task._latents(task.data.training(64)[0])
    held_out = task._latents(task.data.held_out[0])

    def near(samples):
        return copies(samples, iter([trained]), iter([held_out]))

    copied = near(trained[:2] + 1e-3)
    named = {name for name in task.validate().figures if name.startswith("val_")}
    assert set(copied) <= named
    assert copied["val_memorised"] == 1
    assert copied["val_nearest"] < 2e-3 < copied["val_nearest_held_out"]
    assert near(trained[:2] + 3)["val_memorised"] == 0
    assert near(trained[:2, :, :1]) == {}


def test_latents_are_encoded_by_weights_that_give_the_bits_of_those_saved(dit_config):
    vae = load_vae(dit_config.vae)
    assert any(weight.data_ptr() % ALIGNMENT for weight in vae.parameters())
    latents_encoder(vae, "fp32").run(load_clips(dit_config.data).video[:1].numpy())
    assert not any(weight.data_ptr() % ALIGNMENT for weight in vae.parameters())


def test_the_text_encoder_learns_only_when_asked(dit_config):
    for trained in (True, False):
        config = replace(dit_config, train_text_encoder=trained, steps=1, caption_dropout=0.0)
        task = build_dit(config)
        weight = task.model["text_encoder"].shared.weight
        before = weight.detach().clone()
        with torch.no_grad():  # a fresh transformer does not look at the text yet
            for parameter in task.model["transformer"].parameters():
                parameter.add_(0.05)
        next(fit(task, config, start_state(task, config)))
        assert torch.equal(weight, before) is not trained


def test_text_in_a_batch_is_what_the_pipeline_makes_of_it(dit_config, text_encoder):
    task = build_dit(dit_config)
    tokens, lengths = task.captions.first(torch.tensor([0, 1]))
    text = pad_text(encode_tokens(text_encoder, tokens, lengths), 12)
    pipe = task._pipeline()
    pipe.register_modules(text_encoder=text_encoder)
    alone, _ = pipe.encode_prompt(
        [row["caption"] for row in task.data.rows[:2]], do_classifier_free_guidance=False
    )
    torch.testing.assert_close(text, alone, atol=1e-5, rtol=1e-5)


def test_what_is_missing_is_named_with_the_way_to_make_it(tmp_path, vae_config):
    with pytest.raises(UserError, match=r"holds no VAE.*t2v train-vae"):
        load_vae(tmp_path)
    with pytest.raises(UserError, match=r"no tokenizer/.*t2v world text"):
        load_text(tmp_path)
    train_vae(replace(vae_config, steps=1))
    found = load_vae(vae_config.output)
    assert not any(parameter.requires_grad for parameter in found.parameters())
    assert newest_checkpoint(vae_config.output) is not None


def test_training_begins_with_the_weights_of_a_plain_pipeline_folder(
    dit_config, vae_config, pipe, vae, tmp_path
):
    pipe.save_pretrained(tmp_path / "plain")
    saved = pipe.transformer.config
    model = TransformerConfig(**{name: saved[name] for name in asdict(dit_config.model)})
    config = replace(dit_config, start_from=str(tmp_path / "plain"), steps=0, model=model)
    begun = T2VPipeline.from_pretrained(train_dit(config))
    for part in ("transformer", "text_encoder"):
        for one, other in zip(
            getattr(begun, part).parameters(), getattr(pipe, part).parameters(), strict=True
        ):
            assert torch.equal(one, other)
    wide = replace(config, model=replace(model, ffn_dim=96))
    with pytest.raises(UserError, match=r"of \d+ weights \d+ fit the \d+ of this one"):
        train_dit(replace(wide, output=str(tmp_path / "wide")))
    own = VAEConfig(**{name: vae.config[name] for name in asdict(VAEConfig())})
    for place in ("plain", "plain/vae"):
        start = str(tmp_path / place)
        config = replace(
            vae_config, model=own, start_from=start, steps=0, output=str(tmp_path / place / "out")
        )
        learned = AutoencoderKLT2V.from_pretrained(train_vae(config) / "vae")
        assert torch.equal(learned.decoder.conv_in.weight, vae.decoder.conv_in.weight)


def test_a_frozen_text_encoder_goes_on_as_the_checkpoint_has_it(dit_config, pipe, tmp_path):
    with torch.no_grad():
        pipe.text_encoder.shared.weight.add_(1)  # is not that of `text` any more
    pipe.save_pretrained(tmp_path / "plain")
    saved = pipe.transformer.config
    settings = {name: saved[name] for name in asdict(dit_config.model)}
    model = TransformerConfig(**settings | {"attention": (saved["attention"],)})
    start = str(tmp_path / "plain")
    config = replace(dit_config, start_from=start, model=model, train_text_encoder=False)
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=2))
    shutil.rmtree(start)
    resumed = train_dit(other)
    a, b = state_of(whole), state_of(resumed)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    assert losses_of(whole.parent) == losses_of(resumed.parent)
    kept = load_file(whole / "training" / "weights.safetensors")
    assert not any(name.startswith("text_encoder.") for name in kept)


@pytest.mark.parametrize(
    ("kind", "changes"), [("vae", {}), ("dit", {}), ("dit", {"attention": "_native_math"})]
)
def test_recomputed_activations_train_the_same(kind, changes, tmp_path, request):
    config = replace(request.getfixturevalue(f"{kind}_config"), **changes)
    train = {"vae": train_vae, "dit": train_dit}[kind]
    kept = train(config)
    spared = replace(config, output=str(tmp_path / "spared"), gradient_checkpointing=True)
    a, b = state_of(kept), state_of(train(spared))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")  # at which it looks
def test_a_compiled_run_learns_the_same_but_for_rounding_and_resumes_to_the_bit(
    dit_config, tmp_path
):
    plain = train_dit(dit_config)
    config = replace(dit_config, compile=True, output=str(tmp_path / "whole"))
    whole = train_dit(config)
    other = replace(config, output=str(tmp_path / "other"))
    train_dit(replace(other, steps=2))
    a, b, c = state_of(whole), state_of(train_dit(other)), state_of(plain)
    assert a.keys() == c.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    losses = [torch.tensor([*losses_of(each.parent)]) for each in (whole, plain)]
    torch.testing.assert_close(*losses, atol=1e-2, rtol=1e-2)


def test_the_sizes_of_the_clips_are_saved_with_the_pipeline(dit_config):
    saved = T2VPipeline.from_pretrained(train_dit(dit_config)).config
    assert [list(size) for size in saved.trained] == [[saved.num_frames, saved.height, saved.width]]


def test_a_text_encoder_that_learns_knows_the_words_of_the_captions(dit_config):
    saved, _ = load_text(dit_config.text)
    saved.init_kwargs["known_words"] = ["red"]
    saved.save_pretrained(Path(dit_config.text) / "tokenizer")
    tokenizer = T2VPipeline.from_pretrained(train_dit(dit_config)).tokenizer
    assert {"red", "ball"} <= set(tokenizer.init_kwargs["known_words"])
