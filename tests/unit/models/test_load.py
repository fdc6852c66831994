"""Folders that cannot be loaded are one message, and none is loaded in part."""

import json
import logging
import random
import shutil
from pickle import UnpicklingError

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoModel,
    T5Config,
    T5ForConditionalGeneration,
    UMT5Config,
    UMT5EncoderModel,
)

from t2v.config.evaluation import EvalConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.evaluation.samples import load_model
from t2v.models.finite import is_finite
from t2v.models.folder import embedded_model
from t2v.models.load import (
    load_part,
    load_parts,
    load_text,
    loading,
    quiet_warnings,
    refuse_damaged,
    variant_of,
)
from t2v.models.vae import AutoencoderKLT2V
from t2v.models.vae_folder import load_vae
from t2v.nets.features import load_video_net
from t2v.sampling.run import load
from t2v.training.tasks.finetune import load_base
from t2v.world.oracle import WorldOracle, load_oracle

PARTS = ("text_encoder", "transformer", "vae")


def load_to_evaluate(folder):
    return load_model(EvalConfig(model=str(folder), output="x"), "t2v eval")


def damage(folder):
    for path in folder.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:100])


def test_a_damaged_part_is_named_by_every_loader(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "model")
    WorldOracle(width=8).save_pretrained(tmp_path / "oracle")
    damage(tmp_path)
    for read, what in (
        (lambda: load_to_evaluate(tmp_path / "model"), "model="),
        (lambda: load_vae(tmp_path / "model"), "vae="),
        (lambda: load_text(tmp_path / "model"), "text="),
        (lambda: load_oracle(str(tmp_path / "oracle")), "oracle="),
    ):
        with pytest.raises(UserError, match=f"^{what}.*model.safetensors: is damaged or not whole"):
            read()


