"""Activations that are kept or computed again, and compiled blocks: the same training."""

from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from t2v.config.finetune import FinetuneConfig
from t2v.config.training import TrainConfig
from t2v.errors import UserError
from t2v.models.compiling import compile_each
from t2v.training.engine.activations import cast_residual, checkpoint_gradients, compile_parts
from t2v.training.engine.sharding import blocks


class Parts:
    def __init__(self, model):
        self.model, self.parts = model, {"transformer": model}


class Counted(TorchDispatchMode):
    """The products of a pass, by their names."""

    def __init__(self):
        super().__init__()
        self.products = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.products += function in (torch.ops.aten.addmm.default, torch.ops.aten.mm.default)
        return function(*args, **(kwargs or {}))


def gradients(model):
    given = torch.randn(1, 8, 3, 8, 8), torch.full((1,), 400.0), torch.randn(1, 5, 32)
    model.zero_grad()
    model(*given, return_dict=False)[0].square().mean().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters()}


def test_selective_checkpointing_runs_no_product_twice_and_keeps_the_gradients(transformer):
    random, taken, found = torch.get_rng_state(), {}, {}
    for way in ("none", "selective", "blocks"):
        torch.set_rng_state(random)
        if way != "none":
            checkpoint_gradients(Parts(transformer), way)
        with Counted() as counted:
            found[way] = gradients(transformer)
        taken[way] = counted.products
    assert taken["none"] == taken["selective"] == taken["blocks"] - 20
    for name, each in found["none"].items():
        assert each.equal(found["selective"][name]) and each.equal(found["blocks"][name])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_residual_has_its_dtype_in_every_block_under_autocast_alone(transformer, dtype):
    seen = []
    cast_residual(Parts(transformer), dtype)
    for block in transformer.blocks:
        block.register_forward_hook(lambda block, given, out: seen.append(out.dtype))
    gradients(transformer)
    assert set(seen) == {torch.float32}
    seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        gradients(transformer)
    assert seen == [dtype] * len(transformer.blocks)
    with pytest.raises(UserError, match="residual: transformer is no t2v transformer"):
        cast_residual(Parts(torch.nn.Linear(2, 2)), dtype)


# the compiler looks at every input's .grad, and silences what torch says to that only by default
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_blocks_keep_names_and_gradients(transformer):
    random, names = torch.get_rng_state(), list(transformer.state_dict())
    plain = gradients(transformer)
    compile_each(blocks(transformer), "default", backend="eager")
    torch.set_rng_state(random)
    found = gradients(transformer)
    assert all(each._compiled_call_impl is not None for each in transformer.blocks)
    for name, each in plain.items():
        torch.testing.assert_close(found[name], each, atol=1e-5, rtol=1e-4)
    assert list(transformer.state_dict()) == names


def test_what_compiling_cannot_go_with_is_one_message(tmp_path):
    config = TrainConfig(output=str(tmp_path), device="cpu", compile=True)
    with pytest.raises(UserError, match="compile=true: transformer has no blocks that repeat"):
        compile_parts(Parts(torch.nn.Linear(2, 2)), config)
    for mode in ("max-autotune", "reduce-overhead"):
        with pytest.raises(UserError, match=f"compile_mode={mode} device=cpu: CUDA graphs"):
            compile_parts(Parts(torch.nn.Linear(2, 2)), replace(config, compile_mode=mode))
        with pytest.raises(UserError, match=f"compile_mode={mode} is of compile=true"):
            replace(config, compile=False, compile_mode=mode)
    with pytest.raises(UserError, match="compile=true parallel=fsdp: blocks that are split"):
        replace(config, parallel="fsdp")
    with pytest.raises(UserError, match="compile=true swap_blocks=2 base_dtype=auto: blocks whose"):
        FinetuneConfig(output="x", data="y", model="z", compile=True, swap_blocks=2)
    with pytest.raises(UserError, match=r"compile=true checkpointing=selective: .* compiler's"):
        replace(config, gradient_checkpointing=True, checkpointing="selective")
