"""The parts of T2VTransformer3DModel that take a picture: exact to Wan's image-to-video models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers import WanTransformer3DModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.kv_cache import KVCache
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.widen import widen_input

SMALL = {
    "num_attention_heads": 2,
    "attention_head_dim": 12,
    "in_channels": 12,  # 4 of the latents, 4 of the mask, 4 of the known latents
    "out_channels": 4,
    "text_dim": 16,
    "ffn_dim": 32,
    "num_layers": 2,
}
IMAGE = {"image_dim": 20, "added_kv_proj_dim": 24}
TEXT_TOKENS = 512  # Wan's own class takes all tokens before the last 512 for the image's


def wake(model: nn.Module, seed: int = 0) -> Any:
    """Fill every parameter with noise: fresh zeros would hide half of the network."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.1, generator=generator)
    return model.eval()


def pair(**changes: Any) -> tuple[WanTransformer3DModel, T2VTransformer3DModel]:
    """Wan's transformer, and ours with its weights."""
    wan = wake(WanTransformer3DModel(**{**SMALL, **changes}))
    ours = T2VTransformer3DModel.from_config(wan.config).eval()
    ours.load_state_dict(wan.state_dict())
    return wan, ours


def inputs(batch: int = 2, image_tokens: int | None = None) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(7)
    given = {
        "hidden_states": torch.randn(batch, 12, 3, 4, 6, generator=generator),
        "timestep": torch.linspace(20, 900, batch),
        "encoder_hidden_states": torch.randn(batch, TEXT_TOKENS, 16, generator=generator),
    }
    if image_tokens is not None:
        image = torch.randn(batch, image_tokens, 20, generator=generator)
        given["encoder_hidden_states_image"] = image
    return given


def predict(model: nn.Module, **given: Any) -> Tensor:
    with torch.no_grad():
        return model(**given, return_dict=False)[0]


def relative(x: Tensor, reference: Tensor) -> float:
    return ((x - reference).norm() / reference.norm()).item()


@pytest.mark.parametrize("tokens", [9, 18])
def test_an_image_gives_wans_answer(tokens):
    wan, ours = pair(**IMAGE)
    given = inputs(image_tokens=tokens)
    wanted = predict(wan, **given)
    assert relative(predict(ours, **given), wanted) <= 1e-5
    other = given | {"encoder_hidden_states_image": given["encoder_hidden_states_image"].flip(1, 2)}
    assert relative(predict(ours, **other), wanted) > 1e-3


def test_an_image_and_a_time_per_token_give_wans_answer():
    wan, ours = pair(**IMAGE)
    given = inputs(image_tokens=9) | {"timestep": torch.arange(36.0).reshape(2, 18) * 20}
    assert relative(predict(ours, **given), predict(wan, **given)) <= 1e-5


def test_two_images_with_positions_give_wans_answer():
    wan, ours = pair(**IMAGE, pos_embed_seq_len=18)
    given = inputs(image_tokens=18)
    wanted = predict(ours, **given)
    image = given["encoder_hidden_states_image"]
    theirs = given | {"encoder_hidden_states_image": image.reshape(4, 9, 20)}
    assert relative(predict(wan, **theirs), wanted) <= 1e-6
    swapped = given | {"encoder_hidden_states_image": torch.cat([image[:, 9:], image[:, :9]], 1)}
    assert relative(predict(ours, **swapped), wanted) > 1e-5


def test_channels_alone_give_wans_answer():
    wan, ours = pair()
    assert relative(predict(ours, **inputs()), predict(wan, **inputs())) <= 1e-5


def test_an_image_in_bfloat16_gives_wans_answer():
    wan, ours = (model.to(torch.bfloat16) for model in pair(**IMAGE))
    given = {name: x.bfloat16() for name, x in inputs(1, image_tokens=9).items()}
    assert torch.equal(predict(ours, **given), predict(wan, **given))


def test_gradients_are_those_of_wan():
    wan, ours = pair(**IMAGE, pos_embed_seq_len=18)
    given = inputs(image_tokens=18)
    image = given["encoder_hidden_states_image"].reshape(4, 9, 20)
    ours(**given).sample.square().sum().backward()
    wan(**given | {"encoder_hidden_states_image": image}).sample.square().sum().backward()
    for name, parameter in wan.named_parameters():
        assert relative(ours.get_parameter(name).grad, parameter.grad) <= 1e-3, name


def test_the_names_and_sizes_of_the_published_models_are_kept():
    kinds = {
        "Wan 2.1 I2V": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
        "Wan 2.1 FLF2V": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120}
        | {"pos_embed_seq_len": 514},
        "Wan 2.2 A14B": {"in_channels": 36},
        "Wan 2.2 TI2V-5B": {"in_channels": 48, "out_channels": 48, "num_attention_heads": 24}
        | {"ffn_dim": 14336, "num_layers": 30},
    }
    for name, kind in kinds.items():
        with torch.device("meta"):
            ours, wan = T2VTransformer3DModel(**kind), WanTransformer3DModel(**kind)
        shapes = {key: tensor.shape for key, tensor in ours.state_dict().items()}
        assert shapes == {key: tensor.shape for key, tensor in wan.state_dict().items()}, name


