"""Attention: every backend that runs here agrees, and one that does not says what to do."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry, attention_backend
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from t2v.errors import UserError
from t2v.models.attention.layer import Attention, portable_mask, refusals
from t2v.models.kernels.names import operator_of
from t2v.models.transformer import T2VTransformer3DModel

ON_CPU = ["native", "_native_math", "_native_flash", "flex"]
TAKE_MASKS = ["native", "_native_math", "flex"]
# flex warns that it is slow without torch.compile
pytestmark = pytest.mark.filterwarnings("ignore:.*flex_attention.*")


@pytest.fixture
def model() -> Any:
    model = T2VTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=4,
        text_dim=16,
        ffn_dim=32,
        num_layers=2,
        attention="factorized",
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


def predict(model: nn.Module, tokens: int = 9, **more: Any) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        return model(
            hidden_states=torch.randn(2, 4, 2, 6, 6, generator=generator),
            timestep=torch.tensor([100.0, 700.0]),
            encoder_hidden_states=torch.randn(2, 18, 16, generator=generator)[:, :tokens],
            return_dict=False,
            **more,
        )[0]


@pytest.mark.parametrize("backend", ON_CPU)
def test_backends_agree(model, backend):
    wanted = predict(model)
    model.set_attention_backend(backend)
    torch.testing.assert_close(predict(model), wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tokens", [9, 18])  # 18 text tokens are as many as the video has
@pytest.mark.parametrize("backend", TAKE_MASKS)
def test_hidden_tokens_are_as_absent(model, backend, tokens):
    model.set_attention_backend(backend)
    mask = (torch.arange(tokens) < 7).expand(2, tokens)
    masked = predict(model, tokens, encoder_attention_mask=mask)
    torch.testing.assert_close(masked, predict(model, 7), atol=1e-5, rtol=1e-5)


def test_a_mask_follows_the_backend_of_the_context_too(model):
    mask = torch.ones(2, 9, dtype=torch.bool)
    with attention_backend("_native_flash"), pytest.raises(UserError, match='"native"'):
        predict(model, encoder_attention_mask=mask)


def test_each_backend_gets_the_mask_form_it_reads_rightly():
    mask = torch.ones(2, 9, dtype=torch.bool)
    for name, shape in {"native": (2, 1, 1, 9), "xformers": (2, 9), "flash_varlen": (2, 9)}.items():
        backend = next(b for b in _AttentionBackendRegistry._backends if b.value == name)
        assert portable_mask(mask, backend).shape == shape
    flash = next(b for b in _AttentionBackendRegistry._backends if b.value == "flash")
    with pytest.raises(UserError, match="does not support masks"):
        portable_mask(mask, flash)
    assert portable_mask(None, flash) is None


@pytest.mark.parametrize("backend", ["xformers", "flash", "_flash_3", "sage", "_native_efficient"])
def test_a_missing_backend_names_itself_the_reason_and_the_remedy(model, backend):
    with pytest.raises(UserError) as error:
        model.set_attention_backend(backend)
    message = str(error.value)
    assert f'"{backend}"' in message
    assert "cpu" in message
    assert '"native"' in message
    assert ("constraints-gpu.txt" in message) == (backend == "xformers")
    assert predict(model).isfinite().all()  # and nothing has changed


def test_an_unknown_backend_is_answered_with_the_known_ones(model):
    with pytest.raises(UserError, match=r"Known: .*native.*xformers"):
        model.set_attention_backend("fast")


def test_choosing_a_backend_leaves_other_models_alone(model):
    before = _AttentionBackendRegistry.get_active_backend()[0]
    model.set_attention_backend("_native_math")
    assert _AttentionBackendRegistry.get_active_backend()[0] == before
    assert model.blocks[0].attn1.processor._attention_backend.value == "_native_math"
    model.reset_attention_backend()
    assert model.blocks[0].attn1.processor._attention_backend is None


class Called(TorchDispatchMode):
    """The operators that run."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.name())
        return func(*args, **(kwargs or {}))


def test_the_operator_that_is_named_is_the_one_that_runs(model):
    cpu = torch.device("cpu")
    assert operator_of(model, "_native_math", cpu) == "_native_math"
    assert operator_of(model, "native", cpu) == "torch flash"
    model.set_attention_backend("native")
    with Called() as called:
        predict(model)
    assert "aten::_scaled_dot_product_flash_attention_for_cpu" in called.names
    with sdpa_kernel(SDPBackend.MATH):
        assert operator_of(model, "native", cpu) == "torch math"


def test_a_refusal_by_xformers_is_one_line():
    because = "is not supported because:\n    "
    said = (
        "No operator found for `memory_efficient_attention_forward` with inputs:\n     query : x\n"
        f"`fa2F-pt` {because}max(query.shape[-1]) > 256\n    dtype=fp32\n"
        f"`cutlassF-pt` {because}operator wasn't built"
    )
    found = "fa2F-pt: max(query.shape[-1]) > 256, dtype=fp32; cutlassF-pt: operator wasn't built"
    assert refusals(said) == found
    assert refusals("it is\nnot there.") == "it is"


@pytest.mark.slow  # where xformers is installed; it needs no GPU
@pytest.mark.skipif(find_spec("xformers") is None, reason="xformers is not installed")
@pytest.mark.parametrize("capability", [(8, 0), (9, 0)])
def test_xformers_finds_an_operator_of_torch_on_a_gpu(model, capability, monkeypatch):
    from xformers.ops.fmha.torch_attention_compat import ensure_pt_flash_ok

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda *_: capability)
    built = "xformers.ops.fmha.common._built_with_cuda"
    monkeypatch.setattr(built, False)  # where its library does not load, as under CUDA 13
    with FakeTensorMode(), pytest.raises(NotImplementedError, match="cutlassF-pt"):
        operator_of(model, "xformers", torch.device("cuda"))
    monkeypatch.setattr(built, True)
    with FakeTensorMode():  # tensors of a GPU that is not here, without content
        assert operator_of(model, "xformers", torch.device("cuda")) == "xformers cutlassF-pt"
    # half precision takes torch's flash, if its arguments are those that xformers gives
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: True)
    monkeypatch.setattr(torch.nn.attention, "_get_flash_version", lambda: "2.5.7")
    ensure_pt_flash_ok()


def test_disabling_xformers_goes_back_to_the_default():
    attention = Attention(32, 2, 16, qk_norm="none", eps=1e-6)
    attention.set_attention_backend("_native_math")
    attention.set_use_memory_efficient_attention_xformers(False)
    assert attention.processor._attention_backend is None


@pytest.mark.parametrize("qk_norm", ["rms_norm_across_heads", "rms_norm"])
def test_the_norm_bounds_queries_and_keys(qk_norm):
    attention = Attention(32, 2, 16, qk_norm=qk_norm, eps=1e-6)
    x = torch.randn(1, 5, 32, generator=torch.Generator().manual_seed(0))
    query, key, _ = attention.project(x)
    again, _, _ = attention.project(1000 * x)
    for each in (query, key):
        axes = (-2, -1) if qk_norm == "rms_norm_across_heads" else -1
        assert torch.allclose(each.square().mean(axes), torch.tensor(1.0), atol=1e-3)
    assert again.abs().max() < 10
