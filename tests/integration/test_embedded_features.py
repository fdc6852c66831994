"""The embedded model's features and attention on clips whose masks are known."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from copy import deepcopy
from statistics import mean

import pytest
import torch
from einops import reduce

from t2v import T2VPipeline
from t2v.config.features import ProbeConfig
from t2v.config.world import WorldClipsConfig
from t2v.data.rng import keyed_generator
from t2v.evaluation.intervals import summary
from t2v.evaluation.probe import probe
from t2v.models.folder import embedded_model
from t2v.pipelines.word_effects import word_effects
from t2v.world.grammar import COLOURS, SHAPES, caption, random_scene
from t2v.world.render import render
from t2v.world.run import clip_generator, render_world

NOUNS = {word for forms in SHAPES.values() for pair in forms for word in pair}
COLOUR_WORDS = {word for words in COLOURS.values() for word in words}


@pytest.fixture(scope="module")
def pipe() -> T2VPipeline:
    return T2VPipeline.from_pretrained(embedded_model())


def films(count: int) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, str]]:
    """Prompts that name one thing, their clips with the masks of it, and its noun."""
    for index in itertools.count():
        draws = clip_generator(12, "heldout", index)
        scene = random_scene(draws, "heldout")
        prompt = caption(scene, draws)
        named = [word for word in prompt.replace(",", "").split() if word in NOUNS]
        if len(named) != 1:
            continue
        clip, mask = render(scene)
        yield prompt, clip, mask, named[0]
        count -= 1
        if not count:
            return


def covered(mask: torch.Tensor, grid: tuple[int, int, int]) -> torch.Tensor:
    """The places of a grid `t h w` of which the thing covers some."""
    frames = torch.cat([mask[:1].expand(3, -1, -1), mask]).float() / 255
    t, h, w = grid
    return reduce(frames, "(t a) (h p) (w q) -> t h w", "mean", t=t, h=h, w=w) > 0.15


def brighter(looks: torch.Tensor, thing: torch.Tensor) -> float:
    """The share of pairs of a place of the thing and one beside it, of which the first is more."""
    return float((looks[thing][:, None] > looks[~thing][None]).float().mean())


def test_a_word_lights_the_thing_that_it_names(pipe):
    """A place of the thing is brighter than one beside it: chance is .5."""
    shares = []
    for prompt, clip, mask, noun in films(6):
        looks = pipe.attention_maps(clip, [noun], prompt, layers=[2], times=[0.5])[0]
        shares.append(brighter(looks, covered(mask, looks.shape)))
    assert sum(shares) / len(shares) > 0.8


@pytest.mark.parametrize("count", [3, pytest.param(64, marks=pytest.mark.slow)])
def test_words_of_a_thing_move_the_thing_and_words_like_a_move_nothing(pipe, count, capsys):
    """Chance is the share of places that the thing covers, and .5 of the pairs."""
    places = {"noun": [], "colour": [], "a": []}
    pairs, effects, areas = deepcopy(places), deepcopy(places), []
    times = [0.5] if count == 3 else [0.3, 0.5, 0.7]
    for prompt, clip, mask, noun in films(count):
        seen = set()
        for each in word_effects(pipe, clip, prompt, times=times):
            word = each.word.text
            kind = "noun" if word == noun else "colour" if word in COLOUR_WORDS else word
            if kind not in places or kind in seen:
                continue
            seen.add(kind)
            thing = covered(mask, each.places.shape)
            places[kind].append(float(thing.flatten()[each.places.argmax()]))
            pairs[kind].append(brighter(each.places, thing))
            effects[kind].append(each.effect)
        areas.append(float(thing.float().mean()))
    with capsys.disabled():
        for kind in places if count > 3 else ():
            figures = [
                summary(torch.tensor(each[kind]), keyed_generator(0, "words"), is_part=True)
                for each in (places, pairs, effects)
            ]
            told = [f"{each.value:.3f} [{each.low:.3f}, {each.high:.3f}]" for each in figures]
            sys.stdout.write(f"\n{kind}, n {len(places[kind])}: point, pairs, effect {told}")
        sys.stdout.write(f"\nchance {sum(areas) / len(areas):.3f}\n" if count > 3 else "")
    for kind in ("noun", "colour"):
        assert sum(places[kind]) >= 0.8 * len(places[kind]) >= 0.8
        assert sum(pairs[kind]) > 0.9 * len(pairs[kind])
        assert mean(effects[kind]) > 10 * mean(effects["a"])


@pytest.mark.slow
def test_a_linear_head_finds_things_in_features_and_not_in_latents(tmp_path):
    for split, count in (("train", 48), ("heldout", 24)):
        render_world(
            WorldClipsConfig(output=str(tmp_path / split), count=count, split=split, workers=1)
        )
    table = probe(
        ProbeConfig(data=str(tmp_path / "train"), test=str(tmp_path / "heldout"), layers=(3,))
    )
    figures = {line[:20].strip(): float(line.split()[-3]) for line in table.splitlines()[1:]}
    assert figures["block 3"] > 0.6 > figures["VAE latents"] > figures["everything (chance)"]
