"""`t2v bench peers`: our networks and diffusers' Wan classes on the same weights, in turn."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import diffusers
import torch
from diffusers import UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn

from t2v.bench.pairs import rounds, utilisation, verdict
from t2v.bench.report import measured, print_table
from t2v.bench.stopwatch import (
    Probe,
    Run,
    convolution_probe,
    count_flop,
    peak_memory,
    product_probe,
)
from t2v.config.bench import BenchPeersConfig
from t2v.models.device import DTYPES, pick_device
from t2v.models.kernels.choice import is_auto, processor
from t2v.models.kernels.names import names_of
from t2v.models.kernels.products import packed_weights
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.wan_vae import AutoencoderKLWan
from t2v.pipelines.t2v import T2VPipeline

TEXT_DIM = 512
COLUMNS = (
    *("case", "dtype", "ours_ms", "peer_ms", "ratio", "interval", "verdict"),
    *("util_ours", "util_peer", "error", "mib_ours", "mib_peer"),
)


@dataclass(frozen=True)
class Case:
    """One comparison: both ways to a result on equal weights, and the probe of its kind of work.

    Args:
        packs: ours runs as in a denoising loop, which keeps weights packed.
    """

    name: str
    ours: Callable[[], Tensor]
    peer: Callable[[], Tensor]
    probe: Probe
    packs: bool = False


def bench(config: BenchPeersConfig) -> dict[str, Any]:
    """Measure ours beside diffusers' Wan classes, print a table, and return its figures.

    In every round ours, theirs and a probe (a matrix product or a convolution of the same number
    format) run once. The ratio is the median of the rounds' own, above 1 where ours is faster, with
    a 95 % interval; utilisation is a share of the probe's rate in the same round. Where the probe
    moves by more than 15 % the verdict is "noisy".

    Raises:
        UserError: the device is not there, or `config.json` is a file of something else.
    """
    return measured(lambda: _measure(config), config.json, config.overwrite)


def _measure(config: BenchPeersConfig) -> dict[str, Any]:
    device = pick_device(config.device)
    report: dict[str, Any] = {
        "config": asdict(config),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
    }
    rows = []
    for name in config.dtypes:
        dtype = DTYPES[name]
        rows += [_row(case, name, device, config.rounds) for case in cases(config, device, dtype)]
        if device.type == "cpu" and is_auto():
            report[f"kernels_{name}"] = names_of(dtype)
    report["peers"] = rows
    _print(report)
    return report


def cases(config: BenchPeersConfig, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """The cases of `config` in `dtype`, each built when its turn comes."""
    product = product_probe(device, dtype)
    if "forward" in config.cases:
        yield _forward(config, device, dtype, product)
    if "train" in config.cases:
        yield _train(config, device, dtype, product)
    if {"decode", "encode"} & set(config.cases):
        yield from _vae(config, device, dtype)
    if "pipeline" in config.cases:
        yield _pipeline(config, device, dtype, product)


def _row(case: Case, dtype: str, device: torch.device, count: int) -> dict[str, Any]:
    ours, peer = case.ours().float(), case.peer().float()
    error = ((ours - peer).abs().max() / peer.abs().max()).item()
    with packed_weights() if case.packs else nullcontext():
        memory = peak_memory(case.ours, device), peak_memory(case.peer, device)
        flop = count_flop(case.peer)
        runs: dict[str, Run] = {"ours": case.ours, "probe": case.probe.run, "peer": case.peer}
        times = rounds(runs, device, count)
    found = verdict(times["ours"], times["peer"], times["probe"])
    middle = {name: 1e3 * sorted(each)[len(each) // 2] for name, each in times.items()}
    probe = case.probe.flop, times["probe"]
    return {
        "case": case.name,
        "dtype": dtype,
        "ours_ms": middle["ours"],
        "peer_ms": middle["peer"],
        "ratio": found.ratio,
        "low": found.low,
        "high": found.high,
        "probe_spread": found.spread,
        "verdict": found.told,
        "probe_gflops": case.probe.flop / middle["probe"] / 1e6,
        "util_ours": utilisation(flop, times["ours"], *probe),
        "util_peer": utilisation(flop, times["peer"], *probe),
        "gflop": flop / 1e9,
        "error": error,
        "mib_ours": memory[0],
        "mib_peer": memory[1],
    }


def transformers(config: BenchPeersConfig, device: torch.device) -> tuple[Any, Any]:
    """Ours and the peer's transformer, with the same random weights in fp32."""
    keywords = {
        "num_attention_heads": config.dim // 64,
        "attention_head_dim": 64,
        "text_dim": TEXT_DIM,
        "ffn_dim": 4 * config.dim,
        "num_layers": config.layers,
    }
    peer = drawn(WanTransformer3DModel(**keywords))
    ours = T2VTransformer3DModel(**keywords)
    ours.load_state_dict(peer.state_dict())
    return ours.to(device).eval(), peer.to(device).eval()


@torch.no_grad()
def drawn(model: Any) -> Any:
    """The model with random weights of the size that layers start with."""
    random = torch.Generator().manual_seed(0)
    for weight in model.parameters():
        size = weight[0].numel() if weight.ndim > 1 else 400
        nn.init.normal_(weight, std=size**-0.5, generator=random)
        if weight.ndim == 1:
            weight += 1
    return model


