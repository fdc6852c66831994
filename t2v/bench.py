"""`t2v bench`: time and memory of every stage, beside the best matrix product of the same run."""

from __future__ import annotations

import ctypes
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from math import prod
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from t2v.config.sampling import BenchConfig
from t2v.errors import UserError
from t2v.io.files import locked, write_text
from t2v.io.text_files import read_json
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.pipelines.generator import Ability, Generator, Request
from t2v.pipelines.load import check_room, load_generator, set_attention

PROMPT = "a red ball bounces on grass"
MIB = 2**20

Run = Callable[[], Any]


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure what `config.what` names, print a table, and return its figures.

    Raises:
        UserError: `config.json` is a file of something else, or what a kind of bench raises.
    """
    measure_all = bench_curation if config.what == "curate" else bench_pipeline
    if not config.json:
        return measure_all(config)
    file = Path(config.json)
    with locked(file, command="t2v bench"):
        if not config.overwrite:
            _refuse_to_replace(file)
        report = measure_all(config)
        write_text(file, json.dumps(report, indent=2) + "\n")
    return report


def _refuse_to_replace(file: Path) -> None:
    """Raise `UserError` where a file lies that `bench` did not write."""
    with suppress(UserError, TypeError, KeyError):  # no JSON, or another
        if "memory_frames" in read_json(file)["config"]:
            return
    if file.exists():
        raise UserError(
            f"json={file} holds no figures of `t2v bench` and would be replaced. Name another "
            "file, or say overwrite=true."
        )


def bench_curation(config: BenchConfig) -> dict[str, Any]:
    """The stages of curation that measure shots, beside decoding alone."""
    from t2v.curation.speed import speed

    rows = speed(config.footage, config.repeats)
    print_table(rows, ("run", "files", "frames", "cpu_s", "frames_s", "by_decode"))
    return {"config": asdict(config), "curation": rows}


def bench_pipeline(config: BenchConfig) -> dict[str, Any]:
    """Measure the pipeline of `config.model`, print a table, and return its figures.

    Every stage runs alone on the outputs of the one before it. FLOP are those of matrix products,
    convolutions and attention, 2 per multiply-add; utilisation is FLOP per second over that of
    the GEMM, which is measured before and after the stages (two figures far apart: a busy machine).

    Raises:
        UserError: the model's stages cannot be told apart, or a size does not fit it.
    """
    generator = load(config)
    device, dtype = generator.pipeline.device, generator.pipeline.dtype
    before = gemm_gflops(device, dtype)
    rows = [measure(name, run, device, config) for name, run in stages(generator, config).items()]
    lengths, vae = config.memory_frames, generator.vae
    memory = [vae_memory(generator, vae, each, config) for each in lengths] if vae else []
    gemm = [before, gemm_gflops(device, dtype)]
    for row in rows:
        row["utilisation"] = row["gflop"] / row["ms_median"] * 1e3 / max(gemm)
    report = {
        "config": asdict(config),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "gemm_gflops": gemm,
        "stages": rows,
        "vae_memory": memory,
    }
    print_report(report)
    return report


def load(config: BenchConfig) -> Generator:
    """The generator of `config.model`, ready on its device.

    Raises:
        UserError: the model or device cannot be had, its stages cannot be told apart, or the frames
            alone are larger than the memory.
    """
    device, folder = pick_device(config.device), model_folder(config.model)
    check_room(folder, device, config.height, config.width, config.num_frames)
    dtype = pick_dtype(config.dtype, device)
    needs: tuple[Ability, ...] = ("gives_latents",)
    generator = load_generator(config.model, folder, device, dtype, "t2v bench", needs)
    set_attention(generator.pipeline, config.attention)
    return generator


def request_of(generator: Generator, config: BenchConfig) -> Request:
    """The video that is measured: the model's own, but for what is given."""
    names = ("height", "width", "num_frames", "num_inference_steps")
    given = {name: getattr(config, name) for name in names if getattr(config, name) is not None}
    return replace(generator.defaults, **given)


@torch.no_grad()
def stages(generator: Generator, config: BenchConfig) -> dict[str, Run]:
    """The stages of a video: text, denoise, decode; and encode, the way back, if there is a VAE."""
    asked, vae = request_of(generator, config), generator.vae
    generator.pipeline.set_progress_bar_config(disable=True)
    generator.check(PROMPT, asked)
    text = generator.encode([PROMPT], asked)
    latents = generator.generate(text, asked, seeds=[0])
    runs: dict[str, Run] = {
        "text": lambda: generator.encode([PROMPT], asked),
        "denoise": lambda: generator.generate(text, asked, seeds=[0]),
        "decode": lambda: generator.decode(latents, asked.num_frames),
    }
    if vae is not None:
        video = vae.decode(latents.to(vae.dtype)).sample.clamp(-1, 1)
        runs["encode"] = lambda: encode(vae, video)
    return {name: torch.no_grad()(run) for name, run in runs.items()}


def encode(vae: ModelMixin, video: Tensor) -> Tensor:
    """The latents of `video`, `b c t h w` in [-1, 1]."""
    return vae.encode(video.to(vae.dtype)).latent_dist.mode()


