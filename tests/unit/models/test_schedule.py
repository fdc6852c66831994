"""Times and random numbers of a sampling run."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from t2v.errors import UserError
from t2v.models.schedule import (
    dynamic_shift,
    sample_generators,
    set_timesteps,
    step_options,
    with_shift,
)


def test_flow_times_are_spaced_before_the_shift_and_waste_no_step():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    timesteps = set_timesteps(scheduler, 4, num_tokens=100)
    torch.testing.assert_close(timesteps, torch.tensor([1000.0, 900.0, 750.0, 500.0]))
    torch.testing.assert_close(scheduler.sigmas, torch.tensor([1.0, 0.9, 0.75, 0.5, 0.0]))


def test_a_shift_is_set_where_the_scheduler_has_one_of_a_flow():
    euler = with_shift(FlowMatchEulerDiscreteScheduler(shift=3.0), 5.0)
    unipc = with_shift(UniPCMultistepScheduler(use_flow_sigmas=True, flow_shift=3.0), 5.0)
    times = torch.tensor([1, 0.75, 0.5, 0.25])
    for scheduler in (euler, unipc):
        set_timesteps(scheduler, 4, num_tokens=8)
        shifted = 5 * times / (1 + 4 * times)
        torch.testing.assert_close(scheduler.sigmas[:4].float(), shifted, atol=2e-3, rtol=0)
    for scheduler in (
        DDIMScheduler(),
        UniPCMultistepScheduler(),
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ):
        with pytest.raises(UserError, match=r"shift=5: a .* has no fixed shift"):
            with_shift(scheduler, 5.0)


@pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")  # diffusers under numpy 2
def test_schedulers_that_space_well_or_are_no_flow_are_left_alone():
    flow = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
    )
    plain = UniPCMultistepScheduler.from_config(flow.config)
    plain.set_timesteps(4)
    assert torch.equal(set_timesteps(flow, 4, num_tokens=100), plain.timesteps)
    for scheduler in (DDIMScheduler(), EulerDiscreteScheduler()):
        assert len(set_timesteps(scheduler, 4, num_tokens=100)) == 4


def test_a_dynamic_shift_grows_with_the_tokens():
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True, base_image_seq_len=100, max_image_seq_len=300
    )
    assert dynamic_shift(scheduler, 100) == pytest.approx(scheduler.config.base_shift)
    assert dynamic_shift(scheduler, 300) == pytest.approx(scheduler.config.max_shift)
    short, long = (set_timesteps(scheduler, 4, tokens)[1] for tokens in (100, 300))
    assert long > short


def test_own_sigmas_must_be_taken_and_not_be_empty():
    with pytest.raises(UserError, match="DDIMScheduler takes no sigmas"):
        set_timesteps(DDIMScheduler(), 2, 100, sigmas=[1.0, 0.5])
    with pytest.raises(UserError, match="at least one step"):
        set_timesteps(FlowMatchEulerDiscreteScheduler(), 0, 100)


def test_more_steps_than_the_scheduler_has_are_refused():
    with pytest.raises(UserError, match="num_inference_steps=1001: DDIMScheduler has 1000"):
        set_timesteps(DDIMScheduler(), 1001, 100)
    assert len(set_timesteps(FlowMatchEulerDiscreteScheduler(), 1001, 100)) == 1001


def test_only_schedulers_that_add_noise_are_given_generators():
    generators = sample_generators(None, 2)
    assert step_options(DDIMScheduler(), generators) == {"generator": generators}
    assert step_options(UniPCMultistepScheduler(), generators) == {}


def test_sample_i_has_the_seed_plus_i():
    generator = torch.Generator().manual_seed(5)
    torch.rand(3, generator=generator)
    seeds = [each.initial_seed() for each in sample_generators(generator, 3)]
    assert seeds == [5, 6, 7]
    listed = [torch.Generator().manual_seed(seed) for seed in (9, 2)]
    assert [each.initial_seed() for each in sample_generators(listed, 2)] == [9, 2]
    with pytest.raises(UserError, match="2 generators for 3 videos"):
        sample_generators(listed, 3)
