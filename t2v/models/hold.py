"""Ways to hold the weights of networks near a device that is too small for all of them."""

from __future__ import annotations

import ctypes
import logging
import re
import statistics
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import torch
from diffusers import DiffusionPipeline, ModelMixin
from torch import nn

from t2v.config.checks import Kind, kind_of, kinds_of
from t2v.errors import UserError

Offload = Literal["none", "text", "model", "group", "leaf", "sequential"]
logger = logging.getLogger(__name__)

PROBED = 16  # layers whose error is measured
M_MMAP_THRESHOLD = -3  # of glibc's malloc.h
NEEDS = {"int8": "torchao", "nf4": "bitsandbytes"}  # packages that hold weights so
# names of layers that stay as they are: rounding would harm them most, and T5 casts what goes into
# `wo` to the number format of its weights
KEPT = ("norm", "embed", "shared", "lora_", r"\.changes\.", r"\.wo$", "token_learner")


@dataclass(frozen=True, kw_only=True)
class Hold:
    """The way that the weights of a pipeline are held.

    Args:
        offload: where they wait until they are used. `none`: on the device. `text`: on the device,
            transformers from when all prompts are embedded, and encoders until then. `model`: in
            main memory, network by network; `group`: block by block, the next one copied while one
            computes; `leaf` and `sequential`: layer by layer. On a CPU, `group` and `leaf` keep
            them on the disk, and `model` and `sequential` have nothing to free.
        quantize: the number format of the linear layers of transformers and encoders, or of some,
            see `kinds_of`; it changes the video.
        vae_tiling: decode in tiles, which are blended; it changes the video a little.
    """

    offload: Offload = "none"
    quantize: str = "none"
    vae_tiling: bool = False


def check_hold(hold: Hold, device: torch.device) -> None:
    """Raise `UserError` for what cannot be done here, before weights are read."""
    kinds = set(kinds_of(hold.quantize).values())
    for kind in sorted(kinds):
        check_package("quantize", kind)
    if device.type == "cpu" and hold.offload in ("model", "sequential"):
        raise UserError(
            f"offload={hold.offload}: the device is the CPU, whose memory the weights would wait "
            "in. Give offload=group or leaf, which keep them on the disk."
        )
    if kinds & NEEDS.keys() and hold.offload in ("group", "leaf", "sequential"):
        raise UserError(
            f"quantize={hold.quantize} offload={hold.offload}: such weights do not move in pieces. "
            f"Give offload={'text' if device.type == 'cpu' else 'model'}, or quantize=fp8."
        )


def check_package(setting: str, kind: str) -> None:
    """Raise `UserError` where the package that holds weights as `kind` is not installed."""
    if (package := NEEDS.get(kind)) and find_spec(package) is None:
        raise UserError(
            f"{setting}={kind}: needs {package}, which is not installed: pip install "
            f'"t2v[quantize]". {setting}=fp8 needs no other package.'
        )


def held_kind(name: str, hold: Hold) -> Kind:
    """Return the number format in which a network of a pipeline is held."""
    return "none" if _decodes(name) else kind_of(hold.quantize, name)


def _decodes(name: str) -> bool:
    return name.startswith(("vae", "upscaler"))


def hold_part(
    name: str, part: nn.Module, hold: Hold, device: torch.device, disk: Path | None
) -> None:
    """Quantize a network of a pipeline, and let it wait in pieces, as `hold` says.

    Args:
        disk: folder for weights that wait on the disk; None: they wait in main memory.
    """
    kind = held_kind(name, hold)
    if kind != "none":
        error = quantize(part, kind)
        logger.info(
            "quantize=%s: products of linear layers in the %s are off by %.2g %% (the middle one "
            "of at most %d)",
            kind,
            name,
            100 * error,
            PROBED,
        )
    if hold.offload not in ("group", "leaf"):
        return
    from diffusers.hooks import apply_group_offloading  # most weights do not wait

    by_block = hold.offload == "group" and isinstance(part, ModelMixin) and not _decodes(name)
    if disk is not None:
        _untie(part)
    # weights come when `forward` is called, which a VAE's own never is, but its parts' are
    pieces = dict(part.named_children()) if name.startswith("vae") else {"": part}
    for piece, module in pieces.items():
        apply_group_offloading(
            module,
            onload_device=device,
            offload_type="block_level" if by_block else "leaf_level",
            num_blocks_per_group=1 if by_block else None,
            use_stream=device.type == "cuda" and disk is None,
            # files of groups are named alike in every network
            offload_to_disk_path=None if disk is None else str(disk / f"{name}.{piece}"),
        )
    if name.startswith("vae"):  # what is its own stays on the device
        for tensor in (*part.parameters(recurse=False), *part.buffers(recurse=False)):
            tensor.data = tensor.data.to(device)


