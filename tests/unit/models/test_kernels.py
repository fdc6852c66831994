"""Kernels: each within its bound of torch's own, chosen once a machine, off by one variable."""

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import t2v.models.kernels.attention as attention
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.kernels import choice, names, norms, plain, products
from t2v.models.kernels.precision import faster_dtype, has_half_products
from t2v.models.layers import FeedForward, Linear
from t2v.sampling.again import check_same
from t2v.sampling.recipe import Recipe, read
from t2v.sampling.versions import versions

HALF, SINGLE = torch.bfloat16, torch.float32
OF_ONEDNN = {"onednn", "packed", "chunks", *products.GRADIENTS}
OPS = {
    "linear": products.candidates,
    "gelu": products.gelu_candidates,
    "attention": attention.candidates,
    "attention_text": attention.few_candidates,
    "rms_norm": norms.rms_candidates,
    "modulate": norms.modulate_candidates,
    "gate": norms.gate_candidates,
}


@pytest.fixture
def auto(monkeypatch, tmp_path):
    """Kernels are chosen, kept in an empty cache, and forgotten afterwards."""
    monkeypatch.setenv(choice.VARIABLE, "auto")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choice._chosen.cache_clear()
    yield tmp_path
    choice._chosen.cache_clear()


def lacks(dtype: torch.dtype, name: str) -> bool:
    """Whether this processor has no such kernel: not all have oneDNN's products of bfloat16."""
    return dtype == HALF and name in OF_ONEDNN and not has_half_products()


def prefer(monkeypatch, *names: str) -> None:
    """Let every choice be the first of `names` that it knows and this processor has."""

    def chosen(op, dtype, grad, make):
        known = [name for name in names_of(make, grad) if not lacks(dtype, name)]
        return next((name for name in names if name in known), known[0])

    chosen._dynamo_marked_constant = True

    for module in (products, attention, norms):
        monkeypatch.setattr(module, "chosen", chosen)


@cache
def names_of(make: Callable[..., choice.Candidates], grad: bool) -> list[str]:
    with torch.set_grad_enabled(grad):
        return list(make(SINGLE, grad))


def near(given: Tensor, wanted: Tensor, dtype: torch.dtype) -> None:
    assert given.dtype == wanted.dtype == dtype and given.shape == wanted.shape
    largest = wanted.float().abs().max().item()
    assert (given.float() - wanted.float()).abs().max() <= choice.BOUNDS[dtype] * largest


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("grad", [False, True])
def test_every_candidate_of_a_probe_is_within_the_bound(dtype, grad):
    for op, make in OPS.items():
        if grad and (op in ("gelu", "gate") or (op == "modulate" and dtype == HALF)):
            continue  # these are of inference alone
        with torch.set_grad_enabled(grad):
            found = make(dtype, grad)
            assert not lacks(dtype, next(iter(found))), op
            for name, run in found.items():
                agrees = choice._agrees(run, found, choice.BOUNDS[dtype])
                assert agrees is not lacks(dtype, name), (op, name)  # a probe leaves those out


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("shape", [(1, 1, 8, 16), (2, 5, 64, 32), (3, 33, 48, 7)])
def test_products_agree_at_any_shape_packed_or_not_and_in_their_gradients(
    auto, monkeypatch, dtype, shape
):
    batch, count, width, out = shape
    for bias in (True, False):
        layer = Linear(width, out, bias=bias).to(dtype)
        x = torch.randn(batch, count, width).to(dtype).requires_grad_()
        wanted = nn.Linear.forward(layer, x)
        inputs = [x, *layer.parameters()]
        gradients = torch.autograd.grad(wanted.square().sum(), inputs)
        ways = ("packed", "onednn"), ("onednn_but_weight", "onednn"), ("onednn_forward", "onednn")
        for preferred in ways:
            prefer(monkeypatch, *preferred)
            with torch.no_grad(), products.packed_weights():
                for _ in range(2):
                    near(layer(x), wanted, dtype)
                near(
                    products.linear_gelu(x, layer.weight, layer.bias),
                    F.gelu(wanted.float(), approximate="tanh").to(dtype),
                    dtype,
                )
            given = torch.autograd.grad(layer(x).square().sum(), inputs)
            for one, other in zip(given, gradients, strict=True):
                near(one, other, dtype)
    wide = torch.randn(count + 2, 3 * width).to(dtype)[1:-1, width : 2 * width]  # rows apart
    with torch.no_grad():
        near(layer(wide), nn.Linear.forward(layer, wide), dtype)


