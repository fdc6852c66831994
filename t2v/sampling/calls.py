"""Calls of networks in the first process, which all processes of a run answer, each its part."""

from __future__ import annotations

import io
import math
import pickle
import warnings
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from diffusers import ContextParallelConfig
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.utils._pytree import tree_map

from t2v.distributed import rank
from t2v.errors import UserError, shortened
from t2v.models.kernels.products import packed_weights
from t2v.models.kv_cache import KVCache
from t2v.models.split import Split
from t2v.sampling.link import Link

CPU = torch.device("cpu")


def send(message: Any) -> None:
    """Send an object from the first process to all others."""
    dist.broadcast_object_list([message], src=0, device=CPU)


def receive() -> Any:
    """Return what the first process sends."""
    message = [None]
    dist.broadcast_object_list(message, src=0, device=CPU)
    return message[0]


def _broadcast(tensor: Tensor) -> None:
    """Fill a contiguous tensor with what it is in the first process, whatever its number format."""
    if tensor.numel():
        dist.broadcast(tensor.reshape(-1).view(torch.uint8), src=0)


class Outbox:
    """The way of what the first process passes to a network to the others.

    A tensor that is passed again is sent once: text stays the same from step to step, and every
    process keeps its keys and values, which it knows by the very tensor.
    """

    def __init__(self) -> None:
        # by identity: the thing, its number on the other side, and how often it was written to
        self.sent: dict[int, tuple[weakref.ref[Any], int, float]] = {}
        self.count = 0
        self.gone: list[int] = []
        self.fresh: list[tuple[int, Tensor]] = []

    def post(self, about: Any) -> None:
        """Send tensors, caches and plain values, in any structure of Python."""
        for key in [key for key, (thing, *_) in self.sent.items() if thing() is None]:
            self.gone.append(self.sent.pop(key)[1])
        file = io.BytesIO()
        pickler = pickle.Pickler(file)
        pickler.persistent_id = self._numbered  # type: ignore[method-assign]
        pickler.dump(about)
        heads = [(number, each.shape, each.dtype, each.device.type) for number, each in self.fresh]
        send((file.getvalue(), self.gone, heads))
        for _, tensor in self.fresh:
            _broadcast(tensor.reshape(-1).clone(memory_format=torch.contiguous_format))
        self.fresh, self.gone = [], []

    def _numbered(self, thing: Any) -> tuple[bool, int] | None:
        if not isinstance(thing, Tensor | KVCache):
            return None
        known, version = self.sent.get(id(thing)), _writes(thing)
        if known is None or known[0]() is not thing or known[2] != version:
            self.gone += [] if known is None else [known[1]]
            self.count += 1
            known = self.sent[id(thing)] = weakref.ref(thing), self.count, version
            if isinstance(thing, Tensor):
                self.fresh.append((self.count, thing))
        return isinstance(thing, Tensor), known[1]


def _writes(thing: Tensor | KVCache) -> float:
    """The number of writes to a tensor; of one that does not count them, a number equal to none."""
    if isinstance(thing, KVCache):
        return 0
    return math.nan if thing.is_inference() else thing._version


class Inbox:
    """The other side of an `Outbox`: what is sent once is the same thing whenever it is passed."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.things: dict[int, Tensor | KVCache] = {}

    def take(self) -> Any:
        """Return what was sent."""
        body, gone, heads = receive()
        for number in gone:
            self.things.pop(number, None)
        for number, shape, dtype, kind in heads:
            device = CPU if kind == "cpu" else self.device
            tensor = self.things[number] = torch.empty(shape, dtype=dtype, device=device)
            _broadcast(tensor)
        unpickler = pickle.Unpickler(io.BytesIO(body))
        unpickler.persistent_load = self._thing  # type: ignore[method-assign]
        return unpickler.load()

    def _thing(self, about: tuple[bool, int]) -> Tensor | KVCache:
        is_tensor, number = about
        return self.things[number] if is_tensor else self.things.setdefault(number, KVCache())


class Half:
    """The rows of a batch that one half of the processes computes with.

    Args:
        number: 0 for the first rows, 1 for the others.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        self.rows: dict[int, tuple[weakref.ref[Tensor], float, Tensor]] = {}

    def of(self, about: Any, batch: int) -> Any:
        """The same structure with the own rows of each tensor that has `batch` of them; those of
        one tensor are one tensor each time."""
        self.rows = {key: each for key, each in self.rows.items() if each[0]() is not None}
        return tree_map(partial(self._of, batch), about)

    def _of(self, batch: int, thing: Any) -> Any:
        if not isinstance(thing, Tensor) or thing.ndim == 0 or len(thing) != batch:
            return thing
        known, version = self.rows.get(id(thing)), _writes(thing)
        if known is None or known[0]() is not thing or known[1] != version:
            rows = thing.chunk(2)[self.number].clone()  # a view would keep the whole alive
            known = self.rows[id(thing)] = weakref.ref(thing), version, rows
        return known[2]


