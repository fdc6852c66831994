"""`t2v finetune` on tiny parts: what learns, what is saved, and that others can load it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file

from t2v.cli import main
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.training import DiffusionConfig, OptimConfig, SheetConfig, TasksConfig
from t2v.errors import UserError
from t2v.io.checkpoint import verify_checkpoint
from t2v.models.context_tokens import without_tokens
from t2v.models.folder import weights_hash
from t2v.models.lora import load_lora
from t2v.models.lora_file import WEIGHTS
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.estimate import estimate
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.engine.loop import fit, start_state
from t2v.training.tasks.dit import build_dit
from t2v.training.tasks.finetune import build_finetune, finetune
from t2v.training.tasks.sheet import Sheet
from t2v.training.tuning.saving import make_whole

PROMPT = "a red ball rolls on the grass"
BASE_PROMPTS = ("a blue box", "a red box", "the ball under the sky", "a box on the snow")


@pytest.fixture
def config(pipe, clips, tmp_path):
    pipe.register_to_config(num_frames=5, height=16, width=32)
    pipe.save_pretrained(tmp_path / "base")
    (tmp_path / "prompts.txt").write_text("\n".join(BASE_PROMPTS))
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(clips), output=str(tmp_path / "tuned"),
        lora=LoRAConfig(rank=2, alpha=4), steps=4, batch_size=3, held_out=3, save_every=2,
        validate_every=2, precision="fp32", caption_dropout=0.0,
        base_prompts=str(tmp_path / "prompts.txt"), base_ratio=0.3,
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def latents(pipe, prompt=PROMPT, **given):
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    return pipe(prompt, generator=generator, output_type="latent", **given).frames


def tensors(folder):
    return {
        f"{path.relative_to(folder)}:{name}": tensor
        for path in sorted(folder.rglob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def learning(task):
    return {name for name, p in task.model.named_parameters() if p.requires_grad}


@pytest.fixture
def adapter(tmp_path):
    """A file of peft's settings."""
    file = tmp_path / "adapter.json"
    told = {"peft_type": "LOKR", "r": 2, "alpha": 4, "target_modules": ["to_q", "to_v"]}
    file.write_text(json.dumps(told))
    return str(file)


@pytest.mark.parametrize("method", ["lora", "full", "peft", "memory", "embedding"])
def test_two_and_two_steps_equal_four_to_the_bit(config, tmp_path, method, adapter):
    short = {"base_prompts": None, "base_ratio": 0, "sheet": SheetConfig(steps=1)}
    extra = {
        "lora": {"train_text_encoder": True, "text_lr": 0.03},
        "peft": {
            "peft": adapter,
            "soft_prompt": "a red ball",
            "text_lr": 0.05,
            "base_dtype": "fp8",
        },
        "memory": short,
        "embedding": {"embedding": "a red ball", **short},
    }
    config = replace(config, method=method, **extra.get(method, {}))
    whole = finetune(config)
    other = replace(config, output=str(tmp_path / "other"))
    finetune(replace(other, steps=2))
    resumed = finetune(replace(other, swap_blocks=0 if method == "full" else 2))
    a, b = tensors(whole), tensors(resumed)
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    logs = [(each.parent / "metrics.jsonl").read_text().splitlines() for each in (whole, resumed)]
    strip = [[{**json.loads(line), "seconds": 0} for line in log] for log in logs]
    assert strip[0] == strip[1]
    kept = load_file(whole / "training" / "weights.safetensors").keys()
    assert kept == learning(build_finetune(config))  # the rest lies beside it or in the base


def test_a_lora_checkpoint_is_a_pipeline_and_its_lora_gives_the_same_on_the_base(config, tmp_path):
    checkpoint = finetune(config)
    base = T2VPipeline.from_pretrained(config.model)
    plain = latents(base)
    tuned = latents(T2VPipeline.from_pretrained(checkpoint))
    weights = {path.relative_to(checkpoint).parts[0] for path in checkpoint.rglob("*.safetensors")}
    assert weights == {WEIGHTS, "training"}  # the rest is the base's
    whole = finetune(replace(config, save="full", output=str(tmp_path / "whole")))
    assert torch.equal(latents(DiffusionPipeline.from_pretrained(whole)), tuned)
    again = replace(config, model=str(checkpoint), output=str(tmp_path / "again"), steps=1)
    on_top = latents(T2VPipeline.from_pretrained(finetune(again)))
    assert 0 < (on_top - tuned).abs().max() < (tuned - plain).abs().max()
    assert (tuned - plain).abs().max() > 1e-2
    base.load_lora_weights(checkpoint)
    torch.testing.assert_close(latents(base), tuned, atol=1e-4, rtol=1e-4)
    base.unload_lora_weights()
    assert load_lora(base, checkpoint, 0.0) == 0
    assert torch.equal(latents(base), plain)
    names = load_file(checkpoint / WEIGHTS)
    assert len(names) == 2 * 4 * 2 * 2  # A and B of four layers in two attentions of two blocks
    alphas = T2VPipeline.lora_state_dict(checkpoint, return_lora_metadata=True)[1]
    assert alphas["transformer.lora_alpha"] == 4


