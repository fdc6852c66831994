"""Scoring of several samples of one prompt, so that the best can be kept."""

from __future__ import annotations

from collections.abc import Callable
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
    """The place of the scorer: the one that is named, or the embedded model's own.

    Raises:
        UserError: none is named, and the model is another.
    """
    if config.scorer is not None:
        return config.scorer
    own = shipped(SHIPPED, "towers/config.json") if config.model == EMBEDDED else None
    if own is None:
        raise UserError(
            f"best_of={config.best_of}: no scorer is named, and {config.model} has none of its "
            "own. Give scorer=FOLDER, one of `t2v scorer` or a CLIP of transformers."
        )
    return str(own)


def load_score(scorer: str) -> tuple[str, Callable[[str, np.ndarray], float]]:
    """The name of a scorer with its weights, and its score of a prompt and frames `t h w c` uint8.

    The score is the mean cosine of the prompt and each frame (GODIVA's SIM). The scorer that
    chooses the best of several samples overrates its own choice: in GODIVA (arXiv 2104.14806) the
    best of 32 has an RM of 98.3, a single sample 93.5. Verify with another one.

    Args:
        scorer: the folder of one of ours, or of a model of transformers with towers for pictures
            and texts.

    Raises:
        UserError: it is neither, or it is damaged.
    """
    aligner: Aligner
    if is_scorer(scorer):
        aligner = load_scorer(scorer)
    elif Path(scorer).is_dir() and not Path(scorer, "config.json").is_file():
        raise UserError(
            f"scorer={scorer}: holds neither a scorer of `t2v scorer` nor a model of transformers."
        )
    else:
        aligner = ClipModel(scorer, setting="scorer")

    @torch.inference_mode()
    def score(prompt: str, frames: np.ndarray) -> float:
        video = torch.from_numpy(np.ascontiguousarray(frames))[None]
        return (aligner.embed_video(video)[0] @ aligner.embed_text([prompt])[0]).mean().item()

    return aligner.name, score
