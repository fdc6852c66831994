"""Distillation: a student makes in few steps, without guidance, what its teacher makes in many."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from t2v.config.distill import DistillConfig
from t2v.errors import UserError
from t2v.models.attention.layer import check_backend
from t2v.models.device import pick_device
from t2v.models.diffusion import build_scheduler, objective_of
from t2v.models.folder import model_folder, weights_hash
from t2v.models.inputs import latent_shape
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.engine.initialize import check_start
from t2v.training.engine.run import check_resumable, train
from t2v.training.tasks.distill_films import Films, films_of, prompts_of
from t2v.training.tasks.distill_task import DistillTask, check_teacher
from t2v.training.tasks.dit_parts import merged_sizes
from t2v.training.tasks.finetune import load_base
from t2v.training.tuning.saving import reference


def distill(config: DistillConfig) -> Path:
    """`t2v distill`: train a student of `config.model`; return the last checkpoint.

    That is a pipeline folder, which takes the steps the student has learned and no guidance. It
    holds the student's transformer, and refers to the teacher for the rest, unless `save=full`.

    Raises:
        UserError: see `build_distill` and `t2v.training.engine.run.run`.
    """
    return train(build_distill, config)


def build_distill(config: DistillConfig) -> DistillTask:
    """The task of `config`: teacher and prompts loaded, films that are not on disk drawn.

    Raises:
        UserError: the teacher is no flow model that makes video of text, a prompt does not fit it,
            or a size that it cannot make.
    """
    prompts = prompts_of(config)
    folder = model_folder(config.model)
    teacher = load_base(config.model, folder)
    pipeline: Any = teacher.pipeline
    shift = _checked_shift(config, pipeline)
    weights = weights_hash(folder)
    asked = replace(
        teacher.defaults,
        num_inference_steps=config.teacher_steps or teacher.defaults.num_inference_steps,
        guidance_scale=_or(config.guidance_scale, teacher.defaults.guidance_scale),
        upscale=1,
    )
    own = pipeline.config.num_frames, pipeline.config.height, pipeline.config.width
    films = films_of(config, prompts, own)
    shapes = {
        film.sizes: latent_shape(pipeline.transformer, pipeline.vae, 1, *film.sizes)[1:]
        for film in films
    }
    length = pipeline.config.max_sequence_length
    data = Films(config, films, weights, asked, pipeline.tokenizer, length, shapes)
    task = DistillTask(config, student_of(pipeline, config, shift), data, asked)
    task.taught_by = reference(config.model, weights, 1.0), folder
    task.sources |= {"model": weights}
    check_before(config, task)
    pipeline.to(pick_device(config.device))
    data.draw(teacher)
    pipeline.to("cpu")
    return task


def check_before(config: DistillConfig, task: DistillTask) -> None:
    """Raise `UserError` for settings that cannot be followed, before the teacher's first film."""
    transformer: Any = task.pipeline.transformer
    check_resumable(config, task.sources)
    check_start(config, dict(task.parts))
    device, head_dim = pick_device(config.device), transformer.config.attention_head_dim
    check_backend(config.attention, head_dim, device, torch.float32)


def student_of(pipeline: T2VPipeline, config: DistillConfig, shift: float) -> T2VPipeline:
    """The pipeline of a student that has learned nothing: its teacher's weights, and defaults of
    its own."""
    transformer = copy.deepcopy(pipeline.transformer)
    transformer.become_student(sorted(config.student_steps))
    saved = pipeline.config
    sizes = [list(each) for each in config.film_sizes()]
    return T2VPipeline(
        tokenizer=pipeline.tokenizer,
        text_encoder=pipeline.text_encoder,
        transformer=transformer,
        vae=pipeline.vae,
        scheduler=build_scheduler("flow", shift),
        upscaler=pipeline.upscaler,
        **{name: saved[name] for name in ("fps", "height", "width", "num_frames")},
        max_sequence_length=saved.max_sequence_length,
        num_inference_steps=config.num_inference_steps,
        guidance_scale=1.0,
        trained=merged_sizes(sizes or [[saved.num_frames, saved.height, saved.width]]),
    )


def _or(value: float | None, otherwise: float | None) -> float | None:
    return otherwise if value is None else value


def _checked_shift(config: DistillConfig, pipeline: Any) -> float:
    """The shift of the teacher's times.

    Raises:
        UserError: it is no teacher.
    """
    has_second = pipeline.transformer_2 is not None
    check_teacher(config.model, pipeline.transformer, has_second=has_second)
    objective, shift = objective_of(pipeline.scheduler)
    if objective != "flow":
        raise UserError(
            f"model={config.model} is of objective={objective}, and t2v distill takes the straight "
            "steps of a flow. Give a flow model."
        )
    return shift
