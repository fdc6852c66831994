"""A trained model with another layout of attention: sampled, planned, fine-tuned and read again."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from t2v.bench.stopwatch import count_flop
from t2v.cli import main
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import MaskingConfig, OptimConfig
from t2v.errors import UserError
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.estimate import _period, estimate, traced_whole
from t2v.plan.trace import UNKNOWN
from t2v.training.engine.example import Size
from t2v.training.tasks.finetune import build_finetune, finetune

PROMPT = "a red ball"
BRIEF = ("num_inference_steps=1", "device=cpu", "overwrite=true")


@pytest.fixture
def folder(pipe, tmp_path):
    pipe.register_to_config(num_frames=5, height=32, width=48)
    pipe.save_pretrained(tmp_path / "base")
    return str(tmp_path / "base")


@pytest.fixture
def config(folder, clips, tmp_path):
    return FinetuneConfig(
        device="cpu", model=folder, data=str(clips), output=str(tmp_path / "tuned"),
        lora=LoRAConfig(rank=2, alpha=4), steps=2, batch_size=3, held_out=3, save_every=2,
        validate_every=2, precision="fp32", caption_dropout=0.0,
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def test_a_layout_makes_another_video_and_its_recipe_names_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    videos = {}
    for name, words in {
        "own": (),
        "full": ("attention_layout=full",),
        "window": ("attention_layout=[full,window:1x1x1]",),
    }.items():
        assert main(["sample", PROMPT, f"model={folder}", *BRIEF, *words, "-o", f"{name}.mp4"]) == 0
        videos[name] = (tmp_path / f"{name}.mp4").read_bytes()
        stored = json.loads((tmp_path / f"{name}.json").read_text())["settings"]
        wanted = {"own": None, "full": "full", "window": ["full", "window:1x1x1"]}[name]
        assert stored.get("attention_layout") == wanted
    frames = {name: _frames(tmp_path / f"{name}.mp4") for name in videos}
    assert torch.equal(frames["own"], frames["full"])
    assert not torch.equal(frames["own"], frames["window"])
    assert main(["sample", "--recipe", "window.mp4", "overwrite=true", "-o", "again.mp4"]) == 0
    assert torch.equal(_frames(tmp_path / "again.mp4"), frames["window"])


def _frames(path):
    import av

    with av.open(str(path)) as film:
        return torch.stack(
            [torch.from_numpy(frame.to_ndarray(format="rgb24")) for frame in film.decode(video=0)]
        )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("sideways", "'sideways' is unknown"),
        ("swap", r"needs weights that this model has not"),
        ("window:4", "frames, rows and columns"),
    ],
)
def test_a_layout_that_a_model_cannot_take_is_one_message(folder, words, told, capsys, tmp_path):
    given = ["sample", PROMPT, f"model={folder}", f"attention_layout={words}", *BRIEF]
    assert main([*given, "-o", str(tmp_path / "x.mp4")]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.parametrize("attention", [("window",), ("full", "message"), ("swap",)])
def test_a_layout_is_tuned_saved_and_read_again(config, attention):
    checkpoint = finetune(replace(config, method="full", attention_layout=attention))
    transformer = T2VPipeline.from_pretrained(checkpoint).transformer
    word = transformer.config.attention
    assert ((word,) if isinstance(word, str) else tuple(word)) == attention
    for block, chosen in zip(transformer.blocks, attention * 2, strict=False):
        assert block.chosen.word == chosen
        for name in block.chosen.layout.zero_start:
            assert getattr(block, name).to_out[0].weight.any()  # it has learned


def test_learned_tokens_are_planned_tuned_saved_and_read_again(config):
    config = replace(config, method="full", learned_tokens=3, whole_blocks=(1, 0))
    planned = traced_whole(config, Size(2, 5, 32, 48, 8), UNKNOWN)
    plain = traced_whole(replace(config, learned_tokens=0), Size(2, 5, 32, 48, 8), UNKNOWN)
    transformer = T2VPipeline.from_pretrained(finetune(config)).transformer
    added = sum(weight.nbytes for weight in transformer.token_learner.parameters())
    assert planned.weights - plain.weights == added
    assert (transformer.config.learned_tokens, list(transformer.config.whole_blocks)) == (3, [1, 0])
    assert transformer.token_learner.to_all.weight.any()  # it has learned
    with pytest.raises(UserError, match="have to learn"):
        build_finetune(replace(config, method="lora"))
    with pytest.raises(UserError, match="learned tokens, which are of all"):
        build_finetune(replace(config, masking=MaskingConfig(ratio=0.5, whole_blocks=(0, 0))))


@pytest.mark.parametrize("save", ["adapter", "full"])
def test_a_lora_of_another_layout_is_read_into_that_layout(config, save):
    layout = ("window:1x1x1",)
    task = build_finetune(replace(config, attention_layout=layout))
    checkpoint = finetune(replace(config, attention_layout=layout, save=save))
    tuned = T2VPipeline.from_pretrained(checkpoint).transformer
    assert tuned.config.attention == "window:1x1x1"
    assert all(block.chosen.word == "window:1x1x1" for block in tuned.blocks)
    assert task.model["transformer"].config.attention == "window:1x1x1"


def test_an_adapter_alone_does_not_learn_the_weights_of_a_layout(config):
    with pytest.raises(UserError, match="needs weights that this model has not"):
        build_finetune(replace(config, attention_layout=("swap",)))


def test_frozen_spatial_trains_the_layers_that_mix_frames(config):
    task = build_finetune(replace(config, method="frozen_spatial", attention_layout=("axial",)))
    transformer = task.model["transformer"]
    learning = {name for name, p in transformer.named_parameters() if p.requires_grad}
    assert learning and all(name.startswith("blocks.0.attn1.") for name in learning)
    swap = build_finetune(replace(config, method="frozen_spatial", attention_layout=("swap",)))
    learning = {n for n, p in swap.model["transformer"].named_parameters() if p.requires_grad}
    assert {name.split(".")[2] for name in learning} == set(
        swap.model["transformer"].blocks[0].chosen.motion
    )


@pytest.mark.parametrize("attention", ["full", "window:1x2x2", "strided"])
def test_flop_of_a_plan_are_those_of_the_real_call(folder, pipe, attention):
    target = SampleConfig(
        model=folder, device="cpu", num_inference_steps=1, guidance_scale=1.0, upscale=1
    )
    size = Size(batch=1, frames=5, height=32, width=48, tokens=7)
    target = replace(target, attention_layout=(attention,))
    made = estimate(target, size, UNKNOWN)
    (denoise,) = (phase for phase in made.phases if phase.name == "first denoise")
    pipe.transformer.set_attention(attention)
    text = torch.zeros(1, pipe.config.max_sequence_length, pipe.transformer.config.text_dim)
    shape = (1, pipe.vae.config.latent_channels, *_latent_sides(pipe, size))
    with torch.no_grad():
        wanted = count_flop(lambda: pipe.transformer(torch.zeros(shape), torch.ones(1), text))
    assert denoise.flop == wanted


def _latent_sides(pipe, size):
    vae = pipe.vae.config
    frames = (size.frames - 1) // vae.scale_factor_temporal + 1
    return frames, *(side // vae.scale_factor_spatial for side in (size.height, size.width))


def test_a_plan_knows_after_how_many_layers_the_layouts_are_the_same_again(folder, dit_config):
    for attention, every in {
        ("full",): 1,
        ("full", "window"): 2,
        ("axial",): 3,
        ("axial", "full"): 6,
        ("full", "window", "window", "window"): 4,
    }.items():
        model = replace(dit_config.model, attention=attention)
        assert _period(replace(dit_config, model=model), 14) == every
        assert _period(SampleConfig(model=folder, attention_layout=attention), 14) == every
    assert _period(SampleConfig(model=folder), 14) == 1


@pytest.mark.slow
def test_layers_that_take_turns_are_planned_as_all_of_them(dit_config):
    size = Size(batch=1, frames=5, height=16, width=32, tokens=7)
    model = replace(
        dit_config.model, num_layers=14, attention=("full", "window", "window", "axial")
    )
    config = replace(dit_config, model=model)
    made = estimate(config, size, UNKNOWN), traced_whole(config, size, UNKNOWN)
    flop = [[phase.flop for phase in each.phases] for each in made]
    assert flop[0] == flop[1]
