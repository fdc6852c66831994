"""Guidance and the caches of the transformer."""

import pytest
import torch
from diffusers import (
    FasterCacheConfig,
    FirstBlockCacheConfig,
    PyramidAttentionBroadcastConfig,
)
from torch import Tensor

from t2v.models.conditions import Conditions
from t2v.models.guidance import Groups, Guidance, SchedulerStep

STEP = SchedulerStep(torch.tensor(500.0), index=0, count=2, sigma=0.5)
UNKEYED = {
    "pyramid": PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: 500
    ),
    "faster": FasterCacheConfig(
        spatial_attention_block_skip_range=2,
        tensor_format="BCFHW",
        attention_weight_callback=lambda _: 0.5,
        current_timestep_callback=lambda: 500,
    ),
}


@pytest.fixture
def given() -> tuple[Tensor, Conditions, Conditions]:
    """Latents, what to come near, what to keep away from; two samples."""
    generator = torch.Generator().manual_seed(0)
    shapes = (2, 8, 3, 4, 4), (2, 6, 32), (2, 6, 32)
    latents, *texts = (torch.randn(shape, generator=generator) for shape in shapes)
    return latents, *(Conditions(text=text) for text in texts)


def batch_sizes(transformer, guidance, given, scale=3.0) -> list[int]:
    """How many rows each forward of one guided prediction has."""
    sizes = []
    hook = transformer.register_forward_pre_hook(
        lambda _, args, kwargs: sizes.append(len(kwargs["hidden_states"])), with_kwargs=True
    )
    with torch.no_grad():
        guidance(*given, scale, STEP, Groups())
    hook.remove()
    return sizes


@torch.no_grad()
def test_guidance_goes_from_the_negative_through_the_positive(transformer, given):
    latents, positive, negative = given
    guidance = Guidance(transformer)
    cond = guidance(latents, positive, None, 3.0, STEP, Groups())
    uncond = guidance(latents, negative, None, 3.0, STEP, Groups())
    expected = uncond + 3.0 * (cond - uncond)
    torch.testing.assert_close(
        guidance(*given, 3.0, STEP, Groups()), expected, atol=1e-4, rtol=1e-4
    )
    assert torch.equal(guidance(*given, 1.0, STEP, Groups()), cond)
    sequential = Guidance(transformer, "sequential")(*given, 3.0, STEP, Groups())
    torch.testing.assert_close(sequential, expected, atol=1e-4, rtol=1e-4)


def test_on_a_cpu_every_sample_goes_alone_with_its_conditions(transformer, given):
    assert batch_sizes(transformer, Guidance(transformer), given) == [2, 2]
    assert batch_sizes(transformer, Guidance(transformer, "sequential"), given) == [1, 1, 1, 1]
    assert batch_sizes(transformer, Guidance(transformer), given, scale=1.0) == [1, 1]


def test_a_cache_keyed_by_condition_sees_whole_batches(transformer, given):
    transformer.enable_cache(FirstBlockCacheConfig(threshold=0.1))
    assert batch_sizes(transformer, Guidance(transformer), given) == [2, 2]


@pytest.mark.filterwarnings("ignore:torch.meshgrid:UserWarning")  # diffusers' FasterCache
@pytest.mark.parametrize("name", UNKEYED)
def test_a_cache_with_one_state_sees_both_conditions_at_once(transformer, given, name):
    plain = Guidance(transformer)(*given, 3.0, STEP, Groups())
    transformer.enable_cache(UNKEYED[name])
    assert batch_sizes(transformer, Guidance(transformer), given) == [4]
    cached = Guidance(transformer)(*given, 3.0, STEP, Groups())
    torch.testing.assert_close(cached, plain, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_new_run_does_not_see_the_cache_of_an_interrupted_one(transformer, given):
    fresh = Guidance(transformer)(*given, 3.0, STEP, Groups())
    transformer.enable_cache(FirstBlockCacheConfig(threshold=1e9))
    Guidance(transformer)(given[0] + 1, *given[1:], 3.0, STEP, Groups())
    rerun = Guidance(transformer)(*given, 3.0, STEP, Groups())
    torch.testing.assert_close(rerun, fresh, atol=1e-4, rtol=1e-4)
