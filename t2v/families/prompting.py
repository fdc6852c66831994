"""Signs in the prompts of another package's pipeline, read where it embeds them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError, shortened
from t2v.models.text import count_tokens
from t2v.prompting.embed import token_weights, weighted
from t2v.prompting.syntax import Blend, Clause, Scene, has_signs, parse

# encoders whose rows are the tokens of the prompt, from its first one on; others are told a
# prompt within a conversation
OF_TOKENS = ("T5EncoderModel", "UMT5EncoderModel")

Embed = Callable[[str], tuple[Any, ...]]  # a text as `encode_prompt` gives it


def check(pipeline: DiffusionPipeline, config: PromptingConfig, prompt: str, negative: str) -> None:
    """Raise `UserError` for what a pipeline's embeddings cannot be made to say."""
    name = type(pipeline).__name__
    if config.long != "refuse":
        raise UserError(
            f"prompting.long={config.long}: a {name} takes a fixed number of tokens. Shorten the "
            "prompt, and leave it out."
        )
    if has_signs(parse(negative) if negative.strip() else parse("-")):
        raise UserError(
            f"negative_prompt={shortened(negative, 60)!r}: a {name} reads no signs in it. Leave "
            r"weights and blends out, or write plain signs as \( and \)."
        )
    scenes = parse(prompt)
    if not has_signs(scenes):
        return
    if len(scenes) > 1:
        raise UserError(
            f"prompt {shortened(prompt, 60)!r}: a {name} has one text for the whole film. Leave "
            "the times out, or tell its scenes as a story: --story FILE."
        )
    if not hasattr(pipeline, "encode_prompt"):
        raise UserError(f"prompt: a {name} embeds prompts within its call. Leave the signs out.")
    weighs = any(clause.spans for clause in scenes[0].clauses)
    if (weighs or len(scenes[0].blends) > 1) and not _is_of_tokens(pipeline):
        encoder = type(getattr(pipeline, "text_encoder", None)).__name__
        raise UserError(
            f"prompt {shortened(prompt, 60)!r}: the rows of a {encoder} in a {name} are not the "
            "tokens of the prompt alone, so none is weighted or put beside others. Blends, as in "
            "A @0.5 B, are taken."
        )


@contextmanager
def read_by(pipeline: Any, config: PromptingConfig) -> Iterator[None]:
    """Have a pipeline embed prompts by their signs while the block calls it, one at a time."""
    if not hasattr(pipeline, "encode_prompt"):
        yield
        return
    plain, is_own = pipeline.encode_prompt, "encode_prompt" in vars(pipeline)
    signature = inspect.signature(getattr(plain, "method", plain))  # of one whose results are kept

    def encode_prompt(*args: Any, **options: Any) -> Any:
        given = signature.bind(*args, **options).arguments
        texts = given.get("prompt")
        (text,) = texts if isinstance(texts, list) else [texts]
        if not isinstance(text, str) or not text.strip():
            return plain(**given)
        (scene,) = parse(text)

        def embed(words: str) -> Any:
            return plain(**given | {"prompt": [words] if isinstance(texts, list) else words})

        return _scene(pipeline, scene, embed)

    encode_prompt.__signature__ = signature  # type: ignore[attr-defined]
    pipeline.encode_prompt = encode_prompt
    try:
        yield
    finally:
        if is_own:
            pipeline.encode_prompt = plain
        else:
            del pipeline.encode_prompt


def _is_of_tokens(pipeline: Any) -> bool:
    return type(getattr(pipeline, "text_encoder", None)).__name__ in OF_TOKENS


def _scene(pipeline: Any, scene: Scene, embed: Embed) -> Any:
    found, count = None, 0
    for blend in scene.blends:
        own = _blend(pipeline, blend, embed)
        if len(scene.blends) == 1:
            return own
        length = max(
            count_tokens(pipeline.tokenizer, clause.text) for clause in Scene((blend,)).clauses
        )
        found = own if found is None else _beside(found, count, own, length)
        count += length
    return found


def _blend(pipeline: Any, blend: Blend, embed: Embed) -> Any:
    found = _clause(pipeline, blend.first, embed)
    for share, clause in blend.others:
        other = _clause(pipeline, clause, embed)
        if share in (0, 1):
            found = other if share else found
        else:
            found = _each(found, other, partial(_mixed, share=share))
    return found


def _clause(pipeline: Any, clause: Clause, embed: Embed) -> Any:
    made = embed(clause.text)
    if not clause.spans:
        return made
    first, *rest = made
    weights = torch.ones(first.shape[1])
    told = list(token_weights(pipeline.tokenizer, clause, 0, clause.text))[: len(weights)]
    weights[: len(told)] = torch.tensor(told)
    return (torch.stack([weighted(row, weights) for row in first]), *rest)


def _mixed(one: Tensor, other: Tensor, share: float) -> Tensor:
    if one.shape != other.shape:
        raise UserError(
            f"prompt: the texts of a blend have embeddings of shapes {tuple(one.shape)} and "
            f"{tuple(other.shape)} here, which do not mix. Leave @{share:g} out."
        )
    if one.is_floating_point() and one.ndim > 1 and not _is_mask(one):
        return torch.lerp(one, other, share)
    return torch.maximum(one, other)  # masks: what either attends to


def _is_mask(tensor: Tensor) -> bool:
    return tensor.ndim == 2 and bool(((tensor == 0) | (tensor == 1)).all())


def _beside(one: Any, count: int, other: Any, length: int) -> Any:
    """A result whose first `length` tokens stand behind `count` of another; what is of the negative
    prompt is the same in both."""
    size = one[0].shape[1]
    if count + length > size:
        raise UserError(
            f"prompt: its parts take {count + length} tokens together and {size} fit. Shorten them."
        )
    has_mask = len(one) > 1 and isinstance(one[1], Tensor) and _is_mask(one[1])
    own = 2 if has_mask else 1  # the embeddings of the prompt come first, and its mask behind them
    joined = [
        torch.cat([a[:, :count], b[:, :length], a[:, count + length :]], dim=1)
        for a, b in zip(one[:own], other[:own], strict=True)
    ]
    return (*joined, *one[own:])


def _each(one: Any, other: Any, change: Callable[[Tensor, Tensor], Tensor]) -> Any:
    """Two results of `encode_prompt` with each pair of their tensors made one."""
    match one:
        case Tensor():
            return change(one, other)
        case list() | tuple():
            return type(one)(_each(a, b, change) for a, b in zip(one, other, strict=True))
        case dict():
            return {name: _each(each, other[name], change) for name, each in one.items()}
    return one
