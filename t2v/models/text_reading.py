"""The way text encoders are read: which layers, whitened, how wide, pooled, and two at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from einops import einsum
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.config.text import TextEncoderConfig
from t2v.errors import UserError
from t2v.io.prompt_words import clean_prompt
from t2v.models.load import load_text
from t2v.models.text import encode_alone
from t2v.models.text_networks import (
    TextPair,
    TextPairConfig,
    TextReading,
    TextReadingConfig,
    settings_of,
)
from t2v.models.text_tokenizers import TokenizerPair

SEEN = 2000  # captions that a whitening is fitted to, evenly spread over all
LEAST = 1e-4  # variance of a direction, relative to the largest, that is still scaled up to 1

TextParts = tuple[PreTrainedTokenizerBase, PreTrainedModel]


def read_as(
    text: TextParts, config: TextEncoderConfig, captions: Sequence[str] | None = None
) -> TextParts:
    """Return a tokenizer and its text encoder as `config` has them read.

    The encoder itself is changed: layers above the topmost that is read leave it.

    Args:
        captions: what a whitening is fitted to, see `whitening`; None: it is left out of the
            weights, which then have the right sizes alone.

    Raises:
        UserError: there is no such layer, `width` is too wide, there are too few captions, or see
            `load_text` for `config.second`.
    """
    tokenizer, encoder = text
    depth, full = depth_of(encoder), encoder.config.hidden_size
    layers = sorted(n if n >= 0 else depth + 1 + n for n in config.layer)
    if layers[0] < 0 or layers[-1] > depth or len(set(layers)) < len(layers):
        raise UserError(
            f"text_encoder.layer={list(config.layer)}: this {type(encoder).__name__} has {depth} "
            f"layers. Give different numbers from 0 to {depth}, or from -{depth + 1} to -1."
        )
    width = full if config.width is None else config.width
    if width > full:
        raise UserError(
            f"text_encoder.width={width}: this {type(encoder).__name__} is {full} wide. Give at "
            f"most {full}, or leave it out."
        )
    shorten(encoder, max(layers[-1], min(depth, 1)))
    averages = None if layers == [depth_of(encoder)] else layers
    if averages or width < full or config.whiten or config.pooled:
        encoder = _reading(text, averages, width, config, captions)
    if config.second is not None:
        tokenizer, encoder = joined((tokenizer, encoder), load_text(config.second))
    return tokenizer, encoder


def _reading(
    text: TextParts,
    layers: list[int] | None,
    width: int,
    config: TextEncoderConfig,
    captions: Sequence[str] | None,
) -> TextReading:
    tokenizer, encoder = text
    about = encoder.config
    sizes = {"hidden_size": about.hidden_size, "vocab_size": about.vocab_size}
    with torch.device("meta"):  # the encoder takes the place of the one that is built
        settings = TextReadingConfig(encoder=settings_of(encoder), layers=layers, **sizes)
        reading = TextReading(settings)
    reading.encoder = encoder
    if config.whiten:
        mean, matrix = torch.zeros(about.hidden_size), torch.eye(about.hidden_size, width)
        if captions is not None:
            mean, matrix = whitening(tokenizer, reading, captions, width)
        mean, matrix = (each.to(encoder.device, encoder.dtype) for each in (mean, matrix))
        reading.register_buffer("mean", mean)
        reading.register_buffer("whitening", matrix.contiguous())
    settings.whiten, settings.pooled, settings.hidden_size = config.whiten, config.pooled, width
    return reading.train(encoder.training)


def joined(one: TextParts, other: TextParts) -> TextParts:
    """Return two text encoders, each with its tokenizer, as one."""
    offset = max(len(one[0]), one[1].config.vocab_size)
    second = other[1].to(one[1].device, one[1].dtype)
    return TokenizerPair(one[0], other[0], offset), pair_of(one[1], second, offset)


def pair_of(first: PreTrainedModel, second: PreTrainedModel, offset: int) -> TextPair:
    """Return two text encoders as one; the tokens of the second begin at `offset`."""
    settings = TextPairConfig(
        first=settings_of(first),
        second=settings_of(second),
        offset=offset,
        hidden_size=max(first.config.hidden_size, second.config.hidden_size),
        vocab_size=offset + second.config.vocab_size,
    )
    with torch.device("meta"):  # the two take the places of those that are built
        pair = TextPair(settings)
    pair.first, pair.second = first, second
    return pair.train(first.training)


def shorten(encoder: PreTrainedModel, layers: int) -> None:
    """Take the layers above the first `layers` out of an encoder of transformers, for good.

    Its last norm follows the layer that is then the last one, as it does for `clip_skip` in
    diffusers.

    Raises:
        UserError: its layers are not in one list, as those of ALBERT.
    """
    if layers == depth_of(encoder):
        return
    place, whole = _layers(encoder)
    encoder.set_submodule(place, whole[:layers])
    parts = [each for each in encoder.modules() if isinstance(each, PreTrainedModel)]
    for config in {id(each.config): each.config for each in parts}.values():
        config.num_hidden_layers = layers


@contextmanager
def shortened(encoder: PreTrainedModel, layers: int) -> Iterator[None]:
    """Inside, an encoder of transformers computes its first `layers` layers alone."""
    if layers == depth_of(encoder):
        yield
        return
    place, whole = _layers(encoder)
    encoder.set_submodule(place, whole[:layers])
    try:
        yield
    finally:
        encoder.set_submodule(place, whole)


def _layers(encoder: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of an encoder's layers, and where it is."""
    depth = depth_of(encoder)
    lists = {
        name: each
        for name, each in encoder.named_modules()
        if isinstance(each, nn.ModuleList) and len(each) == depth
    }
    # a layer may hold as many parts as there are layers
    outer = [name for name in lists if not any(name.startswith(f"{each}.") for each in lists)]
    if len(outer) != 1:
        raise UserError(
            f"text_encoder.layer: {type(encoder).__name__} has its {depth} layers in "
            f"{len(outer)} lists, and one is needed to leave some out. Average up to the last one "
            "(layer=[1,-1]), or leave it out."
        )
    return outer[0], lists[outer[0]]


