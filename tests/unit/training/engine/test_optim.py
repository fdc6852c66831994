"""Muon through views, AdamW, the schedule, and their state as named tensors."""

import pytest
import torch
from torch import nn

from t2v.config.training import OptimConfig
from t2v.training.engine import muon
from t2v.training.engine.muon import Muon, orthogonal
from t2v.training.engine.optim import Optimizer, lr_factor, split_parameters
from t2v.training.engine.task import ParameterGroup


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(3, 8, 3), nn.Conv3d(8, 4, 1))


def step_through(model: nn.Module, optimizer: Optimizer, steps: int) -> None:
    for step in range(steps):
        x = torch.randn(2, 3, 3, 4, 4, generator=torch.Generator().manual_seed(step))
        model(x).square().mean().backward()
        optimizer.step(0.5)


def test_muon_steps_a_kernel_as_the_reference_steps_its_matrix():
    model = network()
    kernel = model[0].weight
    matrix = kernel.detach().flatten(1).clone()
    optimizer = Optimizer([ParameterGroup({"kernel": kernel}, "muon", 0.1)], weight_decay=0.01)
    reference = torch.optim.Muon(
        [matrix], lr=0.05, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"
    )
    for step in range(3):
        grad = torch.randn(kernel.shape, generator=torch.Generator().manual_seed(step))
        kernel.grad, matrix.grad = grad, grad.flatten(1)
        optimizer.step(0.5)
        reference.step()
        assert kernel.grad is None
    # torch's iterates in bf16, as ours does where that is faster
    torch.testing.assert_close(kernel.detach().flatten(1), matrix, atol=2e-3, rtol=0)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24)], ids=["wide", "tall"])
def test_matrices_in_one_product_are_what_they_are_one_by_one(shape):
    stack = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    stack[1] *= 1e-3  # every matrix has a norm of its own
    one_by_one = torch.cat([orthogonal(each[None]) for each in stack])
    torch.testing.assert_close(orthogonal(stack), one_by_one, atol=1e-6, rtol=0)
    values = torch.linalg.svdvals(orthogonal(stack))
    assert values.min() > 0.5 and values.max() < 1.3


def test_more_matrices_than_a_stack_holds_are_stepped_as_torch_steps_them(monkeypatch):
    shapes = [(8, 24), (24, 8), (8, 24), (24, 2, 4), (8, 24)]
    random = torch.Generator().manual_seed(0)
    parameters = {
        str(number): nn.Parameter(torch.randn(shape, generator=random))
        for number, shape in enumerate(shapes)
    }
    for parameter in parameters.values():
        parameter.grad = torch.randn(parameter.shape, generator=random)
    matrices = [p.detach().flatten(1).clone() for p in parameters.values()]
    for matrix, parameter in zip(matrices, parameters.values(), strict=True):
        matrix.grad = parameter.grad.flatten(1)
    parameters["idle"] = nn.Parameter(torch.ones(8, 24))  # a step that did not use it
    torch.optim.Muon(matrices, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw").step()
    monkeypatch.setattr(muon, "STACK", 2 * 8 * 24)
    Muon(parameters, 0.1).step(0.1)
    for matrix, parameter in zip(matrices, parameters.values(), strict=False):
        ulp = 2**-7 * 0.1 * 0.2 * 24**0.5  # of the bfloat16 in which torch's iterates
        torch.testing.assert_close(parameter.detach().flatten(1), matrix, atol=2 * ulp, rtol=0)
    assert torch.equal(parameters["idle"], torch.ones(8, 24))


def test_matrices_go_to_muon_and_the_rest_to_adamw():
    groups = split_parameters(
        dict(network().named_parameters()), OptimConfig(), is_matrix=lambda name: name[0] == "0"
    )
    assert {group.algorithm: list(group.parameters) for group in groups} == {
        "muon": ["0.weight"],
        "adamw": ["0.bias", "1.weight", "1.bias"],
    }


def test_adamw_alone_and_frozen_parameters_left_out():
    model = network()
    model[0].requires_grad_(False)
    groups = split_parameters(
        dict(model.named_parameters()), OptimConfig(name="adamw"), is_matrix=lambda name: True
    )
    assert [group.algorithm for group in groups] == ["adamw"]
    assert list(groups[0].parameters) == ["1.weight", "1.bias"]


def test_saved_state_goes_on_bit_for_bit():
    def fresh():
        model = network()
        named = dict(model.named_parameters())
        return model, Optimizer(split_parameters(named, OptimConfig(), lambda name: True), 0.01)

    whole, whole_optimizer = fresh()
    step_through(whole, whole_optimizer, 3)
    half, half_optimizer = fresh()
    half.load_state_dict(whole.state_dict())
    state = {name: tensor.clone() for name, tensor in whole_optimizer.state_tensors().items()}
    half_optimizer.load_state_tensors(state)
    step_through(whole, whole_optimizer, 2)
    step_through(half, half_optimizer, 2)
    for one, other in zip(whole.parameters(), half.parameters(), strict=True):
        assert torch.equal(one, other)
    assert {name.rpartition("/")[2] for name in state} == {
        "momentum_buffer",
        "exp_avg",
        "exp_avg_sq",
        "step",
    }


def test_the_schedule_warms_up_stays_and_falls_to_zero():
    config = OptimConfig(warmup_steps=10, decay_from=0.5)
    factors = [lr_factor(step, 100, config) for step in range(101)]
    assert factors[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
    assert factors[10:51] == [1.0] * 41
    assert factors[75] == pytest.approx(0.5)
    assert factors[100] == pytest.approx(0)
    assert lr_factor(99, 100, OptimConfig(decay_from=1.0, warmup_steps=0)) == 1
