"""What learns, and models between two models."""

import json
from copy import deepcopy

import pytest
import torch
from safetensors import safe_open
from torch import nn

from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.models.learned import add_learned, fused, save_adapter
from t2v.models.lora_file import WEIGHTS
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.tuning.adapters import (
    add_lora,
    add_peft,
    check_peft,
    choose_trainable,
    hold_base,
    interpolated,
    merged,
)
from t2v.training.tuning.saving import save_lora


def answer(model):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, model.config.in_channels, 2, 4, 4, generator=generator)
    text = torch.randn(1, 3, model.config.text_dim, generator=generator)
    with torch.no_grad():
        return model(x, torch.tensor([300.0]), text, return_dict=False)[0]


def test_a_fresh_lora_changes_nothing_and_is_the_same_for_the_same_seed(transformer):
    plain = answer(transformer)
    drawn = []
    for seed in (3, 3, 4):
        add_lora(transformer, LoRAConfig(rank=2), seed)
        assert torch.equal(answer(transformer), plain)
        weights = transformer.state_dict()
        drawn.append(torch.cat([x.flatten() for n, x in weights.items() if "lora_A" in n]))
        transformer.unload_lora()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_equal_adapters_are_saved_as_equal_bytes(transformer, tmp_path):
    add_lora(transformer, LoRAConfig(rank=2), seed=3)
    for number in range(6):
        save_lora(transformer, tmp_path / str(number))
    files = {path.read_bytes() for path in tmp_path.glob(f"*/{WEIGHTS}")}
    assert len(files) == 1
    with safe_open(tmp_path / "0" / WEIGHTS, "pt") as file:
        told = json.loads(file.metadata()["lora_adapter_metadata"])
    # a set, whose order is another in every process
    assert told["transformer.target_modules"] == sorted(LoRAConfig().target_modules)


def test_a_merged_copy_answers_as_the_lora_does_and_leaves_it_alone(transformer):
    plain = answer(transformer)
    names = list(transformer.state_dict())
    add_lora(transformer, LoRAConfig(rank=2), seed=0)
    with torch.no_grad():
        for name, weight in transformer.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.05)
    tuned = answer(transformer)
    whole = merged(transformer)
    assert list(whole.state_dict()) == names
    torch.testing.assert_close(answer(whole), tuned, atol=1e-5, rtol=1e-4)
    assert not torch.equal(tuned, plain)
    with fused(transformer, 1.0):
        assert torch.equal(answer(transformer), answer(whole))
    with fused(transformer, 0.0):
        assert torch.equal(answer(transformer), plain)
    assert torch.equal(answer(transformer), tuned)


def config_of(base_dtype, precision="bf16", **others):
    return FinetuneConfig(
        data="x", output="y", device="cpu", base_dtype=base_dtype, precision=precision, **others
    )


def learned_from(model, precision="bf16"):
    """The loss of a step, and the gradients of what learns."""
    halves = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16")
    with halves, torch.enable_grad():
        loss = model(
            torch.ones(2, 8, 2, 4, 4), torch.tensor([300.0, 700.0]), torch.ones(2, 3, 32)
        ).sample.float().square().mean()  # fmt: skip
    loss.backward()
    return [loss, *(p.grad for p in model.parameters() if p.requires_grad)]


def test_beside_a_base_in_bf16_no_bit_of_what_is_learned_changes(transformer):
    add_lora(transformer, LoRAConfig(rank=2), seed=0)
    halved = deepcopy(transformer)
    hold_base(halved, config_of("bf16"))
    assert halved.blocks[0].ffn.net[2].weight.dtype == torch.bfloat16
    found = [learned_from(transformer), learned_from(halved)]
    assert len(found[0]) > 8 and all(map(torch.equal, *found))


def plain_values(parameter):
    """The numbers that a weight in fewer bits stands for."""
    if (state := getattr(parameter, "quant_state", None)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(parameter.data, state)
    is_plain = type(parameter) is nn.Parameter
    return parameter.detach().float() if is_plain else parameter.dequantize()


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("kind", "package"), [("fp8", "torch"), ("int8", "torchao"), ("nf4", "bitsandbytes")]
)
def test_beside_a_base_in_fewer_bits_is_learned_what_its_rounded_weights_teach(
    kind, package, transformer, caplog
):
    pytest.importorskip(package)
    add_lora(transformer, LoRAConfig(rank=2), seed=0)
    rounded = deepcopy(transformer)
    caplog.set_level("INFO")
    hold_base(rounded, config_of(kind, "fp32"))
    assert f"base_dtype={kind}: products of the frozen linear layers are off by" in caplog.text
    before = learned_from(transformer, "fp32")[0]
    changed = 0
    for name, own in transformer.named_parameters():
        held = rounded.get_parameter(name)
        assert not held.requires_grad or held.dtype == torch.float32
        values = plain_values(held)
        changed += not torch.equal(values, own)
        own.data.copy_(values)
        own.grad = None
    assert changed >= 20  # ten matrices in each of two blocks
    wanted, found = (learned_from(model, "fp32") for model in (transformer, rounded))
    assert len(wanted) > 8 and found[0] != before
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    for parameter in rounded.parameters():
        parameter.grad = None
    assert all(map(torch.equal, learned_from(rounded, "fp32"), found))  # it is as it was


def test_an_adapter_that_reads_plain_weights_is_refused_beside_rounded_ones(transformer, tmp_path):
    file = tmp_path / "hra.json"
    file.write_text(json.dumps({"peft_type": "HRA", "r": 2, "target_modules": ["to_q"]}))
    add_peft(transformer, str(file), 0)
    config = config_of("fp8", "fp32", method="peft", peft=str(file))
    with pytest.raises(UserError, match=r"hra.json base_dtype=fp8: .* Take LORA, OFT or MISS, or"):
        hold_base(transformer, config)


