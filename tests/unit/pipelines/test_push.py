"""A folder goes to the Hub only when it loads, and without what does not belong to it."""

import json
from typing import ClassVar

import numpy as np
import pytest
from huggingface_hub.errors import HTTPError
from safetensors.torch import load_file, save_file

from t2v.cli import main
from t2v.io.video import write_video
from t2v.pipelines import push

REPO = "us/ours"


class Hub:
    """Answers as `HfApi` does, at the border to the network."""

    endpoint = "https://hub"
    sent: ClassVar[dict[str, object]] = {}
    refuses: Exception | None = None

    def create_repo(self, repo, private, exist_ok):
        if self.refuses:
            raise self.refuses
        return f"{self.endpoint}/{repo}"

    def create_commit(self, repo, adds, commit_message):
        self.sent.clear()
        self.sent.update({each.path_in_repo: each.path_or_fileobj for each in adds})


@pytest.fixture
def folder(pipe, tmp_path, monkeypatch):
    """A saved pipeline with the state of a training in it, a video, and a Hub with a token."""
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "model" / "training").mkdir()
    (tmp_path / "model" / "training" / "state.pt").write_text("mine")
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 8, {"prompt": "a *ball*"})
    monkeypatch.setattr(push, "HfApi", Hub)
    monkeypatch.setattr(push, "get_token", lambda: "hf_x")
    monkeypatch.setattr(Hub, "refuses", None)
    Hub.sent.clear()
    return tmp_path / "model"


def test_the_pipeline_goes_with_a_card_and_videos_and_a_card_of_its_own_stays(folder, capsys):
    video = folder.parent / "a.mp4"
    assert main(["push", str(folder), REPO, f"videos=[{video}]"]) == 0
    shown = capsys.readouterr()
    assert shown.out.strip() == "https://hub/us/ours" and "left out: training" in shown.err
    assert {"model_index.json", "README.md", "samples/0.mp4"} <= Hub.sent.keys()
    parts = json.loads((folder / "model_index.json").read_text())
    found = {name.partition("/")[0] for name in Hub.sent} & parts.keys()
    assert found == {name for name in parts if (folder / name).is_dir()}
    assert not any("training" in name for name in Hub.sent)
    card = Hub.sent["README.md"].decode()
    assert "https://hub/us/ours/resolve/main/samples/0.mp4" in card and r"a \*ball\*" in card
    assert not (folder / "README.md").exists()
    (folder / "README.md").write_text("own")
    assert main(["push", str(folder), REPO]) == 0
    assert Hub.sent["README.md"] == str(folder / "README.md")


def test_nothing_goes_of_a_folder_with_keys_or_nan_or_without_token_or_hub(
    folder, capsys, monkeypatch
):
    def said(*words):
        assert main(["push", *words]) == 2 and not Hub.sent
        return capsys.readouterr().err

    assert "give owner and name, as ORG/NAME" in said(str(folder), "name")
    assert "up to 4" in said(str(folder), REPO, "videos=[a.mp4,b.mp4,c.mp4,d.mp4,e.mp4]")
    assert "neither mp4 nor webm" in said(str(folder), REPO, "videos=[a.png]")
    assert "no model_index.json" in said(str(folder / "vae"), REPO)
    (folder / "vae" / ".env").write_text("KEY=1")
    assert "vae/.env may hold keys" in said(str(folder), REPO)
    (folder / "vae" / ".env").unlink()
    Hub.refuses = HTTPError("403 Forbidden")
    assert "the Hub cannot be reached or refuses: 403" in said(str(folder), REPO)
    (weights,) = (folder / "vae").glob("*.safetensors")
    tensors = load_file(weights)
    next(iter(tensors.values())).fill_(float("nan"))
    save_file(tensors, weights, metadata={"format": "pt"})
    assert "NaN or infinite" in said(str(folder), REPO)
    monkeypatch.setattr(push, "get_token", lambda: None)
    assert "there is no token for the Hub" in said(str(folder), REPO)
