"""LoRA files: what fits loads and shows its effect, what does not is counted and refused."""

import re

import pytest
import torch
from diffusers.training_utils import _collate_lora_metadata
from peft import LoraConfig, get_peft_model_state_dict
from safetensors.torch import load_file, save_file

from t2v.errors import UserError
from t2v.models.lora import WEIGHTS, check_lora, load_lora, lora_effect, lora_file
from t2v.pipeline import T2VPipeline


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


def test_the_effect_is_told_and_measured_as_the_change_of_a_prediction(pipe, lora, caplog):
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
        (lambda x: rename(x, "transformer.", ""), r"of 16 tensors 0 match, 16 unexpected"),
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
    assert "1 unexpected (transformer.cat.lora_A.weight)" in caplog.text
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
