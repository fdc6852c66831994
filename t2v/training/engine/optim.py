"""Muon for matrices, AdamW for the rest, and one learning-rate schedule over both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from t2v.config.training import OptimConfig
from t2v.training.engine.collectives import split_like
from t2v.training.engine.muon import MOMENTUM, Muon
from t2v.training.engine.task import ParameterGroup


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
    """Muon and torch's AdamW side by side; their state is named tensors.

    The parameters must stay where they are from here on: load into them, never replace them
    (`model.to` comes first).
    """

    def __init__(self, groups: Iterable[ParameterGroup], weight_decay: float) -> None:
        self._muons: list[tuple[Muon, float]] = []
        self._adams: list[tuple[torch.optim.AdamW, float]] = []
        self._stepped: dict[str, nn.Parameter] = {}  # what AdamW steps, by name
        for group in groups:
            if group.algorithm == "muon":
                self._muons.append((Muon(group.parameters, weight_decay), group.lr))
                continue
            optimizer = torch.optim.AdamW(
                group.parameters.values(),
                lr=group.lr,
                betas=group.betas,
                weight_decay=weight_decay,
                fused=True,
            )
            self._stepped.update(group.parameters)
            self._adams.append((optimizer, group.lr))

    def step(self, factor: float) -> None:
        """Update the parameters at `factor` times the learning rates, and drop their gradients."""
        for muon, lr in self._muons:
            muon.step(lr * factor)
        for optimizer, lr in self._adams:
            for group in optimizer.param_groups:
                group["lr"] = lr * factor
            optimizer.step()
            optimizer.zero_grad()

    def state_tensors(self) -> dict[str, Tensor]:
        """The whole state, flat, split as the parameters are: `{parameter name}/{entry}`."""
        adam = {
            f"{name}/{entry}": value
            for name, parameter in self._stepped.items()
            for optimizer, _ in self._adams
            for entry, value in optimizer.state.get(parameter, {}).items()
        }
        momenta = {
            f"{name}/{MOMENTUM}": value
            for muon, _ in self._muons
            for name, value in muon.momentum.items()
        }
        return adam | momenta

    def load_state_tensors(self, tensors: Mapping[str, Tensor]) -> None:
        """Continue from what `state_tensors` gave."""
        entries: dict[str, list[str]] = {}
        for key in tensors:
            entries.setdefault(key.rpartition("/")[0], []).append(key)
        for optimizer, _ in self._adams:
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            for name, parameter in self._stepped.items():
                if id(parameter) in held:
                    optimizer.state[parameter] = {
                        key.rpartition("/")[2]: _state_entry(tensors[key], parameter)
                        for key in entries.get(name, [])
                    }
        for muon, _ in self._muons:
            for name in muon.parameters:
                for key in entries.get(name, []):
                    muon.load(name, tensors[key])


def _state_entry(value: Tensor, parameter: Tensor) -> Tensor:
    value = value.to(parameter.device, copy=True)
    return split_like(value, parameter) if value.shape == parameter.shape else value
