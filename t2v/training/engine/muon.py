"""Muon: momentum of matrices, made orthogonal; those of one shape in one batched product."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor, Placement, Replicate, Shard

from t2v.distributed import world_size
from t2v.models.kernels.precision import faster_dtype
from t2v.training.engine.collectives import is_split, on_first_rank, split_like

MOMENTUM, DECAY = "momentum_buffer", 0.95  # torch's name and value
COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic, from https://kellerjordan.github.io
ITERATIONS, SMALLEST_NORM = 5, 1e-7
STACK = 2**24  # weights of one batched product on a rank, so that its copies stay small


class Muon:
    """`torch.optim.Muon` with Nesterov momentum and the step length of AdamW, for many matrices.

    Torch's takes one matrix after the other, which for small ones is most of a training step; here
    all of one shape are one product, equal to torch's up to rounding. A kernel `o i t h w` is
    stepped as the matrix `o (i t h w)`. Of several processes each makes a share of the matrices
    orthogonal and then gathers the others; parameters that FSDP2 split stay so, and their parts
    go to the process whose share they are. Products and what is gathered are in the dtype that
    `faster_dtype` names, bf16 where torch's always are.
    """

    def __init__(self, parameters: Mapping[str, nn.Parameter], weight_decay: float) -> None:
        self.parameters, self.weight_decay = parameters, weight_decay
        self.momentum: dict[str, Tensor] = {}  # `o (...)`, split as the parameter is
        self._dtype: torch.dtype | None = None  # of the products, chosen at the first step

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Update the parameters that have a gradient, and drop it."""
        alike: dict[tuple[object, ...], list[str]] = {}
        for name, parameter in self.parameters.items():
            if parameter.grad is not None:
                kind = (parameter.shape, parameter.device, parameter.dtype, is_split(parameter))
                alike.setdefault(kind, []).append(name)
        for names in alike.values():
            count = max(1, STACK // self.parameters[names[0]].numel()) * world_size()
            for start in range(0, len(names), count):
                self._step([*names[start : start + count]], lr)

    def load(self, name: str, momentum: Tensor) -> None:
        """Continue from the momentum of a parameter, which every rank has whole."""
        parameter = self.parameters[name]
        self.momentum[name] = split_like(momentum.to(parameter.device, copy=True), parameter)

    def _step(self, names: list[str], lr: float) -> None:
        """Step parameters of one shape."""
        parameters = [self.parameters[name] for name in names]
        grads = [_matrix(_local(parameter.grad)) for parameter in parameters]
        for name, parameter in zip(names, parameters, strict=True):
            if name not in self.momentum:
                self.momentum[name] = _zeros(parameter)
        momenta = [_local(self.momentum[name]) for name in names]
        torch._foreach_lerp_(momenta, grads, 1 - DECAY)
        stack = torch.stack(torch._foreach_lerp(grads, momenta, DECAY))  # k o (...)
        if self._dtype is None:  # one for all ranks, since what they gather must agree
            self._dtype = on_first_rank(lambda: faster_dtype(stack.device))
        updates = _shared(stack.to(self._dtype), parameters[0])
        locals_ = [_local(parameter) for parameter in parameters]
        rows, columns = parameters[0].flatten(1).shape
        torch._foreach_mul_(locals_, 1 - lr * self.weight_decay)
        updates = updates.to(locals_[0].dtype)
        moved = [each.reshape(p.shape) for each, p in zip(updates, locals_, strict=True)]
        torch._foreach_add_(locals_, moved, alpha=-lr * 0.2 * max(rows, columns) ** 0.5)
        for parameter in parameters:
            parameter.grad = None


def orthogonal(stack: Tensor) -> Tensor:
    """The matrices `k n m` with all singular values brought near 1, in the dtype they have.

    Five Newton-Schulz iterations of a quintic, as torch's Muon has them, which it takes in bf16.
    """
    a, b, c = COEFFICIENTS
    x = stack.mT if stack.shape[1] > stack.shape[2] else stack
    x = x / torch.linalg.vector_norm(x, dim=(1, 2), keepdim=True).clamp(min=SMALLEST_NORM)
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if stack.shape[1] > stack.shape[2] else x


def _shared(stack: Tensor, like: nn.Parameter) -> Tensor:
    """The matrices made orthogonal, as this rank needs them: whole, or the rows that it holds."""
    if world_size() == 1:
        return orthogonal(stack)
    count, (rows, columns) = len(stack), like.flatten(1).shape
    placement: Placement = Shard(1) if isinstance(like, DTensor) else Replicate()
    mesh = like.device_mesh if isinstance(like, DTensor) else _mesh(stack.device.type)
    size, stride = torch.Size((count, rows, columns)), (rows * columns, columns, 1)
    kept = DTensor.from_local(stack, mesh, [placement], shape=size, stride=stride)
    share = kept.redistribute(placements=[Shard(0)]).to_local()
    done = orthogonal(share).contiguous() if len(share) else share
    made = DTensor.from_local(done, mesh, [Shard(0)], shape=size, stride=stride)
    return made.redistribute(placements=[placement]).to_local()


@functools.cache
def _mesh(kind: str) -> DeviceMesh:
    return init_device_mesh(kind, (world_size(),))


def _zeros(parameter: nn.Parameter) -> Tensor:
    local = torch.zeros_like(_matrix(_local(parameter.detach())))
    if not isinstance(parameter, DTensor):
        return local
    rows, columns = parameter.flatten(1).shape
    size, stride = torch.Size((rows, columns)), (columns, 1)
    mesh, placements = parameter.device_mesh, parameter.placements
    return DTensor.from_local(local, mesh, placements, shape=size, stride=stride)


def _local(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach()


def _matrix(tensor: Tensor) -> Tensor:
    return rearrange(tensor, "o ... -> o (...)")
