"""Prompts whose signs are read, as conditions of the transformer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from t2v.models.conditions import Conditions
from t2v.models.text import pad_text
from t2v.prompting.embed import TextReader
from t2v.prompting.times import FilmTimes

# of a scene: embeddings `m d`, and how many of the first ones may be attended to
Part = tuple[Tensor, int]


@torch.no_grad()
def conditions(
    reader: TextReader, prompts: Sequence[str], negatives: Sequence[str] | None, times: FilmTimes
) -> tuple[Conditions, Conditions | None]:
    """The conditions of prompts and, for guidance, of negative ones.

    The texts of a prompt's scenes stand one after the other, each padded to a multiple of
    `reader.limit`, and each latent frame may attend to that of its own scene alone. A negative
    prompt is the same in all scenes. Where every prompt is one text that fits there is no mask, and
    the bits are those of `T2VPipeline.encode_prompt`.

    Raises:
        UserError: a prompt cannot be read, or its scenes do not fit the film.
    """
    told, against, seen = list[list[Part]](), list[list[Part]](), list[list[int]]()
    for number, prompt in enumerate(prompts):
        scenes = reader.check(prompt)
        seen.append(times.scenes(scenes))
        texts = [reader.rows(scene) for scene in scenes]
        lengths = [_padded(reader, text) for text in texts]
        if negatives is not None:
            other = reader.rows(reader.check_negative(negatives[number]))
            own = _padded(reader, other)
            lengths = [max(each, own) for each in lengths]
            against.append([(pad_text(other, each), own) for each in lengths])
        told.append(
            [
                (pad_text(text, length), _padded(reader, text))
                for text, length in zip(texts, lengths, strict=True)
            ]
        )
    positive = _joined(told, seen)
    if negatives is None:
        return _simplest(positive)[0], None
    one, other_ = _simplest(positive, _joined(against, seen))
    return one, other_


def _padded(reader: TextReader, rows: Tensor) -> int:
    return max(1, -(-len(rows) // reader.limit)) * reader.limit


def _joined(parts: list[list[Part]], seen: list[list[int]]) -> Conditions:
    """Texts `b m d`, and who may attend to what, `b t m`."""
    texts = [torch.cat([text for text, _ in each]) for each in parts]
    length = max(map(len, texts))
    masks = []
    for each, frames in zip(parts, seen, strict=True):
        of_scene, first = torch.zeros(len(each), length, dtype=torch.bool), 0
        for number, (text, count) in enumerate(each):
            of_scene[number, first : first + count] = True
            first += len(text)
        masks.append(of_scene[frames])
    text = torch.stack([pad_text(each, length) for each in texts])
    return Conditions(text=text, text_mask=torch.stack(masks).to(text.device))


def _simplest(*pair: Conditions) -> list[Conditions]:
    """The same with masks that are no larger than needed: `b m`, or none."""
    masks = [each.text_mask for each in pair]
    assert all(mask is not None for mask in masks)
    if any(bool((mask != mask[:, :1]).any()) for mask in masks if mask is not None):
        return list(pair)
    flat = [mask[:, 0] for mask in masks if mask is not None]
    if all(bool(mask.all()) for mask in flat):
        return [replace(each, text_mask=None) for each in pair]
    return [replace(each, text_mask=mask) for each, mask in zip(pair, flat, strict=True)]
