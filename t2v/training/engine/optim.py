"""Muon for matrices, AdamW for the rest, and one learning-rate schedule over both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from einops import rearrange
from torch import Tensor, nn

from t2v.config.training import OptimConfig
from t2v.training.engine.collectives import is_split, split_like, whole
from t2v.training.engine.task import ParameterGroup

MOMENTUM = "momentum_buffer"  # torch's name for it


def split_parameters(
    parameters: Mapping[str, nn.Parameter], config: OptimConfig, is_matrix: Callable[[str], bool]
) -> list[ParameterGroup]:
    """The trainable ones: matrices and kernels named by `is_matrix` to Muon, others to AdamW."""
    trainable = {name: p for name, p in parameters.items() if p.requires_grad}
    matrices = {
        name: p
        for name, p in trainable.items()
        if config.name == "muon" and p.ndim >= 2 and is_matrix(name)
    }
    others = {name: p for name, p in trainable.items() if name not in matrices}
    groups = [
        ParameterGroup(matrices, "muon", config.lr),
        ParameterGroup(others, "adamw", config.adam_lr),
    ]
    return [group for group in groups if group.parameters]


def lr_factor(step: int, steps: int, config: OptimConfig) -> float:
    """Return the factor of learning rates at `step`, 0 to 1: warm-up, constant, cosine to zero."""
    warmup = min(1.0, (step + 1) / max(1, config.warmup_steps))
    tail = max(1.0, steps * (1 - config.decay_from))
    done = min(1.0, max(0.0, (step - steps * config.decay_from) / tail))
    return warmup * (1 + math.cos(math.pi * done)) / 2


class Optimizer:
    """Torch's Muon and AdamW side by side; their state is named tensors.

    Muon takes matrices only, so a kernel `o i t h w` is stepped through an `o (i t h w)` view that
    shares its memory, or, where FSDP2 split it, as `GatheredMuon` does. The parameters must stay
    where they are from here on: load into them, never replace them (`model.to` comes first).
    """

    def __init__(self, groups: Iterable[ParameterGroup], weight_decay: float) -> None:
        self._stepped: dict[str, Tensor] = {}  # what each algorithm steps, by name
        self._owners: dict[str, nn.Parameter] = {}  # whose gradient a Muon view borrows
        self._optimizers: list[tuple[torch.optim.Optimizer, float]] = []
        self._gathered: list[tuple[GatheredMuon, float]] = []
        for group in groups:
            if group.algorithm == "muon" and any(map(is_split, group.parameters.values())):
                self._gathered.append((GatheredMuon(group.parameters, weight_decay), group.lr))
                continue
            if group.algorithm == "muon":
                parameters = {name: _matrix_view(p) for name, p in group.parameters.items()}
                self._owners.update(group.parameters)
                optimizer: torch.optim.Optimizer = _muon(
                    parameters.values(), group.lr, weight_decay
                )
            else:
                parameters = dict(group.parameters)
                optimizer = torch.optim.AdamW(
                    parameters.values(),
                    lr=group.lr,
                    betas=group.betas,
                    weight_decay=weight_decay,
                    fused=True,
                )
            self._stepped.update(parameters)
            self._optimizers.append((optimizer, group.lr))

    def step(self, factor: float) -> None:
        """Update the parameters at `factor` times the learning rates, and drop their gradients."""
        for name, owner in self._owners.items():
            grad = owner.grad
            self._stepped[name].grad = None if grad is None else rearrange(grad, "o ... -> o (...)")
        for optimizer, lr in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad()
        for owner in self._owners.values():
            owner.grad = None
        for muon, lr in self._gathered:
            muon.step(lr * factor)

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state, flat, split as the parameters are: `{parameter name}/{entry}`."""
        plain = {
            f"{name}/{entry}": value
            for name, parameter in self._stepped.items()
            for optimizer, _ in self._optimizers
            for entry, value in optimizer.state.get(parameter, {}).items()
        }
        gathered = {
            f"{name}/{MOMENTUM}": value
            for muon, _ in self._gathered
            for name, value in muon.momentum.items()
        }
        return plain | gathered

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` gave."""
        for optimizer, _ in self._optimizers:
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in self._stepped.items():
                if id(parameter) in held:
                    optimizer.state[parameter] = {
                        key.rpartition("/")[2]: _state_entry(value, parameter)
                        for key, value in tensors.items()
                        if key.rpartition("/")[0] == name
                    }
        for muon, _ in self._gathered:
            for name, parameter in muon.parameters.items():
                if f"{name}/{MOMENTUM}" in tensors:
                    matrix = tensors[f"{name}/{MOMENTUM}"]
                    muon.momentum[name] = split_like(matrix, parameter)


class GatheredMuon:
    """Torch's Muon for parameters that FSDP2 split: one matrix at a time is gathered and stepped.

    The orthogonal step needs a whole matrix. Every rank takes it, so that the result is that of one
    process; weights, gradients and momentum stay split in between.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = parameters, weight_decay
        self.momentum: dict[str, Tensor] = {}

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the parameters that have a gradient, and drop it."""
        for name, parameter in self.parameters.items():
            if parameter.grad is None:
                continue
            matrix = rearrange(whole(parameter.detach()), "o ... -> o (...)").clone()
            matrix.grad = rearrange(whole(parameter.grad), "o ... -> o (...)")
            muon = _muon([matrix], lr, self.weight_decay)
            if name in self.momentum:
                muon.state[matrix][MOMENTUM] = whole(self.momentum[name])
            muon.step()
            parameter.copy_(split_like(matrix.view_as(parameter), parameter))
            self.momentum[name] = split_like(muon.state[matrix][MOMENTUM], parameter)
            parameter.grad = None


def _muon(matrices: Iterable[Tensor], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    return torch.optim.Muon(
        matrices, lr=lr, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )


def _state_entry(value: Tensor, parameter: Tensor) -> Tensor:
    value = value.to(parameter.device, copy=True)
    return split_like(value, parameter) if value.shape == parameter.shape else value


def _matrix_view(parameter: nn.Parameter) -> Tensor:
    view = rearrange(parameter.detach(), "o ... -> o (...)")
    assert view.data_ptr() == parameter.data_ptr(), "a copy would be trained instead of the model"
    return view
