"""Facts of models that a form is made of, and the tokens of prompts."""

import json
import random

import pytest

from t2v.config.serve import ServeConfig
from t2v.io.files import STUDENT
from t2v.models.text import count_tokens, unknown_words
from t2v.serve.errors import Refused
from t2v.serve.fields import wanted_of
from t2v.serve.models import known
from t2v.serve.offer import Offer

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.serve.offered import shown_model
from t2v.serve.tokens import Counter, Counters

PROMPTS = (
    "",
    "a red ball bounces on grass",
    "a <toy> wrods, &amp; RED's  ball -- 🎈🎈! 12",
    "\x00 \ufeff \uff41 ball",
)


def test_a_form_of_a_student_is_told_that_it_takes_text_alone():
    shown = shown_model(known([STUDENT])[STUDENT], ServeConfig(queue="q"), {})
    assert shown["files"] == {} and not shown["goes_on"]
    assert not {"strength", "fit", "input_reference", "mask"} & set(shown["fields"])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"negative_prompt": "blue"}, "negative_prompt is given, and .* is a student"),
        ({"guidance_scale": 3}, "guidance_scale is more than 1"),
        ({"num_inference_steps": 8}, "num_inference_steps is none of 1, 2, 4"),
        (
            {"negative_prompt": "blue", "scenes": [{"prompt": "a red ball", "seconds": 1}]},
            "ask its teacher",
        ),
    ],
)
def test_a_student_is_asked_for_nothing_it_has_not_learned(given, said):
    config, offer = ServeConfig(queue="q"), Offer.read([STUDENT], [])
    asked = {"prompt": "a red ball", "num_inference_steps": 4, "guidance_scale": 1}
    assert wanted_of(asked | {"negative_prompt": ""}, config, offer)
    with pytest.raises(Refused, match=said):
        wanted_of(asked | given, config, offer)


def test_a_form_of_the_embedded_model_is_told_what_it_takes():
    model = known(["t2v-tiny"])["t2v-tiny"]
    shown = shown_model(model, ServeConfig(queue="q"), {"ball": "/x"})
    assert shown["defaults"] == {
        **{"size": "256x256", "seconds": 2.125, "fps": 8},
        **{"num_inference_steps": 8, "guidance_scale": 1.5},
    }
    assert shown["sizes"] == ["256x256", "256x192", "192x256", "320x192"]
    assert (shown["scale"], shown["multiple"], shown["max_tokens"]) == (4, 16, 64)
    assert shown["files"] == {
        "input_reference": ["picture", "clip"],
        "last_reference": ["picture"],
        "mask": ["picture", "clip"],
    }
    assert {"lora", "scenes", "best_of", "strength"} < set(shown["fields"])
    assert (shown["goes_on"], shown["needs"], shown["loras"]) == (True, [], ["ball"])
    assert "/" not in json.dumps(shown)
    assert "lora" not in shown_model(model, ServeConfig(queue="q"), {})["fields"]


def test_tokens_are_those_that_the_model_counts():
    from transformers import AutoTokenizer

    model = known(["t2v-tiny"])["t2v-tiny"]
    tokenizer = AutoTokenizer.from_pretrained(model.folder / "tokenizer")
    counters, draw = Counters(), random.Random(0)
    signs = "ab<>/toy ,.é🎈'\u200b1"
    drawn = ["".join(draw.choices(signs, k=20)) for _ in range(50)]
    for prompt in (*PROMPTS, *drawn):
        assert counters.told(model, prompt) == {
            "tokens": count_tokens(tokenizer, prompt),
            "most": 64,
            "unknown": unknown_words(tokenizer, prompt),
        }


def test_tokens_of_other_tokenizers_are_theirs(tokenizer, tmp_path):
    tokenizer.add_tokens(["<toy>"])
    tokenizer.save_pretrained(tmp_path)
    counter = Counter(tmp_path)
    for prompt in PROMPTS:
        assert counter.count(prompt) == count_tokens(tokenizer, prompt)
        assert counter.unknown_words(prompt) == unknown_words(tokenizer, prompt)


def test_a_model_without_a_tokenizer_counts_nothing(tmp_path):
    (tmp_path / "own").mkdir()
    (tmp_path / "own/model_index.json").write_text("{}")
    model = known([str(tmp_path / "own")])["own"]
    assert Counters().told(model, "a ball") == {"tokens": None, "most": None, "unknown": []}
