"""One video by several processes: the first runs the command, the others compute for it."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import nn

from t2v.config.places import brought
from t2v.config.sampling import SampleConfig
from t2v.distributed import check_launcher, local_rank, rank, world_size
from t2v.errors import UserError
from t2v.families.load import Embed, is_denoiser, load_denoisers, set_attention, set_layout
from t2v.models.device import is_memory_error, pick_device, pick_dtype, ready
from t2v.models.folder import model_folder
from t2v.models.hold import Hold
from t2v.models.split import Split
from t2v.pipelines.generator import Generator
from t2v.sampling.calls import Calls, receive, send
from t2v.sampling.link import DONE, ENDED, MEET, NOTICE, Link, meet

logger = logging.getLogger(__name__)

PATIENCE = timedelta(days=7)  # how long the others wait while the first one decodes, or is idle
# transformers whose tokens diffusers' plans split, as tests found; that of LTX has a mask for each
# head, which Ulysses takes for that of its own heads
SPLIT = ("T2VTransformer3DModel", "WanTransformer3DModel")
LOG_SUMS = ("_native_flash", "_native_cudnn", "flash")  # backends that give them
READ = ("model", "base", "lora")  # settings that name weights of transformers
HELD = ("auto", "none", "text")  # of offload: weights stay on the device while they are used


class Load(Protocol):
    """A function that gives the generator of settings, and the hash of its weights."""

    def __call__(
        self, config: SampleConfig, prompts: Sequence[str], embed: Embed | None = None
    ) -> tuple[Generator, str]: ...


@contextmanager
def leading(load: Load) -> Iterator[Load]:
    """Join the processes of the launcher as the first; gives `load` in the form whose generator has
    transformers that all of them compute.

    All end with the block.

    Args:
        load: of one process, `t2v.sampling.run.load`.

    Raises:
        UserError: another process ended, or does not come.
    """
    link, calls = _join(), list[Calls]()
    try:
        with _stopped_once():
            yield partial(_load, load, link, calls)
    except BaseException as error:
        # the launcher stops this process where another one ended
        is_lost = isinstance(error, KeyboardInterrupt) and link.wait_lost(1.0)
        link.tell(ENDED)
        link.close()
        if is_lost:
            raise UserError(f"{link.lost} {error}".rstrip()) from error
        raise
    link.expect_ends()
    with suppress(RuntimeError):  # of one that ended after all was done
        calls[0].dismiss() if calls else send(None)
    link.tell(DONE)
    link.close()
    dist.destroy_process_group()


def follow() -> None:
    """Join the processes of the launcher as another than the first, and compute for that one.

    Raises:
        UserError: the first one does not come.
        SystemExit: what failed, the first one tells.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first one stops, and then all do
    link = _join()
    try:
        _serve(link)
    except Exception as error:
        is_told = isinstance(error, UserError) or is_memory_error(error)
        if not is_told:
            time.sleep(NOTICE)  # where the reason is that the first one ended, this one ends here
            logger.exception("rank %d", rank())
        link.tell((str(error) if is_told else repr(error)).encode())
        link.close()
        raise SystemExit(2 if is_told else 1) from error
    link.close()
    dist.destroy_process_group()


def _join() -> Link:
    """Meet the others: first by connections that show an end, then by torch's exchanges.

    Raises:
        UserError: the launcher says too little, or one does not come.
    """
    check_launcher()
    try:
        # the port is the launcher's, or opened by the first process
        store, *_ = next(dist.rendezvous("env://", timeout=timedelta(seconds=MEET)))
    except (RuntimeError, ValueError) as error:
        raise UserError(
            f"Rank {rank()} of {world_size()} does not reach the others: {error}"
        ) from error
    store.set_timeout(timedelta(seconds=MEET))
    link = meet(store)
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(
        backend, store=store, rank=rank(), world_size=world_size(), timeout=PATIENCE
    )
    return link


@contextmanager
def _stopped_once() -> Iterator[None]:
    """Take the first signal to stop as Ctrl-C, and no other one: a launcher sends one more."""
    numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]

    def ignore() -> None:
        for each in numbers:
            signal.signal(each, signal.SIG_IGN)

    def stop(number: int, frame: FrameType | None) -> None:
        ignore()
        raise KeyboardInterrupt

    before = {each: signal.signal(each, stop) for each in numbers}
    try:
        yield
    except BaseException:
        ignore()  # it ends, and says why
        raise
    for each, usual in before.items():
        signal.signal(each, usual)


def _load(
    load: Load,
    link: Link,
    calls: list[Calls],
    config: SampleConfig,
    prompts: Sequence[str],
    embed: Embed | None = None,
) -> tuple[Generator, str]:
    """Load a generator, while the others load their transformers, and share these."""
    if calls:
        raise UserError(
            f"model={config.model}: {world_size()} processes read one model, once, and this is "
            "another one, or its files were changed. Start them again."
        )
    check_shared(config)
    device = pick_device(config.device)
    if device.type not in ("cpu", "cuda"):
        raise UserError(
            f"device={device.type} with {world_size()} processes: they exchange tensors of GPUs of "
            "CUDA and of CPUs alone. Give device=cpu, or start one process."
        )
    send((config, device.type))
    generator, weights = load(replace(config, parallel="auto"), prompts, embed)
    split = split_for(generator, config, world_size())
    with link.heeded():
        send(split)
        calls.append(Calls(_denoisers(generator), split, device, link))
    calls[0].lead()
    logger.info("%d processes share each step: %s", split.processes, split)
    return generator, weights


def _denoisers(generator: Generator) -> dict[str, nn.Module]:
    parts = generator.pipeline.components.items()
    return {name: part for name, part in parts if is_denoiser(name) and isinstance(part, nn.Module)}


