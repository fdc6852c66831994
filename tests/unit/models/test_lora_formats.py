"""LoRA files of every kind and naming: each acts as diffusers' own file of the same change."""

import pytest
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from safetensors.torch import save_file

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.hold import Hold, hold_part
from t2v.models.lora import load_lora, load_loras
from t2v.models.lora_effect import prediction
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipelines.t2v import T2VPipeline
from t2v.sampling.loras import insertion, settle

DIM, FFN, RANK = 16, 24, 3
LAYERS = {  # by Wan's names and by diffusers', with outputs and inputs
    "blocks.0.self_attn.q": ("blocks.0.attn1.to_q", DIM, DIM),
    "blocks.1.cross_attn.o": ("blocks.1.attn2.to_out.0", DIM, DIM),
    "blocks.1.ffn.0": ("blocks.1.ffn.net.0.proj", FFN, DIM),
}


@pytest.fixture(params=["ours", "wan"], scope="module")
def pipeline(request):
    return made(request.param)


def made(whose):
    """A pipeline of a transformer alone, ours and diffusers' own, with the same weights."""
    torch.manual_seed(0)
    wan = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=4, text_dim=8,
        freq_dim=8, ffn_dim=FFN, num_layers=2, cross_attn_norm=True,
        qk_norm="rms_norm_across_heads",
    )  # fmt: skip
    for weight in wan.parameters():
        weight.data += 0.1 * torch.randn_like(weight)
    scheduler = UniPCMultistepScheduler()
    if whose == "wan":
        return WanPipeline(None, None, vae=None, scheduler=scheduler, transformer=wan)
    ours = T2VTransformer3DModel.from_config(wan.config)
    ours.load_state_dict(wan.state_dict())
    return T2VPipeline(None, None, transformer=ours, vae=None, scheduler=scheduler)