def test_the_untuned_model_is_judged_beside_the_tuned_and_forgetting_is_seen(config):
    checkpoint = finetune(replace(config, steps=12, validate_every=4))
    lines = [json.loads(x) for x in (checkpoint.parent / "metrics.jsonl").read_text().splitlines()]
    judged = [line for line in lines if "val_loss" in line]
    assert len(judged) == 3
    for line in judged:
        assert line["val_loss"] != line["val_loss_untuned"] == judged[0]["val_loss_untuned"]
        assert line["val_base_loss"] != line["val_base_loss_untuned"]
    assert judged[-1]["val_loss"] < judged[-1]["val_loss_untuned"]


@pytest.mark.parametrize("method", ["lora", "full", "peft"])
def test_samples_of_a_training_are_what_t2v_sample_draws_from_the_checkpoint(
    config, method, adapter, sampled_later
):
    extra = {"peft": adapter, "soft_prompt": "the snow"} if method == "peft" else {}
    config = replace(config, method=method, interpolate=0.5, seed=7, **extra)
    checkpoint = finetune(config)
    with Image.open(checkpoint.parent / "sheets" / "000004.png") as sheet:
        drawn = torch.from_numpy(np.array(sheet))
        assert sheet.size == (5 * 32, 4 * 16)
    prompts = build_finetune(config).prompts
    assert set(prompts) == {PROMPT, "a blue ball rolls on the grass", *BASE_PROMPTS[-2:]}
    assert torch.equal(drawn, sampled_later(checkpoint, 7, prompts))


def test_the_sheet_is_of_the_clips_size_and_length_unless_another_is_asked_for(config, pipe):
    pipe.register_to_config(num_frames=81, height=480, width=832, num_inference_steps=50)
    pipe.save_pretrained(config.model)
    config = replace(config, base_prompts=None, base_ratio=0, sheet=SheetConfig(steps=1))
    task = build_finetune(config)
    assert task.validate().sheet.size == (5 * 32, 2 * 16)  # of two prompts
    task.sheet = Sheet(
        replace(config, sheet=SheetConfig(height=32, steps=1)), ["a"], task.sheet.sizes
    )
    assert task.validate().sheet.size == (5 * 32, 32)
    odd = replace(config, sheet=SheetConfig(width=30))
    with pytest.raises(UserError, match=r"sheet\.width=30: this model works in multiples of 16"):
        finetune(odd)


def test_interpolation_lies_between_base_and_tuned(config, tmp_path):
    outputs = {}
    for share in (0.0, 0.5, 1.0):
        output = str(tmp_path / f"tuned-{share}")
        outputs[share] = tensors(
            finetune(replace(config, method="full", interpolate=share, output=output))
            / "transformer"
        )
    base = tensors(tmp_path / "base" / "transformer")
    for name, weight in base.items():
        assert torch.equal(outputs[0.0][name], weight)
        middle = (weight + outputs[1.0][name]) / 2
        torch.testing.assert_close(outputs[0.5][name], middle, atol=1e-6, rtol=1e-5)


def test_training_and_fine_tuning_read_one_dataclass_of_settings(config, dit_config):
    for task, given in ((build_finetune(config), config), (build_dit(dit_config), dit_config)):
        assert isinstance(given, DiffusionConfig)
        assert task.config is given  # so that no setting can be left behind on the way


def test_frozen_spatial_trains_what_looks_along_time_alone(config, caplog):
    alone = replace(config, method="frozen_spatial")
    with pytest.raises(UserError, match=r"attend by full here.*attention_layout=factorized, or"):
        build_finetune(alone)
    with caplog.at_level("INFO"):
        task = build_finetune(replace(alone, attention_layout=("factorized",)))
    assert learning(task) and all("_temporal." in name for name in learning(task))
    assert "method=frozen_spatial trains" in caplog.text
    assert "blocks.*.attn_temporal.to_q" in caplog.text


