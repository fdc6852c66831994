"""Videos of a `T2VPipeline` that are given something to see, sampled batch by batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import cast

import torch
from torch import Tensor

from t2v.io.progress import progress
from t2v.models.finite import refuse_bad
from t2v.pipelines.generator import Generator, Request
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.visuals import VisualInputs

SIZES = ("num_frames", "height", "width")


def takes(generator: Generator) -> frozenset[str]:
    """Return what a model can be given to see, by the names of `VisualInputs`, and `strength`.

    Any model of ours edits but those of channels, which always begin with what is given.
    """
    if not isinstance(generator.pipeline, T2VPipeline):
        return frozenset()
    config = generator.pipeline.transformer.config
    if config.conditioning == "channels":
        return frozenset({"image", "last_image", "video", "conditions"})
    taken = {"video", "strength"}
    if config.conditioning == "tokens":
        taken |= {"image", "mask"}
    if config.picture_tokens:
        taken |= {"last_image", "conditions"}
    return frozenset(taken)


def sample_seen(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    request: Request,
    visuals: Sequence[VisualInputs],
    strength: float | None,
    batch_size: int,
) -> Iterator[Tensor]:
    """Yield normalised latents of the videos, `b c t h w` a batch.

    Args:
        visuals: what each video is given to see.
        strength: how far an edit may go from its clip, in (0, 1]; None: no edit.
    """
    pipeline = cast(T2VPipeline, generator.pipeline)
    pipeline.set_progress_bar_config(disable=True)
    frames, height, width = (cast(int, getattr(request, name)) for name in SIZES)
    for first in progress(range(0, len(prompts), batch_size), "sample", "batches"):
        chosen = slice(first, first + batch_size)
        text = pipeline.encode_conditions(prompts[chosen], request)
        positive, negative = pipeline.add_visuals(
            text, visuals[chosen], frames, height, width, strength
        )
        latents = pipeline.generate(
            positive,
            negative,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=cast(int, request.num_inference_steps),
            guidance_scale=cast(float, request.guidance_scale),
            generator=[torch.Generator().manual_seed(seed) for seed in seeds[chosen]],
            strength=strength,
        )
        pipeline.maybe_free_model_hooks()
        refuse_bad("transformer", latents, pipeline.transformer.dtype)
        yield latents
