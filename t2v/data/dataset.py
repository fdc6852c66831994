"""Datasets for training: tensors, captions, and the batches they make."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.config.data import ClipsConfig
from t2v.data.buckets import bucket_lengths
from t2v.data.cache import Cache
from t2v.data.captions import token_counts
from t2v.data.curriculum import BatchItems, Curriculum, Item, by_shape
from t2v.data.dropped import NO_CAPTION
from t2v.data.latents import VAE, ClipEncoder, latents_encoder, latents_name
from t2v.data.motion_words import with_motion
from t2v.data.prepare import Prepared, Rendered, prepare, refuse_sizes
from t2v.errors import UserError
from t2v.io.files import digest
from t2v.io.manifest import (
    NEEDS_GIVEN,
    REFERRING,
    SUBJECTS,
    Clip,
    is_rendered,
    manifest_of,
    read_manifest,
)

logger = logging.getLogger(__name__)

HELD_OUT = "held_out"  # the value of a row's "split" that keeps it for validation
HELD_OUT_AT_ONCE = 64  # or the batch of training, which is known to fit


@dataclass(frozen=True)
class Dataset:
    """Clips as tensors `c t h w` of a few shapes, their captions, and their batches.

    Args:
        rows: of every clip, with its captions; those held out come last. `Item.clip` counts them.
        train_count: the number of rows that are trained on.
        items: the cached tensors that batches are made of.
        tensors: of each item.
        masks: of each item, `t h w` uint8, the coverage by objects from 0 to 255; None where it is
            not known.
        temporal: frames that a step of their time axis stands for.
        count: the number of items that are trained on; they come first.
        train: the batches of the steps.
        held_out: batches of one shape each, whole clips: all that is kept for validation.
        sizes: fps, height, width and num_frames that a model trained on it makes by default.
        sources: hashes of all of it; a run that is resumed must find the same.
    """

    rows: list[dict[str, Any]]
    train_count: int
    items: Sequence[Item]
    tensors: CachedTensors
    masks: list[Tensor] | None
    temporal: int
    count: int
    train: Curriculum
    held_out: tuple[BatchItems, ...]
    sizes: dict[str, Any]
    sources: dict[str, str]

    def read(self, batch: BatchItems) -> Tensor:
        """The tensors of a batch, `b c t h w`."""
        steps = (batch.num_frames - 1) // self.temporal + 1
        return torch.stack([self.tensors[item][:, :steps] for item in batch.indices.tolist()])

    def longest(self) -> list[tuple[int, ...]]:
        """The sizes (frames, height, width) of all items that are trained on, each once."""
        buckets = Counter(tuple(item.bucket) for item in self.items[: self.count])
        return [size for size, _ in buckets.most_common()]

    def largest(self) -> Tensor:
        """The tensor `c t h w` of the largest item that is trained on."""
        return self.tensors[max(range(self.count), key=lambda n: math.prod(self.items[n].bucket))]

    def training(self, at_once: int) -> tuple[BatchItems, ...]:
        """Every item that is trained on once, whole, in batches of one shape each."""
        buckets = [item.bucket for item in self.items[: self.count]]
        return by_shape(list(enumerate(buckets)), at_once)

    def clips(self, batch: BatchItems) -> Tensor:
        """The rows of a batch's items, `b`."""
        return torch.tensor([self.items[item].clip for item in batch.indices.tolist()])


class CachedTensors:
    """The tensors of items, read when asked for."""

    def __init__(self, cache: Cache, keys: Sequence[str]) -> None:
        self.cache, self.keys = cache, keys

    def __getitem__(self, item: int) -> Tensor:
        return self.cache.read(self.keys[item])