@pytest.mark.parametrize("shape", [(2, 5, 8), (1, 3, 4, 16)])
def test_an_rms_norm_of_any_shape_has_the_gradients_of_torchs(shape):
    x, weight = torch.randn(shape), torch.randn(shape[-1])
    weight[0] = 0  # a gradient must not divide by it
    given = [x.requires_grad_(), weight.requires_grad_()]
    wanted, found = (norm(*given, 1e-6) for norm in norms.RMS_LEARNED.values())
    near(found, wanted, SINGLE)
    for learned in (given, given[:1], given[1:]):
        gradients = [
            torch.autograd.grad(y.exp().sum(), learned, retain_graph=True) for y in (found, wanted)
        ]
        for one, other in zip(*gradients, strict=True):
            near(one, other, SINGLE)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
@pytest.mark.parametrize("shape", [(1, 3, 2, 1, 8), (2, 40, 130, 3, 16), (1, 600, 70, 2, 24)])
def test_attention_agrees_at_any_shape_and_in_its_gradients(dtype, shape):
    batch, count, keys, heads, width = shape
    tokens = (count, keys, keys)
    q, k, v = (torch.randn(batch, n, heads, width).to(dtype).requires_grad_() for n in tokens)
    wanted = attention._sdpa(q, k, v)
    with torch.no_grad():
        for name in attention.FORWARD:
            if lacks(dtype, name):
                continue
            near(attention.attend(q, k, v, name), wanted, dtype)
    gradients = torch.autograd.grad(wanted, (q, k, v), wanted.detach())
    given = torch.autograd.grad(attention.attend(q, k, v, "whole"), (q, k, v), wanted.detach())
    for one, other in zip(given, gradients, strict=True):
        near(one, other, dtype)


FAST = ("packed", "onednn", "chunks", "affine", "fp32", "one_pass")


@pytest.mark.parametrize(
    ("dtype", "names"), [(SINGLE, FAST), (HALF, FAST), (HALF, ("onednn", "whole", "bf16"))]
)
def test_a_transformer_gives_the_same_by_any_kernels(auto, monkeypatch, transformer, names, dtype):
    transformer.to(dtype)
    given = torch.randn(2, 8, 3, 8, 8), torch.full((2,), 400.0), torch.randn(2, 5, 32)
    latents, time, text = (each.to(dtype) for each in given)
    wanted = transformer(latents, time, text, return_dict=False)[0]
    prefer(monkeypatch, *names)
    with torch.no_grad(), products.packed_weights():
        found = transformer(latents, time, text, return_dict=False)[0]
    largest = wanted.float().abs().max()
    assert (found.float() - wanted.float()).abs().max() <= 2 * choice.BOUNDS[dtype] * largest
    assert transformer(latents, time, text, return_dict=False)[0].requires_grad


def test_compiled_operations_have_their_shapes_and_gradients():
    x, weight, bias = (torch.randn(size, requires_grad=True) for size in ((2, 3, 8), (4, 8), (4,)))
    tokens = [torch.randn(1, n, 2, 4, requires_grad=True) for n in (5, 6, 6)]
    checks = "test_schema", "test_autograd_registration", "test_faketensor"
    for name in products.GRADIENTS:
        torch.library.opcheck(torch.ops.t2v.linear, (x, weight, bias, name), test_utils=checks)
        given = torch.autograd.grad(torch.ops.t2v.linear(x, weight, bias, name).exp().sum(),
                                    (x, weight, bias))  # fmt: skip
        wanted = torch.autograd.grad(F.linear(x, weight, bias).exp().sum(), (x, weight, bias))
        for one, other in zip(given, wanted, strict=True):
            near(one, other, SINGLE)
    plain = [each.detach() for each in (x, weight, bias)]
    torch.library.opcheck(torch.ops.t2v.linear_gelu, plain, test_utils=checks)
    torch.library.opcheck(torch.ops.t2v.attention, (*tokens, "whole"), test_utils=checks)
    given = torch.autograd.grad(torch.ops.t2v.attention(*tokens, "whole").exp().sum(), tokens)
    wanted = torch.autograd.grad(attention._sdpa(*tokens).exp().sum(), tokens)
    for one, other in zip(given, wanted, strict=True):
        near(one, other, SINGLE)


