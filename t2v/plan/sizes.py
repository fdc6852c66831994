"""The size of the step that a command takes, by its settings, its model or its data."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from t2v.config.distill import DistillConfig
from t2v.config.sampling import SampleConfig
from t2v.data.world_shards import rendered_clips
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator, check_sides
from t2v.families.load import GENERATORS
from t2v.families.record import spatial, temporal
from t2v.models.folder import model_folder, read_index
from t2v.models.inputs import count_frames
from t2v.plan.peers import described, known_sizes
from t2v.plan.shapes import Target, saved
from t2v.training.engine.example import Size


def planned_size(target: Target, asked: dict[str, int | None], tokens: int | None) -> Size:
    """The size of a step: what is `asked`, else what the model or the data were saved with.

    Raises:
        UserError: neither has it.
    """
    saved_model = isinstance(target.model, str)
    known: dict[str, Any] = {}
    if is_peer(target):
        known = known_sizes(model_folder(str(target.model)))
    elif saved_model:
        known = saved(model_folder(str(target.model)), "model_index.json")
    if isinstance(target, DistillConfig):
        known |= _film_size(target, tuple(asked))
    elif hasattr(target, "clips"):
        known |= _data_size(target, tuple(asked))
    else:
        known |= _size(target, known)
    sizes: dict[str, Any] = {name: value or known.get(name) for name, value in asked.items()}
    if missing := [name for name, value in sizes.items() if not value]:
        raise UserError(
            f"{', '.join(missing)}: neither given nor known from the data. "
            f"Add {' '.join(f'{name}=NUMBER' for name in missing)}."
        )
    longest = getattr(target, "max_sequence_length", 512 if saved_model else 0)
    longest = known.get("max_sequence_length", longest)
    if longest and tokens and tokens > longest:
        raise UserError(f"text_tokens={tokens}, but the model takes at most {longest}.")
    sides = sizes["num_frames"], sizes["height"], sizes["width"]
    if is_peer(target):
        name = str(read_index(model_folder(str(target.model))).get("_class_name"))
        check_sides(name, strides(target)[1], *sides[1:])
    batch = getattr(target, "batch_size", 1)
    return Size(batch, *sides, tokens if longest and tokens else longest)


def is_peer(target: Target) -> bool:
    """Return whether it samples with another package's pipeline, by its config files."""
    if not isinstance(target, SampleConfig):
        return False
    return str(read_index(model_folder(target.model)).get("_class_name")) not in GENERATORS


def strides(target: Target) -> tuple[int, int, int]:
    """Frames of a latent, pixels that sides are multiples of, and the fewest frames of a plan."""
    if not is_peer(target):
        return 4, 16, 5
    pipeline = described(model_folder(str(target.model)))
    family = FamilyGenerator(pipeline).family
    if family is None:
        stride, multiple, shortest = temporal(pipeline), math.lcm(16, spatial(pipeline)), 1
    else:
        stride, multiple = family.stride(pipeline), family.multiple(pipeline)
        shortest = family.frames(pipeline, family.shortest)
    return stride, multiple, max(shortest, stride + 1)


def _size(target: SampleConfig, known: dict[str, Any]) -> dict[str, Any]:
    """Return the size of a video by the settings, or else the one its model was saved with."""
    fps = target.fps or known.get("fps")
    if target.duration is not None and not fps:
        raise UserError(
            f"duration={target.duration:g}: the frames per second of model={target.model} are "
            "not known. Add fps=NUMBER, or give num_frames."
        )
    if target.num_frames is None and target.duration is None and not known.get("num_frames"):
        return {side: getattr(target, side) or known[side] for side in ("height", "width")}
    frames = count_frames(target.num_frames, target.duration, fps or 1.0, known["num_frames"])
    sides = {side: getattr(target, side) or known[side] for side in ("height", "width")}
    return {"num_frames": frames} | sides


def _film_size(target: DistillConfig, names: Sequence[str]) -> dict[str, Any]:
    """Return the largest size of a distillation's films, if settings name any."""
    named = [dict(zip(names, each, strict=True)) for each in target.film_sizes()]
    return max(named, key=_pixels, default={})


def _data_size(target: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the size of a training's clips by its settings, or else by the clips themselves."""
    if rendered := rendered_clips(target.data):
        # a step must fit with the largest of them
        return max(({n: getattr(clip, n) for n in names} for clip in rendered), key=_pixels)
    side = target.clips.resolution
    clips = {"num_frames": target.clips.num_frames, "height": side, "width": side}
    return {name: value for name, value in clips.items() if value}


def _pixels(sizes: dict[str, Any]) -> int:
    return math.prod(sizes[name] or 0 for name in sizes)
