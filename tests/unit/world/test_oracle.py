"""The oracle of the world reads clips of any length and size."""

import torch

from t2v.world.labels import HEADS
from t2v.world.oracle import WorldOracle


def test_the_oracle_takes_any_length_and_size():
    oracle = WorldOracle(width=8).eval()
    answers = oracle.classify(torch.rand(2, 3, 9, 32, 48) * 2 - 1)
    assert [set(answer) for answer in answers] == [set(HEADS)] * 2
