"""Tokens beside the text that alone learn: a memory in each block, or rows before the prompt's."""

from __future__ import annotations

import torch

from t2v.config.finetune import FinetuneConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.io.prompt_words import clean_prompt
from t2v.models.context_tokens import begin_memory, take_tokens
from t2v.models.text import encode_alone
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.tuning.motion import begin_motion, motion_tokens


def add_context_tokens(
    pipeline: T2VPipeline, config: FinetuneConfig, data_frames: int | None = None
) -> None:
    """Give the transformer the tokens that `config.method` learns, if it learns any.

    `memory` (arXiv 2203.15243) begins as what is seen past a prompt's end; `embedding`
    (arXiv 2305.18993) as the embedding of `config.embedding`, behind the text encoder, which
    nothing goes through after that; `motion` near one embedding, see `begin_motion`.

    Args:
        data_frames: frames of the clip of `motion`; None: as many as the model makes.

    Raises:
        UserError: the model has such tokens already, or there is nothing to begin with.
    """
    if config.method not in ("memory", "embedding", "motion"):
        return
    transformer = pipeline.transformer
    if transformer.config.memory_tokens or transformer.config.prefix_tokens:
        raise UserError(
            f"method={config.method}: {config.model} has learned tokens beside its text already. "
            "Tune the model that it was tuned from, or tune this one by another method."
        )
    if config.method == "memory":
        take_tokens(transformer, config.memory_tokens, 0)
        begin_memory(transformer, keyed_generator(config.seed, "memory"))
        return
    text = "it" if config.embedding is None else config.embedding
    words = clean_prompt(text)
    ids = pipeline.tokenizer(words, add_special_tokens=False).input_ids if words else []
    limit = pipeline.config.max_sequence_length
    if not 0 < len(ids) <= limit:
        raise UserError(
            f"embedding={text[:60]!r}: {len(ids)} tokens to begin with. Give words "
            f"of at least one and at most {limit}."
        )
    with torch.no_grad():
        rows = encode_alone(pipeline.text_encoder, ids)
        if config.method == "motion":
            stride = pipeline.vae.config.scale_factor_temporal
            empty = len(pipeline.tokenizer("").input_ids)
            frames = data_frames or pipeline.config.num_frames
            take_tokens(transformer, 0, *motion_tokens(config, frames, stride, empty))
            begin_motion(transformer, rows[0], keyed_generator(config.seed, "motion"))
            return
        take_tokens(transformer, 0, len(rows))
        transformer.condition_embedder.prefix.tokens.copy_(rows)