def test_weights_between_two_models_lie_on_their_line():
    base, tuned = nn.Linear(3, 2), nn.Linear(3, 2)
    middle = interpolated(base, tuned, 0.25)
    torch.testing.assert_close(middle.weight, 0.75 * base.weight + 0.25 * tuned.weight)
    assert torch.equal(interpolated(base, tuned, 0.0).weight, base.weight)
    assert torch.equal(interpolated(base, tuned, 1.0).weight, tuned.weight)


def test_what_looks_along_time_learns_and_the_rest_rests(transformer, text_encoder):
    transformer = T2VTransformer3DModel(**{**transformer.config, "attention": "factorized"})
    model = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
    choose_trainable(model, FinetuneConfig(data="x", output="y", method="frozen_spatial"))
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    assert {name.split(".")[3] for name in names} == {"attn_temporal", "norm_temporal"}
    assert all(name.startswith("transformer.blocks.") for name in names)


KINDS = {
    "LORA": {"r": 2, "use_dora": True},
    "LOHA": {"r": 2},
    "LOKR": {"r": 2},
    "OFT": {"oft_block_size": 8},
    "HRA": {"r": 2},
    "IA3": {"feedforward_modules": []},
    "MISS": {"r": 4},
    "ROAD": {"group_size": 8},
}


def settings_file(tmp_path, **settings):
    file = tmp_path / "adapter.json"
    file.write_text(json.dumps({"target_modules": ["to_q", "to_v"], **settings}))
    return str(file)


@pytest.mark.parametrize("kind", KINDS)
def test_any_adapter_of_peft_begins_as_the_model_and_ends_in_its_weights(
    transformer, tmp_path, kind
):
    names, plain, fresh = list(transformer.state_dict()), answer(transformer), deepcopy(transformer)
    file = settings_file(tmp_path, peft_type=kind, **KINDS[kind])
    add_peft(transformer, file, seed=3)
    check_peft(transformer, file)
    torch.testing.assert_close(answer(transformer), plain, atol=1e-5, rtol=1e-4)
    learning = [name for name, p in transformer.named_parameters() if p.requires_grad]
    assert learning and not set(learning) & set(names)
    assert all(".to_q." in name or ".to_v." in name for name in learning)
    with torch.no_grad():
        for name in learning:  # as training would
            weight = transformer.get_parameter(name)
            noise = torch.randn(weight.shape, generator=keyed_generator(name))
            weight.add_(noise, alpha=0.05)
    before = torch.get_rng_state()
    tuned, whole = answer(transformer), merged(transformer)
    assert torch.equal(torch.get_rng_state(), before)  # a run that goes on draws nothing twice
    assert (tuned - plain).abs().max() > 1e-3
    assert list(whole.state_dict()) == names
    torch.testing.assert_close(answer(whole), tuned, atol=1e-4, rtol=1e-3)
    with fused(transformer, 0.0):
        torch.testing.assert_close(answer(transformer), plain, atol=1e-5, rtol=1e-4)
    assert torch.equal(answer(transformer), tuned)
    (tmp_path / "transformer").mkdir()
    transformer.save_config(tmp_path / "transformer")
    save_adapter(transformer, tmp_path / "adapter")
    add_learned(fresh, tmp_path, "transformer", 1.0)
    assert all(torch.equal(each, whole.state_dict()[n]) for n, each in fresh.state_dict().items())


def test_an_adapter_of_peft_is_the_same_for_the_same_seed(transformer, tmp_path):
    file = settings_file(tmp_path, peft_type="LOHA", r=2)
    drawn = []
    for seed in (3, 3, 4):
        before = torch.get_rng_state()
        add_peft(transformer, file, seed)
        assert torch.equal(torch.get_rng_state(), before)
        weights = transformer.state_dict()
        drawn.append(torch.cat([x.flatten() for n, x in weights.items() if "hada_" in n]))
        transformer.unload_lora()
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"peft_type": "FOURIERFT", "n_frequency": 16}, "before it has learned it changes"),
        ({"peft_type": "ADALORA", "total_step": 9}, "moves its ranks"),
        ({"peft_type": "NONE"}, "one of ADALORA"),
        ({"peft_type": "LOHA", "rank": 2}, "unexpected keyword argument 'rank'"),
        ({"peft_type": "LOHA", "target_modules": ["to_qq"]}, "to_qq"),
        ({"peft_type": "LOHA", "rank_dropout": 0.1}, "rank_dropout is sampled by peft"),
        ({"peft_type": "LORA", "modules_to_save": ["proj_out"]}, "Leave out what trains whole"),
        ({"peft_type": "VERA"}, "cannot be loaded"),
        ({"peft_type": "LILY"}, "cannot be loaded"),
        ({"peft_type": "PREFIX_TUNING"}, "cannot be loaded"),
    ],
)
def test_an_adapter_that_cannot_work_is_refused(transformer, tmp_path, settings, words):
    file = settings_file(tmp_path, **settings)
    with pytest.raises(UserError, match=f"peft=.*adapter.json: .*{words}"):
        add_peft(transformer, file, seed=0)
        check_peft(transformer, file)


def test_a_settings_file_that_is_not_there_is_named(transformer, tmp_path):
    with pytest.raises(UserError, match=r"peft=.*none\.json: cannot be loaded"):
        add_peft(transformer, str(tmp_path / "none.json"), seed=0)
