"""The kernels of this machine: found by a probe at first use, then kept for every later process."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import re
import secrets
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from functools import cache
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from t2v.errors import UserError, shortened

logger = logging.getLogger(__name__)

VARIABLE = "T2V_KERNELS"
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")  # of the instructions that oneDNN uses
ROUNDS = 7  # of a few milliseconds each: some of them run undisturbed
MARGIN = 0.97  # of the first one's time: what is no faster than that is not worth other bits
# of the largest value of a result: how far a kernel may be from the first one
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 2e-2}

Run = Callable[[], "tuple[Tensor, ...]"]
Candidates = Mapping[str, Run]  # by name; the first is torch's own way, which others are held to


def is_auto() -> bool:
    """True where kernels are chosen, false under `T2V_KERNELS=plain`: those of earlier versions.

    Raises:
        UserError: the variable holds something else.
    """
    given = os.environ.get(VARIABLE, "auto")
    if given not in ("auto", "plain"):
        raise UserError(
            f"{VARIABLE}={shortened(given, 40)} in the environment: auto (the fastest of this "
            "machine) or plain (those of earlier versions). Set one of them, or unset it."
        )
    return given == "auto"


def is_counted() -> bool:
    """True under a dispatch mode: counters and plans are told torch's own operations.

    Not under that of selective checkpointing: what is recomputed must be what was computed.
    """
    count = torch._C._len_torch_dispatch_stack()
    modes = (torch._C._get_dispatch_stack_at(number) for number in range(count))
    return any(type(mode).__module__ != "torch.utils.checkpoint" for mode in modes)


def chosen(op: str, dtype: torch.dtype, grad: bool, make: Callable[..., Candidates]) -> str:
    """The name of the fastest kernel for `op` in `dtype` on this machine.

    Read from the user's cache folder, or found by a probe and written there; who writes first
    decides. Where the folder cannot be written, the choice is this process's own.

    Args:
        grad: with the backward pass.
        make: gives the candidates for a dtype, and with or without gradient.
    """
    entry = f"{op}-{str(dtype).removeprefix('torch.')}{'-grad' if grad else ''}"
    return _chosen(entry, dtype, grad, make, torch.get_num_threads())


# what `torch.compiler.assume_constant_result` sets, without the second its import takes
chosen._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _chosen(
    entry: str, dtype: torch.dtype, grad: bool, make: Callable[..., Candidates], threads: int
) -> str:
    with ExitStack() as stack:
        for each in (_disable_current_modes(), torch.inference_mode(False)):
            stack.enter_context(each)
        stack.enter_context(torch.set_grad_enabled(grad))
        stack.enter_context(torch.autocast("cpu", enabled=False))
        candidates = make(dtype, grad)
        file = folder() / machine(threads) / f"{entry}.json"
        kept = _kept(file, candidates)
        return kept if kept is not None else _probed(file, candidates, BOUNDS[dtype])


def _probed(file: Path, candidates: Candidates, bound: float) -> str:
    right = {name: run for name, run in candidates.items() if _agrees(run, candidates, bound)}
    times = _milliseconds(right)
    first = next(iter(right))
    fastest = min(times, key=times.__getitem__)
    name = fastest if times[fastest] < MARGIN * times[first] else first
    _keep(
        file,
        {"kernel": name, "milliseconds": times, "processor": processor()},
        damaged=file.exists(),
    )
    return _kept(file, candidates) or name


def _agrees(run: Run, candidates: Candidates, bound: float) -> bool:
    """True for a kernel that runs here and gives what the first one gives."""
    wanted = next(iter(candidates.values()))()
    try:
        given = run()
    except (RuntimeError, TypeError, AttributeError):  # private to torch: it may be gone or changed
        return False
    pairs = zip(given, wanted, strict=True)
    return all(
        (one.float() - other.float()).abs().max() <= bound * other.float().abs().max()
        for one, other in pairs
    )


def _milliseconds(runs: Candidates) -> dict[str, float]:
    """The least time of each, taken in turn: other processes then disturb all alike."""
    best = dict.fromkeys(runs, math.inf)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            best[name] = min(best[name], 1e3 * (time.perf_counter() - start))
    return best


def _kept(file: Path, candidates: Candidates) -> str | None:
    """The name in a kept file; None where there is none, or one of no kernel."""
    try:
        name = json.loads(file.read_text())["kernel"]
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) and name in candidates else None


def _keep(file: Path, found: dict[str, object], *, damaged: bool) -> None:
    """Write a choice whole, where no other process has, or over a file that is damaged."""
    put = os.replace if damaged else os.link  # a link comes about only where nothing lies
    partial = file.with_name(f".{file.name}-{secrets.token_hex(8)}.partial")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(found, indent=1) + "\n")
        with suppress(FileExistsError):
            put(partial, file)
    except OSError as error:
        logger.info("kernels: not kept in %s (%s)", file.parent, error.strerror)
    finally:
        with suppress(OSError):
            partial.unlink()


def folder() -> Path:
    """The folder of kept choices in the user's cache."""
    given = os.environ.get("XDG_CACHE_HOME", "")
    with suppress(RuntimeError):  # a user without a home
        root = Path(given) if Path(given).is_absolute() else Path("~/.cache").expanduser()
        return root / "t2v" / "kernels"
    return Path("/nonexistent")


def machine(threads: int) -> str:
    """The name of what a choice holds for: processor, instructions, torch and threads."""
    capability = torch.backends.cpu.get_cpu_capability()
    limits = [os.environ[each] for each in LIMITS if os.environ.get(each)]
    parts = (processor(), capability, *limits, f"torch {torch.__version__}", f"{threads} threads")
    return re.sub(r"[^A-Za-z0-9.+]+", "-", " ".join(parts)).strip("-.")[:200]


@cache
def processor() -> str:
    """The processor's name, with family and model where the system tells them."""
    info = Path("/proc/cpuinfo")
    with suppress(OSError):
        lines = [line.partition(":") for line in info.read_text().split("\n\n")[0].splitlines()]
        fields = {name.strip(): value.strip() for name, _, value in lines}
        if "model name" in fields:
            numbers = f"family {fields.get('cpu family')}, model {fields.get('model')}"
            return f"{fields['model name']} ({numbers})"
    return platform.processor() or platform.machine()
