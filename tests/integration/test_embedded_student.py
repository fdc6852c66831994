"""The student of the embedded model: what it weighs and makes."""

import json

import pytest
import torch
from PIL import Image

from t2v import T2VPipeline
from t2v.cli import main
from t2v.evaluation.metrics.reconstruction import psnr
from t2v.evaluation.suites import heldout_prompts
from t2v.io.files import EMBEDDED, STUDENT
from t2v.models.folder import model_folder

PROMPT = "a red ball bounces on grass"


def films(name, steps, seeds, prompts):
    pipe = T2VPipeline.from_pretrained(name)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    frames = pipe(prompts, generator=generators, num_inference_steps=steps, upscale=1).frames
    return torch.from_numpy(frames * 255).round().to(torch.uint8)


def test_it_makes_its_teachers_films_in_one_and_two_passes():
    prompts = heldout_prompts(6, seed=0)[1]
    wanted = films(EMBEDDED, 8, range(6), prompts)
    chance = psnr(films(EMBEDDED, 8, range(6, 12), prompts), wanted).mean()
    one, two = (psnr(films(STUDENT, n, range(6), prompts), wanted).mean() for n in (1, 2))
    assert two > one > chance + 4
    assert two > 32.5 and one > 30.5


def test_it_weighs_at_most_12_megabytes():
    files = [path for path in model_folder(STUDENT).rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files if path.suffix == ".safetensors") < 12e6
    assert "README.md" in {path.name for path in files}


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (["negative_prompt=blue"], "negative_prompt='blue'"),
        (["video=a.png", "strength=0.5"], "video=a.png, strength=0.5"),
        (["video=a.png", "mask=a.png"], "video=a.png, mask=a.png"),
        (["image=a.png"], "image=a.png"),
        (["guidance_scale=3"], "guidance_scale"),
        (["num_inference_steps=8"], "num_inference_steps=8"),
    ],
)
def test_what_it_has_not_learned_is_one_line_that_names_its_teacher(
    given, told, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (64, 64)).save("a.png")
    assert main(["sample", PROMPT, "--model", STUDENT, "--output", "no.mp4", *given]) == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("t2v: ")]
    assert len(said) == 1 and said[0].startswith(f"t2v: {told}: this model is a student")
    assert said[0].endswith("or take its teacher, t2v-tiny.")


def test_at_a_shell_it_is_known_by_name_and_makes_its_film_again(tmp_path, read_frames):
    place = tmp_path / "a.mp4"
    told = ["sample", PROMPT, "--model", STUDENT, "--output", str(place), "upscale=1"]
    assert main(told) == 0
    recipe = json.loads(place.with_suffix(".json").read_text())
    assert recipe["settings"]["model"] == STUDENT
    assert recipe["settings"]["num_inference_steps"] == 2
    assert main(["sample", "--recipe", str(place)]) == 0
    assert (read_frames(place) == read_frames(tmp_path / "a-again.mp4")).all()
