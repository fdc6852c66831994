"""Order and noise are functions of seed, step and rank."""

import torch

from t2v.data.rng import keyed_generator, step_indices


def test_every_clip_comes_once_an_epoch_though_batches_straddle():
    steps = [step_indices(10, 4, seed=1, step=step) for step in range(5)]
    first, second = torch.cat(steps).split(10)
    assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(10))
    assert first.tolist() != second.tolist()


def test_two_ranks_together_draw_what_one_draws_with_twice_the_batch():
    ranks = [step_indices(10, 2, 0, step=3, rank=rank, world_size=2) for rank in (0, 1)]
    assert torch.equal(torch.cat(ranks), step_indices(10, 4, 0, step=3))


def test_a_generator_depends_on_every_key():
    keys = [(0, 1, 0, "noise"), (1, 0, 0, "noise"), (0, 1, 1, "noise"), (0, 1, 0, "times")]
    seeds = {keyed_generator(*each).initial_seed() for each in keys}
    assert len(seeds) == len(keys)
    assert keyed_generator(*keys[0]).initial_seed() in seeds


def test_a_generator_is_the_same_in_every_process():
    assert keyed_generator(0, 1, 0, "noise").initial_seed() == 6959869936186317616
