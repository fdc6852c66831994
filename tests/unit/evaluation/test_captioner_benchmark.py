"""Captions that say the same in other words score as the ceiling, and others as chance."""

import math
import shutil
from pathlib import Path

import pytest
import torch

from t2v.errors import UserError
from t2v.evaluation.captioner_benchmark import benchmark, entity_score
from t2v.nets.sentences import SentenceEncoder
from t2v.world.grammar import caption, random_scene

RED = "a red ball bounces on grass"


@pytest.fixture(scope="module")
def sentences():
    return SentenceEncoder("t2v-tiny")


def test_the_entity_score_is_the_harmonic_mean_of_entities_named_and_of_the_cosine(sentences):
    half = "a red ball bounces in the snow"
    alike = (1 + sentences.similarity(RED, [half]).item()) / 2
    assert entity_score(half, RED, sentences) == pytest.approx(2 * 0.5 * alike / (0.5 + alike))
    assert entity_score(RED, RED, sentences) == pytest.approx(1)
    assert entity_score("a star spins in the snow", RED, sentences) == 0
    assert math.isnan(entity_score(RED, "It is so.", sentences))


def test_another_wording_is_nearer_than_the_same_entities_in_another_colour(sentences):
    other = entity_score("on the grass, a blue ball jumps up and down", RED, sentences)
    assert entity_score("in a meadow, a red sphere hops", RED, sentences) > other > 0


def test_what_a_captioner_says_stands_between_chance_and_ceiling(sentences):
    generator = torch.Generator().manual_seed(0)
    scenes = [random_scene(generator) for _ in range(12)]
    captions = [tuple(caption(scene, generator) for _ in range(2)) for scene in scenes]
    said = [each[1] for each in captions[:6]] + [each[1] for each in captions[5::-1]]
    plain = benchmark(said, captions, 0)
    found = benchmark(said, captions, 0, sentences)
    score = found.pop("entity score")
    assert found == plain
    assert score["chance"] < score["value"] < score["ceiling"] == pytest.approx(1, abs=0.01)


def test_a_damaged_text_encoder_is_told_by_the_setting_that_names_it(tmp_path):
    tiny = Path(__file__).parents[3] / "assets/t2v-tiny"
    for part in ("tokenizer", "text_encoder"):
        shutil.copytree(tiny / part, tmp_path / part)
    weights = next((tmp_path / "text_encoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(UserError, match=rf"^sentences={tmp_path}.*is damaged"):
        SentenceEncoder(str(tmp_path))
