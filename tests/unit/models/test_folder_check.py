"""A folder that cannot be loaded is one message, which names the file, for every command."""

import json
import shutil

import pytest
import torch

from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.models.convert import convert_wan_pipeline
from t2v.models.folder import embedded_model, model_folder
from t2v.models.folder_check import check_folder
from t2v.plan.peers import described

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


def settings(file, **values):
    """The damage that changes values of a JSON file; None takes one out."""

    def change(folder):
        found = json.loads((folder / file).read_text()) | values
        kept = {name: value for name, value in found.items() if value is not None}
        (folder / file).write_text(json.dumps(kept))

    return change


def text(file, content):
    return lambda folder: (folder / file).write_text(content)


def cut(file, size):
    return lambda folder: (folder / file).write_bytes((folder / file).read_bytes()[:size])


def without(part):
    return lambda folder: shutil.rmtree(folder / part)


def in_a_circle(folder):
    without("vae")(folder)
    (folder / "vae").symlink_to("vae")


def without_a_shard(folder):
    shards = {"weight_map": {"a": "x-00001-of-00002.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(shards))
    (folder / WEIGHTS).unlink()


INDEX, DDIM = "model_index.json", {"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}
ALL, LOADED = ("load", "convert", "plan"), ("load", "convert")
DAMAGES = [
    (ALL, settings(INDEX, _class_name=None), r"index\.json: _class_name is missing; it should be"),
    (ALL, settings(INDEX, _class_name=["a"]), r"_class_name is \['a'\]; it should be the name"),
    (ALL, text(INDEX, "{"), r"index\.json: cannot be read as JSON .* Download the folder again"),
    (ALL, text(INDEX, "[]"), r"index\.json: holds no names and values\. Download"),
    (ALL, settings(INDEX, _class_name="WanFine"), "names WanFine, which is no pipeline of diffus"),
    (ALL, settings(INDEX, vae=["diffusers", "Fine"]), "vae is .* has no such class"),
    (ALL, settings(INDEX, vae=["fine", "Fine"]), "parts come from diffusers, transformers, t2v"),
    (ALL, settings(INDEX, vae=[1]), r"vae is \[1\]; it should be a library and a class"),
    (ALL, settings(INDEX, scheduler=["diffusers", "AutoencoderKLWan"]), "which is no scheduler"),
    (ALL, settings(INDEX, vae=None), r"names no vae, which a WanPipeline needs"),
    (ALL, settings(INDEX, expand_timesteps="x"), 'expand_timesteps is "x" and should'),
    (ALL, text("vae/config.json", "[]"), r"vae/config\.json: holds no names and values"),
    (ALL, settings("vae/config.json", z_dim="16"), r'vae/config\.json: .*z_dim is "16" and should'),
    (ALL, settings("vae/config.json", latents_mean=[0.0]), "a number for each of the 16 channels"),
    (ALL, settings("transformer/config.json", num_layers=10**9), "num_layers is 1,000,000,000, an"),
    (ALL, settings("scheduler/scheduler_config.json", num_train_timesteps="x"), 'timesteps is "x"'),
    (ALL, text("scheduler/scheduler_config.json", json.dumps(DDIM)), "is of a DDIMScheduler, and"),
    (ALL, in_a_circle, "vae cannot be read .*symbolic links"),
    (LOADED, without("tokenizer"), "has no tokenizer/, which model_index.json names"),
    (LOADED, text("tokenizer/tokenizer.json", "{"), "tokenizer/: no .* can be made of it"),
    (LOADED, cut(WEIGHTS, 0), r"model\.safetensors: is damaged or not whole, 0 bytes"),
    (LOADED, cut(WEIGHTS, 20), r"model\.safetensors: is damaged or not whole, 20 bytes"),
    (LOADED, cut(WEIGHTS, -9), r"model\.safetensors: is damaged or not whole, .* not fully cov"),
    (LOADED, without_a_shard, "x-00001-of-00002.safetensors: is not there"),
]


def test_each_damage_is_one_message_for_every_command(wan, tmp_path):
    commands = {
        "load": lambda folder: load_generator(
            str(folder), folder, torch.device("cpu"), torch.float32, "t2v sample"
        ),
        "convert": lambda folder: convert_wan_pipeline(folder, tmp_path / "ours"),
        "plan": lambda folder: described(folder),
    }
    wan.save_pretrained(tmp_path / "wan")
    for number, (names, damage, message) in enumerate(DAMAGES):
        folder = tmp_path / str(number)
        shutil.copytree(tmp_path / "wan", folder)
        damage(folder)
        for name in names:
            with pytest.raises(UserError, match=message):
                commands[name](folder)


def test_the_embedded_model_is_whole():
    check_folder("model=t2v-tiny", embedded_model())


def test_what_is_no_pipeline_folder_is_told_what_to_name(tmp_path):
    (tmp_path / "vae").mkdir()
    for name in ("model_index.json", "x.safetensors"):
        (tmp_path / name).write_text("{}")
    for name, words in {
        "model_index.json": "is a file, and a model is a pipeline folder",
        "x.safetensors": "with base=FOLDER",
        "vae": "is one part of a pipeline. Name the folder of all, ",
        "../none": "there is no such folder",
    }.items():
        with pytest.raises(UserError, match=words):
            model_folder(str(tmp_path / name))


def test_an_index_that_cannot_be_looked_at_is_named(tmp_path):
    (tmp_path / "model_index.json").symlink_to("model_index.json")
    with pytest.raises(UserError, match=r"symbolic links.*Make it readable, or name an"):
        model_folder(str(tmp_path))
