"""The data of a transformer's training, loaded once all that can be refused without it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from t2v.config.training import DiffusionConfig
from t2v.data.captions import Captions
from t2v.data.dataset import check_clips, load_latents
from t2v.errors import UserError
from t2v.models.attention.layer import check_backend
from t2v.models.device import pick_device
from t2v.models.diffusion import Objective
from t2v.models.kernels.precision import picked_precision
from t2v.models.learned import denoisers
from t2v.training.engine.initialize import check_start
from t2v.training.tasks.dit_parts import DiTData, DiTParts
from t2v.training.tasks.masking import Masking
from t2v.training.tasks.sheet import check_sheet

TOKENS = ("learned_tokens", "memory_tokens", "prefix_tokens")  # that belong to no clip of a pack


def load_data(
    config: DiffusionConfig, parts: DiTParts, sizes: Mapping[str, Any] | None = None
) -> DiTData:
    """The latents of `config.data` and their captions, with the VAE moved to the device.

    Args:
        sizes: those of a saved model, which media takes where `config.clips` gives none.

    Raises:
        UserError: see `check_clips`, `check_before`, `load_latents` and `Captions`.
    """
    check_clips(config.data, config.held_out, config.clips)
    check_before(config, parts)
    device, length = pick_device(config.device), parts.defaults["max_sequence_length"]
    latents = load_latents(
        config.data,
        config.clips_of_tasks(),
        parts.vae.to(device),
        parts.tokenizer,
        precision=picked_precision(config.precision, device),
        max_length=length,
        batch_size=config.batch_size,
        held_out=config.held_out,
        seed=config.seed,
        sizes=sizes,
        motion_words=config.motion_words,
    )
    return DiTData(latents, Captions(latents.rows, parts.tokenizer, length))


def check_before(config: DiffusionConfig, parts: DiTParts) -> None:
    """Raise `UserError` for settings that the parts of a training cannot follow."""
    check_frames(config, parts.objective)
    check_packing(config, parts)
    check_steps(config, parts.transformer, parts.vae)
    learning: dict[str, nn.Module | None] = dict(denoisers(parts))
    check_start(config, learning | {"text_encoder": parts.text_encoder})


def check_steps(config: DiffusionConfig, transformer: Any, vae: Any) -> None:
    """Raise `UserError` where steps leave out tokens that a transformer needs, or have no kernel of
    `config.attention`, or a sheet has a side that it cannot make."""
    Masking(config.masking, config.seed, config.steps, transformer)
    head_dim, device = transformer.config.attention_head_dim, pick_device(config.device)
    check_backend(config.attention, head_dim, device, torch.float32)
    check_sheet(config.sheet, transformer, vae)


def check_packing(config: DiffusionConfig, parts: DiTParts) -> None:
    """Raise `UserError` for `pack=true` with a model whose clips cannot be packed."""
    if not config.pack:
        return
    settings: Any = parts.transformer.config
    learned = {name: settings.get(name, 0) for name in TOKENS}
    is_one = settings.get("attention") == "full" and parts.transformer_2 is None
    if not is_one or settings.conditioning == "channels" or any(learned.values()):
        told = {"attention": "its own", "conditioning": "none", **settings, **learned}
        raise UserError(
            "pack=true: clips are packed for one transformer of ours with attention=full that "
            "takes no frames as channels and has no tokens of its own, and this is a "
            f"{type(parts.transformer).__name__} with "
            f"{' '.join(f'{name}={told[name]}' for name in ('attention', 'conditioning', *TOKENS))}"
            ". Leave pack out."
        )


def check_frames(config: DiffusionConfig, objective: Objective) -> None:
    """Raise `UserError` for noise levels of single frames in training that is not of a flow."""
    if config.tasks.frames and objective != "flow":
        raise UserError(
            f"tasks.frames={config.tasks.frames}: noise levels of single frames need a flow, "
            f"and this model is of objective={objective}. Leave it out."
        )
