"""Students of `t2v distill`: what they have not learned, and who their teachers are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2v.errors import UserError, shortened
from t2v.io.files import EMBEDDED_MODELS
from t2v.io.shipped import shipped
from t2v.models.folder import read_base


def is_student(pipeline: Any) -> bool:
    """True of a pipeline that makes videos in the few steps it has learned."""
    transformer = getattr(pipeline, "transformer", None)
    return transformer is not None and bool(transformer.config.get("distilled_steps", ()))


def teacher_of(pipeline: Any) -> str:
    """The words for the teacher of a student: its name, where the folder of the student has it."""
    folder = Path(pipeline.name_or_path or "")
    base = read_base(folder) if pipeline.name_or_path else None
    if base is None:
        return "its teacher"
    place = (folder / base.model).resolve()
    if not place.is_dir():
        return f"its teacher, {base.model}"
    own = shipped(place.name, "model_index.json")
    is_shipped = place.name in EMBEDDED_MODELS and own is not None and own.resolve() == place
    return f"its teacher, {place.name if is_shipped else place}"


def check_student(
    pipeline: Any,
    *,
    num_inference_steps: int | None = None,
    is_guided: bool = False,
    negative_prompt: object = None,
    strength: float | None = None,
    seen: Sequence[str] = (),
) -> None:
    """Refuse what a student of `t2v distill` has not learned; let all else pass.

    Args:
        pipeline: any; one that is no student takes what it will.
        num_inference_steps: None: those that it is saved with.
        negative_prompt: a text, texts or embeddings; empty ones ask for nothing.
        seen: names of the pictures and clips that the video is given, with their values or not.

    Raises:
        UserError: another number of steps, guidance, a negative prompt, a picture, a clip or an
            edit; says to take the teacher.
    """
    if not is_student(pipeline):
        return
    steps = sorted(pipeline.transformer.config.distilled_steps)
    teacher = teacher_of(pipeline)
    if num_inference_steps is not None and num_inference_steps not in steps:
        raise UserError(
            f"num_inference_steps={num_inference_steps}: this model is a student that makes videos "
            f"in {', '.join(map(str, steps))} steps. Give one of them, or take {teacher}."
        )
    if is_guided:
        raise UserError(
            "guidance_scale: this model is a student, which has its teacher's guidance in its "
            f"weights and takes no other. Leave it out or give 1, or take {teacher}."
        )
    texts = [negative_prompt] if isinstance(negative_prompt, str) else negative_prompt
    if texts is not None and not (isinstance(texts, list) and not any(texts)):
        said = shortened(repr(negative_prompt), 60) if isinstance(texts, list) else "embeddings"
        raise UserError(
            f"negative_prompt={said}: this model is a student, whose guidance is in its weights, "
            f"so it turns away from nothing. Leave it out, or take {teacher}."
        )
    if strength is not None and not seen:
        seen = [f"strength={strength:g}"]
    if seen:
        raise UserError(
            f"{', '.join(seen)}: this model is a student, which makes videos of text alone. Leave "
            f"{'it' if len(seen) == 1 else 'them'} out, or take {teacher}."
        )
