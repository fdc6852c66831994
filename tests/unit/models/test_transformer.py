"""T2VTransformer3DModel: exact to Wan, free in size, and at home in diffusers."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.hooks import (
    FirstBlockCacheConfig,
    LayerSkipConfig,
    MagCacheConfig,
    TaylorSeerCacheConfig,
    apply_layer_skip,
)
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from torch import Tensor, nn

from t2v.config.models import TransformerConfig
from t2v.errors import UserError
from t2v.models.attention.layouts import LAYOUTS
from t2v.models.kv_cache import KVCache
from t2v.models.transformer import T2VTransformer3DModel, T2VTransformerBlock

WAN_SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 4,
    "out_channels": 4,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}


def wake(model: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter with noise: fresh zeros would hide half of the network."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def build(**changes: Any) -> T2VTransformer3DModel:
    return wake(T2VTransformer3DModel(**{**WAN_SMALL, **changes}))


def inputs(grid: tuple[int, int, int] = (3, 4, 6), batch: int = 2, channels: int = 4) -> dict:
    generator = torch.Generator().manual_seed(7)
    return {
        "hidden_states": torch.randn(batch, channels, *grid, generator=generator),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": torch.randn(batch, 7, 16, generator=generator),
    }


def predict(model: nn.Module, **given: Any) -> Tensor:
    with torch.no_grad():
        return model(**given, return_dict=False)[0]


def relative(x: Tensor, reference: Tensor) -> float:
    return ((x - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("head_dim", [12, 64, 128])
@pytest.mark.parametrize("grid", [(1, 6, 6), (2, 4, 4), (3, 6, 10)])  # 9, 8 and 45 tokens
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_wan_weights_give_wans_answer(head_dim, grid, dtype):
    wan = wake(WanTransformer3DModel(**WAN_SMALL | {"attention_head_dim": head_dim})).to(dtype)
    ours = T2VTransformer3DModel.from_config(wan.config).to(dtype).eval()
    ours.load_state_dict(wan.state_dict())
    given = {name: x.to(dtype) for name, x in inputs(grid).items()}
    answer, wanted = predict(ours, **given), predict(wan, **given)
    if dtype == torch.bfloat16:
        assert torch.equal(answer, wanted)
    else:
        assert relative(answer, wanted) <= 1e-5


def test_bfloat16_with_fp32_islands_gives_wans_answer(tmp_path):
    wake(WanTransformer3DModel(**WAN_SMALL)).save_pretrained(tmp_path)
    wan = WanTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    ours = T2VTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert ours.blocks[0].scale_shift_table.dtype == torch.float32
    given = {name: x.bfloat16() for name, x in inputs().items()}
    assert torch.equal(predict(ours, **given), predict(wan, **given))


def test_a_time_per_token_gives_wans_answer():
    wan = wake(WanTransformer3DModel(**WAN_SMALL))
    ours = T2VTransformer3DModel.from_config(wan.config).eval()
    ours.load_state_dict(wan.state_dict())
    given = inputs() | {"timestep": torch.arange(36.0).reshape(2, 18) * 20}
    assert relative(predict(ours, **given), predict(wan, **given)) <= 1e-5


def test_gradients_are_those_of_wan():
    wan = wake(WanTransformer3DModel(**WAN_SMALL))
    ours = T2VTransformer3DModel.from_config(wan.config)
    ours.load_state_dict(wan.state_dict())
    for model in (wan, ours):
        model(**inputs()).sample.square().sum().backward()
    for name, parameter in wan.named_parameters():
        assert relative(ours.get_parameter(name).grad, parameter.grad) <= 1e-4, name


def test_state_dict_keys_are_wans():
    with torch.device("meta"):
        ours, wan = T2VTransformer3DModel(), WanTransformer3DModel()
    assert ours.state_dict().keys() == wan.state_dict().keys()


def test_wan_1_3b_has_wans_parameter_count():
    with torch.device("meta"):
        model = T2VTransformer3DModel(
            num_attention_heads=12, attention_head_dim=128, ffn_dim=8960, num_layers=30
        )
    assert model.num_parameters() == 1_418_996_800


def test_a_lora_made_for_wan_loads_and_acts_the_same():
    wan = wake(WanTransformer3DModel(**WAN_SMALL))
    ours = T2VTransformer3DModel.from_config(wan.config).eval()
    ours.load_state_dict(wan.state_dict())
    names = ["to_q", "to_k", "to_v", "to_out.0", "proj"]
    wan.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=names))
    wake(wan, seed=1)
    lora = {f"transformer.{name}": x.clone() for name, x in get_peft_model_state_dict(wan).items()}
    base = {name.replace("base_layer.", ""): x for name, x in wan.state_dict().items()}
    ours.load_state_dict({name: x for name, x in base.items() if "lora" not in name})
    ours.load_lora_adapter(lora)
    wanted = predict(wan, **inputs())
    assert relative(predict(ours, **inputs()), wanted) <= 1e-5
    half = predict(ours, **inputs(), attention_kwargs={"scale": 0.5})
    assert relative(half, wanted) > 1e-2


def test_a_fresh_factorized_model_treats_every_frame_as_its_own_clip():
    model = build(attention="factorized")
    for block in model.blocks:
        for parameter in block.attn_temporal.to_out[0].parameters():
            nn.init.zeros_(parameter)
    given = inputs()
    whole = predict(model, **given)
    frames = [
        predict(model, **given | {"hidden_states": frame})
        for frame in given["hidden_states"].split(1, dim=2)
    ]
    torch.testing.assert_close(whole, torch.cat(frames, dim=2), atol=1e-5, rtol=1e-5)


def test_initialize_and_construction_leave_temporal_attention_at_zero():
    model = T2VTransformer3DModel(**WAN_SMALL, attention="factorized")
    assert not model.blocks[0].attn_temporal.to_out[0].weight.any()
    wake(model).initialize(torch.Generator().manual_seed(0))
    assert not model.blocks[0].attn_temporal.to_out[0].weight.any()


def test_temporal_attention_knows_the_order_of_frames():
    model = build(attention="factorized")
    for block in model.blocks:
        for parameter in block.attn_temporal.parameters():
            parameter.data *= 10  # noise this small attends almost evenly
    given = inputs()
    turned = predict(model, **given | {"hidden_states": given["hidden_states"].flip(2)}).flip(2)
    assert relative(turned, predict(model, **given)) > 1e-3


@pytest.mark.parametrize("attention", LAYOUTS)
def test_every_input_matters(attention):
    model = build(attention=attention, pooled_text=True)
    given = inputs()
    answer = predict(model, **given)
    for name, x in given.items():
        assert relative(predict(model, **given | {name: x.flip(0)}), answer) > 1e-3, name


def test_pooled_text_ignores_padding_and_reaches_the_modulation():
    model = build(pooled_text=True)
    for block in model.blocks:  # shut the other way by which text comes in
        nn.init.zeros_(block.attn2.to_out[0].weight)
    given = inputs()
    text = given["encoder_hidden_states"]
    padded = torch.cat([text, torch.zeros(2, 5, 16)], dim=1)
    answer = predict(model, **given)
    longer = predict(model, **given | {"encoder_hidden_states": padded})
    torch.testing.assert_close(answer, longer, atol=1e-5, rtol=1e-5)
    assert relative(predict(model, **given | {"encoder_hidden_states": -text}), answer) > 1e-3
    assert predict(model, **given | {"encoder_hidden_states": 0 * text}).isfinite().all()


@pytest.mark.parametrize("grid", [(1, 2, 2), (1, 4, 10), (5, 6, 2), (9, 2, 4)])
@pytest.mark.parametrize("attention", LAYOUTS)
def test_one_model_serves_many_sizes_and_durations(grid, attention):
    given = inputs(grid)
    assert predict(build(attention=attention), **given).shape == given["hidden_states"].shape


def test_frames_can_be_patched_too():
    model = build(patch_size=(2, 2, 2), out_channels=8)
    assert predict(model, **inputs((4, 4, 6))).shape == (2, 8, 4, 4, 6)


@pytest.mark.parametrize("qk_norm", ["rms_norm_across_heads", "rms_norm", "none"])
@pytest.mark.parametrize("attention", LAYOUTS)
def test_batch_equals_one_by_one(attention, qk_norm):
    model = build(attention=attention, qk_norm=qk_norm)
    given = inputs()
    alone = [predict(model, **{k: v[i : i + 1] for k, v in given.items()}) for i in range(2)]
    torch.testing.assert_close(predict(model, **given), torch.cat(alone), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("attention", LAYOUTS)
def test_gradient_checkpointing_keeps_the_gradients(attention):
    model = build(attention=attention)
    model(**inputs()).sample.sum().backward()
    wanted = {name: x.grad.clone() for name, x in model.named_parameters()}
    model.zero_grad()
    model.enable_gradient_checkpointing()
    model(**inputs()).sample.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)


@pytest.mark.parametrize("attention", LAYOUTS)
def test_saved_and_loaded_it_answers_the_same(attention, tmp_path):
    model = build(attention=attention, qk_norm="rms_norm", rope_theta=100.0, pooled_text=True)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    loaded = T2VTransformer3DModel.from_pretrained(tmp_path)
    assert torch.equal(predict(loaded, **inputs()), predict(model, **inputs()))


def test_initialize_is_a_function_of_its_generator_and_predicts_zero():
    first, again = build(pooled_text=True), build(pooled_text=True)
    wake(again, seed=3)
    for model in (first, again):
        model.initialize(torch.Generator().manual_seed(5))
    for name, parameter in first.named_parameters():
        assert torch.equal(parameter, again.get_parameter(name)), name
    assert not predict(first, **inputs()).any()
    gates = first.blocks[0].scale_shift_table[0, [2, 5]]
    assert abs(gates.mean().item() - 0.5) < 0.2


def test_the_settings_build_the_embedded_model_and_every_weight_learns():
    config = asdict(TransformerConfig()) | {"num_layers": 2}
    model = T2VTransformer3DModel(**config)
    model.initialize(torch.Generator().manual_seed(0))
    wake(model)
    given = inputs(channels=16) | {"encoder_hidden_states": torch.randn(2, 7, 192)}
    with torch.autocast("cpu", torch.bfloat16):
        model(**given).sample.float().square().mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any(), name


def with_cache(cache: KVCache) -> dict[str, Any]:
    return {"attention_kwargs": {"kv_cache": cache}}


def test_the_text_is_projected_once_for_each_cache():
    model, given = build(), inputs()
    wanted = predict(model, **given)
    calls = count_calls(model.blocks[0].attn2.to_k)
    cache, another = KVCache(), KVCache()
    for _ in range(3):
        assert torch.equal(predict(model, **given, **with_cache(cache)), wanted)
    assert len(calls) == 1
    predict(model, **given, **with_cache(another))
    predict(model, **given)
    assert len(calls) == 3


def test_a_cache_does_not_serve_another_text():
    model, given = build(), inputs()
    text = given["encoder_hidden_states"]
    cache = KVCache()
    predict(model, **given, **with_cache(cache))
    for other in (text.flip(0), text[:, :3]):
        changed = given | {"encoder_hidden_states": other}
        cached = predict(model, **changed, **with_cache(cache))
        assert torch.equal(cached, predict(model, **changed))


def test_a_cache_is_not_used_where_gradients_are_recorded():
    model, given = build(), inputs()
    cache = KVCache()
    model.enable_gradient_checkpointing()
    predict(model, **given, **with_cache(cache))
    model(**given, **with_cache(cache)).sample.sum().backward()
    gradient = model.blocks[0].attn2.to_k.weight.grad.clone()
    model.zero_grad()
    model(**given).sample.sum().backward()
    assert gradient.any() and torch.equal(model.blocks[0].attn2.to_k.weight.grad, gradient)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # torch's own
@pytest.mark.parametrize("whole", [True, False], ids=["whole", "blocks"])
def test_a_compiled_model_takes_a_cache_and_is_compiled_once(whole):
    model, given = build(), inputs()
    wanted = predict(model, **given)
    torch._dynamo.reset()
    graphs = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph

    if whole:
        model.compile(fullgraph=True, backend=backend)
    else:
        model.compile_repeated_blocks(fullgraph=True, backend=backend)
    caches = [KVCache(), KVCache()]
    for _ in range(3):
        for cache in caches:
            torch.testing.assert_close(predict(model, **given, **with_cache(cache)), wanted)
    assert len(graphs) == 1
    torch._dynamo.reset()


def count_calls(module: nn.Module) -> list[int]:
    calls: list[int] = []
    module.register_forward_hook(lambda *_: calls.append(1))
    return calls


@pytest.mark.parametrize("attention", LAYOUTS)
@pytest.mark.parametrize(
    "config",
    [
        FirstBlockCacheConfig(threshold=10.0),
        MagCacheConfig(mag_ratios=[1.0] * 6, num_inference_steps=6, retention_ratio=0.0),
        TaylorSeerCacheConfig(cache_interval=3, disable_cache_before_step=1, use_lite_mode=True),
    ],
    ids=["first_block", "mag", "taylor"],
)
def test_a_cache_spares_block_calls(attention, config):
    model = build(num_layers=3, attention=attention)
    calls = count_calls(model.blocks[2].ffn)
    model.enable_cache(config)
    for _ in range(6):
        with model.cache_context("cond"):
            predict(model, **inputs())
    assert 0 < len(calls) < 6
    model.disable_cache()


@pytest.mark.parametrize(
    "skip", [{"skip_attention": True, "skip_ff": False}, {"skip_attention": False, "skip_ff": True}]
)
def test_layer_skip_finds_attention_and_mlp(skip):
    model = build()
    wanted = predict(model, **inputs())
    apply_layer_skip(
        model, LayerSkipConfig(indices=[1], fqn="blocks", skip_attention_scores=False, **skip)
    )
    assert not torch.equal(predict(model, **inputs()), wanted)


def test_fused_projections_change_nothing():
    model = build()
    wanted = predict(model, **inputs())
    model.fuse_qkv_projections()
    assert relative(predict(model, **inputs()), wanted) < 1e-5
    model.unfuse_qkv_projections()
    assert torch.equal(predict(model, **inputs()), wanted)


def test_layerwise_casting_stores_eight_bits_and_answers_nearly_the_same():
    model = build(attention="factorized")
    wanted = predict(model, **inputs())
    model.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    assert model.blocks[0].attn_temporal.to_q.weight.dtype == torch.float8_e4m3fn
    assert relative(predict(model, **inputs()), wanted) < 0.1


@pytest.mark.parametrize("offload_type", ["block_level", "leaf_level"])
def test_group_offload_changes_nothing(offload_type, tmp_path):
    model = build(attention="factorized")
    wanted = predict(model, **inputs())
    model.enable_group_offload(
        torch.device("cpu"),
        offload_type=offload_type,
        num_blocks_per_group=1,
        offload_to_disk_path=str(tmp_path),  # in memory nothing would move
    )
    assert torch.equal(predict(model, **inputs()), wanted)


def test_a_single_file_with_wans_original_names_loads(tmp_path):
    model = build()
    model.save_pretrained(tmp_path)
    renames = {  # ours -> the official checkpoint's; norm2 and norm3 change places
        "condition_embedder.time_embedder.linear_1": "time_embedding.0",
        "condition_embedder.time_embedder.linear_2": "time_embedding.2",
        "condition_embedder.text_embedder.linear_1": "text_embedding.0",
        "condition_embedder.text_embedder.linear_2": "text_embedding.2",
        "condition_embedder.time_proj": "time_projection.1",
        "attn1": "self_attn",
        "attn2": "cross_attn",
        "to_out.0": "o",
        "to_q": "q",
        "to_k": "k",
        "to_v": "v",
        "ffn.net.0.proj": "ffn.0",
        "ffn.net.2": "ffn.2",
        "norm2": "norm3",
        "proj_out": "head.head",
    }
    official = {}
    for name, x in model.state_dict().items():
        for ours, theirs in renames.items():
            name = name.replace(ours, theirs)
        name = "head.modulation" if name == "scale_shift_table" else name
        name = name.replace("scale_shift_table", "modulation")
        official[name] = x
    file = str(tmp_path / "wan.safetensors")
    save_file(official, file)
    loaded = T2VTransformer3DModel.from_single_file(file, config=str(tmp_path))
    assert torch.equal(predict(loaded, **inputs()), predict(model, **inputs()))
    # diffusers walks all names it knows: ours must be among its attributes
    assert diffusers.T2VTransformer3DModel is T2VTransformer3DModel


def test_repeated_blocks_are_named():
    assert T2VTransformer3DModel._repeated_blocks == [T2VTransformerBlock.__name__]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"attention": "sparse"}, "factorized"),
        ({"qk_norm": "layer_norm"}, "rms_norm_across_heads"),
    ],
)
def test_a_config_of_another_model_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        T2VTransformer3DModel(**{**WAN_SMALL, **changes})


def test_sizes_that_patches_do_not_tile_are_refused():
    with pytest.raises(UserError, match="multiples of the patch"):
        predict(build(), **inputs((1, 3, 4)))


def test_a_grid_beyond_the_known_positions_is_refused():
    with pytest.raises(UserError, match="rope_max_seq_len"):
        predict(build(rope_max_seq_len=4), **inputs((5, 4, 4)))


def test_a_factorized_model_is_split_over_devices_with_whole_rotations():
    plan = T2VTransformer3DModel._cp_plan
    factorized = build(attention="factorized")._cp_plan
    assert factorized == {name: each for name, each in plan.items() if name != "rope"}
    assert "rope" in plan


def test_loading_keeps_rotary_positions_in_fp32(tmp_path: Path):
    build().save_pretrained(tmp_path)
    loaded = T2VTransformer3DModel.from_pretrained(tmp_path, torch_dtype=torch.bfloat16)
    assert loaded.rope.freqs.dtype == torch.float32
