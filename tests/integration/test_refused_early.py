"""What a training cannot do is told before its clips are encoded or its films are made."""

from dataclasses import replace
from pathlib import Path

import pytest

from t2v.cli import main
from t2v.config.data import ClipsConfig
from t2v.config.distill import DistillConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.training import MaskingConfig, SheetConfig, TrainDiTConfig
from t2v.errors import UserError
from t2v.training.tasks.distill import distill
from t2v.training.tasks.dit import build_dit
from t2v.training.tasks.finetune import build_finetune

MASKED = MaskingConfig(ratio=0.5, whole_blocks=(3, 3))
WRONG = [
    ({"masking": MASKED}, r"masking.whole_blocks=\[3, 3\] of"),
    ({"clips": ClipsConfig(fps=8)}, "clips.fps is given, but .* folder of `t2v world`"),
    ({"sheet": SheetConfig(height=17)}, "sheet.height=17: this model works in multiples of"),
    ({"attention": "bogus"}, '"bogus" does not run'),
    ({"held_out": 100}, "held_out=100 of 12 clips"),
]


def files_of(folder):
    return sorted(path for path in Path(folder).rglob("*") if path.is_file())


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        *WRONG,
        ({"start_from": "."}, r"start_from=\. holds no transformer/"),
        ({"start_from": "other"}, "start_from=other is another model"),
    ],
)
def test_a_training_encodes_nothing_before_it_refuses(
    dit_config: TrainDiTConfig, pipe, tmp_path, monkeypatch, wrong, words
):
    monkeypatch.chdir(tmp_path)
    if wrong.get("start_from") == "other":
        pipe.save_pretrained("other")
        model = replace(dit_config.model, ffn_dim=dit_config.model.ffn_dim + 8)
        dit_config = replace(dit_config, model=model)
    before = files_of(dit_config.data)
    with pytest.raises(UserError, match=words):
        build_dit(replace(dit_config, **wrong))
    assert files_of(dit_config.data) == before


@pytest.mark.parametrize(("wrong", "words"), WRONG)
def test_a_tuning_encodes_nothing_before_it_refuses(pipe, clips, tmp_path, wrong, words):
    pipe.save_pretrained(tmp_path / "model")
    before = files_of(clips)
    (tmp_path / "prompts.txt").write_text("a red ball\na blue box\n")
    config = FinetuneConfig(
        model=str(tmp_path / "model"), data=str(clips), output=str(tmp_path / "tuned"),
        device="cpu", held_out=2, base_prompts=str(tmp_path / "prompts.txt"), base_ratio=0.5,
    )  # fmt: skip
    with pytest.raises(UserError, match=words):
        build_finetune(replace(config, **wrong))
    assert files_of(clips) == before and not files_of(tmp_path / "tuned")  # nor the base's films


@pytest.fixture
def distilled(pipe, tmp_path):
    pipe.register_to_config(num_frames=5, height=16, width=32, num_inference_steps=2)
    pipe.save_pretrained(tmp_path / "teacher")
    (tmp_path / "prompts.txt").write_text("a red ball")
    return DistillConfig(
        device="cpu", model=str(tmp_path / "teacher"), prompts=str(tmp_path / "prompts.txt"),
        output=str(tmp_path / "student"), pairs=4, held_out=1, steps=1, batch_size=2,
        precision="fp32",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"attention": "bogus"}, '"bogus" does not run'),
        ({"start_from": "."}, r"start_from=\. holds no transformer/"),
        ({"start_from": "teacher", "average_with": "no"}, "average_with=no holds no transformer/"),
        ({"prompts": "nothing.txt"}, "nothing.txt"),
    ],
)
def test_a_teacher_makes_nothing_before_a_distillation_is_refused(
    distilled, tmp_path, monkeypatch, wrong, words
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=words):
        distill(replace(distilled, **wrong))
    assert not files_of(tmp_path / "student" / "pairs")


def test_a_distillation_with_other_settings_or_another_teacher_is_refused_first(
    distilled, pipe, wake, tmp_path
):
    distill(distilled)
    films = files_of(tmp_path / "student" / "pairs")
    with pytest.raises(UserError, match=r"other settings \(teacher_steps: None -> 3\)"):
        distill(replace(distilled, teacher_steps=3, steps=2))
    wake(pipe.transformer, seed=5)
    pipe.save_pretrained(tmp_path / "teacher")
    with pytest.raises(UserError, match=r"other settings \(.*model: "):
        distill(replace(distilled, steps=2))
    assert files_of(tmp_path / "student" / "pairs") == films


def test_more_learned_tokens_than_can_be_learned_are_refused(capsys):
    asked = ["finetune", "data=x", "output=y", "method=full", "learned_tokens=100000"]
    assert main(asked) == 2
    assert "learned_tokens=100000: it must be from 0 to 4,096." in capsys.readouterr().err
    asked = ["train", "data=x", "output=y", "vae=v", "text=t", "model.learned_tokens=100000"]
    assert main(asked) == 2
    assert "model.learned_tokens=100000: it must be from 0 to" in capsys.readouterr().err
