"""When a prompt at a shell gets a sibling of the embedded model."""

from dataclasses import replace

import pytest

from t2v.cli.siblings import with_sibling
from t2v.config.load import given_names
from t2v.config.sampling import SampleConfig
from t2v.io.files import EMBEDDED, OF_REFERENCES, STUDENT

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
    assert with_sibling(replace(PLAIN, **given), given).model == STUDENT


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
    assert with_sibling(replace(PLAIN, **given), given).model == EMBEDDED


def test_a_model_that_is_named_is_taken(tmp_path):
    assert with_sibling(PLAIN, {"model"}).model == EMBEDDED
    other = replace(PLAIN, model="elsewhere")
    assert with_sibling(other, ()) is other
    file = tmp_path / "a.yaml"
    file.write_text(f"model: {EMBEDDED}\n")
    assert given_names(file, ["seed=1", "a.b=2"]) == {"model", "seed", "a.b"}


def test_reference_pictures_are_for_the_sibling_that_learned_them():
    given = {"reference_images": ("a.png",), "image": "b.png", "num_inference_steps": 30}
    assert with_sibling(replace(PLAIN, **given), given).model == OF_REFERENCES
    assert with_sibling(replace(PLAIN, **given), {"model"}).model == EMBEDDED
