"""Pictures together with best-of and with a LoRA: what is given stays given."""

from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from peft import LoraConfig
from PIL import Image

from t2v.cli import main
from t2v.config.finetune import FinetuneConfig, LoRAConfig
from t2v.config.training import OptimConfig, TasksConfig
from t2v.io import video
from t2v.io.files import file_sha256
from t2v.io.video import read_recipe
from t2v.pipelines.generator import sample_videos
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.pipelines.visuals import VisualInputs
from t2v.sampling.results import read_frames
from t2v.training.tasks.finetune import finetune

PROMPT = "a red ball rolls on the grass"
BEST_OF_2 = ("--image", "ramp.png", "--seed", "3", "--best-of", "2", "scorer=../clip")


@pytest.fixture
def model(pipe, tmp_path, monkeypatch):
    """The folder of the tiny pipeline, which takes pictures, beside two pictures."""
    pipe.transformer.take_known(picture_tokens=False)
    pipe.save_pretrained(tmp_path / "model")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    ramp = np.linspace(0, 220, 48).astype(np.uint8)[None, :, None].repeat(32, 0).repeat(3, 2)
    Image.fromarray(ramp).save("ramp.png")
    Image.fromarray(ramp[:, ::-1]).save("back.png")
    return tmp_path / "model"


@pytest.fixture
def run(model, monkeypatch, capsys):
    """`t2v sample` with it; returns exit code, stderr, and the frames written, by their file."""

    def run(*argv, named=True):
        written = {}
        write = video.write_video

        def watched(path, pieces, *rest):
            frames = np.concatenate(list(pieces))
            written[path.name] = frames
            write(path, frames, *rest)

        with monkeypatch.context() as patch:
            patch.setattr(video, "write_video", watched)
            code = main(["sample", *argv, *(["--model", str(model)] if named else [])])
        return code, capsys.readouterr().err, written

    return run


@pytest.fixture
def lora(model, clips, tmp_path):
    """A LoRA that learned first frames."""
    config = FinetuneConfig(
        device="cpu", model=str(model), data=str(clips), output=str(tmp_path / "tuned"),
        tasks=TasksConfig(text=0, first=1), lora=LoRAConfig(rank=2, alpha=4), steps=2, batch_size=3,
        held_out=3, save_every=2, validate_every=2, precision="fp32",
        optim=OptimConfig(name="adamw", adam_lr=3e-2, warmup_steps=1, ema_decay=0.5),
    )  # fmt: skip
    return finetune(config)


def test_every_candidate_begins_with_the_picture_and_the_best_can_be_made_again(run, clip_folder):
    code, err, made = run(PROMPT, *BEST_OF_2, "keep_draws=true", "-o", "x.mp4")
    assert code == 0, err
    draws = [made[f"x.seed-{seed}.mp4"] for seed in (3, 4)]
    assert (draws[0][0] == draws[1][0]).all() and (draws[0] != draws[1]).any()
    _, _, others = run(PROMPT, "--image", "back.png", "-o", "back.mp4")
    assert (others["back.mp4"][0] != draws[0][0]).any()
    inputs = {"image": file_sha256(Path("ramp.png"))}
    for path in ("x.mp4", *(f"x.seed-{seed}.mp4" for seed in (3, 4))):
        stored = read_recipe(Path(path))
        assert (stored["settings"]["image"], stored["inputs"]) == ("ramp.png", inputs)
    best = read_recipe(Path("x.mp4"))["settings"]["seed"]
    code, err, again = run("--recipe", "x.mp4", named=False)
    assert code == 0, err
    assert (again["x-again.mp4"] == made[f"x.seed-{best}.mp4"]).all()


def test_an_interrupted_choice_among_videos_of_a_picture_goes_on(run, clip_folder, monkeypatch):
    assert run(PROMPT, *BEST_OF_2, "-o", "whole.mp4")[0] == 0
    step, calls = FlowMatchEulerDiscreteScheduler.step, count(1)

    def stop(*args, **kwargs):
        if next(calls) == 4:  # two a sample: the second has one behind it
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FlowMatchEulerDiscreteScheduler, "step", stop)
        assert run(PROMPT, *BEST_OF_2, "-o", "x.mp4")[0] == 130
    code, err, _ = run("--resume", "x.latents.safetensors", named=False)
    assert code == 0, err
    ended, resumed = (read_recipe(Path(name)) for name in ("whole.mp4", "x.mp4"))
    for name in ("choice", "inputs"):
        assert ended[name] == resumed[name]
    assert (read_frames(Path("x.mp4")) == read_frames(Path("whole.mp4"))).all()


def test_a_lora_of_first_frames_samples_from_a_picture(run, lora):
    words = (PROMPT, "--image", "ramp.png")
    code, err, made = run(*words, f"lora={lora}", "-o", "tuned.mp4")
    assert code == 0, err
    assert "changes the prediction" in err
    _, _, plain = run(*words, "-o", "plain.mp4")
    tuned = made["tuned.mp4"].astype(int)
    assert (tuned[0] == plain["plain.mp4"][0]).all() and (tuned != plain["plain.mp4"]).any()
    code, err, merged = run(*words, "--model", str(lora), "-o", "merged.mp4", named=False)
    assert code == 0, err
    assert np.abs(merged["merged.mp4"] - tuned).max() <= 1
    stored = read_recipe(Path("tuned.mp4"))
    assert stored["inputs"].keys() == {"image"} and stored["lora"]


def test_with_a_lora_a_batch_of_pictures_is_as_one_by_one(pipe, model):
    layers = LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(layers)
    generator = T2VGenerator(pipe)
    prompts, seeds = [PROMPT, "the blue box"], [3, 8]
    seen = [VisualInputs(image=np.asarray(Image.open(f"{name}.png"))) for name in ("ramp", "back")]
    request = generator.defaults
    (both,) = sample_videos(generator, prompts, seeds, request, visuals=seen, batch_size=2)
    single = list(sample_videos(generator, prompts, seeds, request, visuals=seen))
    torch.testing.assert_close(both, torch.cat(single), atol=1e-5, rtol=0)
    assert (single[0] - single[1]).abs().max() > 0.1