def load_latents(
    data: str,
    clips: ClipsConfig,
    vae: VAE,
    tokenizer: PreTrainedTokenizerBase,
    *,
    precision: str,
    max_length: int,
    batch_size: int,
    held_out: int,
    seed: int,
    sizes: Mapping[str, Any] | None = None,
    motion_words: bool = False,
) -> Dataset:
    """Load the latents of clips: posterior means, float16, not normalised.

    Those that the cache lacks are encoded first. Clips that cannot be used, also for want of a
    caption of at most `max_length` tokens, are left out; a ledger lists them with the reasons.

    Args:
        data: a folder of `t2v world`, a manifest, or a folder of media with captions.
        clips: for media, fps, resolution and num_frames must be given, here or by `sizes`.
        held_out: the number of clips kept for validation, the last ones; where rows of the manifest
            say `"split": "held_out"`, those.
        sizes: `SIZES` of a saved model, which media takes where `clips` gives none.
        motion_words: each caption stands there again with the words of `with_motion`.

    Raises:
        UserError: see `prepare` and `with_captions`; or nothing is left to train or validate on.
    """
    encoder = latents_encoder(vae, precision)
    rendered = _rendered_latents(data, vae, precision) if is_rendered(data) else None
    if rendered is None and sizes:
        clips = clips.filled(**sizes)
    prepared = prepare(data, clips, encoder, cache_folder(data, clips), rendered)
    prepared = with_captions(prepared, tokenizer, max_length, motion_words=motion_words)
    return _dataset(prepared, clips, encoder, batch_size, held_out, seed)


def _rendered_latents(data: str, vae: VAE, precision: str) -> Rendered:
    name = latents_name(vae, manifest_of(data), precision)
    before = manifest_of(data).with_name(name)  # as earlier versions kept all of them
    latents = load(before.read_bytes())["latents"] if before.is_file() else None
    return Rendered({"latents": name}, latents)


def load_frames(
    data: str,
    clips: ClipsConfig,
    encoder: ClipEncoder,
    *,
    batch_size: int,
    held_out: int,
    seed: int,
    rendered: Rendered | None = None,
    at_once: int = HELD_OUT_AT_ONCE,
) -> Dataset:
    """Load clips as uint8 frames; those of media are read once and kept in the cache.

    Args:
        encoder: one that keeps frames: `frames_encoder` or `plain_frames`.
        rendered: of a folder of `t2v world`, with its frames.
        at_once: clips of a held-out batch, at most.

    Raises:
        UserError: see `prepare`; or nothing is left to train or validate on.
    """
    prepared = prepare(data, clips, encoder, cache_folder(data, clips), rendered)
    return _dataset(prepared, clips, encoder, batch_size, held_out, seed, at_once)


def cache_folder(data: str, clips: ClipsConfig) -> Path:
    """The folder of the cached tensors of a manifest."""
    if clips.cache is not None:
        return Path(clips.cache)
    return manifest_of(data).parent / "latents"


def with_captions(
    prepared: Prepared,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    motion_words: bool = False,
) -> Prepared:
    """Leave out captions that are too long, and clips without any caption left.

    Raises:
        UserError: no clip is left; or none has tags of motion.
    """
    if motion_words:
        told = zip(prepared.texts, prepared.clips, strict=True)
        told_motion = [with_motion(each, clip.tags) for each, clip in told]
        if told_motion == prepared.texts:
            raise UserError(
                "motion_words=true: no clip has tags of motion. `t2v curate` writes them; or leave "
                "it out."
            )
        prepared = replace(prepared, texts=told_motion)
    counted = token_counts(tokenizer, (text for texts in prepared.texts for text in texts))
    texts, reasons = [], {}
    for number, clip in enumerate(prepared.clips):
        found = prepared.texts[number]
        if not clip.is_rendered:  # theirs may repeat, and are chosen as often as they are there
            found = tuple(dict.fromkeys(found))
        texts.append(tuple(text for text in found if counted[text] <= max_length))
        if not found and not clip.dropped:
            reasons[number] = NO_CAPTION
        elif not texts[-1] and not clip.dropped:
            least = min(counted[text] for text in found)
            reasons[number] = f"long caption: {least} tokens, {max_length} fit the model"
    return replace(prepared, texts=texts).without(reasons)