def test_a_compiled_block_is_one_graph_of_the_kernels_that_were_chosen(auto, monkeypatch):
    prefer(monkeypatch, "packed", "onednn")
    block, x = FeedForward(8, 16), torch.randn(1, 3, 8)
    graphs = []

    def keep(graph, _):
        graphs.append(graph.print_readable(print_output=False))
        return graph

    with torch.no_grad():
        near(torch.compile(block, backend=keep, fullgraph=True)(x), block(x), SINGLE)
    assert len(graphs) == 1 and "t2v.linear_gelu" in graphs[0] and "t2v.linear(" in graphs[0]


def test_packed_weights_follow_what_is_written_replaced_and_cast(auto, monkeypatch):
    prefer(monkeypatch, "packed")
    layer, x = Linear(16, 8), torch.randn(3, 16)
    with torch.no_grad(), products.packed_weights():
        layer(x)
        layer.weight.add_(1)
        near(layer(x), F.linear(x, layer.weight, layer.bias), SINGLE)
        layer.load_state_dict({"weight": torch.ones(8, 16), "bias": torch.ones(8)})
        near(layer(x), F.linear(x, torch.ones(8, 16), torch.ones(8)), SINGLE)
        layer.weight.data = torch.zeros(8, 16)
        assert layer(x).eq(1).all()
        layer.weight = nn.Parameter(2 * torch.ones(8, 16))
        near(layer(x), F.linear(x, layer.weight, layer.bias), SINGLE)
        layer.to(HALF)
        near(layer(x.to(HALF)), F.linear(x.to(HALF), layer.weight, layer.bias), HALF)
    layer.weight.data += 1  # as merged adapters do: it is not counted, but not packed here either
    with torch.no_grad(), products.packed_weights():
        near(layer(x.to(HALF)), F.linear(x.to(HALF), layer.weight, layer.bias), HALF)


def test_a_choice_is_made_once_kept_and_the_first_of_two_writers_wins(auto):
    def make(dtype: torch.dtype, grad: bool) -> choice.Candidates:
        slow = torch.ones(300, 300)
        return {
            "slow": lambda: ((slow @ slow @ slow)[:1, :1] * 0,),
            "fast": lambda: (slow[:1, :1] * 0,),
            "wrong": lambda: (slow[:1, :1] * 0 + torch.nan,),
            "gone": lambda: torch.ops.mkldnn._no_such_kernel(),
        }

    assert choice.chosen("test", SINGLE, False, make) == "fast"
    (file,) = auto.rglob("*.json")
    kept = json.loads(file.read_text())
    assert kept["kernel"] == "fast" and set(kept["milliseconds"]) == {"slow", "fast"}
    assert file.parent.name.endswith(f"{torch.get_num_threads()}-threads")
    file.write_text(json.dumps({"kernel": "slow"}))
    choice._chosen.cache_clear()
    assert choice.chosen("test", SINGLE, False, make) == "slow"  # as another process left it
    choice._keep(file, {"kernel": "fast"}, damaged=False)
    assert json.loads(file.read_text()) == {"kernel": "slow"}
    for damage in ("", "[1]", '{"kernel": "none"}', '{"kernel": ["fast"]}'):
        file.write_text(damage)
        choice._chosen.cache_clear()
        assert choice.chosen("test", SINGLE, False, make) == "fast"
        assert json.loads(file.read_text())["kernel"] == "fast"
    assert list(auto.rglob("*.partial")) == []


