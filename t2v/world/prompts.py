"""Prompts of the world: captions of random scenes, for what needs no clips of them."""

from __future__ import annotations

import torch

from t2v.world.grammar import caption, random_paced_scene, random_scene
from t2v.world.run import clip_generator

PACED = 0.15  # share of the prompts that say how fast something moves, as in the world's clips


def random_prompts(count: int, seed: int) -> list[str]:
    """One caption each of `count` random scenes of the training split, by seed."""
    return [_prompt(clip_generator(seed, "train", index)) for index in range(count)]


def _prompt(generator: torch.Generator) -> str:
    is_paced = float(torch.rand((), generator=generator)) < PACED
    scene = (random_paced_scene if is_paced else random_scene)(generator, "train")
    return caption(scene, generator)