def test_a_new_word_alone_learns_and_travels_with_the_pipeline(config, clips):
    manifest = clips / "manifest.jsonl"
    manifest.write_text(manifest.read_text().replace("red ball", "<toy> ball"))
    words = {"concept": ("<toy>",), "concept_from": ("red ball",)}
    config = replace(config, method="concept", text_lr=0.05, **words)
    checkpoint = finetune(config)
    base, tuned = (T2VPipeline.from_pretrained(each) for each in (config.model, checkpoint))
    before, after = (each.text_encoder.shared.weight for each in (base, tuned))
    assert len(after) == len(before) + 1
    assert torch.equal(after[:-1], before)
    red_ball = before[torch.tensor(base.tokenizer.convert_tokens_to_ids(["red", "ball"]))].mean(0)
    assert 1e-3 < (after[-1] - red_ball).abs().max() < 1
    for name, weight in base.transformer.state_dict().items():
        assert torch.equal(tuned.transformer.state_dict()[name], weight)
    assert tuned.unknown_words("a <toy> ball") == []


def test_an_adapter_of_peft_is_saved_in_the_weights_it_changes(config, adapter):
    config = replace(config, method="peft", peft=adapter)
    task = build_finetune(config)
    assert learning(task)
    assert all(".lokr_" in name for name in learning(task))
    checkpoint = finetune(config)
    base, tuned = (T2VPipeline.from_pretrained(each) for each in (config.model, checkpoint))
    before, after = (each.transformer.state_dict() for each in (base, tuned))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed and all(".to_q." in name or ".to_v." in name for name in changed)
    assert (latents(tuned) - latents(base)).abs().max() > 1e-2
    planned = estimate(config, Size(batch=3, frames=5, height=16, width=32, tokens=12), UNKNOWN)
    assert planned.gradients == sum(task.model.get_parameter(n).nbytes for n in learning(task))
    Path(adapter).write_text(Path(adapter).read_text() + " ")
    with pytest.raises(UserError, match="peft: "):
        finetune(config)


def test_a_soft_prompt_begins_as_its_text_learns_alone_and_travels_with_the_pipeline(config):
    config = replace(config, method="soft_prompt", soft_prompt="a red", text_lr=0.05)
    task = build_finetune(config)
    assert learning(task) == {"text_encoder.shared.weight"}
    base = T2VPipeline.from_pretrained(config.model)
    fresh = task._pipeline()
    begun, wanted = (
        pipe(
            prompt, negative_prompt=negative, output_type="latent",
            generator=torch.Generator().manual_seed(0),
        ).frames
        for pipe, prompt, negative in ((fresh, "ball", ""), (base, "a red ball", "a red"))
    )  # fmt: skip
    assert torch.equal(begun, wanted)
    tuned = T2VPipeline.from_pretrained(finetune(config))
    for name, weight in base.transformer.state_dict().items():
        assert torch.equal(tuned.transformer.state_dict()[name], weight)
    table, old = tuned.text_encoder.shared.weight, base.text_encoder.shared.weight
    assert len(table) == len(old) + 2 and torch.equal(table[:-2], old)
    start = old[torch.tensor(base.tokenizer.convert_tokens_to_ids(["a", "red"]))]
    assert ((table[-2:] - start).abs().amax(1) > 1e-3).all()
    assert (latents(tuned) - latents(fresh)).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("method", "given", "groups"),
    [("memory", {"memory_tokens": 3}, 2), ("embedding", {"embedding": "a red ball"}, 1)],
)
def test_tokens_beside_the_text_learn_alone_and_lie_beside_the_base(config, method, given, groups):
    given |= {"steps": 2, "base_prompts": None, "base_ratio": 0, "sheet": SheetConfig(steps=1)}
    config = replace(config, method=method, **given)
    task = build_finetune(config)
    assert all(name.endswith(".tokens") for name in learning(task))
    assert len(learning(task)) == groups
    untouched = weights_hash(Path(config.model))
    if method == "embedding":
        base = T2VPipeline.from_pretrained(config.model)
        prefix = task.model["transformer"].condition_embedder.prefix.tokens
        begun = base.encode_prompt("a red ball")[0][0][:3]
        assert len(prefix) == 3 and prefix.dtype == begun.dtype
    checkpoint = finetune(config)
    weights = {path.relative_to(checkpoint).parts[0] for path in checkpoint.rglob("*.safetensors")}
    assert weights == {"tokens.safetensors", "training"}
    verify_checkpoint(checkpoint)
    assert weights_hash(Path(config.model)) == untouched != weights_hash(checkpoint)
    base, tuned = (T2VPipeline.from_pretrained(each) for each in (config.model, checkpoint))
    assert (latents(tuned) - latents(base)).abs().max() > 1e-3
    with without_tokens(tuned.transformer):
        assert torch.equal(latents(tuned), latents(base))
    positive, negative = tuned.encode_prompt(PROMPT)
    embeds = {"prompt_embeds": positive, "negative_prompt_embeds": negative}
    alone = T2VPipeline.from_pretrained(checkpoint, text_encoder=None)
    assert torch.equal(latents(alone, None, **embeds), latents(tuned))  # no encoder is needed
    with pytest.raises(UserError, match="has learned tokens beside its text already"):
        build_finetune(replace(config, model=str(checkpoint)))
    make_whole(checkpoint)
    assert torch.equal(latents(DiffusionPipeline.from_pretrained(checkpoint)), latents(tuned))
    assert not (checkpoint / "tokens.safetensors").exists()


