"""`t2v plan`: traces the work, corrects it by measurement, and finds what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from t2v.config.finetune import FinetuneConfig
from t2v.config.plan import PlanConfig
from t2v.config.sampling import SampleConfig
from t2v.data.world_shards import rendered_clips
from t2v.errors import UserError
from t2v.families.load import GENERATORS, saved_scale
from t2v.models.convert import CONVERTIBLE, convert_configs
from t2v.models.device import free_memory, pick_device, pick_dtype
from t2v.models.folder import model_folder, read_index
from t2v.models.folder_check import check_folder, loading_folder
from t2v.models.kernels.precision import picked_precision
from t2v.models.load import loading
from t2v.plan.calibrate import calibrated
from t2v.plan.devices import REACHED, card_of, rates_of
from t2v.plan.estimate import estimate
from t2v.plan.figures import (
    DEFAULTS,
    GIB,
    MIB,
    SPARE,
    Correction,
    Estimate,
    Measured,
    Remedy,
    Uncertain,
)
from t2v.plan.ladder import Link, Rung, ladder_of, rung_of
from t2v.plan.measure import measure, measured_rates
from t2v.plan.plan import Plan
from t2v.plan.remedies import smaller, smaller_ways, variants
from t2v.plan.shapes import Target
from t2v.plan.sizes import is_peer, planned_size
from t2v.plan.trace import UNKNOWN, Rates
from t2v.plan.training_ladder import training_ladder
from t2v.training.engine.example import Size
from t2v.training.tasks.finetune import LEARNS_BESIDE


def plan(config: PlanConfig, target: Target, advises: bool = True) -> Plan:
    """Return the plan of `target`: see `PlanConfig`.

    Args:
        advises: also say what of another size would fit where nothing does.

    Raises:
        UserError: a size or folder does not fit, or the device at hand is not the one planned.
    """
    if isinstance(target, SampleConfig) and target.base is not None:
        target = replace(target, model=target.base, base=None)  # a single file is as large
    model = getattr(target, "model", None)
    if not isinstance(model, str):
        return _plan(config, target, advises)
    folder, what = model_folder(model), f"model={model}"
    check_folder(what, folder, is_whole=False)
    with _as_converted(target) as known, loading_folder(what, folder):
        return _plan(config, known, advises)


@contextmanager
def _as_converted(target: Target) -> Iterator[Target]:
    """The target, whose model is a Wan pipeline as `t2v convert` would make it if it has to be."""
    model = getattr(target, "model", None)
    if not (isinstance(target, FinetuneConfig) and isinstance(model, str)):
        yield target
        return
    folder = model_folder(model)
    name = str(read_index(folder)["_class_name"])
    if name not in CONVERTIBLE:
        if name not in GENERATORS:
            raise UserError(
                f"model={model}: t2v plan finetune plans models of t2v and of Wan, and this is a "
                f"{name}. To plan its videos: t2v plan sample model={model}."
            )
        yield target
        return
    with TemporaryDirectory() as place:
        with loading(f"model={model}"):
            convert_configs(folder, Path(place))
        yield replace(target, model=place)


def _plan(config: PlanConfig, target: Target, advises: bool) -> Plan:
    asked = {name: getattr(config, name) for name in ("num_frames", "height", "width")}
    size = planned_size(target, asked, config.text_tokens)
    device, rates, name = _device(config, target)
    if (config.calibrate or config.verify) and is_peer(target):
        raise UserError(
            f"model={target.model}: calibrate and verify measure models of t2v. Leave them out, or "
            "make one of a Wan pipeline: t2v convert SRC DST."
        )
    if (config.calibrate or config.verify) and rates is None:
        raise UserError(f"device={target.device} is not here: it cannot be measured.")
    target = _settled(target, device)
    correction = DEFAULTS.get(device.type, DEFAULTS["cuda"])
    whole = estimate(target, size, rates or UNKNOWN)
    allowed = int(config.memory * GIB) if config.memory else None
    if allowed is None and rates is not None and config.tflops is None:
        allowed = free_memory(device)
    micro: tuple[tuple[Estimate, Measured], ...] = ()
    if config.calibrate:
        assert rates is not None
        micro = micro_steps(target, size, rates, allowed)
        correction = calibrated(whole, micro, correction)

    def peak(target: Target, size: Size) -> Uncertain:
        return estimate(target, size, UNKNOWN).peak(correction)

    def lowest(target: Target, size: Size) -> Uncertain:
        smaller = replace(done, estimate=estimate(target, size, done.rates))
        return _rungs(config, target, device, smaller)[-1].needs

    rendered = _rendered(target)
    clips = config.clips or rendered or getattr(target, "pairs", None)
    done = Plan(
        config=config,
        target=target,
        estimate=whole,
        correction=correction,
        timed=rates is not None,
        device=name,
        rates=rates or UNKNOWN,
        data=_data(whole, clips or 0) if rendered else 0,
        clips=clips,
        disk=_disk(target, whole, clips),
        allowed=allowed,
        variants=(),
        remedies=(),
        rungs=(),
        asked=None,
        apart=(),
        micro=micro,
        measured=None,
    )
    done = replace(done, rungs=_rungs(config, target, device, done))
    if done.rungs and not whole.trains:
        link = Link(1e9 * config.host_bandwidth, done.rates.memory)
        apart = ladder_of(whole, correction, link, offloads=False)
        done = replace(done, apart=apart)
    if isinstance(target, SampleConfig) and (done.rungs or target.offload == "text"):
        link = Link(1e9 * config.host_bandwidth, done.rates.memory)
        done = replace(done, asked=_asked(target, whole, correction, link))
    if not done.rungs:
        both = variants(target, size)
        done = replace(done, variants=tuple(Remedy(each, peak(*work)) for each, work in both))
    if done.holds(done.peak):
        return replace(done, measured=measure(target, size)) if config.verify else done
    if done.rung is not None or not advises:
        return done
    tried = []
    for words, work in smaller_ways(done, peak):
        by_rungs = done.rungs and not done.estimate.trains
        tried.append(Remedy(words, lowest(*work) if by_rungs else peak(*work)))
        if done.holds(tried[-1].peak):
            break
    return replace(done, remedies=tuple(tried))


def _settled(target: Any, device: torch.device) -> Any:
    """The target with what the device and the model choose."""
    if target.device == "auto":
        target = replace(target, device=device.type)
    if getattr(target, "dtype", None) == "auto":  # which is the device's choice
        dtype: Any = "bf16" if device.type == "cuda" else "fp32"
        target = replace(target, dtype=dtype)
    if getattr(target, "compile_mode", None) is not None:  # which a trace cannot see through
        target = replace(target, compile=False, compile_mode="default")
    if getattr(target, "precision", None) == "auto":
        half = getattr(target, "base_dtype", "auto") == "bf16"
        precision: Any = "bf16" if half else picked_precision("auto", device)
        target = replace(target, precision=precision)
    if isinstance(target, FinetuneConfig) and target.base_dtype == "auto":  # likewise
        in_half = device.type == "cuda" and not target.needs_fp32()
        target = replace(target, base_dtype="bf16" if in_half else "fp32")
    if isinstance(target, SampleConfig) and target.upscale is None:  # which is the model's choice
        target = replace(target, upscale=saved_scale(model_folder(target.model)))
    return target


def _device(config: PlanConfig, target: Any) -> tuple[torch.device, Rates | None, str]:
    """Return the device of the work, its rates (None: not here), and its name."""
    if config.tflops and config.bandwidth:
        kind = "cpu" if target.device == "cpu" else "cuda"
        name = f"{config.tflops:g} TFLOP/s, {config.bandwidth:g} GB/s"
        return torch.device(kind), rates_of(config.tflops, config.bandwidth), name
    if config.memory is not None and _is_elsewhere(target.device):
        card = card_of(config.memory)
        if config.calibrate or config.verify:
            raise UserError(
                f"memory={config.memory:g} device={target.device}: no such card is here to be "
                "measured. Leave calibrate and verify out, or plan for this machine: device=cpu."
            )
        tflops = REACHED * card.tflops
        name = f"a card of {config.memory:g} GiB, as fast as an {card.name}"
        return torch.device("cuda"), rates_of(tflops, card.bandwidth), name
    try:
        device = pick_device(target.device)
    except UserError:
        return torch.device("cuda"), None, f"{target.device}, which is not here"
    trains = hasattr(target, "precision")
    name = picked_precision(target.precision, device) if trains else target.dtype
    dtype = pick_dtype(name, device)
    threads = f"{torch.get_num_threads()} threads of this " if device.type == "cpu" else "this "
    return device, measured_rates(device, dtype, trains), f"{threads}{device.type}"


def _is_elsewhere(name: str) -> bool:
    """Return whether a device name stands for a card, and none is here."""
    return name.startswith(("auto", "cuda")) and pick_device("auto").type == "cpu"


def _rungs(
    config: PlanConfig, target: Target, device: torch.device, done: Plan
) -> tuple[Rung, ...]:
    """The ways of running it on a card, from the fastest down."""
    if device.type != "cuda" or not done.timed:
        return ()
    link = Link(1e9 * config.host_bandwidth, done.rates.memory)
    if hasattr(target, "gradient_checkpointing"):

        def estimate_of(target: Target, size: Size) -> Estimate:
            return estimate(target, size, done.rates)

        return training_ladder(target, done.estimate, estimate_of, done.correction, link)
    return ladder_of(done.estimate, done.correction, link)


def _asked(target: Any, whole: Estimate, correction: Correction, link: Link) -> Rung | None:
    """The way of holding the weights that settings of sampling name, if they do."""
    offload = "none" if target.offload == "auto" else target.offload
    if (offload, target.quantize, target.vae_tiling) == ("none", "none", False):
        return None
    return rung_of(whole, correction, link, offload, target.quantize, target.vae_tiling)


def _rendered(target: Target) -> int | None:
    """The number of clips of `t2v world` that the target trains on, or None for other data."""
    data = getattr(target, "data", None)
    return len(rendered_clips(data)) or None if data is not None else None


def _data(whole: Estimate, clips: int) -> int:
    """Bytes of a world that training keeps in the host's memory: latents, or pixels and masks.

    Of other data nothing stays there.
    """
    size = whole.size
    return clips * (whole.latents or size.frames * size.height * size.width * 4)


def _disk(target: Any, whole: Estimate, clips: int | None) -> dict[str, int]:
    if not whole.trains:
        return {"latents kept until they are decoded": 2 * whole.latents}
    # the pipeline, or what was learned beside a base model, and what training resumes from: trained
    # weights, their average, the optimizer
    alone = getattr(target, "save", "full") == "adapter" and target.method in LEARNS_BESIDE
    one = (whole.gradients if alone else whole.weights) + 2 * whole.average + whole.optimizer
    if getattr(target, "save", "full") == "student":  # a byte for each weight that learns
        one += whole.gradients // 4 - whole.weights
    disk = {"a checkpoint": one}
    disk[f"{target.keep_checkpoints} kept, one being written"] = (1 + target.keep_checkpoints) * one
    if whole.latents:
        disk["latents of a clip"] = whole.latents
        if clips:
            disk[f"latents of {clips} clips"] = clips * whole.latents
    return disk


def micro_steps(
    target: Target, size: Size, rates: Rates, allowed: int | None
) -> tuple[tuple[Estimate, Measured], ...]:
    """Steps of a quarter and of half the size, or less where that would not fit the memory.

    Raises:
        UserError: not even the smallest fits, or see `measure`.
    """
    sizes = [smaller(size)]
    sizes.append(smaller(sizes[0]))
    while True:
        estimates = [estimate(target, each, rates) for each in sizes]
        peak = (
            estimates[0].peak(DEFAULTS.get(pick_device(target.device).type, DEFAULTS["cuda"])).most
        )
        if allowed is None or peak <= SPARE * allowed:
            return tuple((each, measure(target, each.size)) for each in reversed(estimates))
        if sizes[0] == sizes[1]:
            raise UserError(
                f"calibrate=true: even {sizes[0]} would take up to {peak / MIB:,.0f} MiB, and of "
                f"the {allowed / MIB:,.0f} MiB there are, a plan may fill {SPARE:.0%}. Plan "
                "without calibrate, or on a machine with more memory."
            )
        sizes = [sizes[1], smaller(sizes[1])]
