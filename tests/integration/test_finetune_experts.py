"""`t2v finetune` of two transformers, each for its part of the times, as Wan 2.2 A14B has."""

from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.training import OptimConfig, SheetConfig
from t2v.errors import UserError
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.tasks.experts import Experts
from t2v.training.tasks.finetune import build_finetune, finetune

BOUNDARY = 0.8


@pytest.fixture
def config(pipe, clips, tmp_path):
    second = deepcopy(pipe.transformer)
    with torch.no_grad():
        for weight in second.parameters():
            weight.add_(torch.randn(weight.shape), alpha=0.02)
    parts = {**pipe.components, "transformer_2": second}
    two = T2VPipeline(
        **parts, boundary_ratio=BOUNDARY, guidance_scale_2=3.0, max_sequence_length=12,
        num_frames=5, height=16, width=32, num_inference_steps=4,
    )  # fmt: skip
    two.save_pretrained(tmp_path / "base")
    return FinetuneConfig(
        device="cpu", model=str(tmp_path / "base"), data=str(clips), output=str(tmp_path / "tuned"),
        lora=LoRAConfig(rank=2, alpha=4), steps=4, batch_size=3, held_out=3, save_every=2,
        validate_every=4, precision="fp32", sheet=SheetConfig(steps=2), tracker="none",
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip


def test_each_learns_at_its_times_and_the_files_are_named_high_and_low(config, tmp_path):
    whole = finetune(config)
    assert {path.name for path in whole.glob("*.safetensors")} == {
        "lora_high.safetensors", "lora_low.safetensors",
    }  # fmt: skip
    base, tuned = (T2VPipeline.from_pretrained(each) for each in (config.model, whole))
    assert tuned.config.boundary_ratio == BOUNDARY and tuned.config.guidance_scale_2 == 3.0
    for name in ("transformer", "transformer_2"):
        before, after = (getattr(each, name).state_dict() for each in (base, tuned))
        assert before.keys() == after.keys()
        assert any(not torch.equal(before[each], after[each]) for each in before)
    for name, second in (("high", False), ("low", True)):
        file = whole / f"lora_{name}.safetensors"
        base.load_lora_weights(file, adapter_name=name, load_into_transformer_2=second)
        part = base.transformer_2 if second else base.transformer
        part.fuse_lora()
        fused = part.blocks[0].attn1.to_q.base_layer.weight
        like = tuned.transformer_2 if second else tuned.transformer
        torch.testing.assert_close(fused, like.blocks[0].attn1.to_q.weight, atol=1e-6, rtol=1e-5)
    other = replace(config, output=str(tmp_path / "other"))
    finetune(replace(other, steps=2))
    resumed = finetune(other)
    for path in whole.rglob("*.safetensors"):
        theirs = load_file(resumed / path.relative_to(whole))
        assert all(torch.equal(each, theirs[name]) for name, each in load_file(path).items())


def test_one_of_them_learns_alone_and_the_other_methods_are_refused(config):
    task = build_finetune(replace(config, experts="low"))
    learning = [name for name, p in task.model.named_parameters() if p.requires_grad]
    assert learning and all(name.startswith("transformer_2.") for name in learning)
    assert not hasattr(task.model["transformer"], "peft_config")
    with pytest.raises(UserError, match=r"two transformers, .* Take method=lora"):
        build_finetune(replace(config, method="full"))


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_times_lie_in_the_part_of_one_transformer_and_in_all_are_those_of_one_model(shift):
    experts, generator = Experts(BOUNDARY), torch.Generator().manual_seed(0)
    batches = [experts.times("flow", 4, shift, generator) for _ in range(2000)]
    assert all((each >= BOUNDARY).all() or (each < BOUNDARY).all() for each in batches)
    drawn = torch.cat(batches).sort().values
    usual = Experts().times("flow", len(drawn), shift, generator).sort().values
    assert (drawn - usual).abs().mean() < 0.01
    high = experts._replace(which="high").times("flow", 100, shift, generator)
    assert (high >= BOUNDARY).all()


def test_a_batch_of_many_times_goes_to_both(config):
    task = build_finetune(config)
    batch = task.batch(0)
    noise, t = torch.zeros_like(batch.latents), torch.tensor([0.9, 0.3, BOUNDARY])
    with torch.no_grad():
        losses = task._losses(batch, noise, t)
        task.model["transformer_2"].proj_out.bias.add_(1)
        changed = task._losses(batch, noise, t)
    assert (losses != changed).tolist() == [False, True, False]
