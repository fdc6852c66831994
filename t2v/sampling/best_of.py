"""What grades several draws of one prompt, so that the best can be kept."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.models.folder import EMBEDDED, shipped
from t2v.nets.aligner import Aligner
from t2v.nets.clip import ClipModel
from t2v.nets.scorer import is_scorer, load_scorer

SHIPPED = "world-scorer"


def scorer_of(config: SampleConfig) -> str:
    """Where the scorer of `best_of` is: the one named, or the one that knows the embedded model.

    Raises:
        UserError: none is named, and the model is another.
    """
    if config.scorer is not None:
        return config.scorer
    own = shipped(SHIPPED, "towers/config.json") if config.model == EMBEDDED else None
    if own is None:
        raise UserError(
            f"best_of={config.best_of}: no scorer is named to grade draws of {config.model}. Give "
            "scorer=FOLDER, one of `t2v scorer` or a CLIP of transformers."
        )
    return str(own)


def load_grader(scorer: str) -> Aligner:
    """The scorer in a folder, ours or a model of transformers with towers for pictures and texts.

    Raises:
        UserError: it is neither, or it is damaged.
    """
    if is_scorer(scorer):
        return load_scorer(scorer)
    if Path(scorer).is_dir() and not Path(scorer, "config.json").is_file():
        raise UserError(
            f"scorer={scorer}: holds neither a scorer of `t2v scorer` nor a model of transformers."
        )
    return ClipModel(scorer, setting="scorer")


@torch.inference_mode()
def grade(grader: Aligner, prompt: str, frames: np.ndarray) -> float:
    """How well frames `t h w c` uint8 fit a prompt: the mean of their cosines (GODIVA's SIM).

    The scorer that chooses the best of several draws grades its own choice too high: in GODIVA
    (arXiv 2104.14806) the best of 32 has an RM of 98.3, one draw 93.5. Judge with another.
    """
    video = torch.from_numpy(np.ascontiguousarray(frames))[None]
    return (grader.embed_video(video)[0] @ grader.embed_text([prompt])[0]).mean().item()
