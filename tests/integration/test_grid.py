"""`t2v sample --grid`: the page on which a checkpoint and its strength are chosen."""

import json

import pytest
from peft import LoraConfig, get_peft_model_state_dict

from t2v.cli import main
from t2v.evaluation.grid import labels
from t2v.io.video import read_recipe, read_video

WORDS = ("--frames", "5", "--steps", "1", "--seed", "3")


@pytest.fixture
def sample(pipe, tmp_path, monkeypatch, capsys):
    """`t2v sample` beside a run with two checkpoints of a LoRA, one of them validated."""
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("model")
    pipe.transformer.add_adapter(LoraConfig(target_modules=["to_q"], init_lora_weights=False))
    layers = get_peft_model_state_dict(pipe.transformer)
    for step in (2, 4):
        weights = {name: step * tensor for name, tensor in layers.items()}
        pipe.save_lora_weights(f"run/checkpoint-{step:06d}", transformer_lora_layers=weights)
    line = {"step": 4, "figures": {}, "losses": {"val_loss": [0.125, 0.25, 0.375]}}
    (tmp_path / "run" / "validations.jsonl").write_text(json.dumps(line) + "\n")

    def run(*words):
        code = main(["sample", *words, "--model", "model"])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def test_a_grid_shows_each_checkpoint_at_each_strength_beside_the_model_alone(sample, tmp_path):
    words = ("a red ball", *WORDS, "-o", "choose.mp4")
    asked = ("--grid", "lora=run/checkpoint-*", "lora_scale=[0.6, 1]")
    code, out, err = sample(*words, *asked)
    assert code == 0, err
    assert out.strip() == str(tmp_path / "choose.html")
    page = (tmp_path / "choose.html").read_text()
    assert page.count("<video") == 5 and page.count("data:video/mp4") == 5
    for text in ("no LoRA", "checkpoint-000002 at 0.6", "checkpoint-000004 at 1", "a red ball"):
        assert text in page
    assert "0.25 [0.1" in page and "not validated at step 2" in page
    alone = ("a red ball", *WORDS, "lora=run/checkpoint-000004", "lora_scale=0.6")
    assert sample(*alone, "-o", "one.mp4")[0] == 0
    cell = "choose/checkpoint-000004-at-0.6.mp4"
    assert (read_video(cell)[0] == read_video("one.mp4")[0]).all()
    own, other = (read_recipe(name) for name in (cell, "one.mp4"))
    assert own["lora"] == other["lora"] and own["settings"].keys() == other["settings"].keys()
    assert read_recipe("choose/no-LoRA.mp4")["lora"] is None
    code, _, err = sample(*words, *asked)
    assert code == 0 and err.count("exists already") == 5


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "--grid: no LoRA is named"),
        (["lora=nowhere-*"], "lora=nowhere-*: matches no file and no folder"),
        (["lora=run/checkpoint-*", "-o", "mine.mp4"], "mine.html: is another file"),
        (["lora=run/checkpoint-*", "--recipe", "x.mp4"], "--grid goes with prompts alone"),
    ],
)
def test_a_grid_that_cannot_be_made_says_why(sample, tmp_path, words, message):
    (tmp_path / "mine.html").write_text("<p>mine")
    prompt = [] if "--recipe" in words else ["a ball"]
    code, _, err = sample(*prompt, "--grid", *words)
    assert code == 2 and message in err, err
    assert not list(tmp_path.glob("grid*"))


def test_loras_that_are_named_alike_are_told_apart_by_their_folders():
    assert labels(["a/checkpoint-1", "b/checkpoint-1", "c.safetensors"]) == {
        "a/checkpoint-1": "a-checkpoint-1",
        "b/checkpoint-1": "b-checkpoint-1",
        "c.safetensors": "c",
    }
