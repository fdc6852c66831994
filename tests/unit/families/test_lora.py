"""LoRA in each family: by its pipeline's own loader and of every other kind, and measured."""

import shutil
from itertools import cycle

import pytest
import torch
from diffusers import HunyuanVideoPipeline, HunyuanVideoTransformer3DModel
from safetensors.torch import save_file
from torch import nn

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.files import HIGH, LOW
from t2v.models.lora import load_lora, load_loras
from t2v.models.lora_contents import contents, taken
from t2v.models.lora_effect import lora_effect, prediction, recorded_call
from t2v.sampling.recipe import lora_hashes

from . import page
from .tiny import BUILDERS, build
from .tiny_cosmos import COSMOS_BUILDERS

pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast"),  # Mochi asks for fp32
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # a scheduler's, in numpy
]

QUERIES = ("to_q", "to_k", "to_query", "to_key")


def answer(pipeline, call):
    if call is None:
        return prediction(pipeline.transformer)
    return pipeline.transformer(*call[0], **call[1])[0].double()


# pictures change nothing but what the first call is given: one family's will do
NAMES = [
    name for name in BUILDERS if name not in COSMOS_BUILDERS and not name.endswith(("_i2v", "_v2v"))
]


KINDS = ("musubi", "comfyui", "diffsynth", "bias", "dora", "loha", "lokr", "diff")


def written(kind, layer, down, up, weight, bias):
    """A layer's change by `up @ down` in a file of a kind; DoRA makes it longer, `bias` adds it."""
    kohya, change = f"lora_unet_{layer.replace('.', '_')}", up @ down
    out, features = change.shape
    if kind == "musubi":
        tensors = {"lora_down.weight": down, "lora_up.weight": 2 * up, "alpha": torch.tensor(0.5)}
    elif kind == "dora":
        lengths = 1.2 * (weight + change).norm(dim=1)[:, None]
        tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": lengths}
    elif kind == "loha":
        tensors = {"hada_w1_a": up, "hada_w1_b": down, "hada_w2_a": torch.ones(out, 1)}
        tensors["hada_w2_b"] = torch.ones(1, features)
    elif kind == "lokr":
        tensors = {"lokr_w1": torch.ones(1, 1), "lokr_w2": change}
    else:
        kohya = layer if kind == "diffsynth" else f"diffusion_model.{layer}"
        middle = ".default" if kind == "diffsynth" else ""
        tensors = {f"lora_A{middle}.weight": down, f"lora_B{middle}.weight": up}
        if kind == "diff":
            tensors = {"diff": change}
        if kind == "bias":  # as lightx2v has them
            tensors = {"lora_down.weight": down, "lora_up.weight": up, "diff_b": bias}
    return {f"{kohya}.{end}": tensor.contiguous().clone() for end, tensor in tensors.items()}


