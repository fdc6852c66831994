"""The embedded model's tokenizer: signs hide no words, and captions are read as ever."""

import pytest
import torch
from tokenizers import normalizers
from transformers import AutoTokenizer

from t2v.models.folder import embedded_model, shipped
from t2v.world.grammar import caption, random_scene
from t2v.world.text import build_tokenizer, normalizer

PLAIN = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])


def captions(count):
    generator = torch.Generator().manual_seed(1)
    return [caption(random_scene(generator), generator) for _ in range(count)]


@pytest.fixture(params=["model", "scorer", "new"])
def tokenizer(request):
    if request.param == "new":
        return build_tokenizer(iter(captions(300)))
    scorer = shipped("world-scorer", "tokenizer/tokenizer.json")
    folder = embedded_model() if request.param == "model" else scorer
    return AutoTokenizer.from_pretrained(folder / "tokenizer")


def test_captions_are_read_to_the_token_as_before(tokenizer):
    texts = [*captions(1000), "A Red ball", "", "ball's", "zebra at 3!", "the ball stops."]
    read = tokenizer(texts).input_ids
    tokenizer.backend_tokenizer.normalizer = PLAIN
    assert read == tokenizer(texts).input_ids


@pytest.mark.parametrize(
    ("prompt", "same"),
    [
        ("on snow,blue cube rests", "on snow, blue cube rests"),
        ('a "red" ball', "a red ball"),
        ("a “red” ball", "a red ball"),
        ("a sky-blue cube", "a sky blue cube"),
        ("a (red)ball/[cube]", "a red ball cube"),
        ("a ball: red_big; on grass", "a ball red big on grass"),
        ("a ball.the camera", "a ball. the camera"),
        ("a red 🔴 ball — on snow", "a red ball on snow"),
        ("--a ball--", "a ball"),
    ],
)
def test_signs_beside_a_word_leave_it_whole(tokenizer, prompt, same):
    assert tokenizer(prompt).input_ids == tokenizer(same).input_ids


def test_the_shipped_tokenizers_are_as_a_new_one():
    for folder in (embedded_model(), shipped("world-scorer", "tokenizer/tokenizer.json")):
        loaded = AutoTokenizer.from_pretrained(folder / "tokenizer").backend_tokenizer
        assert loaded.normalizer.__getstate__() == normalizer().__getstate__()
