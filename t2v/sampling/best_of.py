"""Scoring of several samples of one prompt, so that the best can be kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.files import EMBEDDED_MODELS
from t2v.models.folder import shipped
from t2v.nets.aligner import Aligner
from t2v.nets.clip import ClipModel
from t2v.nets.scorer import is_scorer, load_scorer
from t2v.sampling import recipe as recipe_files
from t2v.sampling.generate import Score
from t2v.sampling.recipe import Choice, Recipe
from t2v.sampling.results import read_recipe

SHIPPED = "world-scorer"


def chosen_by(config: SampleConfig) -> tuple[Choice, Score]:
    """The choice that `best_of` asks for, still without a seed, and the score that decides it.

    Raises:
        UserError: see `load_score`.
    """
    scorer = scorer_of(config)
    name, score = load_score(scorer)
    choice = Choice(
        best_of=config.best_of,
        first_seed=0,
        scorer=scorer,
        name=name,
        keep_draws=config.keep_draws,
    )
    return choice, score


def scorer_of(config: SampleConfig) -> str:
    """The place of the scorer: the one that is named, or the embedded model's own.

    Raises:
        UserError: none is named, and the model is another.
    """
    if config.scorer is not None:
        return config.scorer
    own = shipped(SHIPPED, "towers/config.json") if config.model in EMBEDDED_MODELS else None
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


def same_scorer(old: Recipe, output: str) -> Callable[[str, np.ndarray], float]:
    """The score of an interrupted choice, if the best so far is still where it was."""
    choice = old.choice
    assert choice is not None
    name, score = load_score(choice.scorer)
    if name != choice.name:
        raise UserError(
            f"scorer={choice.scorer}: is now {name}; {choice.name} scored the first samples. "
            "Put that one back, or start over."
        )
    if not choice.scores:
        return score
    if old.settings.output != output:
        raise UserError(f"output: fixed, the best sample so far is {output}.")
    shown = recipe_files.read(read_recipe(Path(output)), Path(output))
    if shown.choice is None or not choice.scores.items() <= shown.choice.scores.items():
        raise UserError(
            f"{output}: is no longer the best of the {len(choice.scores)} finished samples. "
            "Put it back, or start over."
        )
    return score
