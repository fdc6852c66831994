"""Facts of models that their code alone tells: found in a process that may import it."""

from __future__ import annotations

import logging
import threading
from collections.abc import MutableMapping
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from t2v.errors import UserError
from t2v.io.workers import Failure, work
from t2v.serve.models import Model

logger = logging.getLogger(__name__)

SECONDS, MEMORY_GB = 120.0, 64.0  # that reading a model's code may take; torch maps much


def learn(models: MutableMapping[str, Model]) -> threading.Thread | None:
    """Fill in, by and by, what the files of models of other packages do not tell.

    Returns:
        The thread that does so; None where nothing is to be learned.
    """
    unknown = {
        name: model.folder
        for name, model in models.items()
        if model.takes is None and model.folder is not None
    }
    if not unknown:
        return None

    def fill() -> None:
        for name, folder in unknown.items():
            try:
                items = work(
                    _told_by_code, [folder], workers=1, seconds=SECONDS, memory_gb=MEMORY_GB
                )
                ((_, found),) = items
            except UserError as error:
                logger.warning("model %s: its code tells nothing of it: %s", name, error)
                continue
            if isinstance(found, Failure):
                logger.warning("model %s: its code cannot be read: %s", name, found.reason)
                continue
            model = models[name]
            own = {each: value for each, value in found.items() if _is_open(model, each)}
            models[name] = replace(model, **own)

    thread = threading.Thread(target=fill, daemon=True)
    thread.start()
    return thread


def _is_open(model: Model, name: str) -> bool:
    return getattr(model, name) in (None, ()) or (name == "step" and model.step == 1)


def _told_by_code(folder: Path) -> dict[str, Any]:
    """The facts of a pipeline of diffusers, by its class and config files, without its weights."""
    from t2v.families.generator import FamilyGenerator
    from t2v.families.pictures import VISUAL, needs
    from t2v.families.table import family_of
    from t2v.models.folder import read_index
    from t2v.plan.peers import described, rows, usual

    pipeline = described(folder)
    generator, asked = FamilyGenerator(pipeline), usual(pipeline)
    takes, family = set(generator.takes), generator.family
    index = read_index(folder)
    if family is not None:
        import diffusers

        for name in family.shares(str(index["_class_name"]), index):
            other = getattr(diffusers, name)
            takes |= set(VISUAL) & signature(other.__call__).parameters.keys()
            shared = family_of(name) or family
            takes -= shared.refuses(pipeline)
    return {
        "width": asked.width,
        "height": asked.height,
        "num_frames": asked.num_frames,
        "fps": asked.fps,
        "steps": asked.num_inference_steps,
        "guidance": asked.guidance_scale,
        "step": 1 if family is None else family.multiple(pipeline),
        "takes": frozenset(takes),
        "needs": needs(pipeline),
        "max_tokens": rows(pipeline),
    }