def edit_weights(folder, change):
    """Write the tensors of a part anew, as `change` leaves them; it is given those and a name."""
    (path,) = folder.glob("*.safetensors")
    tensors = load_file(path)
    change(tensors, sorted(tensors)[len(tensors) // 2])
    save_file(tensors, path, metadata={"format": "pt"})


FAULTS = {
    "are missing": lambda tensors, name: tensors.pop(name),
    "are not of this model": lambda tensors, name: tensors.update(stranger=torch.ones(2)),
    "NaN or infinite": lambda tensors, name: tensors[name].view(-1)[-1:].fill_(float("nan")),
}
LOADERS = {
    "sample": lambda folder: load(SampleConfig(model=str(folder), output="x.mp4"), []),
    "eval": load_to_evaluate,
    "finetune": lambda folder: load_base(str(folder), folder),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("words", FAULTS)
@pytest.mark.parametrize("command", LOADERS)
def test_a_part_that_is_not_whole_is_refused_by_every_command(tmp_path, pipe, command, words, part):
    folder = tmp_path / "model"
    pipe.save_pretrained(folder)
    edit_weights(folder / part, FAULTS[words])
    with pytest.raises(UserError, match=words) as error:
        LOADERS[command](folder)
    assert str(error.value).count("model=") == 1
    assert type(getattr(pipe, part)).__name__ in str(error.value)


@pytest.mark.parametrize("words", FAULTS)
def test_a_single_part_that_is_not_whole_is_refused_by_every_loader(tmp_path, pipe, words):
    pipe.save_pretrained(tmp_path / "model")
    WorldOracle(width=8).save_pretrained(tmp_path / "oracle")
    for folder in (*(tmp_path / "model" / part for part in PARTS), tmp_path / "oracle"):
        edit_weights(folder, FAULTS[words])
    for read in (
        lambda: load_vae(tmp_path / "model"),
        lambda: load_text(tmp_path / "model"),
        lambda: load_oracle(str(tmp_path / "oracle")),
        lambda: load_part("start_from=x", AutoencoderKLT2V, tmp_path / "model/vae"),
    ):
        with pytest.raises(UserError, match=words):
            read()


def test_what_is_whole_loads_and_so_does_the_embedded_model(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "model", max_shard_size="20KB")
    assert len(list((tmp_path / "model/transformer").glob("*.safetensors"))) > 1
    for folder, more in ((tmp_path / "model", []), (embedded_model(), ["upscaler"])):
        parts = load_parts("model=x", folder, torch.float32)
        assert sorted(parts) == sorted([*PARTS, *more])
    torch.testing.assert_close(
        load_parts("model=x", tmp_path / "model", torch.float32)["vae"].state_dict(),
        pipe.vae.state_dict(),
    )


def test_weights_shared_by_two_layers_and_parts_left_out_on_purpose_are_not_missed(tmp_path):
    sizes = {"vocab_size": 40, "d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1,
             "num_heads": 2}  # fmt: skip
    T5ForConditionalGeneration(T5Config(**sizes)).save_pretrained(tmp_path)
    from transformers import T5EncoderModel

    encoder = load_part("text=x", T5EncoderModel, tmp_path)
    assert encoder.encoder.embed_tokens.weight is encoder.shared.weight


def test_a_net_that_measures_may_lie_under_a_head_but_lacks_nothing(tmp_path, clip_folder):
    edit_weights(tmp_path / "clip", FAULTS["are not of this model"])
    load_part("clip=x", AutoModel, clip_folder, heads=True)
    edit_weights(tmp_path / "clip", FAULTS["are missing"])
    with pytest.raises(UserError, match=r"features=.*: 1 weights of its CLIPModel are missing"):
        load_video_net(clip_folder)


def test_the_only_variant_is_taken_and_of_several_none(tmp_path, pipe):
    pipe.save_pretrained(tmp_path / "model", variant="fp16", max_shard_size="20KB")
    folder = tmp_path / "model"
    assert variant_of("model=x", folder / "vae") == "fp16"
    load(SampleConfig(model=str(folder), output="x.mp4"), [])
    one = next((folder / "vae").glob("*.safetensors"))
    shutil.copy(one, one.with_name("diffusion_pytorch_model.bf16.safetensors"))
    with pytest.raises(UserError, match="several variants"):
        load_vae(folder)
    shutil.copy(one, one.with_name("diffusion_pytorch_model.safetensors"))
    assert variant_of("model=x", folder / "vae") is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_one_bad_number_among_many_is_found_in_every_format(dtype):
    for bad in ("nan", "inf", "-inf"):
        for place in (0, 500, 1000):
            numbers = torch.randn(1001).to(dtype)
            assert is_finite(numbers)
            numbers[place] = float(bad)
            assert not is_finite(numbers)
    assert is_finite(torch.empty(0)) and is_finite(torch.arange(3))


def test_the_first_bad_weight_is_named():
    part = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    refuse_damaged("vae=x", part)
    part[1].weight.data[0, 0] = float("inf")
    with pytest.raises(UserError, match=r"^vae=x: the weight 1\.weight of its Sequential"):
        refuse_damaged("vae=x", part)


@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_damaged_weights_load_or_are_one_message(tmp_path, pipe, mangled, part):
    pipe.save_pretrained(tmp_path)
    (path,) = (tmp_path / part).glob("*.safetensors")
    content, chance, refused = path.read_bytes(), random.Random(11), 0
    load = load_vae if part == "vae" else load_text
    for number in range(30):
        path.write_bytes(mangled(content, chance))
        try:
            load(tmp_path)
        except UserError as error:
            refused += 1
            assert len(str(error)) < 1500, number
    assert refused >= 10


def test_a_vae_of_an_unknown_class_is_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": "AutoencoderKL"}')
    with pytest.raises(UserError, match=r"AutoencoderKL; supported are AutoencoderKLT2V"):
        load_vae(tmp_path)


def test_a_text_encoder_loads_as_the_class_it_was_saved_as(tmp_path, tokenizer):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = UMT5Config(vocab_size=40, d_model=16, d_kv=8, d_ff=16, num_layers=2, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(tmp_path / "text_encoder")
    assert type(load_text(tmp_path)[1]) is UMT5EncoderModel


@pytest.mark.parametrize(
    "error",
    [
        KeyError("vae"),
        IndexError("x"),
        RecursionError("deep"),
        UnpicklingError("x"),
        AssertionError(),
    ],
)
def test_whatever_a_loader_raises_is_one_message(error):
    with pytest.raises(UserError, match=r"^model=x: cannot be loaded\. .+"), loading("model=x"):
        raise error
    with pytest.raises(KeyboardInterrupt), loading("model=x"):
        raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("transformer", "eps", "x"),
        ("transformer", "num_layers", -3),
        ("transformer", "cross_attn_norm", "x"),
        ("vae", "mid_attention", "x"),
        ("vae", "latents_mean", 1e30),
        ("vae", "latents_std", [1e300]),
    ],
)
def test_a_config_of_other_types_is_refused_by_name(tmp_path, pipe, part, name, value):
    pipe.save_pretrained(tmp_path)
    file = tmp_path / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {name: value}))
    with pytest.raises(UserError, match=rf"model=.*{part}/config.json: {name}"):
        load(SampleConfig(model=str(tmp_path)), [])


def test_a_file_is_no_name_at_the_hub(tmp_path):
    file = tmp_path / "film.mp4"
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="not a folder"):
        load_video_net(str(file))


@pytest.mark.parametrize("library", ["diffusers", "transformers"])
def test_warnings_in_vain_are_kept_from_the_log(library):
    quiet_warnings()
    handler, *_ = logging.getLogger(library).handlers
    for text, is_shown in (("Expected types for vae: x", False), ("A tensor is missing", True)):
        record = logging.LogRecord(f"{library}.x", logging.WARNING, "", 0, text, None, None)
        assert bool(handler.filter(record)) == is_shown
