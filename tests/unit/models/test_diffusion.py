"""The noise path agrees with the schedulers that will walk it back."""

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)

from t2v.errors import UserError
from t2v.models.diffusion import (
    NUM_TRAIN_TIMESTEPS,
    add_noise,
    build_scheduler,
    diffusion_loss,
    interpolate,
    objective_of,
    random_times,
    velocity,
)

OBJECTIVES = ("flow", "v", "epsilon")


@pytest.fixture
def data():
    return torch.randn(3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def noise():
    return torch.randn(3, 4, 2, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_path_runs_from_data_to_noise_at_the_velocity(data, noise):
    assert torch.equal(interpolate(data, noise, torch.zeros(3)), data)
    assert torch.equal(interpolate(data, noise, torch.ones(3)), noise)
    step = interpolate(data, noise, torch.full((3,), 0.7)) - interpolate(
        data, noise, torch.full((3,), 0.2)
    )
    torch.testing.assert_close(step, 0.5 * velocity(data, noise))


def test_euler_along_the_true_velocity_returns_the_data(data, noise):
    scheduler = build_scheduler("flow", shift=3.0)
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    scheduler.set_timesteps(7)
    x = interpolate(data, noise, scheduler.sigmas[:1].expand(3))
    for timestep in scheduler.timesteps:
        x = scheduler.step(velocity(data, noise), timestep, x).prev_sample
    torch.testing.assert_close(x, data, atol=1e-5, rtol=1e-5)


def test_flow_timestep_is_a_thousand_times_sigma(data, noise):
    t = torch.tensor([0.0, 0.25, 1.0])
    assert torch.equal(add_noise("flow", data, noise, t).timestep, 1000 * t)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_one_sampling_step_with_the_target_finds_the_data(objective, data, noise):
    scheduler = build_scheduler(objective, shift=1.0)
    scheduler.set_timesteps(20)
    index = 10
    timestep = scheduler.timesteps[index]
    flow = objective == "flow"
    t = scheduler.sigmas[index] if flow else timestep / (NUM_TRAIN_TIMESTEPS - 1)
    sample = add_noise(objective, data, noise, t.float().expand(3))
    if flow:
        found = sample.latents - t * sample.target
    else:
        found = scheduler.step(sample.target, timestep, sample.latents).pred_original_sample
    torch.testing.assert_close(found, data, atol=1e-4, rtol=1e-4)


def test_v_ends_in_pure_noise(data, noise):
    assert build_scheduler("v", shift=1.0).alphas_cumprod[-1] == 0
    sample = add_noise("v", data, noise, torch.ones(3))
    assert torch.equal(sample.latents, noise)
    assert torch.equal(sample.target, -data)


def test_v_samples_from_the_step_it_was_trained_to_start_at():
    scheduler = build_scheduler("v", shift=1.0)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps[0] == NUM_TRAIN_TIMESTEPS - 1


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_loss_of_the_target_is_zero_for_every_sample(objective, data, noise):
    t = torch.tensor([0.1, 0.5, 0.9])
    target = add_noise(objective, data, noise, t).target
    assert torch.equal(
        diffusion_loss(objective, lambda x, s: target, data, noise, t), torch.zeros(3)
    )


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_times_stay_in_range_and_follow_the_generator(objective):
    times = [
        random_times(objective, 1000, 2.0, torch.Generator().manual_seed(seed))
        for seed in (0, 0, 1)
    ]
    assert torch.equal(times[0], times[1])
    assert not torch.equal(times[0], times[2])
    assert times[0].min() >= 0
    assert times[0].max() <= 1


def test_shift_moves_flow_times_towards_noise():
    def median(shift):
        return random_times("flow", 4000, shift, torch.Generator().manual_seed(0)).median()

    assert median(1.0) == pytest.approx(0.5, abs=0.03)
    assert median(3.0) == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_scheduler_tells_the_objective_it_was_built_for(objective):
    shift = 3.0 if objective == "flow" else 1.0
    assert objective_of(build_scheduler(objective, shift)) == (objective, shift)


def test_the_scheduler_of_wan_is_a_shifted_flow():
    scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    assert objective_of(scheduler) == ("flow", 5.0)


@pytest.mark.parametrize(
    "scheduler",
    [
        DDIMScheduler(beta_schedule="linear"),
        DDIMScheduler(prediction_type="sample"),
        FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
    ],
)
def test_a_scheduler_of_another_noise_path_is_refused(scheduler):
    with pytest.raises(UserError, match="a noise path that is not supported"):
        objective_of(scheduler)
