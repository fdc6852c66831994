"""LoRA files: what fits loads and shows its effect, what does not is counted and refused."""

import random
import re

import pytest
import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2v.errors import UserError
from t2v.models.lora import load_lora
from t2v.models.lora_contents import check_lora
from t2v.models.lora_effect import lora_effect
from t2v.models.lora_file import WEIGHTS, lora_file, sort_metadata
from t2v.pipelines.t2v import T2VPipeline


@pytest.fixture
def lora(pipe, tmp_path):
    """A file that `save_lora_weights` wrote; the pipeline is plain again."""
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["to_q", "to_out.0"], init_lora_weights=False
    )
    pipe.transformer.add_adapter(config)
    T2VPipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(pipe.transformer),
        **_collate_lora_metadata({"transformer": pipe.transformer}),
    )
    pipe.unload_lora_weights()
    return tmp_path / WEIGHTS


def latents(pipe):
    generator = torch.Generator().manual_seed(0)
    return pipe("a red ball", generator=generator, output_type="latent").frames


def test_the_effect_grows_with_the_scale_and_zero_is_the_base_to_the_bit(pipe, lora):
    plain = latents(pipe)
    effects = []
    for scale in (0.0, 0.5, 1.0):
        effects.append(load_lora(pipe, lora, scale))
        assert torch.equal(latents(pipe), plain) == (scale == 0)
        pipe.unload_lora_weights()
    assert 0 == effects[0] < effects[1] < effects[2]
    assert torch.equal(latents(pipe), plain)


def test_the_effect_is_logged_and_measured_as_the_change_of_a_prediction(pipe, lora, caplog):
    with caplog.at_level("INFO"):
        effect = load_lora(pipe, lora.parent, 0.8)
    assert f"changes the prediction by {100 * effect:.3g} %" in caplog.text
    assert re.search(r"(\d+) of \1 tensors matched", caplog.text)
    for layer in pipe.transformer.modules():  # the same adapters, twice as strong
        if hasattr(layer, "scaling"):
            layer.scaling["lora"] *= 2
    assert 1.5 * effect < lora_effect(pipe.transformer) < 2.5 * effect


def rename(tensors, old, new):
    return {name.replace(old, new): tensor for name, tensor in tensors.items()}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda x: rename(x, "blocks.1", "blocks.7"), r"8 match, 8 unexpected \(.*blocks\.7\."),
        (lambda x: {k: v[:, :-1] for k, v in x.items()}, r"8 match, 8 of another shape"),
        (lambda x: {k: v for k, v in x.items() if "lora_A" in k}, r"8 without its other half"),
        (lambda x: rename(x, "transformer.", "text_encoder."), r"0 match, 16 unexpected"),
        (lambda x: {}, "of 0 tensors 0 match"),
    ],
)
def test_tensors_without_a_place_are_counted_and_named(pipe, lora, change, words):
    changed = change(load_file(lora))
    with pytest.raises(UserError, match=words):
        check_lora(pipe.transformer, changed)
    if changed:
        save_file({k: v.contiguous() for k, v in changed.items()}, lora)
        with pytest.raises(UserError, match="does not fit"):
            pipe.load_lora_weights(lora)
    assert not hasattr(pipe.transformer, "peft_config")


def test_tensors_given_as_a_dict_are_taken_as_far_as_they_fit_with_a_warning(pipe, lora, caplog):
    pipe.load_lora_weights(load_file(lora) | {"transformer.cat.lora_A.weight": torch.ones(2, 2)})
    assert "16 of 17 tensors matched; 1 left out: transformer.cat.lora_A.weight" in caplog.text
    assert lora_effect(pipe.transformer) > 0


def test_a_lora_that_does_nothing_is_refused(pipe, lora):
    zeros = {k: v * ("lora_A" in k) for k, v in load_file(lora).items()}
    save_file(zeros, lora)
    with pytest.raises(UserError, match="changes nothing"):
        load_lora(pipe, lora, 1.0)


def test_a_second_lora_is_checked_against_the_layers_beneath_the_first(pipe, lora):
    pipe.load_lora_weights(lora)
    assert check_lora(pipe.transformer, load_file(lora)) == 16


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=rf"nothing: there is no such file.*{WEIGHTS}"):
        lora_file(tmp_path / "nothing")


def made_for_wan(pipe, lora, prefix="diffusion_model."):
    """The file of the `lora` fixture, of queries and outputs of both attentions, in Wan's names."""
    layers = {"attn1.": "self_attn.", "attn2.": "cross_attn.", "to_q": "q", "to_out.0": "o"}
    tensors = rename(load_file(lora), "transformer.", prefix)
    for ours, wan in layers.items():
        tensors = rename(tensors, ours, wan)
    return tensors


def musubi(tensors, alpha):
    """As musubi-tuner writes it: dots of layers as `_`, alphas beside the matrices."""
    halves = {"lora_A.weight": "lora_down.weight", "lora_B.weight": "lora_up.weight"}
    made = {}
    for name, tensor in tensors.items():
        layer, _, half = name.removeprefix("diffusion_model.").partition(".lora_")
        layer = f"lora_unet_{layer.replace('.', '_')}"
        made[f"{layer}.{halves[f'lora_{half}']}"] = tensor
        made[f"{layer}.alpha"] = torch.tensor(alpha)
    return made