def measure(name: str, run: Run, device: torch.device, config: BenchConfig) -> dict[str, Any]:
    """One row: milliseconds over the repeats, GFLOP and peak memory of one run."""
    peak = peak_memory(run, device)
    flop = count_flop(run)
    return {
        "stage": name,
        **milliseconds(run, device, config.warmup, config.repeats),
        "gflop": flop / 1e9,
        "peak_mib": peak,
    }


def milliseconds(run: Run, device: torch.device, warmup: int, repeats: int) -> dict[str, float]:
    """Median, least and most of `repeats` runs, after `warmup` that do not count."""
    for _ in range(warmup):
        run()
    times = sorted(1e3 * _seconds(run, device) for _ in range(repeats))
    return {"ms_median": statistics.median(times), "ms_min": times[0], "ms_max": times[-1]}


def _seconds(run: Run, device: torch.device) -> float:
    _wait(device)
    start = time.perf_counter()
    run()
    _wait(device)
    return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def count_flop(run: Run) -> int:
    """FLOP of the matrix products, convolutions and attention in one run."""
    with FlopCounterMode(display=False, custom_mapping=_flop_formulas()) as counter:
        run()
    return counter.get_total_flops()


def _flop_formulas() -> dict[Any, Callable[..., int]]:
    # kernels that only CPUs use and torch's counter does not know; it calls these with shapes
    def linear(x: Sequence[int], weight: Sequence[int], *_: Any, **__: Any) -> int:
        return 2 * prod(x) * weight[0]

    def convolution(
        x: Sequence[int], weight: Sequence[int], *_: Any, out_shape: Sequence[int], **__: Any
    ) -> int:
        return 2 * prod(out_shape) * prod(weight[1:])

    def attention(q: Sequence[int], k: Sequence[int], v: Sequence[int], *_: Any, **__: Any) -> int:
        return sdpa_flop_count(q, k, v)

    return {
        torch.ops.mkldnn._linear_pointwise: linear,
        torch.ops.aten.mkldnn_convolution: convolution,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
    }


def gemm_gflops(device: torch.device, dtype: torch.dtype) -> float:
    """The best rate this device reaches for a square product: what utilisation is measured by.

    On a CPU both of torch's paths are tried: MKL, which `F.linear` takes in fp32, runs at half
    speed on AMD; oneDNN does not.
    """
    size = 8192 if device.type == "cuda" else 2048
    x, weight = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0))
    x, weight = x.to(device, dtype), weight.to(device, dtype)
    paths: list[Run] = [lambda: F.linear(x, weight)]
    if device.type == "cpu" and torch.backends.mkldnn.is_available():
        onednn = torch.ops.mkldnn._linear_pointwise
        paths.append(lambda: onednn(x, weight, None, "none", [], ""))
    best = min(milliseconds(path, device, warmup=1, repeats=3)["ms_min"] for path in paths)
    return 2 * size**3 / best / 1e6


@torch.no_grad()
def vae_memory(
    generator: Generator, vae: ModelMixin, frames: int, config: BenchConfig
) -> dict[str, Any]:
    """Peak memory of encoding and decoding `frames` frames, and what the video itself takes."""
    device = generator.pipeline.device
    shape = generator.latent_shape(replace(request_of(generator, config), num_frames=frames))
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device, vae.dtype)
    peak = {"decode_mib": peak_memory(lambda: vae.decode(latents), device)}
    video = vae.decode(latents).sample.clamp(-1, 1)
    peak["encode_mib"] = peak_memory(lambda: encode(vae, video), device)
    return {"frames": video.shape[2], **peak, "video_mib": video.nbytes / MIB}


def peak_memory(run: Run, device: torch.device) -> float | None:
    """MiB that one run takes at its peak above what was held before; its result counts.

    On a GPU what torch allocates, on a CPU the resident memory of the process. None where the
    system keeps no peak that can be reset (anything but Linux).
    """
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        held = torch.cuda.memory_allocated(device)
        run()
        return (torch.cuda.max_memory_allocated(device) - held) / MIB
    if sys.platform != "linux":
        return None
    with suppress(AttributeError):  # glibc keeps freed memory, which would hide the rise
        ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM: `man proc_pid_clear_refs`
    held = _resident("VmRSS")
    run()
    return (_resident("VmHWM") - held) / MIB


def _resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))


def print_report(report: dict[str, Any]) -> None:
    """The report as two tables for the terminal."""
    config = report["config"]
    gemm = " and ".join(f"{each:.0f}" for each in report["gemm_gflops"])
    print(
        f"{config['model']} on {report['device']}, {report['dtype']}, {report['threads']} threads, "
        f"torch {report['torch']}; GEMM before and after: {gemm} GFLOP/s\n"
    )
    columns = ("ms_median", "ms_min", "ms_max", "gflop", "utilisation", "peak_mib")
    print_table(report["stages"], ("stage", *columns))
    if report["vae_memory"]:
        print("\nVAE, peak memory above the start:")
        print_table(report["vae_memory"], ("frames", "encode_mib", "decode_mib", "video_mib"))


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> None:
    """The columns of `rows`, numbers to the right; what was not measured is a dash."""
    print("".join(f"{column:>12}" for column in columns))
    for row in rows:
        print("".join(f"{_shown(row[column]):>12}" for column in columns))


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if value < 100 else f"{value:.0f}"
    return "-" if value is None else str(value)