def test_a_lora_of_the_text_encoder_learns_beside_that_of_the_transformer(config):
    given = {"steps": 2, "base_prompts": None, "base_ratio": 0, "sheet": SheetConfig(steps=1)}
    config = replace(config, train_text_encoder=True, text_lr=0.03, **given)
    task = build_finetune(config)
    text = {name for name in learning(task) if name.startswith("text_encoder.")}
    assert text and all(".lora_" in name for name in learning(task))
    checkpoint = finetune(config)
    base, tuned = (T2VPipeline.from_pretrained(each) for each in (config.model, checkpoint))
    before, after = (each.text_encoder.state_dict() for each in (base, tuned))
    assert before.keys() == after.keys()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed and not any("embed" in name or "norm" in name for name in changed)
    told = json.loads((checkpoint / "text_adapter" / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] is None  # no path of this machine
    make_whole(checkpoint)
    assert torch.equal(latents(DiffusionPipeline.from_pretrained(checkpoint)), latents(tuned))


@pytest.mark.parametrize(
    "given",
    [
        {"method": "memory"},
        {"method": "embedding", "embedding": "a red ball"},
        {"train_text_encoder": True},
    ],
)
def test_a_plan_counts_what_learns(config, given):
    config = replace(config, base_prompts=None, base_ratio=0, **given)
    task = build_finetune(config)
    planned = estimate(config, Size(batch=3, frames=5, height=16, width=32, tokens=12), UNKNOWN)
    assert planned.gradients == sum(p.nbytes for p in map(task.model.get_parameter, learning(task)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"embedding": "", "method": "embedding"}, "0 tokens to begin with"),
        ({"method": "memory", "pack": True}, "has no tokens of its own"),
        ({"lora": LoRAConfig(target_modules=("to_qq",))}, r"called 'to_qq'\. Near: attn\d\.to_q"),
        ({"lora": LoRAConfig(target_modules=())}, "nothing to learn"),
        ({"model": "nowhere"}, "no such folder"),
        ({"concept": ("<toy>",), "concept_from": ("red",)}, "in no caption"),
        ({"concept": ("red",)}, "take a new word"),
        ({"concept": ("<>",)}, "no known letters"),
        ({"base_prompts": "nowhere.txt"}, "there is no such file"),
        ({"base_dtype": "nf4"}, "base_dtype=nf4: needs bitsandbytes, which is not installed"),
        ({"held_out": 12}, "held_out=12"),
    ],
)
def test_what_cannot_work_is_named_before_training(config, change, words, monkeypatch):
    monkeypatch.setattr("t2v.models.hold.find_spec", lambda package: None)
    with pytest.raises(UserError, match=words):
        build_finetune(replace(config, **change))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"start_from": "x"}, "starts from model"),
        ({"method": "concept"}, "name them"),
        ({"method": "soft_prompt"}, "to start from"),
        ({"method": "peft"}, "peft=FILE go together"),
        ({"peft": "x.json"}, "peft=FILE go together"),
        ({"train_text_encoder": True, "method": "memory"}, "goes with method=full or method=lora"),
        ({"method": "embedding"}, 'embedding="WORDS" to start from go together'),
        ({"embedding": "a"}, 'embedding="WORDS" to start from go together'),
        ({"method": "memory", "memory_tokens": 0}, "from 1 to 1024"),
        ({"method": "memory", "interpolate": 0.5}, "nothing that it could lie between"),
        ({"method": "full", "swap_blocks": 1}, "only frozen weights wait"),
        ({"base_dtype": "bf16"}, "base_dtype=bf16 with method=lora precision=fp32"),
        ({"base_dtype": "nf4", "method": "full"}, "base_dtype=nf4 with method=full interpolate=1"),
        ({"base_dtype": "int8", "swap_blocks": 1}, "do not move in pieces. Give base_dtype=fp8"),
        ({"interpolate": 2.0}, "interpolate=2.0"),
        (
            {"interpolate": 0.5, "method": "concept", "concept": ("<toy>",)},
            "interpolate=0.5 with method=concept: what is learned is new",
        ),
        ({"base_prompts": None}, "base_ratio=0.3"),
        ({"concept": ("a", "b"), "concept_from": ("c",)}, "one text for each"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(config, change, words):
    with pytest.raises(UserError, match=words):
        replace(config, **change)


def test_a_changed_base_model_is_not_tuned_on(config, pipe):
    finetune(replace(config, steps=2))
    with torch.no_grad():
        pipe.transformer.proj_out.bias.add_(1)
    pipe.save_pretrained(config.model)
    with pytest.raises(UserError, match="model: "):
        finetune(config)


def test_a_base_that_moved_or_changed_is_one_message_that_says_where_to_write_it(config, pipe):
    checkpoint = finetune(replace(config, steps=1, base_prompts=None, base_ratio=0))
    moved = Path(config.model).rename(Path(config.model).with_name("moved"))
    with pytest.raises(
        UserError, match=r'base, which is not there\. Write its place as "model" into'
    ):
        T2VPipeline.from_pretrained(checkpoint)
    said = json.loads((checkpoint / "base.json").read_text())
    (checkpoint / "base.json").write_text(json.dumps(said | {"model": str(moved)}))
    verify_checkpoint(checkpoint)
    T2VPipeline.from_pretrained(checkpoint)
    with torch.no_grad():
        pipe.transformer.proj_out.bias.add_(1)
    pipe.save_pretrained(moved)
    with pytest.raises(UserError, match="the weights in it are others now"):
        T2VPipeline.from_pretrained(checkpoint)


def test_what_the_base_model_drew_is_repeated_in_its_share_of_the_steps(config):
    task = build_finetune(replace(config, base_ratio=0.5))
    turns = [task.prior.is_turn(step, 0.5) for step in range(400)]
    assert 0.4 < sum(turns) / 400 < 0.6
    repeated = task.prior.latents[: task.prior.repeated]
    assert len(repeated) == len(BASE_PROMPTS) - 1  # one is only judged
    for step in range(20):
        batch = task.batch(step)
        known = [any(torch.equal(each, other) for other in repeated) for each in batch.latents]
        assert known == [turns[step]] * len(batch.latents)
    again = build_finetune(replace(config, base_ratio=0.5))
    assert torch.equal(again.prior.latents, task.prior.latents)
    next(fit(task, task.config, start_state(task, task.config)))


def test_the_door_prints_the_checkpoint(config, capsys):
    names = ("model", "data", "output", "base_prompts")
    given = [f"{name}={getattr(config, name)}" for name in names]
    code = main(["finetune", *given, "steps=1", "batch_size=2", "held_out=3", "lora.rank=1"])
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert shown.out.strip().endswith("checkpoint-000001")
    assert "method=lora trains" in shown.err and "of the text encoder" in shown.err


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_text_only_model_learns_to_start_from_a_picture(config, method):
    tasks = TasksConfig(text=0, first=1, ends=0 if method == "lora" else 1)
    made = finetune(replace(config, method=method, tasks=tasks))
    tuned = T2VPipeline.from_pretrained(made)
    tuned.set_progress_bar_config(disable=True)
    picture = np.full((16, 16, 3), 200, np.uint8)
    frames = tuned("a red ball", image=picture, num_frames=5, height=16, width=16).frames
    assert frames.shape == (1, 5, 16, 16, 3)
    assert tuned.transformer.config.conditioning == "tokens"
    assert [tuned.config.num_frames, tuned.config.height, tuned.config.width] in [
        list(size) for size in tuned.config.trained
    ]
