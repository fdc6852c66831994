"""The embedded model's features and attention on clips whose masks are known."""

from __future__ import annotations

import pytest
import torch
from einops import reduce

from t2v import T2VPipeline
from t2v.config.features import ProbeConfig
from t2v.config.world import WorldClipsConfig
from t2v.evaluation.probe import probe
from t2v.models.folder import embedded_model
from t2v.world.grammar import SHAPES, caption, random_scene
from t2v.world.render import render
from t2v.world.run import clip_generator, render_world

NOUNS = {word for forms in SHAPES.values() for pair in forms for word in pair}


def test_a_word_lights_the_thing_that_it_names():
    """A place of the thing is brighter than one beside it: chance is .5."""
    pipe = T2VPipeline.from_pretrained(embedded_model())
    shares = []
    for index in range(30):
        draws = clip_generator(12, "heldout", index)
        scene = random_scene(draws, "heldout")
        prompt = caption(scene, draws)
        named = [word for word in prompt.replace(",", "").split() if word in NOUNS]
        if len(named) != 1 or len(shares) == 6:
            continue
        clip, mask = render(scene)
        covered = torch.cat([mask[:1].expand(3, -1, -1), mask]).float() / 255
        thing = reduce(covered, "(t a) (h p) (w q) -> t h w", "mean", a=4, p=16, q=16) > 0.15
        looks = pipe.attention_maps(clip, named, prompt, layers=[2], times=[0.5])[0]
        inside, outside = looks[thing], looks[~thing]
        shares.append((inside[:, None] > outside[None]).float().mean())
    assert len(shares) == 6 and torch.stack(shares).mean() > 0.8


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
