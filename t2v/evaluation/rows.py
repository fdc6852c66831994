"""The rows of a table: the model's videos, and beside them what they are to be compared with."""

from __future__ import annotations

from torch import Tensor

from t2v.evaluation.samples import through_vae
from t2v.evaluation.suites import Suite, load_suite
from t2v.evaluation.types import Videos, blurred_copy, still_copy
from t2v.pipelines.generator import Generator

MODEL, CEILING, REAL = "model", "real clips through the VAE", "real clips"
CHANCE, GUESS = "another real clip", "most common answer"
STILL, BLUR = "real clips standing still", "real clips blurred"
ROWS = {
    MODEL: "the videos that the model sampled",
    CEILING: "the clips that the prompts describe, through the model's VAE: the ceiling",
    REAL: "those clips as they are",
    CHANCE: "the clip of another prompt: chance",
    GUESS: "the best constant answer, the same for every prompt: chance",
    STILL: "the first frame of each real clip, repeated: the score of standing still",
    BLUR: "real clips under a mean filter of 5 x 5 pixels: the score of blur",
}


def rows_of(suite: Suite, sampled: Tensor, generator: Generator, seed: int) -> dict[str, Videos]:
    """Return the model's videos, and where the prompts have real clips, the rows beside them.

    Args:
        sampled: the videos of the suite's prompts, `n t h w c` uint8.
        seed: the seed of the evaluation, from which real clips of other scenes follow.
    """
    prompts, fps = suite.prompts, float(generator.defaults.fps)
    rendered = suite.real(*sampled.shape[1:4])
    if rendered is None:
        return {MODEL: Videos(sampled, prompts, fps)}
    real, mask = rendered
    size = (int(real.shape[1]), int(real.shape[2]), int(real.shape[3]))
    others = load_suite("world", len(prompts), seed + 1_000).real(*size)
    assert others is not None
    model = Videos(sampled, prompts, fps, real, mask, others[0], suite.truths())
    rows = {MODEL: model}
    if generator.vae is not None:
        rows[CEILING] = model.showing(through_vae(generator.vae, real))
    return rows | {
        REAL: model.showing(real),
        CHANCE: model.showing(real.roll(1, 0)),
        STILL: model.showing(still_copy(real)),
        BLUR: model.showing(blurred_copy(real)),
    }