def test_the_images_keys_are_projected_once_for_each_cache():
    _, model = pair(**IMAGE)
    given, calls = inputs(image_tokens=9), []
    wanted = predict(model, **given)
    model.blocks[0].attn2.add_k_proj.register_forward_hook(lambda *_: calls.append(1))
    cache = KVCache()
    for _ in range(3):
        answer = predict(model, **given, attention_kwargs={"kv_cache": cache})
        assert torch.equal(answer, wanted)
    assert len(calls) == 1
    image = given["encoder_hidden_states_image"]
    other = given | {"encoder_hidden_states_image": image.flip(0)}
    answer = predict(model, **other, attention_kwargs={"kv_cache": cache})
    assert torch.equal(answer, predict(model, **other))


@pytest.mark.parametrize("fused", [False, True])
def test_saved_or_fused_it_answers_the_same(tmp_path, fused):
    _, model = pair(**IMAGE)
    given = inputs(image_tokens=9)
    wanted = predict(model, **given)
    if fused:
        model.fuse_qkv_projections()
        assert relative(predict(model, **given), wanted) < 1e-5
    else:
        model.save_pretrained(tmp_path)
        loaded = T2VTransformer3DModel.from_pretrained(tmp_path)
        assert torch.equal(predict(loaded, **given), wanted)


def test_gradient_checkpointing_keeps_the_gradients():
    _, model = pair(**IMAGE)
    given = inputs(image_tokens=9)
    model(**given).sample.sum().backward()
    wanted = {name: x.grad.clone() for name, x in model.named_parameters()}
    model.zero_grad()
    model.enable_gradient_checkpointing()
    model(**given).sample.sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, wanted[name], msg=name)


def test_a_lora_of_the_image_layers_acts_as_in_wan():
    wan, ours = pair(**IMAGE)
    wan.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["add_k_proj", "add_v_proj"]))
    wake(wan, seed=1)
    lora = {f"transformer.{name}": x.clone() for name, x in get_peft_model_state_dict(wan).items()}
    base = {name.replace("base_layer.", ""): x for name, x in wan.state_dict().items()}
    ours.load_state_dict({name: x for name, x in base.items() if "lora" not in name})
    given = inputs(image_tokens=9)
    plain = predict(ours, **given)
    ours.load_lora_adapter(lora)
    assert relative(predict(ours, **given), predict(wan, **given)) <= 1e-5
    assert relative(predict(ours, **given), plain) > 1e-4


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"image_dim": 20}, "added_kv_proj_dim=24, the width"),
        ({"added_kv_proj_dim": 24}, "image_dim=None"),
        ({"image_dim": 20, "added_kv_proj_dim": 20}, "added_kv_proj_dim=20"),
        ({"pos_embed_seq_len": 18}, "image_dim is not set"),
    ],
)
def test_a_config_with_half_of_the_image_parts_is_refused(changes, words):
    with pytest.raises(UserError, match=words):
        T2VTransformer3DModel(**{**SMALL, **changes})


def test_an_image_for_a_model_that_takes_none_or_two_is_refused():
    _, none = pair()
    with pytest.raises(UserError, match="takes no embeddings of pictures"):
        predict(none, **inputs(image_tokens=9))
    _, two = pair(**IMAGE, pos_embed_seq_len=18)
    with pytest.raises(UserError, match=r"9 tokens.*18 of two pictures"):
        predict(two, **inputs(image_tokens=9))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("channels", [4, 5, 20])
def test_a_widened_model_computes_the_same_bits(channels, dtype):
    _, model = pair()
    model = model.to(dtype)
    given = {name: x.to(dtype) for name, x in inputs().items()}
    wanted = predict(model, **given)
    widen_input(model, channels)
    assert model.config.in_channels == 12 + channels
    noise = torch.randn(2, channels, 3, 4, 6).to(dtype)
    wide = given | {"hidden_states": torch.cat([given["hidden_states"], noise], dim=1)}
    assert torch.equal(predict(model, **wide), wanted)


def test_a_widened_model_learns_from_its_new_channels_and_is_saved(tmp_path):
    _, model = pair()
    widen_input(model, 4)
    video = torch.cat([inputs()["hidden_states"], torch.ones(2, 4, 3, 4, 6)], dim=1)
    model(**inputs() | {"hidden_states": video}).sample.square().sum().backward()
    assert model.patch_embedding.weight.grad[:, 12:].any()
    model.save_pretrained(tmp_path)
    assert T2VTransformer3DModel.from_pretrained(tmp_path).config.in_channels == 16


def test_widening_by_nothing_is_refused():
    with pytest.raises(UserError, match="at least one channel"):
        widen_input(pair()[1], 0)
