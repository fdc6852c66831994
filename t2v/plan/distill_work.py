"""The work of `t2v distill`: the teacher's films, then the student's steps and validations."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from t2v.config.distill import DistillConfig
from t2v.families.load import generator_class
from t2v.models.conditions import Conditions
from t2v.models.device import pick_device
from t2v.models.folder import model_folder
from t2v.models.guidance import Groups, Guidance, SchedulerStep
from t2v.models.inputs import latent_shape
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.shapes import decode_pieces, has_part, saved, untrained, untrained_text_encoder
from t2v.plan.work import Phase, Workload, embed_phase, validations
from t2v.training.engine.example import Size
from t2v.training.engine.loop import autocast
from t2v.training.tasks.distill_films import AT_ONCE, WORLD, prompts_of
from t2v.training.tasks.distill_task import VARIED, DistillTask, check_teacher

FILMS, OWN = "teacher, a step", "the student's own step"
PASS, DECODE = "validate, a step", "validate, decode"
Train = Callable[..., Workload]


def distill_work(config: DistillConfig, size: Size, layers: int | None, train: Train) -> Workload:
    """One transformer, which is the teacher until the films are drawn, and the phases of a run.

    Args:
        layers: of the transformer; None: all.
        train: the work of a task's steps.

    Raises:
        UserError: the model is no teacher, or prompts are not there.
    """
    folder, device = model_folder(config.model), pick_device(config.device)
    generator_class(config.model, folder, "t2v plan distill", needs=("is_trainable",))
    index = saved(folder, "model_index.json")
    parts = {
        "text_encoder": untrained_text_encoder(folder / "text_encoder"),
        "transformer": untrained(folder / "transformer", layers),
        "vae": untrained(folder / "vae"),
    }
    transformer = parts["transformer"]
    check_teacher(config.model, transformer, has_second=has_part(index, "transformer_2"))
    for frozen in ("text_encoder", "vae"):
        parts[frozen].requires_grad_(False)
    transformer.become_student(sorted(config.student_steps))
    networks: dict[str, Any] = dict(parts)
    pipeline = T2VPipeline(tokenizer=None, scheduler=None, **networks)
    shape = latent_shape(transformer, pipeline.vae, 1, size.frames, size.height, size.width)
    films: Any = SimpleNamespace(name="", max_length=size.tokens, shapes={0: shape[1:]})
    task = _AtFirstStep(config, pipeline, films, cast(Any, None))
    scale = index["guidance_scale"] if config.guidance_scale is None else config.guidance_scale

    def passes(videos: int, scale: float = 1.0) -> Callable[[], Tensor]:
        def run() -> Tensor:
            noise = torch.zeros(videos, *shape[1:], device=device)
            text = torch.zeros(videos, size.tokens, transformer.config.text_dim, device=device)
            texts = Conditions(text=text)
            step = SchedulerStep(torch.zeros((), device=device), 0, 2, None)
            with torch.no_grad(), autocast(config):
                negative = texts if scale > 1 else None
                return Guidance(transformer)(noise, texts, negative, scale, step, Groups())

        return run

    def decode() -> None:
        with torch.no_grad():
            decode_pieces(pipeline, torch.zeros(shape, device=device), size.frames, 1)

    work = train(task, config, parts, size, [])
    work.latents = 2 * prod(shape)
    batch, held = min(AT_ONCE, config.pairs), min(AT_ONCE, config.held_out)
    teacher_steps = config.teacher_steps or index["num_inference_steps"]
    drawn = teacher_steps * -(-config.pairs // batch)
    tested = validations(config) * -(-config.held_out // held)
    tested *= sum(config.student_steps) + config.num_inference_steps
    shown = validations(config) * config.held_out * (1 + len(config.student_steps))
    count = config.pairs if config.prompts == WORLD else len(prompts_of(config))
    embed = replace(embed_phase(config, parts["text_encoder"], size), times=count)
    before = [embed, Phase(FILMS, passes(batch, scale), drawn, passes=2 if scale > 1 else 1)]
    beside = [Phase(PASS, passes(held), tested), Phase(DECODE, decode, shown)]
    varied = -(-size.batch // VARIED) if config.variety_weight else 0
    own = Phase(OWN, passes(size.batch + varied), _own_steps(config))
    steps = [own, *work.phases] if own.times else work.phases
    work.phases = [
        *(replace(each, away=("vae",), once=True) for each in before),
        *(replace(each, away=("text_encoder",)) for each in (*beside, *steps)),
    ]
    return work


class _AtFirstStep(DistillTask):
    """The task of batches at the first step: steps that lead to others are a phase of their own."""

    @property
    def times(self) -> dict[int, list[float]]:
        return {1: [1.0, 0.0]}

    def place_in_run(self, generator: torch.Generator) -> tuple[int, int]:
        return 1, 0


def _own_steps(config: DistillConfig) -> int:
    """The passes without gradients that lead to the places of a run's batches, about.

    A batch that is not at the first step is at each later one of 1 to n - 1 as often, of each
    number of steps n.
    """
    several = [n for n in config.student_steps if n > 1]
    if not several:
        return 0
    mean = sum(n / 2 for n in several) / len(several)
    return round(config.steps * config.accumulate * (1 - config.first_step) * mean)