def _cast(model: Any, dtype: torch.dtype) -> Any:
    """The weights in `dtype`, but for those that the class keeps in fp32, as when it is loaded."""
    kept = model._keep_in_fp32_modules or []
    for name, weight in model.named_parameters():
        if not any(part in name for part in kept):
            weight.data = weight.data.to(dtype)
    return model


def _inputs(
    config: BenchPeersConfig, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(1)
    size = (config.num_frames - 1) // 4 + 1, config.height // 8, config.width // 8
    latents = torch.randn(1, 16, *size, generator=random)
    text = torch.randn(1, config.text_tokens, TEXT_DIM, generator=random)
    return latents.to(device, dtype), torch.tensor([500.0], device=device), text.to(device, dtype)


def _forward(
    config: BenchPeersConfig, device: torch.device, dtype: torch.dtype, probe: Probe
) -> Case:
    given = _inputs(config, device, dtype)

    @torch.no_grad()
    def run(model: Any) -> Tensor:
        return model(*given, return_dict=False)[0]

    ours, peer = (_cast(each, dtype) for each in transformers(config, device))
    return Case("forward", partial(run, ours), partial(run, peer), probe, packs=True)


def _train(
    config: BenchPeersConfig, device: torch.device, dtype: torch.dtype, probe: Probe
) -> Case:
    given = _inputs(config, device, torch.float32)

    @torch.enable_grad()
    def run(model: Any) -> Tensor:
        model.zero_grad(set_to_none=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
            velocity = model(*given, return_dict=False)[0]
        velocity.float().square().mean().backward()  # bf16 is by autocast, as `t2v train` has it
        return model.blocks[0].ffn.net[0].proj.weight.grad

    ours, peer = transformers(config, device)
    return Case("train", partial(run, ours), partial(run, peer), probe)


def vaes(config: BenchPeersConfig, device: torch.device) -> tuple[Any, Any]:
    """Ours and the peer's VAE, with the same random weights in fp32."""
    peer = drawn(diffusers.AutoencoderKLWan(base_dim=config.vae_dim))
    return AutoencoderKLWan.of(copy.deepcopy(peer)).to(device).eval(), peer.to(device).eval()


def _vae(config: BenchPeersConfig, device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    ours, peer = (_cast(each, dtype) for each in vaes(config, device))
    probe = convolution_probe(device, dtype)
    frames, side = config.vae_frames, config.vae_side
    random = torch.Generator().manual_seed(2)
    latents = torch.randn(1, 16, (frames - 1) // 4 + 1, side // 8, side // 8, generator=random)
    video = torch.rand(1, 3, frames, side, side, generator=random) * 2 - 1
    latents, video = latents.to(device, dtype), video.to(device, dtype)

    @torch.no_grad()
    def decode(vae: Any) -> Tensor:
        return vae.decode(latents, return_dict=False)[0]

    @torch.no_grad()
    def encode(vae: Any) -> Tensor:
        return vae.encode(video, return_dict=False)[0].mode()

    for name, run in {"decode": decode, "encode": encode}.items():
        if name in config.cases:
            yield Case(name, partial(run, ours), partial(run, peer), probe)


def _pipeline(
    config: BenchPeersConfig, device: torch.device, dtype: torch.dtype, probe: Probe
) -> Case:
    ours, peer = (_cast(each, dtype) for each in transformers(config, device))
    vae = _cast(vaes(config, device)[1], dtype)
    beside = {"tokenizer": None, "text_encoder": None, "vae": vae}
    latents, _, text = _inputs(config, device, dtype)
    size = {name: getattr(config, name) for name in ("height", "width", "num_frames")}
    given = {
        **size,
        "prompt_embeds": text,
        "negative_prompt_embeds": -text,
        "num_inference_steps": config.steps,
        "guidance_scale": 5.0,
        "output_type": "latent",
    }

    @torch.no_grad()
    def run(pipeline: Any) -> Tensor:
        return pipeline(latents=latents.float().clone(), **given).frames

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    schedulers = [UniPCMultistepScheduler(**flow) for _ in range(2)]  # Wan's own
    made = (
        T2VPipeline(transformer=ours, scheduler=schedulers[0], **beside, **size),
        WanPipeline(transformer=peer, scheduler=schedulers[1], **beside),
    )
    for pipeline in made:
        pipeline.set_progress_bar_config(disable=True)
    return Case("pipeline", partial(run, made[0]), partial(run, made[1]), probe)


def _print(report: dict[str, Any]) -> None:
    print(
        f"{report['processor']}, {report['threads']} threads, on {report['device']}; torch "
        f"{report['torch']}, diffusers {report['diffusers']}"
    )
    for name in report["config"]["dtypes"]:
        if kernels := report.get(f"kernels_{name}"):
            print(f"kernels, {name}: {kernels}")
    rows = [row | {"interval": f"{row['low']:.2f}-{row['high']:.2f}"} for row in report["peers"]]
    print_table(rows, COLUMNS)
