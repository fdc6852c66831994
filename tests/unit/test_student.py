"""When a prompt at a shell gets the student of the embedded model."""

from dataclasses import replace

import pytest

from t2v.cli.student import with_student
from t2v.config.load import given_names
from t2v.config.sampling import SampleConfig
from t2v.io.files import EMBEDDED, STUDENT

PLAIN = SampleConfig()


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"seed": 3, "upscale": 1},
        {"num_inference_steps": 1},
        {"num_inference_steps": 4, "guidance_scale": 1.0},
        {"num_frames": 33},
        {"num_frames": 1},
        {"height": 48, "width": 64, "num_frames": 17},
    ],
)
def test_a_plain_video_is_the_students(given):
    assert with_student(replace(PLAIN, **given), given).model == STUDENT


@pytest.mark.parametrize(
    "given",
    [
        {"num_inference_steps": 8},
        {"guidance_scale": 2.0},
        {"num_frames": 49},
        {"height": 96, "width": 96},
        {"negative_prompt": "rain"},
        {"image": "a.png"},
        {"max_error": 0.1},
        {"quantize": "int8"},
    ],
)
def test_what_it_has_not_learned_is_its_teachers(given):
    assert with_student(replace(PLAIN, **given), given).model == EMBEDDED


def test_a_model_that_is_named_is_taken(tmp_path):
    assert with_student(PLAIN, {"model"}).model == EMBEDDED
    other = replace(PLAIN, model="elsewhere")
    assert with_student(other, ()) is other
    file = tmp_path / "a.yaml"
    file.write_text(f"model: {EMBEDDED}\n")
    assert given_names(file, ["seed=1", "a.b=2"]) == {"model", "seed", "a.b"}