def _dataset(
    prepared: Prepared,
    clips: ClipsConfig,
    encoder: ClipEncoder,
    batch_size: int,
    held_out: int,
    seed: int,
    at_once: int = HELD_OUT_AT_ONCE,
) -> Dataset:
    kept = [number for number, clip in enumerate(prepared.clips) if not clip.dropped]
    kept, trained = _held_out_last(kept, prepared.clips, held_out)
    rows = [_row(prepared.clips[number], prepared.texts[number]) for number in kept]
    position = {number: place for place, number in enumerate(kept)}
    paired = [
        (item._replace(clip=position[item.clip]), key)
        for item, key in zip(prepared.items, prepared.keys, strict=True)
    ]
    paired.sort(key=lambda each: each[0].clip)
    items, keys = [item for item, _ in paired], [key for _, key in paired]
    count = sum(item.clip < trained for item in items)
    stages = clips.all_stages()
    longest = clips.num_frames or max(item.bucket.num_frames for item in items)
    lengths = bucket_lengths(clips, longest, encoder.stride)
    train = Curriculum(items[:count], stages, lengths, batch_size, seed)
    last = [(n, i.bucket) for n, i in enumerate(items) if i.resolution == stages[-1].resolution]
    unseen = [each for each in last if each[0] >= count]
    validated = by_shape(unseen, min(at_once, batch_size))
    if not validated:
        raise UserError(
            f"None of the {len(kept) - trained} clips held out is large enough for the last stage. "
            'Hold out others: raise held_out, or mark rows with "split": "held_out".'
        )
    usual = Counter(bucket for number, bucket in last if number < count).most_common(1)[0][0]
    sizes = {"fps": clips.fps or prepared.clips[kept[0]].fps} | usual._asdict()
    sources = {"clips": digest(keys, count, [rows[item.clip]["captions"] for item in items])}
    masks = None
    if prepared.rendered is not None:
        if prepared.is_whole:
            sources = prepared.rendered.sources  # as earlier versions stated them
        if prepared.rendered.masks is not None:
            masks = [prepared.rendered.masks[kept[item.clip]] for item in items]
    return Dataset(
        rows=rows,
        train_count=trained,
        items=items,
        tensors=CachedTensors(prepared.cache, keys),
        masks=masks,
        temporal=encoder.temporal,
        count=count,
        train=train,
        held_out=validated,
        sizes=sizes,
        sources=sources,
    )


def check_clips(data: str, held_out: int, config: ClipsConfig) -> None:
    """Refuse a number of held-out clips that leaves nothing, and sizes of clips that have their
    own, before any long work.

    Raises:
        UserError: see `read_manifest`, `train_count` and `refuse_sizes`.
    """
    if is_rendered(data):
        refuse_sizes(data, config)
    clips = [clip for clip in read_manifest(data) if not clip.dropped]
    marked = sum(clip.extra.get("split") == HELD_OUT for clip in clips)
    train_count(len(clips), marked or held_out)


def train_count(count: int, held_out: int) -> int:
    """Return the number of `count` clips to train on when `held_out` are kept for validation.

    Raises:
        UserError: one of the two parts would be empty.
    """
    if not 0 < held_out < count:
        raise UserError(
            f"held_out={held_out} of {count} clips leaves none to train on or none to hold out. "
            f"{f'Allowed: 1 to {count - 1}; or give' if count > 1 else 'Give'} more clips."
        )
    return count - held_out


def _held_out_last(
    numbers: list[int], clips: Sequence[Clip], held_out: int
) -> tuple[list[int], int]:
    """Put the clips kept for validation last, as rows say or the last; count the others."""
    marked = [number for number in numbers if clips[number].extra.get("split") == HELD_OUT]
    count = train_count(len(numbers), len(marked) or held_out)
    if marked:
        logger.info("%d clips are held out as their rows say", len(marked))
        numbers = [number for number in numbers if number not in set(marked)] + marked
    return numbers, count


def _row(clip: Clip, texts: Sequence[str]) -> dict[str, Any]:
    row = {"caption": clip.caption, "captions": texts, "source": clip.source}
    row["license"] = clip.license
    for name in ("scenes", NEEDS_GIVEN, SUBJECTS, REFERRING):
        if value := clip.extra.get(name):
            row[name] = value
    # a shard is no film that its clips were cut from
    return row if clip.is_rendered else {"path": clip.path, "start": clip.start} | row