def test_a_file_of_attention_layers_alone_has_the_effect_of_the_same_layers_in_wans_names(
    pipe, lora, tmp_path
):
    wan = made_for_wan(pipe, lora)
    save_file(wan, tmp_path / "wan.safetensors")
    save_file(musubi(wan, alpha=4.0), tmp_path / "musubi.safetensors")
    save_file(musubi(wan, alpha=2.0), tmp_path / "half.safetensors")
    answers = []
    for name, scale in (("wan", 1.0), ("musubi", 1.0), ("wan", 0.5), ("half", 1.0)):
        load_lora(pipe, tmp_path / f"{name}.safetensors", scale)
        answers.append(latents(pipe))
        pipe.unload_lora_weights()
    whole, same, weak, half = answers
    torch.testing.assert_close(same, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(half, weak, atol=1e-4, rtol=1e-4)
    assert (weak - whole).abs().max() > 1e-2


ONES = torch.ones


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"blocks.0.norm3.diff": ONES(31)}, "17 tensors 16 match, 1 of another shape"),
        ({"blocks.0.modulation.diff": ONES(1, 6, 32)}, "16 match, 1 unexpected"),
        ({"blocks.0.self_attn.q.dora_scale": ONES(1, 32)}, "16 match, 1 of another shape"),
        ({"blocks.0.self_attn.k.lokr_w1": ONES(2, 2)}, "1 without its other half"),
        ({"blocks.0.self_attn.k.hada_w1_a": ONES(2, 2)}, "1 without its other half"),
        ({"blocks.0.self_attn.k.oft_blocks": ONES(2, 2)}, r"1 unexpected \(.*k.oft_blocks\)"),
        ({"blocks.0.self_attn.v.alpha": torch.tensor(4.0)}, "1 unexpected"),
        ({"blocks.0.self_attn.k.lora_A.weight": ONES(4, 32)}, "without its other half"),
        ({"strange": ONES(2)}, r"1 unexpected \(diffusion_model.strange\)"),
    ],
)
def test_every_tensor_of_a_file_is_applied_or_counted_in_one_line(
    pipe, lora, tmp_path, more, words
):
    more = {f"diffusion_model.{name}": tensor for name, tensor in more.items()}
    save_file(made_for_wan(pipe, lora) | more, tmp_path / "more.safetensors")
    with pytest.raises(UserError, match=words) as error:
        load_lora(pipe, tmp_path / "more.safetensors", 1.0)
    assert "\n" not in str(error.value)
    assert not getattr(pipe.transformer, "peft_config", None)


def test_dropped_zeros_are_no_loss(pipe, lora, tmp_path):
    """Public files for Wan carry changes of norms that are all zero."""
    zeros = {"diffusion_model.blocks.0.norm3.diff": torch.zeros(32)}
    save_file(made_for_wan(pipe, lora) | zeros, tmp_path / "zeros.safetensors")
    assert load_lora(pipe, tmp_path / "zeros.safetensors", 1.0) > 0


@pytest.mark.parametrize("bad", ["nan", "inf"])
def test_a_bad_number_in_a_lora_is_named(pipe, lora, bad):
    tensors = load_file(lora)
    name = sorted(tensors)[3]
    tensors[name][0, 0] = float(bad)
    save_file(tensors, lora)
    with pytest.raises(UserError, match=f"tensor {re.escape(name)} holds NaN or infinite"):
        load_lora(pipe, lora, 1.0)


def test_a_lora_too_strong_for_the_model_is_refused(pipe, lora):
    strong = {name: 1e25 if "to_out" in name else 1 for name in load_file(lora)}
    save_file({name: tensor * strong[name] for name, tensor in load_file(lora).items()}, lora)
    with pytest.raises(UserError, match="with it the model predicts NaN or infinite"):
        load_lora(pipe, lora, 1.0)


@pytest.mark.parametrize("names", ["ours", "wan", "musubi"])
def test_damaged_files_load_or_are_one_message(pipe, lora, mangled, names):
    wan = made_for_wan(pipe, lora)
    tensors = {"ours": load_file(lora), "wan": wan, "musubi": musubi(wan, 4.0)}[names]
    save_file(tensors, lora)
    content, chance, refused = lora.read_bytes(), random.Random(7), 0
    for number in range(40):
        lora.write_bytes(mangled(content, chance))
        try:
            load_lora(pipe, lora, 1.0)
        except UserError as error:
            refused += 1
            assert str(error).startswith(f"lora={lora}") and len(str(error)) < 1200, number
        if getattr(pipe.transformer, "peft_config", None):
            pipe.unload_lora_weights()
    assert refused >= 20


def test_the_metadata_of_a_file_is_put_in_order_and_nothing_else_changes(lora):
    tensors = load_file(lora)
    contents = set()
    for _ in range(8):
        about = {name: 'é\n"' + name * 9 for name in "zyxwvabcde"}
        save_file(tensors, lora, metadata=about)
        sort_metadata(lora)
        contents.add(lora.read_bytes())
        with safe_open(lora, "pt") as file:
            assert file.metadata() == about
        torch.testing.assert_close(load_file(lora), tensors, atol=0, rtol=0)
    assert len(contents) == 1
