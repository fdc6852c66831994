"""Activations that are kept for the backward pass or computed again, and compiled blocks."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)

from t2v.config.training import TrainConfig
from t2v.errors import UserError
from t2v.models.compiling import check_compiler, compile_each
from t2v.models.device import pick_device
from t2v.training.engine.sharding import blocks
from t2v.training.engine.task import Task


def checkpoint_gradients(task: Task, way: Literal["blocks", "selective"] = "blocks") -> None:
    """Let every part that can recompute its activations in the backward pass.

    Args:
        way: "blocks" keeps what enters a block; "selective" also the results of linear layers,
            convolutions and torch's attention, so that only cheap operations run again.

    Raises:
        UserError: none can.
    """
    able = _networks(task)
    if not able:
        raise UserError(f"gradient_checkpointing=true: {', '.join(task.parts)} cannot. Omit it.")
    for part in able:
        part.enable_gradient_checkpointing(*([_selective] if way == "selective" else []))


def _networks(task: Task) -> list[Any]:
    """The parts that are models of diffusers or like them: not a text encoder that learns too."""
    return [
        part
        for part in task.parts.values()
        if getattr(part, "_supports_gradient_checkpointing", False)
    ]


def _selective(block: Callable[..., Any], *given: Any) -> Any:
    contexts = partial(create_selective_checkpoint_contexts, _kept)
    return checkpoint(block, *given, use_reentrant=False, context_fn=contexts)


def _kept(context: Any, operation: Any, *given: Any, **named: Any) -> CheckpointPolicy:
    is_kept = operation in _products()
    return CheckpointPolicy.MUST_SAVE if is_kept else CheckpointPolicy.PREFER_RECOMPUTE


def _products() -> set[Any]:
    aten = torch.ops.aten
    return {
        *(aten.mm.default, aten.addmm.default, aten.bmm.default, aten.convolution.default),
        aten.mkldnn_convolution.default,
        aten._scaled_dot_product_flash_attention_for_cpu.default,
        aten._scaled_dot_product_flash_attention.default,
        aten._scaled_dot_product_efficient_attention.default,
        aten._scaled_dot_product_cudnn_attention.default,
        torch.ops.mkldnn._linear_pointwise.default,
    }


def cast_residual(task: Task, dtype: torch.dtype) -> None:
    """Let what goes from block to block of our transformers have a dtype, under autocast.

    Raises:
        UserError: no part is a transformer of ours.
    """
    parts: list[Any] = list(task.parts.values())
    able = [part for part in parts if hasattr(part, "set_residual_dtype")]
    if not able:
        raise UserError(f"residual: {', '.join(task.parts)} is no t2v transformer. Omit it.")
    for part in able:
        part.set_residual_dtype(dtype)


def compile_parts(task: Task, config: TrainConfig) -> None:
    """Have the blocks of every network compiled.

    Raises:
        UserError: no part has blocks that repeat, or `check_compiler` finds no compiler.
    """
    check_compiler(pick_device(config.device), config.compile_mode)
    found = [block for part in _networks(task) for block in blocks(part)]
    if not found:
        raise UserError(
            f"compile=true: {', '.join(task.parts)} has no blocks that repeat. Omit it."
        )
    compile_each(found, config.compile_mode)