def check_shared(config: SampleConfig) -> None:
    """Raise `UserError` for what several processes cannot share, before weights are read."""
    count = world_size()
    if config.parallel == "guidance" and count != 2:
        raise UserError(
            f"parallel=guidance: is a split in two, and {count} processes were started. Start 2, "
            "or leave parallel out: of an even number each half splits the sequence too."
        )
    if config.offload not in HELD:
        raise UserError(
            f"offload={config.offload} with {count} processes: each keeps the transformer on its "
            "device while it is used. Give offload=none or text, or start one process."
        )
    if config.compile:
        raise UserError(
            f"compile=true with {count} processes: what they exchange is not compiled. Leave it "
            "out, or start one process."
        )
    if config.token_merging:
        raise UserError(
            f"token_merging={config.token_merging:g} with {count} processes: tokens that merge are "
            "not split. Leave it out, or start one process."
        )
    if config.device not in ("auto", "cpu", "cuda"):
        raise UserError(
            f"device={config.device} with {count} processes: each takes the GPU of its number on "
            "its machine. Give device=cuda or cpu, or leave it out."
        )


def split_for(generator: Generator, config: SampleConfig, count: int) -> Split:
    """The split of each step over `count` processes: first guidance, then the sequence.

    Raises:
        UserError: the model, or what is asked of it, cannot be split so.
    """
    networks = list(_denoisers(generator).values())
    asked, kind = config.guidance_scale, type(generator.pipeline).__name__
    scale = generator.defaults.guidance_scale if asked is None else asked
    passes = 2 if scale is not None and scale > 1 else 1
    if config.image_guidance_scale != 1:
        passes = 3
    can_halve = generator.is_trainable and passes == 2
    if config.parallel == "guidance" and not can_halve:
        why = (
            f"guidance_scale={scale:g} image_guidance_scale={config.image_guidance_scale:g} take "
            f"{passes} pass{'es' if passes > 1 else ''} a step, and two halves share 2"
            if generator.is_trainable and scale is not None
            else f"a {kind} is guided by diffusers' own code, which is not split"
        )
        raise UserError(f"parallel=guidance: {why}. Give parallel=sequence, or leave it out.")
    takes_all = config.parallel in ("sequence", "ring")
    halves = 2 if can_halve and not takes_all and count % 2 == 0 else 1
    split = Split(guidance=halves, sequence=count // halves, ring=config.parallel == "ring")
    if split.sequence > 1:
        _check_ring(config, networks)
        whole = [type(n).__name__ for n in networks if not _can_split_tokens(n)] or [kind]
        if not networks or not all(map(_can_split_tokens, networks)):
            raise UserError(
                f"{count} processes: the tokens of a {whole[0]} are not split; those of "
                f"{' and '.join(SPLIT)} are, but for some layouts of attention. Start "
                f"{'two processes, for guidance,' if can_halve else 'one'} instead."
            )
    return split


def _check_ring(config: SampleConfig, networks: Sequence[nn.Module]) -> None:
    """Raise `UserError` where no kernel gives what the parts of a ring are put together by."""
    if config.parallel != "ring" or config.attention in LOG_SUMS:
        return
    ours = all(type(each).__name__ == SPLIT[0] for each in networks)
    if not ours or pick_device(config.device).type != "cpu" or config.attention != "native":
        raise UserError(
            f"parallel=ring attention={config.attention}: the parts of a ring are put together by "
            f"the sums of their scores, which {', '.join(LOG_SUMS)} give on a GPU, and native with "
            f"a {SPLIT[0]} on a CPU. Give one of those, or parallel=sequence."
        )


def _can_split_tokens(network: nn.Module) -> bool:
    return type(network).__name__ in SPLIT and getattr(network, "_cp_plan", None) is not None


def _serve(link: Link) -> None:
    """Load the transformers that the first process asks for, and answer its calls of them."""
    asked = receive()
    if asked is None:
        return
    config, kind = asked
    device = _own_device(kind)
    networks = denoisers_of(config, device)
    split = receive()
    Calls(networks, split, device, link).follow()


def _own_device(kind: str) -> torch.device:
    device = pick_device(kind)
    if device.type != "cuda":
        return device
    if local_rank() >= torch.cuda.device_count():
        raise UserError(
            f"it is number {local_rank()} from 0 on its machine, which has "
            f"{torch.cuda.device_count()} GPUs. Start as many processes a machine as it has GPUs "
            "(--nproc-per-node)"
        )
    device = torch.device("cuda", local_rank())
    torch.cuda.set_device(device)
    return device


def denoisers_of(config: SampleConfig, device: torch.device) -> dict[str, nn.Module]:
    """The transformers of `config.model` as `run.load` has them."""
    adapt = None
    if config.lora:
        from t2v.sampling.loras import insertion  # few videos have any

        adapt = insertion(config)
    # what lies at an address, the first process has brought to its own machine alone
    with brought({name: getattr(config, name) for name in READ}, writes=False):
        networks = load_denoisers(
            config.model,
            model_folder(config.folder),
            device,
            pick_dtype(config.dtype, device),
            hold=Hold(quantize=config.quantize),
            adapt=adapt,
            sees=config.sees,
            single=None if config.base is None else Path(config.model),
        )
    parts: Any = SimpleNamespace(**{"transformer_2": None, **networks})
    if config.lora:
        from t2v.models.lora import scale_loras

        scale_loras(parts, config.lora, config.lora_scale, config.lora_part)
    set_layout(parts, config.attention_layout)
    set_attention(parts, config.attention)
    for network in networks.values():
        ready(network)
    return networks