@torch.no_grad()
def whitening(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    captions: Sequence[str],
    width: int,
) -> tuple[Tensor, Tensor]:
    """Return the mean `d` of the tokens of captions, and the matrix `d width` that whitens them, in
    double precision.

    WhiteningBERT (arXiv 2104.01767, equation 2): `U D^-1/2` of the covariance `U D U^T`, the
    strongest directions first, so that its first columns are the principal components. Directions
    that hold next to nothing are not scaled up to 1.

    Args:
        captions: texts like those that will be read; of more than `SEEN`, as many of them.

    Raises:
        UserError: their tokens are not more than `width`.
    """
    texts = sorted({clean_prompt(each) for each in captions})
    texts = texts[:: -(-len(texts) // SEEN)] if texts else []
    ids = [tokenizer(each).input_ids for each in texts]
    count = sum(map(len, ids))
    if count <= width:
        raise UserError(
            f"text_encoder.whiten=true: the captions have {count} tokens, and to tell "
            f"{width} directions takes more than {width}. Give more captions, a smaller "
            "text_encoder.width, or leave it out."
        )
    rows = torch.cat([encode_alone(encoder, each).double() for each in ids])
    mean = rows.mean(0)
    covariance = einsum(rows - mean, rows - mean, "n d, n e -> d e") / count
    strength, directions = torch.linalg.eigh(covariance)  # the weakest first
    strength, directions = strength.flip(0), directions.flip(1)
    signs = directions.gather(0, directions.abs().argmax(0, keepdim=True)).sign()  # by chance else
    scale = strength.clamp(min=float(strength[0]) * LEAST).rsqrt()
    return mean, (directions * signs * scale)[:, :width]


def depth_of(encoder: PreTrainedModel) -> int:
    """Return the number of an encoder's layers; 0 where it has none, or says none."""
    return int(getattr(encoder.config, "num_hidden_layers", 0))
