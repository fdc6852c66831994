"""The work of a command, built from its settings alone: real tensors, or none within a trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from math import ceil, prod
from typing import Any, cast

import torch
from torch import Tensor, nn

from t2v.config.distill import DistillConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import TrainConfig, TrainDiTConfig, TrainVAEConfig
from t2v.models.device import pick_device
from t2v.models.inputs import latent_shape
from t2v.models.kernels.precision import picked_precision
from t2v.models.learned import denoisers
from t2v.plan.distill_work import distill_work
from t2v.plan.sample_work import given_beside, sample_work
from t2v.plan.shapes import Target
from t2v.plan.stand_ins import (
    NOTHING,
    AbsentTextEncoder,
    AbsentVAE,
    Embedded,
    NoClips,
    dit_parts,
    finetune_parts,
    hold_base,
    quantize_base,
)
from t2v.plan.validation import sheet_phases, validate_phase
from t2v.plan.work import Phase, Workload, embed_phase
from t2v.training.engine.example import Size, black
from t2v.training.engine.loop import start_state
from t2v.training.engine.parallel import kernel
from t2v.training.engine.task import Task
from t2v.training.tasks.beside import FramesBeside
from t2v.training.tasks.dit import DiTTask
from t2v.training.tasks.dit_parts import DiTData, DiTParts
from t2v.training.tasks.finetune import SHEET_BASE_PROMPTS, SHEET_CAPTIONS, FinetuneTask
from t2v.training.tasks.vae import VAEParts, VAETask, fresh_parts
from t2v.training.tuning.adapters import held_in

ENCODE, UPDATE = "encode a clip", "update"
BACKWARD, MORE = "forward and backward", "with gradients held"
MASKED = "with tokens left out"
STEPS = (MASKED, BACKWARD, MORE, UPDATE)


def build(target: Target, size: Size, layers: int | None = None) -> Workload:
    """The work of a command at `size`; weights are random, which costs the same as trained ones.

    Args:
        layers: of the transformers of a saved model; None: all.

    Raises:
        UserError: a folder that is needed is not there, or `size` does not fit the model.
    """
    with pick_device(target.device):  # parts are made there: what has no content cannot be moved
        return WORKLOADS[type(target)](target, size, layers)


def _train_dit(config: TrainDiTConfig, size: Size, _: int | None) -> Workload:
    absent: list[str] = []
    parts = dit_parts(config, size, absent)
    return _train_transformer(DiTTask(config, parts, _no_data()), parts, size, absent)


def _finetune(config: FinetuneConfig, size: Size, layers: int | None) -> Workload:
    absent: list[str] = []
    parts, dtype = finetune_parts(config, size, absent, layers), held_in(config)
    if config.quantizes():
        for transformer in denoisers(parts).values():
            quantize_base(transformer, config.base_dtype, dtype)
    if dtype != torch.float32:
        for transformer in denoisers(parts).values():
            hold_base(transformer, dtype)
        if parts.text_encoder is not None and not config.learns_text():
            hold_base(parts.text_encoder, dtype, every=True)
    task = FinetuneTask(config, parts, _no_data())
    if task.beside is not None:
        task.beside = _ZerosBeside(parts)
    return _train_transformer(task, parts, size, absent)


def _train_vae(config: TrainVAEConfig, size: Size, _: int | None) -> Workload:
    absent: list[str] = []
    if config.perceptual is not None:
        absent.append(f"the network of features: perceptual={config.perceptual}")
    parts = fresh_parts(config)
    task = VAETask(config, parts, cast(Any, NoClips()))
    return _train(task, config, _modules(parts), size, absent)


def _no_data() -> DiTData:
    return DiTData(cast(Any, NoClips()), NOTHING)


def _modules(parts: DiTParts | VAEParts) -> dict[str, nn.Module]:
    return {name: each for name, each in parts._asdict().items() if isinstance(each, nn.Module)}


def _train_transformer(task: DiTTask, parts: DiTParts, size: Size, absent: list[str]) -> Workload:
    config, modules = task.config, _modules(parts)
    caches = task.caches_text()
    if caches:
        task.texts = Embedded(parts.transformer.config.text_dim)
        del task.model["text_encoder"]
    work = _train(task, config, modules, size, absent)
    shape = latent_shape(parts.transformer, parts.vae, 1, size.frames, size.height, size.width)
    work.latents = 2 * prod(shape)

    def encode() -> None:
        """One clip through the VAE, as the latent cache is made."""
        device = pick_device(config.device)
        bf16 = picked_precision(config.precision, device) == "bf16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.vae.encode(black(replace(size, batch=1), device))

    rests = ("vae",) if task.beside is None and not config.tasks.gives_pictures else ()
    text = ("text_encoder",) if caches else ()
    gone = text if isinstance(task, FinetuneTask) else ()
    steps = [validate_phase(task, size), *work.phases]
    phases = [replace(each, away=(*text, *rests), gone=gone) for each in steps]
    if task.beside is None and not isinstance(parts.vae, AbsentVAE):
        sheet = sheet_phases(task, parts, size, _prompts(task))
        phases[1:1] = [replace(each, away=text, gone=gone) for each in sheet]
    denoising = tuple(name for name in modules if name not in ("vae", "text_encoder"))
    if caches and not isinstance(parts.text_encoder, AbsentTextEncoder):
        embed = embed_phase(config, parts.text_encoder, size)
        phases.insert(0, replace(embed, away=denoising))
    if hasattr(parts.vae, "encode"):
        phases.insert(0, Phase(ENCODE, encode, 0, away=(*denoising, "text_encoder"), once=True))
    work.phases = phases
    return work


def _prompts(task: DiTTask) -> int:
    """The samples on a sheet, about: those of the settings, or a held-out caption each."""
    config = task.config
    if isinstance(config, FinetuneConfig):
        return min(SHEET_CAPTIONS, config.held_out) + SHEET_BASE_PROMPTS * bool(config.base_prompts)
    return len(getattr(config, "prompts", ())) or 1


def _train(
    task: Task, config: TrainConfig, parts: dict[str, nn.Module], size: Size, absent: list[str]
) -> Workload:
    state = start_state(task, config)
    trained = [p for p in task.model.parameters() if p.requires_grad]

    def backward(example: Callable[[Size], Any] = task.example_batch) -> None:
        with kernel(task):
            generator = torch.Generator().manual_seed(0)
            (task.loss(example(size), generator)[0] / config.accumulate).backward()

    def update() -> None:
        nn.utils.clip_grad_norm_(trained, config.optim.clip_norm)
        state.optimizer.step(1.0)
        state.ema.update(0)

    masked = masked_steps(config) if isinstance(task, DiTTask) else 0
    whole, phases = config.steps - masked, []
    if masked and isinstance(task, DiTTask):
        some = partial(backward, task.masked_example)
        phases.append(Phase(MASKED, some, masked * config.accumulate))
    if whole:
        phases.append(Phase(BACKWARD, backward, whole))
    if whole and config.accumulate > 1:
        phases.append(Phase(MORE, backward, whole * (config.accumulate - 1)))
    phases.append(Phase(UPDATE, update, config.steps))
    if config.parallel == "fsdp":
        absent.append("parallel=fsdp, which splits the weights: all is in one process here")
    return Workload(parts, phases, 0, state, absent)


def masked_steps(config: Any) -> int:
    """The steps of a run that leave tokens out."""
    masking = config.masking
    return min(config.steps, ceil(masking.until * config.steps)) if masking.ratio else 0


class _ZerosBeside(FramesBeside):
    """Stands for the pictures of clips: the same passes through the networks, for zeros."""

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> dict[str, Tensor]:
        vae = self.parts.vae
        for video in latents.split(1):
            vae.decode((video if self.two else video[:, :, :1]).to(vae.dtype))
        return given_beside(self.parts, tuple(latents.shape), latents.device)


WORKLOADS: dict[type, Callable[[Any, Size, int | None], Workload]] = {
    SampleConfig: sample_work,
    TrainDiTConfig: _train_dit,
    FinetuneConfig: _finetune,
    TrainVAEConfig: _train_vae,
    DistillConfig: partial(distill_work, train=_train),
}
