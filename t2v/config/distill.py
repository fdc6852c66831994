"""The settings of distillation."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from t2v.config.checks import at_least_one, not_negative
from t2v.config.training import OptimConfig, TrainConfig
from t2v.config.world import shape_of
from t2v.errors import UserError


@dataclass(frozen=True, kw_only=True)
class DistillConfig(TrainConfig):
    """`t2v distill`: a student that needs few steps and no guidance learns from a pipeline."""

    # paths that a file of settings may tell from its own folder
    BESIDE_FILE: ClassVar[tuple[str, ...]] = ("prompts", "start_from", "average_with")

    model: str = "t2v-tiny"  # the teacher: the embedded model, a pipeline folder or a Hub id
    # what the teacher makes films of: a file of prompts, one a line; a manifest or a folder of
    # clips, for their captions; or world, for captions of random scenes of the world
    prompts: str
    pairs: int = 10_000  # films of the teacher, each of its own noise; prompts come again in turn
    # frames x height x width of the films, as 17x64x64: 64 films take one, the next 64 the next,
    # from the first again after the last; empty: the size that the model is saved with
    sizes: tuple[str, ...] = ()
    teacher_steps: int | None = None  # of a film; null: those that the model is saved with
    guidance_scale: float | None = None  # of the teacher; null: the one it is saved with
    # numbers of steps that the student is to serve; the saved folder takes these alone
    student_steps: tuple[int, ...] = (1, 2, 4)
    num_inference_steps: int = 2  # steps that the saved folder takes by default, one of these
    # share of the batches at the first step, where the noise is all that is known
    first_step: float = 0.5
    # how much an error of the latents counts by what it changes in pixels: 0 not at all, 1 entirely
    pixel_weight: float = 0.8
    # loss weight of how much less films of one prompt differ than the teacher's
    variety_weight: float = 1.0
    # what the student's noise is divided by in training; above 1 its films differ more, at the cost
    # of how near each is to the teacher's
    noise_scale: float = 1.0
    cache: str | None = None  # folder of the teacher's films; null: `pairs` in the output
    # checkpoints hold: student: what it changes in its teacher's weights, in 8 bits, and where the
    # teacher is; full: all weights
    save: Literal["student", "full"] = "student"
    attention: str = "native"  # kernel of the training steps; samples use the default
    steps: int = 1000
    batch_size: int = 24
    held_out: int = 32  # films kept for validation: the last ones
    optim: OptimConfig = field(
        default_factory=lambda: OptimConfig(
            lr=1e-3, adam_lr=3e-4, warmup_steps=30, decay_from=0.4, ema_decay=0.99
        )
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least_one(self, "pairs", "held_out")
        if self.pairs <= self.held_out:
            raise UserError(
                f"pairs={self.pairs} held_out={self.held_out}: the last films are kept for "
                "validation, and none is left to learn from. Give more pairs."
            )
        if self.teacher_steps is not None:
            at_least_one(self, "teacher_steps")
        self.film_sizes()
        steps = self.student_steps
        if not steps or min(steps) < 1 or len(set(steps)) != len(steps):
            raise UserError(
                f"student_steps={list(steps)}: give different numbers of steps of 1 or more, such "
                "as [1,2,4]."
            )
        if self.num_inference_steps not in steps:
            raise UserError(
                f"num_inference_steps={self.num_inference_steps} is not among "
                f"student_steps={list(steps)}, which the student learns. Give one of them."
            )
        not_negative(self, "variety_weight")
        if not 0.5 <= self.noise_scale <= 2:
            raise UserError(
                f"noise_scale={self.noise_scale:g}: it must be from 0.5 to 2, such as 1.04."
            )
        for name in ("first_step", "pixel_weight"):
            if not 0 <= getattr(self, name) <= 1:
                raise UserError(f"{name}={getattr(self, name):g}: it must be from 0 to 1.")

    def film_sizes(self) -> tuple[tuple[int, int, int], ...]:
        """Frames, height and width of the films, in turn; none: as the model is saved.

        Raises:
            UserError: `sizes` names something else.
        """
        return tuple(shape_of("sizes", text) for text in self.sizes)
