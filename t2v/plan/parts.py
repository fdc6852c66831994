"""The networks of a pipeline in bytes: whole, in linear layers, in one block, in one layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import nn


@dataclass(frozen=True)
class Part:
    """A network, and what the ways of holding its weights keep of it on the device.

    Args:
        weights: bytes as it is loaded.
        matrices: of them, in linear layers, which are what quantization shrinks.
        block: bytes of the largest block; 0 where it has no list of blocks.
        in_block: of them, in linear layers.
        rest: bytes outside of lists of blocks.
        linear: bytes of the largest linear layer.
        other: bytes of the largest layer of another kind, such as a table of words.
        wide: bytes of one number of a linear layer.
    """

    name: str
    parameters: int
    weights: int
    matrices: int
    block: int
    in_block: int
    rest: int
    linear: int
    other: int
    wide: float

    @property
    def leaf(self) -> int:
        """Bytes of the largest layer."""
        return max(self.linear, self.other)


def part_of(name: str, network: nn.Module, itemsize: int | None = None) -> Part:
    """The sizes of a network, whose weights need no content.

    Args:
        itemsize: bytes of a number as it is loaded; None: as it is.
    """
    kept: Collection[str] = getattr(network, "_keep_in_fp32_modules", None) or ()
    from_diffusers = hasattr(network, "register_to_config")  # transformers keeps them in fp16 alone
    sizes: dict[str, int] = {}
    for place, each in network.named_parameters():
        wide = from_diffusers and any(word in place.split(".") for word in kept)
        one = itemsize or each.element_size()
        sizes[place] = each.numel() * (max(4, one) if wide else one)
    of = {id(each): sizes[place] for place, each in network.named_parameters()}
    linear, other = _layers(network, of)
    lists = [each for each in network.children() if isinstance(each, nn.ModuleList)]
    blocks = [block for each in lists for block in each]
    largest = max(blocks, key=lambda block: _bytes(block, of), default=nn.Identity())
    return Part(
        name=name,
        parameters=sum(each.numel() for each in network.parameters()),
        weights=sum(sizes.values()),
        matrices=sum(linear),
        block=_bytes(largest, of),
        in_block=sum(_layers(largest, of)[0]),
        rest=sum(sizes.values()) - sum(_bytes(block, of) for block in blocks),
        linear=max(linear, default=0),
        other=max(other, default=0),
        wide=itemsize or next((p.element_size() for p in network.parameters()), 1),
    )


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, nn.Linear)


def _layers(module: nn.Module, sizes: Mapping[int, int]) -> tuple[list[int], list[int]]:
    """Bytes of the linear layers of a module, and of its other layers."""
    linear: list[int] = []
    other: list[int] = []
    for each in module.modules():
        (linear if _is_linear(each) else other).append(
            sum(sizes[id(weight)] for weight in each.parameters(recurse=False))
        )
    return linear, other


def _bytes(module: nn.Module, sizes: Mapping[int, int]) -> int:
    return sum(sizes[id(each)] for each in module.parameters())