def _untie(part: nn.Module) -> None:
    """Give each layer parameters of its own, of the same values.

    A group that finds its weights gone with those of another would write what is left of them.
    """
    seen: set[int] = set()
    for layer in part.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if id(parameter) in seen:
                own = nn.Parameter(parameter.data, parameter.requires_grad)
                setattr(layer, name, own)
            seen.add(id(getattr(layer, name)))


def give_back_freed_memory() -> None:
    """Let the C library return what is freed to the system at once, from 64 KiB on.

    It keeps freed weights for the next ones of their size, so that weights on the disk would leave
    their memory taken. Elsewhere than under glibc nothing is changed.
    """
    library = ctypes.CDLL(None)
    if hasattr(library, "mallopt"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 16)


@torch.no_grad()
def quantize(part: nn.Module, kind: Kind, dtype: torch.dtype | None = None) -> float:
    """Hold the linear layers of a network in fewer bits, in place; norms and embeddings stay.

    fp8 is a cast to e4m3 and back at each use; int8 has a scale a row (torchao); nf4 is that of
    QLoRA (arXiv 2305.14314), with a scale for 64 weights (bitsandbytes). Layers that an adapter
    lies beside are held so too, and gradients pass through all of them.

    Args:
        dtype: number format of the products; None: that of the weights.

    Returns:
        The error of a layer's product with normal numbers, relative to its norm: the median over
        at most `PROBED` layers.
    """
    layers = [name for name, layer in part.named_modules() if is_plain(layer, name)]
    probed = layers[:: max(1, len(layers) // PROBED)][:PROBED]
    generator, before = torch.Generator().manual_seed(0), {}
    for name in probed:
        layer = part.get_submodule(name)
        x = torch.randn(4, layer.in_features, generator=generator).to(layer.weight)
        before[name] = x, layer(x)
    _in_fewer_bits(part, kind, dtype or next(part.parameters()).dtype)
    errors = [
        ((part.get_submodule(name)(x) - product).norm() / product.norm()).item()
        for name, (x, product) in before.items()
    ]
    return statistics.median(errors) if errors else 0.0


def _in_fewer_bits(part: nn.Module, kind: Kind, dtype: torch.dtype) -> None:
    if kind == "fp8":
        if isinstance(part, ModelMixin):
            part.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=dtype)
        else:
            from diffusers.hooks import apply_layerwise_casting  # imports peft

            apply_layerwise_casting(part, torch.float8_e4m3fn, dtype, skip_modules_pattern=KEPT)
    elif kind == "int8":
        from torchao.quantization import (  # type: ignore[import-not-found]
            Int8WeightOnlyConfig,
            quantize_,
        )

        quantize_(part, Int8WeightOnlyConfig(), filter_fn=is_plain)
    else:
        assert kind == "nf4"
        from bitsandbytes.nn import (  # type: ignore[import-not-found]
            Linear4bit,
            Params4bit,
        )

        for name, layer in list(part.named_modules()):
            if not is_plain(layer, name):
                continue
            has_bias = layer.bias is not None
            small = Linear4bit(
                layer.in_features, layer.out_features, has_bias, dtype, quant_type="nf4"
            )
            small.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4")
            small.bias = layer.bias
            part.set_submodule(name, small)
        part.to(next(part.parameters()).device)  # which makes the 4 bits


def is_plain(layer: nn.Module, name: str) -> bool:
    """Return whether a layer is a linear one that is held in fewer bits."""
    return isinstance(layer, nn.Linear) and not any(re.search(each, name) for each in KEPT)


def place(pipeline: DiffusionPipeline, hold: Hold, device: torch.device) -> None:
    """Bring a pipeline, whose networks are held, to its device, as `hold` says."""
    if hold.vae_tiling:
        pipeline.vae.enable_tiling()
    match hold.offload:
        case "none":
            pipeline.to(device)
        case "text":  # encoders whose work is done, and transformers before it, have no weights
            for part in pipeline.components.values():
                if isinstance(part, nn.Module) and has_weights(part):
                    part.to(device)
        case "model":
            pipeline.enable_model_cpu_offload(device=device)
        case "sequential":
            pipeline.enable_sequential_cpu_offload(device=device)


def has_weights(part: nn.Module) -> bool:
    """True of a network whose weights are in a memory."""
    return not any(weight.is_meta for weight in part.parameters())
