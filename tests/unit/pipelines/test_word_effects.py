"""What each word of a prompt changes in a film, and the report of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from t2v.cli import main
from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.io.video import read_video
from t2v.pipelines.word_effects import word_effects

PROMPT = "a red ball bounces"
SIGNS = PromptingConfig(syntax=True)


@pytest.fixture
def film() -> torch.Tensor:
    """9 frames of 32x48."""
    return torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(3))


def told(effects):
    return [(each.word.text, each.word.scene) for each in effects]


def test_every_word_of_a_prompt_has_a_map_of_the_film(pipe, film):
    prompt = "a red ball, a ball"
    effects = word_effects(pipe, film, prompt, times=[0.5])
    words = ["a", "red", "ball", "a", "ball", ""]
    assert told(effects) == [(word, 0) for word in words]
    rows = [row for each in effects for row in each.word.rows]
    assert (
        sorted(rows)
        == list(range(len(rows)))
        == list(range(pipe.count_tokens("a red ball, a ball")[0]))
    )
    for each in effects:
        assert each.places.shape == effects[0].places.shape and each.effect > 0
        assert each.effect == pytest.approx(each.places.square().mean().sqrt().item(), rel=1e-5)
    assert not torch.equal(effects[2].places, effects[4].places)


def test_a_word_of_weight_0_moves_nothing_and_one_of_more_moves_more(pipe, film):
    def effect(weight):
        found = word_effects(pipe, film, f"a (red:{weight}) ball", SIGNS, times=[0.5])
        return next(each.effect for each in found if each.word.text == "red")

    assert effect(0) < 1e-5 < effect(0.5) < effect(1)
    plain = word_effects(pipe, film, "a red ball", times=[0.5])
    assert effect(1) == pytest.approx(plain[1].effect, rel=1e-4)


def test_a_word_of_a_scene_moves_its_own_frames_alone(pipe, film):
    """Attention among frames, which carries it on, is shut off."""
    for block in pipe.transformer.blocks:
        torch.nn.init.zeros_(block.attn1.to_out[0].weight)
        torch.nn.init.zeros_(block.attn1.to_out[0].bias)
    prompt = "[0-0.6s] a red ball AND a box [0.6-1s] the blue box"
    effects = word_effects(pipe, film, prompt, SIGNS, times=[0.5])
    scenes = {scene for _, scene in told(effects)}
    assert scenes == {0, 1} and ("blue", 1) in told(effects) and ("box", 0) in told(effects)
    moved = {
        scene: {
            frame
            for each in effects
            if each.word.scene == scene
            for frame in (each.places.amax((1, 2)) > 1e-5).nonzero()[:, 0].tolist()
        }
        for scene in scenes
    }
    assert moved[0] and moved[1] and not moved[0] & moved[1]


def test_rows_of_windows_are_refused(pipe, film):
    with pytest.raises(UserError, match=r"prompting\.long=windows"):
        word_effects(pipe, film, PROMPT, PromptingConfig(long="windows"))


def test_the_command_writes_a_report_of_a_film_whose_prompt_has_signs(pipe, tmp_path, monkeypatch):
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.chdir(tmp_path)
    model = ["device=cpu", "model=model"]
    made = ["sample", "--prompt-syntax", "a (red:2) ball AND a box", "-o", "film.mp4", *model]
    assert main(made) == 0
    assert main(["eval", "words", "film.mp4", "times=[0.5]", *model]) == 0
    report = json.loads(Path("film-words.json").read_text())
    words = [each["word"] for each in report["words"]]
    assert [each for each in words if each[0] != "("] == ["a", "red", "ball", "a", "box"]
    frames = read_video(Path("film.mp4"))[0]
    for each in report["words"]:
        region = each["region"]
        assert 0 <= region["left"] < region["right"] <= 1 and each["frames"]
        assert 0 <= region["top"] < region["bottom"] <= 1
        assert len(each["map"]) == (len(frames) - 1) // 4 + 1
    assert Path("film-words.png").stat().st_size > 1000
    assert main(["eval", "words", "film.mp4", *model]) == 2  # the report is there
    assert main(["eval", "words", "film.mp4", "words=[red]", *model]) == 2  # signs