class Calls:
    """The passes of networks, which processes share.

    With guidance split, one half of the processes takes the first rows of a batch and the other
    half the rest: what is predicted with the prompt and without. Within a half, each process takes
    its part of the tokens, and attention exchanges what it needs (diffusers' context parallelism,
    see `Split`).

    Args:
        networks: of this process, by name; the same ones everywhere.
        device: of this process.

    Raises:
        UserError: a network's tokens cannot be split.
    """

    def __init__(
        self, networks: Mapping[str, nn.Module], split: Split, device: torch.device, link: Link
    ) -> None:
        self.networks, self.split, self.link, self.device = networks, split, link, device
        self.outbox, self.half = Outbox(), Half(rank() // split.sequence)
        self.configs: dict[str, ContextParallelConfig] = {}
        if split.sequence > 1:
            parts = (split.sequence, 1) if split.ring else (1, split.sequence)
            sizes, names = (split.guidance, *parts), ("guidance", "ring", "ulysses")
            mesh = init_device_mesh(device.type, sizes, mesh_dim_names=names)["ring", "ulysses"]
            for name, network in networks.items():
                config = ContextParallelConfig(*parts, mesh=mesh)
                self.configs[name] = config
                _split_tokens(network, config)
        self.forwards = {name: network.forward for name, network in networks.items()}

    def lead(self) -> None:
        """Let each call of the networks here be answered by all processes."""
        for name, network in self.networks.items():
            network.forward = partial(self._ask, name)
            network.t2v_split = self.split

    def dismiss(self) -> None:
        """Tell the others that no call comes any more."""
        self.outbox.post(None)

    def follow(self) -> None:
        """Answer the calls of the first process until it needs no more."""
        inbox = Inbox(self.device)
        with torch.no_grad(), packed_weights():
            while (about := inbox.take()) is not None:
                self._answer(*about)

    def _ask(self, name: str, *args: Any, **options: Any) -> Any:
        with self.link.heeded():
            fits = self._fits(name, args, options)
            self.outbox.post((name, args, options, fits))
            return self._answer(name, args, options, fits)

    def _answer(self, name: str, args: Any, options: Any, fits: bool) -> Any:
        """The output of a network; in the first process of all its rows and tokens."""
        if name in self.configs:  # uneven parts take an exchange of their sizes in each layer
            config = self.configs[name]
            config.ring_anything = not fits and self.split.ring
            config.ulysses_anything = not fits and not self.split.ring
        batch = len(_hidden_states(args, options))
        is_halved = self.split.guidance == 2 and batch % 2 == 0
        if is_halved:
            args, options = self.half.of((args, options), batch)
        with warnings.catch_warnings():  # torch tells diffusers of newer names, in every process
            warnings.simplefilter("ignore", FutureWarning)
            output = self.forwards[name](*args, **options)
        return tree_map(self._joined, output) if is_halved else output

    def _joined(self, rows: Any) -> Any:
        """All rows of an output, in the first process."""
        if not isinstance(rows, Tensor):
            return rows
        if rank() == 0:
            others = torch.empty_like(rows, memory_format=torch.contiguous_format)
            dist.recv(others, src=self.split.sequence)
            return torch.cat([rows, others])
        if rank() == self.split.sequence:
            dist.send(rows.contiguous(), dst=0)
        return rows

    def _fits(self, name: str, args: Any, options: Any) -> bool:
        """Return whether all that is split can be split into equal parts.

        Raises:
            UserError: there are fewer tokens than parts.
        """
        parts, network = self.split.sequence, self.networks[name]
        if parts == 1:
            return True
        config: Any = network.config
        tokens = _tokens(_hidden_states(args, options), config)
        if options.get("pictures") is not None:
            tokens += _tokens(options["pictures"], config)
        if tokens < parts:
            raise UserError(
                f"{parts} parts of a sequence: the video has {tokens} tokens. Start at most "
                f"{tokens * self.split.guidance} processes, or ask for a larger video."
            )
        split: Any = dict(network._cp_plan or {}).get("", {})
        exchanges_heads = not self.split.ring and config.get("attention") != "factorized"
        sizes = [tokens, config.get("num_attention_heads", 1) if exchanges_heads else parts]
        for each, plan in split.items():
            given = options.get(each)
            if isinstance(given, Tensor) and given.ndim == plan.expected_dims:
                sizes.append(given.shape[plan.split_dim])
        fits = not any(size % parts for size in sizes)
        if not fits and self.device.type == "cpu":
            heads = f" and {config.get('num_attention_heads')} heads" if exchanges_heads else ""
            raise UserError(
                f"{parts} parts of a sequence: {tokens} tokens{heads} are not all multiples of "
                f"{parts}, and on a CPU parts are equal. Start another number of processes, or ask "
                "for another size."
            )
        return fits


def _hidden_states(args: Any, options: Any) -> Tensor:
    found: Tensor = options["hidden_states"] if "hidden_states" in options else args[0]
    return found


def _tokens(hidden_states: Tensor, config: Any) -> int:
    """The tokens of latents, `b c t h w` or `b n d`."""
    if hidden_states.ndim == 3:
        return hidden_states.shape[1]
    return math.prod(hidden_states.shape[2:]) // math.prod(config.patch_size)


def _split_tokens(network: Any, config: ContextParallelConfig) -> None:
    try:
        with _counted_devices():
            network.enable_parallelism(config=config)
    except (ValueError, RuntimeError, AttributeError) as error:
        raise UserError(
            f"parallel: the tokens of this {type(network).__name__} cannot be split. "
            f"{shortened(error, 500)}"
        ) from error


@contextmanager
def _counted_devices() -> Iterator[None]:
    """Let diffusers, which divides by the number of accelerators, see one where there is none."""
    count = torch.accelerator.device_count
    torch.accelerator.device_count = lambda: max(1, count())
    try:
        yield
    finally:
        torch.accelerator.device_count = count
