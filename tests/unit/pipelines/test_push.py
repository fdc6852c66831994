"""A folder goes to the Hub only when it loads, and without what does not belong to it."""

import json

import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline
from huggingface_hub import constants, hf_api
from safetensors.torch import load_file, save_file

from t2v import T2VPipeline
from t2v.cli import main
from t2v.errors import UserError
from t2v.io.files import MODULAR
from t2v.io.video import write_video
from t2v.models import modular
from t2v.models.folder import model_folder
from t2v.pipelines import push

from .hub import started

REPO = "us/ours"
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=<...>'")  # the Hub's own client


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A Hub in a folder of its own, its address, and a token and an empty cache for it."""
    server, kind = started(tmp_path / "hub")
    (tmp_path / "hub").mkdir()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {
        "ENDPOINT": address,
        "HUGGINGFACE_CO_URL_TEMPLATE": address + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(tmp_path / "cache"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_OFFLINE": False,
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(hf_api.api, "endpoint", address)
    monkeypatch.setattr(push, "get_token", lambda: "hf_x")
    yield kind, address
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(pipe, tmp_path):
    """A saved pipeline with the state of a training in it, and a video."""
    pipe.register_to_config(trained=[[5, 16, 16]])  # a list that is no part
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "training").mkdir()
    (tmp_path / "model" / "training" / "state.pt").write_text("mine")
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 8, {"prompt": "a *ball*"})
    return tmp_path / "model"


def test_the_pipeline_goes_with_a_card_and_videos_and_comes_back_through_diffusers(
    folder, hub, pipe, capsys
):
    video, (kind, address) = folder.parent / "a.mp4", hub
    assert main(["push", str(folder), REPO, f"videos=[{video}]"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == f"{address}/us/ours" and "left out: training" in shown.err
    there = kind.root / REPO
    assert (there / "samples" / "0.mp4").read_bytes() == video.read_bytes()
    assert not (there / "training").exists() and not (folder / "README.md").exists()
    card = (there / "README.md").read_text()
    assert f"{address}/us/ours/resolve/main/samples/0.mp4" in card and r"a \*ball\*" in card
    for loader in (T2VPipeline, DiffusionPipeline):
        back = loader.from_pretrained(REPO)
        assert type(back) is T2VPipeline
        for name, tensor in pipe.transformer.state_dict().items():
            assert torch.equal(back.transformer.state_dict()[name], tensor)
    (folder / "README.md").write_text("own")
    assert main(["push", str(folder), "us/other"]) == 0
    assert (kind.root / "us" / "other" / "README.md").read_text() == "own"


def test_nothing_goes_of_a_folder_with_keys_or_nan_or_without_token_or_hub(
    folder, hub, capsys, monkeypatch
):
    kind, _ = hub

    def said(*words):
        assert main(["push", *words]) == 2 and not list(kind.root.rglob("*.*"))
        return capsys.readouterr().err

    assert "give owner and name, as ORG/NAME" in said(str(folder), "name")
    assert "up to 4" in said(str(folder), REPO, "videos=[a.mp4,b.mp4,c.mp4,d.mp4,e.mp4]")
    assert "neither mp4 nor webm" in said(str(folder), REPO, "videos=[a.png]")
    assert "no model_index.json" in said(str(folder / "vae"), REPO)
    (folder / "vae" / ".env").write_text("KEY=1")
    assert "vae/.env may hold keys" in said(str(folder), REPO)
    (folder / "vae" / ".env").unlink()
    for kind.refuses in ("create", "PUT"):
        assert "the Hub cannot be reached or refuses: " in said(str(folder), REPO)
    with monkeypatch.context() as patch:
        patch.setattr(push, "get_token", lambda: None)
        assert "there is no token for the Hub" in said(str(folder), REPO)
    (weights,) = (folder / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "NaN or infinite" in said(str(folder), REPO)


def test_a_modular_folder_comes_from_the_hub_with_its_own_parts(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(modular, "VIEWS", tmp_path / "views")
    kind, _ = hub
    names = "scheduler", "vae", "text_encoder", "tokenizer", "transformer"
    index = {"_class_name": "LTXModularPipeline"}
    for name in names:
        part = kind.root / REPO / name / "config.json"
        part.parent.mkdir(parents=True)
        part.write_text("{}")
        place = {"pretrained_model_name_or_path": REPO, "subfolder": name}
        index[name] = ["diffusers", name, place]
    (kind.root / REPO / MODULAR).write_text(json.dumps(index))
    found = model_folder(REPO)
    assert {each.name for each in found.iterdir()} == {*names, "model_index.json"}
    assert all((found / name / "config.json").read_text() == "{}" for name in names)
    with pytest.raises(UserError, match=r"no such folder here.*404"):
        model_folder("us/none")
