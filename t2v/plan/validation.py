"""The work of a training beside its steps: captions embedded once, validations, their samples."""

from __future__ import annotations

from typing import Any

import torch

from t2v.models.conditions import Conditions
from t2v.models.device import pick_device
from t2v.models.guidance import Groups, Guidance, SchedulerStep
from t2v.models.inputs import latent_shape
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.shapes import decode_pieces
from t2v.plan.work import Phase, validations
from t2v.training.engine.example import Size
from t2v.training.tasks.dit import DiTTask
from t2v.training.tasks.dit_parts import DiTParts

VALIDATE = "validate a batch"
DRAW, DECODE = "sample, a step", "sample, decode"


def validate_phase(task: DiTTask, size: Size) -> Phase:
    """One batch of a validation."""

    @torch.no_grad()
    def run() -> None:
        task.loss(task.example_batch(size), torch.Generator().manual_seed(0))

    return Phase(VALIDATE, run, validations(task.config))


def sheet_phases(task: DiTTask, parts: DiTParts, size: Size, prompts: int) -> list[Phase]:
    """A step and the decoding of the samples of sheets, of `prompts` at each validation."""
    asked, sides = task.config.sheet, (size.frames, size.height, size.width)
    frames, height, width = (
        getattr(asked, name) or each
        for name, each in zip(("num_frames", "height", "width"), sides, strict=True)
    )
    device: Any = pick_device(task.config.device)
    networks: dict[str, Any] = {"transformer": parts.transformer, "vae": parts.vae}
    pipeline = T2VPipeline(tokenizer=None, scheduler=None, text_encoder=None, **networks)
    shape = latent_shape(parts.transformer, parts.vae, 1, frames, height, width)

    @torch.no_grad()
    def draw() -> None:
        text = torch.zeros(1, task.max_length, parts.transformer.config.text_dim, device=device)
        latents, texts = torch.zeros(shape, device=device), Conditions(text=text)
        step = SchedulerStep(torch.zeros((), device=device), 0, 2, None)
        with task.drawing():
            Guidance(parts.transformer)(latents, texts, texts, 2.0, step, Groups())

    @torch.no_grad()
    def decode() -> None:
        decode_pieces(pipeline, torch.zeros(shape, device=device), frames, 1)

    samples = validations(task.config) * prompts
    steps = asked.steps or task.defaults.get("num_inference_steps", 50)
    return [Phase(DRAW, draw, samples * steps), Phase(DECODE, decode, samples)]