def test_a_recipe_tells_the_kernels_of_a_model_of_ours_and_others_are_one_warning(
    auto, monkeypatch, transformer, caplog
):
    settings = SampleConfig(height=32, width=48, fps=8.0)
    common = {"prompt": "a", "settings": settings, "weights": "0" * 64, "device": "cpu"}
    monkeypatch.setattr(names, "chosen", lambda op, dtype, grad, make: list(make(dtype, grad))[-1])
    here = Recipe(**common, versions=versions("cpu", transformer.to(HALF)))
    told = here.versions["kernels"]
    assert told.startswith("linear onednn, gelu onednn, video chunks") and len(told) < 100
    assert read(here.to_json(), Path("a.mp4")) == here
    monkeypatch.setenv(choice.VARIABLE, "plain")
    plain_one = Recipe(**common, versions=versions("cpu", transformer))
    assert plain_one.versions["kernels"] == "plain"
    assert plain_one.versions["attention"] == "torch flash"
    assert "kernels" not in versions("cpu", nn.Linear(2, 2))
    older = replace(plain_one, versions=versions("cpu"))
    caplog.clear()
    check_same(older, plain_one, set())
    assert not caplog.messages
    check_same(here, plain_one, set())
    check_same(older, here, set())
    assert caplog.messages == [
        f"made with kernels {told}, now plain: frames may differ",
        f"made with kernels plain, now {told}: frames may differ",
    ]


def test_a_cache_that_cannot_be_written_is_no_error(auto, monkeypatch):
    (auto / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(auto / "file"))
    assert faster_dtype(torch.device("cpu")) in (SINGLE, HALF)


@pytest.mark.parametrize("dtype", [SINGLE, HALF])
def test_without_onednn_products_are_torchs_own(auto, monkeypatch, dtype):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    for grad in (False, True):
        assert list(products.candidates(dtype, grad)) == ["plain"]
    assert list(products.gelu_candidates(dtype, False)) == ["plain"]
    layer, x = Linear(16, 8).to(dtype), torch.randn(3, 16).to(dtype)
    with torch.no_grad():
        assert layer(x).equal(F.linear(x, layer.weight, layer.bias))
    assert not has_half_products()


def test_a_limit_of_the_instructions_of_onednn_has_choices_of_its_own(monkeypatch):
    here = choice.machine(2)
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "SSE41")
    assert choice.machine(2) != here


def test_plain_runs_no_probe_and_another_word_is_refused(auto, monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "plain")
    layer, x = Linear(16, 8), torch.randn(3, 16)
    with torch.no_grad():
        assert layer(x).equal(plain.linear(x, layer.weight, layer.bias))
    assert faster_dtype(torch.device("cpu")) == (HALF if has_half_products() else SINGLE)
    assert list(auto.rglob("*.json")) == []
    monkeypatch.setenv(choice.VARIABLE, "fast")
    with pytest.raises(UserError, match="T2V_KERNELS=fast in the environment: auto"):
        layer(x)


@pytest.mark.parametrize("bias", [True, False])
def test_the_rule_of_earlier_versions_agrees_with_torchs(monkeypatch, bias):
    layer, x = Linear(64, 32, bias=bias), torch.randn(2, 5, 64)
    monkeypatch.setattr(plain, "mkl_is_slow", lambda: True)
    layer(x).sum().backward()
    assert layer.weight.grad is not None and layer.weight.grad.any()
    with torch.no_grad():
        torch.testing.assert_close(layer(x), nn.Linear.forward(layer, x), atol=1e-5, rtol=1e-5)
        with torch.autocast("cpu", HALF):
            assert layer(x).dtype == HALF


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("stride", [1, (1, 2, 2)])
def test_the_convolution_of_one_video_agrees_with_that_of_many(count, stride):
    layer = nn.Conv3d(4, 6, (3, 3, 3), stride=stride, padding=(0, 1, 1))
    x = torch.randn(count, 4, 5, 6, 8)
    with torch.no_grad():
        torch.testing.assert_close(plain.conv3d(x, layer), layer(x), atol=1e-5, rtol=1e-5)
        assert plain.conv3d(x.double(), layer.double()).dtype == torch.float64
