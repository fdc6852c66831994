"""`t2v bench`: time and memory of every stage, beside a matrix product of the same rounds."""

from __future__ import annotations

from dataclasses import asdict, replace
from statistics import median
from typing import Any

import torch
from diffusers import ModelMixin
from torch import Tensor

from t2v.bench.pairs import rounds, utilisation
from t2v.bench.report import measured, print_table
from t2v.bench.stopwatch import MIB, Probe, Run, count_flop, peak_memory, product_probe
from t2v.config.bench import BenchConfig
from t2v.families.load import check_room, load_generator, set_attention
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.models.kernels.choice import processor
from t2v.pipelines.generator import Ability, Generator, Request

PROMPT = "a red ball bounces on grass"


def bench(config: BenchConfig) -> dict[str, Any]:
    """Measure the pipeline of `config.model`, print a table, and return its figures.

    Every stage runs alone on the outputs of the one before it. FLOP are those of matrix products,
    convolutions and attention, 2 per multiply-add; utilisation is FLOP per second over that of
    a GEMM that runs in every round beside the stage, the median of the rounds. The GEMM's slowest
    and fastest rate of all rounds are told (far apart: a busy machine).

    Raises:
        UserError: the model's stages cannot be told apart, a size does not fit it, or `config.json`
            is a file of something else.
    """
    return measured(lambda: _measure(config), config.json, config.overwrite)


def _measure(config: BenchConfig) -> dict[str, Any]:
    generator = load(config)
    device, dtype = generator.pipeline.device, generator.pipeline.dtype
    probe = product_probe(device, dtype)
    rows, gemm = [], []
    for name, run in stages(generator, config).items():
        row, rates = measure(name, run, probe, device, config)
        rows.append(row)
        gemm += rates
    lengths, vae = config.memory_frames, generator.vae
    memory = [vae_memory(generator, vae, each, config) for each in lengths] if vae else []
    report = {
        "config": asdict(config),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "dtype": str(dtype).removeprefix("torch."),
        "gemm_gflops": [min(gemm), max(gemm)],
        "stages": rows,
        "vae_memory": memory,
    }
    print_report(report)
    return report


def load(config: BenchConfig) -> Generator:
    """The generator of `config.model`, ready on its device.

    Raises:
        UserError: the model or device is not there, its stages cannot be told apart, or the frames
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


def measure(
    name: str, run: Run, probe: Probe, device: torch.device, config: BenchConfig
) -> tuple[dict[str, Any], list[float]]:
    """One row: milliseconds over the repeats, GFLOP, utilisation and peak memory of one run; and
    the probe's GFLOP/s in each round."""
    peak = peak_memory(run, device)
    flop = count_flop(run)
    for _ in range(config.warmup - 1):  # each way of `rounds` has one more
        run()
    times = rounds({"run": run, "probe": probe.run}, device, config.repeats)
    milliseconds = sorted(1e3 * each for each in times["run"])
    row = {
        "stage": name,
        "ms_median": median(milliseconds),
        "ms_min": milliseconds[0],
        "ms_max": milliseconds[-1],
        "gflop": flop / 1e9,
        "utilisation": utilisation(flop, times["run"], probe.flop, times["probe"]),
        "peak_mib": peak,
    }
    return row, [probe.flop / each / 1e9 for each in times["probe"]]


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


def print_report(report: dict[str, Any]) -> None:
    """The report as two tables for the terminal."""
    config = report["config"]
    gemm = " to ".join(f"{each:.0f}" for each in report["gemm_gflops"])
    print(
        f"{config['model']} on {report['device']}, {report['dtype']}, {report['threads']} threads, "
        f"torch {report['torch']}; {report['processor']}; GEMM {gemm} GFLOP/s\n"
    )
    columns = ("ms_median", "ms_min", "ms_max", "gflop", "utilisation", "peak_mib")
    print_table(report["stages"], ("stage", *columns))
    if report["vae_memory"]:
        print("\nVAE, peak memory above the start:")
        print_table(report["vae_memory"], ("frames", "encode_mib", "decode_mib", "video_mib"))