@pytest.mark.parametrize("name", [*NAMES, "ltx_i2v"])
@torch.no_grad()
def test_a_lora_acts_as_by_the_pipelines_own_loader_and_so_does_a_file_of_every_kind_at_once(
    name, tokenizer, text_encoder, wake, tmp_path
):
    pipeline = build(name, {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    every = pipeline.transformer.named_modules()
    every = [(name, layer) for name, layer in every if isinstance(layer, nn.Linear)]
    lora, mixed, path = {}, {}, tmp_path / "lora.safetensors"
    changes, kinds = {}, cycle(KINDS)
    for layer, module in every:
        out, features = module.weight.shape
        down, up = torch.randn(1, features) / 8, torch.randn(out, 1) / 8
        if layer.split(".")[-1] in QUERIES:
            lora[f"transformer.{layer}.lora_A.weight"] = down
            lora[f"transformer.{layer}.lora_B.weight"] = up
        kind = next(each for each in kinds if each != "bias" or module.bias is not None)
        bias = torch.randn(out) / 8
        mixed |= written(kind, layer, down, up, module.weight, bias)
        moved = (module.weight + up @ down) * (1.2 if kind == "dora" else 1)
        changes[module] = moved, bias if kind == "bias" else 0
    save_file(lora, path)
    call = recorded_call(pipeline)
    plain = answer(pipeline, call)
    if hasattr(pipeline, "load_lora_weights"):
        pipeline.load_lora_weights(path)
    else:  # HunyuanVideo 1.5
        pipeline.transformer.load_lora_adapter(path)
    expected = answer(pipeline, call)
    effect = lora_effect(pipeline.transformer, call)
    pipeline.transformer.unload_lora()
    assert load_lora(pipeline, path, 1.0) == pytest.approx(effect, rel=1e-6) and effect > 1e-4
    assert torch.equal(answer(pipeline, call), expected)
    pipeline.transformer.unload_lora()
    save_file(mixed, path)
    load_lora(pipeline, path, 1.0)
    found = answer(pipeline, call)
    pipeline.transformer.unload_lora()
    assert torch.equal(answer(pipeline, call), plain)
    for module, (weight, bias) in changes.items():
        module.weight.copy_(weight)
        if module.bias is not None:
            module.bias += bias
    torch.testing.assert_close(found, answer(pipeline, call), atol=1e-4, rtol=1e-3)
    page.compare(name, type(pipeline).__name__, {"LoRA": "yes"})
    save_file({f"other.{name}": each for name, each in lora.items()}, path)
    with pytest.raises(UserError, match=f"of {len(lora)} tensors 0 match, {len(lora)} unexpected"):
        load_lora(pipeline, path, 1.0)


def test_of_two_transformers_the_one_that_a_file_goes_into_is_told_or_chosen(
    tokenizer, text_encoder, wake, tmp_path, caplog
):
    pipeline = build("wan_a14b", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    layer = "diffusion_model.blocks.0.self_attn.q"
    tensors = {f"{layer}.lora_A.weight": torch.ones(2, 24)}
    save_file(tensors | {f"{layer}.lora_B.weight": torch.ones(24, 2)}, tmp_path / "a.safetensors")
    file = tmp_path / "a.safetensors"
    load_loras(pipeline, [file])
    assert "into the transformer of high noise alone; the model has two" in caplog.text
    assert pipeline.get_list_adapters() == {"transformer": ["lora"]}
    pipeline.unload_lora_weights()
    caplog.clear()
    high, low = load_loras(pipeline, [file, file], (1, 0.5), ("transformer", "transformer_2"))
    assert pipeline.get_list_adapters() == {"transformer": ["lora"], "transformer_2": ["lora_2"]}
    assert high and low and "the model has two" not in caplog.text
    pipeline.unload_lora_weights()
    for name in (HIGH, LOW):  # as a training of both leaves them
        shutil.copy(file, tmp_path / name)
    load_loras(pipeline, [tmp_path], (0.5,))
    assert pipeline.get_list_adapters() == {"transformer": ["lora"], "transformer_2": ["lora"]}
    assert "the model has two" not in caplog.text
    pipeline.unload_lora_weights()
    load_loras(pipeline, [tmp_path], (0.5,), ("transformer_2",))
    assert pipeline.get_list_adapters() == {"transformer_2": ["lora"]}
    both, low_alone = (
        lora_hashes(SampleConfig(lora=(str(tmp_path),), lora_part=part))
        for part in ((), ("transformer_2",))
    )
    assert both != low_alone == lora_hashes(SampleConfig(lora=(str(file),)))
    one = build("wan", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    with pytest.raises(UserError, match=r"lora=.*: this WanPipeline has one transformer"):
        load_loras(one, [tmp_path])


def test_joined_layers_of_hunyuan_video_are_split_by_diffusers_whatever_they_are_named():
    transformer = HunyuanVideoTransformer3DModel(
        in_channels=4, out_channels=4, num_attention_heads=2, attention_head_dim=8, num_layers=1,
        num_single_layers=1, num_refiner_layers=1, text_embed_dim=8, pooled_projection_dim=8,
        rope_axes_dim=(2, 2, 4),
    )  # fmt: skip
    down, up = torch.randn(2, 16), torch.randn(48, 2)
    place = "double_blocks.0.img_attn_qkv"
    comfyui = {f"diffusion_model.{place}.lora_A.weight": down}
    comfyui[f"diffusion_model.{place}.lora_B.weight"] = up
    musubi = {f"lora_unet_{place.replace('.', '_')}.lora_down.weight": 2 * down}
    musubi[f"lora_unet_{place.replace('.', '_')}.lora_up.weight"] = up
    musubi["lora_unet_double_blocks_0_img_attn_qkv.alpha"] = torch.tensor(1.0)
    library = HunyuanVideoPipeline.lora_state_dict
    for file in (comfyui, musubi):
        found, words = taken(contents(file, transformer, library), transformer, "strict")
        assert words == "6 of 6 tensors matched"
        attention = "transformer.transformer_blocks.0.attn"
        for number, name in enumerate(("to_q", "to_k", "to_v")):
            rows = up[16 * number : 16 * number + 16]
            assert torch.equal(found.lora[f"{attention}.{name}.lora_B.weight"], rows)
            assert torch.equal(found.lora[f"{attention}.{name}.lora_A.weight"], down)
    with pytest.raises(UserError, match="0 match, 1 unexpected"):
        file = {f"diffusion_model.{place}.lokr_w1": torch.ones(2, 2)}
        taken(contents(file, transformer, library), transformer, "strict")
