"""What may be left out of the denoising is read, and what does not go together is one message."""

import math

import pytest

from t2v.config.caching import CACHES, Cache, cache_of
from t2v.config.evaluation import EvalConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError


@pytest.mark.parametrize("name", CACHES)
def test_each_cache_takes_its_usual_value(name):
    assert cache_of(f"{name}:{CACHES[name].usual:g}") == Cache(name, CACHES[name].usual)
    assert cache_of("none") is None


@pytest.mark.parametrize(
    "text", ["taylor", "taylor:1", "taylor:2.5", "first_block:-1", "first_block:x", "tea:1", ""]
)
def test_other_values_are_told_with_those_that_are_allowed(text):
    with pytest.raises(UserError, match=rf"cache={text}.*: give none, or .*taylor:3"):
        SampleConfig(cache=text)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"cache": "mag:0.1"}, "`t2v calibrate` fits them"),
        ({"cache": "taylor:3", "cache_ratios": (1.0,)}, "go together"),
        ({"cache": "taylor:3", "compile": True}, "hooks blocks that are whole"),
        ({"cache": "taylor:3", "offload": "group"}, "Leave offload out"),
        ({"cache": "taylor:3", "token_merging": 0.3}, "Leave token_merging out"),
        ({"guidance_interval": (0.5,)}, "two shares"),
        ({"guidance_interval": (0.5, 0.5)}, "two shares"),
        (
            {"guidance_interval": (0.0, 0.5), "image": "a.png", "image_guidance_scale": 2.0},
            "guidance by pictures is in all steps",
        ),
        ({"max_error": 0.0}, "max_error=0.0: it must be from 1e-06 to 10"),
        ({"max_error": math.inf}, "max_error=inf: it must be from 1e-06 to 10"),
        ({"min_psnr": 200.0}, "min_psnr=200.0: it must be from 0.001 to 98"),
        ({"calibration": "x.json"}, "Give max_error"),
        ({"max_error": 0.1, "cache": "taylor:2"}, "max_error=0.1 cache=taylor:2: .*Leave cache"),
        ({"min_psnr": 30.0, "lora": ("x.safetensors",)}, "Leave lora out"),
    ],
)
def test_what_does_not_go_together_is_one_message(given, said):
    with pytest.raises(UserError, match=said):
        SampleConfig(**given)


def test_films_of_scenes_are_evaluated_exactly():
    with pytest.raises(UserError, match="Leave story out"):
        EvalConfig(output="x", suites=("story",), cache="taylor:2")
    EvalConfig(output="x", cache="taylor:2", guidance_interval=(0.0, 0.5))