def tensors_of(kind, out, features, weight):
    """The tensors of one layer in a file of a kind, with the change that they stand for."""
    down, up = torch.randn(RANK, features), torch.randn(out, RANK) / 4
    alpha = {"alpha": torch.tensor(2.0)}
    half = 2.0 / RANK
    if kind == "lora":
        return {"lora_down.weight": down, "lora_up.weight": up} | alpha, half * up @ down
    if kind == "lora and bias":
        bias = torch.randn(out)
        tensors = {"lora_A.weight": down, "lora_B.weight": up, "diff_b": bias}
        return tensors, (up @ down, bias)
    if kind == "dora":
        moved = weight + half * up @ down
        lengths = moved.norm(dim=1) * (0.5 + torch.rand(out))
        tensors = {"lora_down.weight": down, "lora_up.weight": up, "dora_scale": lengths[:, None]}
        return tensors | alpha, lengths[:, None] * moved / moved.norm(dim=1)[:, None] - weight
    if kind == "loha":
        factors = [torch.randn(*size) / 2 for size in ((out, RANK), (RANK, features)) * 2]
        names = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
        product = (factors[0] @ factors[1]) * (factors[2] @ factors[3])
        return dict(zip(names, factors, strict=True)) | alpha, half * product
    if kind == "lokr":  # of two whole factors the alpha says nothing
        one, two = torch.randn(2, 4), torch.randn(out // 2, features // 4) / 4
        return {"lokr_w1": one, "lokr_w2": two} | alpha, torch.kron(one, two)
    if kind == "lokr of low rank":
        one, two = torch.randn(4, 2), torch.randn(out // 4, RANK) / 4
        three = torch.randn(RANK, features // 2)
        tensors = {"lokr_w1": one, "lokr_w2_a": two, "lokr_w2_b": three} | alpha
        return tensors, half * torch.kron(one, two @ three)
    change = torch.randn(out, features) / 4
    return {"diff": change}, change


def named(layer, own, style):
    if style == "diffsynth":
        return layer
    if style == "diffusers":
        return f"transformer.{own}"
    if style == "comfyui":
        return f"diffusion_model.{layer}"
    return f"lora_unet_{(layer if style == 'musubi' else own).replace('.', '_')}"


def ended(end, style):
    """What stands behind a layer's name; DiffSynth-Studio calls halves so, with peft's name."""
    if style != "diffsynth":
        return end
    halves = {"lora_down": "lora_A.default", "lora_up": "lora_B.default"}
    first = end.removesuffix(".weight")
    return end.replace(first, halves.get(first, first))


def loaded(pipeline, tensors, path, scale=1.0, **options):
    """The prediction with a file in the pipeline, which is plain again."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path)
    load_lora(pipeline, path, scale, **options)
    answer = prediction(pipeline.transformer)
    pipeline.unload_lora_weights()
    return answer


@pytest.mark.parametrize(
    "kind",
    [
        *("lora", "lora and bias", "dora", "loha", "lokr", "lokr of low rank"),
        "change of the weight",
    ],
)
def test_a_file_of_each_kind_and_naming_acts_as_diffusers_own_of_the_same_change(
    pipeline, kind, tmp_path
):
    plain, path = prediction(pipeline.transformer), tmp_path / "lora.safetensors"
    weights = dict(pipeline.transformer.named_parameters())
    parts, same = {}, {}
    for layer, (own, out, features) in LAYERS.items():
        tensors, change = tensors_of(kind, out, features, weights[f"{own}.weight"].detach())
        parts[layer, own] = tensors
        same[f"transformer.{own}.lora_A.weight"] = torch.eye(features)
        if isinstance(change, tuple):
            change, same[f"transformer.{own}.lora_B.bias"] = change
        same[f"transformer.{own}.lora_B.weight"] = change
    expected = loaded(pipeline, same, path)
    assert (expected - plain).abs().max() > 0.05
    styles = ("comfyui", "musubi", "diffusers", "kohya", "diffsynth")
    for style in styles if isinstance(pipeline, T2VPipeline) else ("comfyui",):
        file = {
            f"{named(*layer, style)}.{ended(end, style)}": tensor
            for layer, tensors in parts.items()
            for end, tensor in tensors.items()
        }
        answer = loaded(pipeline, file, path)
        torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5, msg=style)
    load_lora(pipeline, path, 0.0)
    assert torch.equal(prediction(pipeline.transformer), plain)
    pipeline.unload_lora_weights()
    assert torch.equal(prediction(pipeline.transformer), plain)


def test_changes_of_norms_and_biases_add_to_the_parameters_and_scale(pipeline, tmp_path):
    weights = dict(pipeline.transformer.named_parameters())
    plain = prediction(pipeline.transformer)
    changes = {  # of a file of lightx2v
        "blocks.0.norm3.diff": ("blocks.0.norm2.weight", torch.randn(DIM)),
        "blocks.0.norm3.diff_b": ("blocks.0.norm2.bias", torch.randn(DIM)),
        "blocks.1.self_attn.norm_q.diff": ("blocks.1.attn1.norm_q.weight", torch.randn(DIM)),
        "blocks.1.self_attn.q.diff_b": ("blocks.1.attn1.to_q.bias", torch.randn(DIM)),
        "head.head.diff": ("proj_out.weight", torch.randn(16, DIM)),
        "patch_embedding.diff_b": ("patch_embedding.bias", torch.randn(DIM)),
    }
    file = {f"diffusion_model.{name}": change for name, (_, change) in changes.items()}
    answer = loaded(pipeline, file, tmp_path / "lora.safetensors", scale=0.5)
    for name, change in changes.values():
        weights[name].data += 0.5 * change
    expected = prediction(pipeline.transformer)
    for name, change in changes.values():
        weights[name].data -= 0.5 * change
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    assert (answer - plain).abs().max() > 0.05


def test_files_of_several_kinds_act_together_each_at_its_scale(pipeline, tmp_path):
    weights, files, changes = dict(pipeline.transformer.named_parameters()), [], []
    for kind in ("lora", "loha", "lokr", "change of the weight", "lora"):
        tensors, change = tensors_of(kind, DIM, DIM, None)
        files.append(tmp_path / f"{len(files)}.safetensors")
        file = {f"diffusion_model.blocks.0.self_attn.q.{n}": each for n, each in tensors.items()}
        save_file(file, files[-1])
        changes.append(change)
    scales = (0.8, 0.7, 0.0, 0.4, -0.5)
    effects = load_loras(pipeline, files, scales)
    assert [effect > 0 for effect in effects] == [True, True, False, True, True]
    assert len(pipeline.get_list_adapters()["transformer"]) == 5
    answer = prediction(pipeline.transformer)
    pipeline.unload_lora_weights()
    total = sum(scale * change for scale, change in zip(scales, changes, strict=True))
    weights["blocks.0.attn1.to_q.weight"].data += total
    expected = prediction(pipeline.transformer)
    weights["blocks.0.attn1.to_q.weight"].data -= total
    torch.testing.assert_close(answer, expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(UserError, match=r"lora_scale=\[1, 2, 3\]: 3 values for 5 LoRA files"):
        load_loras(pipeline, files, (1, 2, 3))


def test_what_does_not_fit_is_refused_or_with_partial_left_out_and_named(
    pipeline, tmp_path, caplog
):
    path = tmp_path / "lora.safetensors"
    good, _ = tensors_of("lokr", DIM, DIM, None)
    wrong, _ = tensors_of("lokr", DIM, 2 * DIM, None)
    place = "diffusion_model.blocks"
    file = {f"{place}.0.self_attn.q.{name}": each for name, each in good.items()}
    bad = {f"{place}.0.self_attn.k.{name}": each for name, each in wrong.items()}
    bad |= {f"{place}.9.self_attn.q.lora_down.weight": torch.ones(2, DIM)}
    bad |= {f"{place}.0.modulation.diff": torch.ones(1, 6, DIM), "strange": torch.ones(2)}
    bad |= {f"{place}.0.ffn.2.hada_w1_a": torch.ones(DIM, 2)}
    words = (
        r"of 8 tensors 2 match, 3 unexpected \(strange, .*\), "
        r"2 of another shape \(blocks.0.attn1.to_k.lokr_w1, .*\), "
        r"1 without its other half \(blocks.0.ffn.net.2.hada_w1_a\).*lora_fit=partial"
    )
    with pytest.raises(UserError, match=words):
        loaded(pipeline, file | bad, path)
    with pytest.raises(UserError, match="of 6 tensors 0 match"):
        loaded(pipeline, bad, path, fit="partial")
    assert not getattr(pipeline.transformer, "peft_config", None)
    answer = loaded(pipeline, file | bad, path, fit="partial")
    assert "2 of 8 tensors matched; 6 left out: strange, " in caplog.text
    assert torch.equal(answer, loaded(pipeline, file, path))


@pytest.mark.parametrize("hold", [{"offload": "group"}, {"offload": "leaf"}, {"quantize": "fp8"}])
def test_adapters_act_where_weights_wait_in_pieces_or_are_cast(hold, tmp_path):
    files, device = [], torch.device("cpu")
    for kind in ("lora", "change of the weight"):
        tensors, _ = tensors_of(kind, DIM, DIM, None)
        place = "diffusion_model.blocks.1.self_attn.v"
        save_file({f"{place}.{name}": each for name, each in tensors.items()}, tmp_path / kind)
        files.append(f"{tmp_path / kind}.safetensors")
        (tmp_path / kind).rename(files[-1])
    config = SampleConfig(lora=tuple(files), **hold)
    predictions = []
    for held in (Hold(), Hold(**hold)):
        pipe = made("ours")
        insertion(config)(T2VPipeline, "transformer", pipe.transformer)
        hold_part("transformer", pipe.transformer, held, device, tmp_path)
        settle(pipe, config)
        predictions.append(prediction(pipe.transformer))
    whole, other = predictions
    plain = prediction(made("ours").transformer)
    error = ((other - whole).norm() / (whole - plain).norm()).item()
    assert error < (0.5 if "quantize" in hold else 1e-6)


@pytest.mark.parametrize(
    ("kind", "hold"),
    [
        *(("dora", {"quantize": "fp8"}), ("lokr", {"offload": "leaf"})),
        ("loha", {"quantize": "nf4"}),
    ],
)
def test_an_adapter_that_needs_weights_which_are_not_at_hand_is_refused(kind, hold, tmp_path):
    pipe, name = made("ours"), "blocks.0.attn1.to_q"
    weight = pipe.transformer.get_submodule(name).weight.detach()
    tensors, _ = tensors_of(kind, DIM, DIM, weight)
    path = tmp_path / "lora.safetensors"
    save_file({f"transformer.{name}.{end}": each for end, each in tensors.items()}, path)
    insert = insertion(SampleConfig(lora=(str(path),), **hold))
    with pytest.raises(
        UserError, match=r"(DoRA|LoKr|LoHa) computes with weights that are not at hand"
    ):
        insert(T2VPipeline, "transformer", pipe.transformer)
