"""A dataset as a training sees it: tensors, captions, and the batches they make."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from diffusers import AutoencoderKLWan
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.config.data import ClipsConfig
from t2v.data.buckets import Bucket, bucket_lengths
from t2v.data.cache import Cache, weights_digest
from t2v.data.curriculum import Curriculum, Draw, Item, by_shape
from t2v.data.latents import encode_folder, latents_name
from t2v.data.prepare import Encoder, Prepared, prepare
from t2v.data.world_shards import pixels, read_rows, train_count
from t2v.errors import UserError
from t2v.io.hashes import digest
from t2v.io.manifest import MANIFEST, Clip
from t2v.models.device import ready
from t2v.models.text import count_tokens
from t2v.models.vae import AutoencoderKLT2V

logger = logging.getLogger(__name__)

VAE: TypeAlias = AutoencoderKLT2V | AutoencoderKLWan
HELD_OUT = "held_out"  # the value of a row's "split" that keeps it for validation
HELD_OUT_AT_ONCE = 64  # or the batch of training, which is known to fit


@dataclass(frozen=True)
class Dataset:
    """Clips as tensors `c t h w` of a few shapes, with what a training needs of them.

    Args:
        rows: of every clip, with its captions; those held out come last. `Item.clip` counts them.
        train_count: how many of the rows are trained on.
        items: what a batch is made of.
        tensors: of each item.
        temporal: frames a step of their time axis stands for.
        count: how many of the items are trained on; they come first.
        train: the batches of the steps.
        held_out: batches of one shape each, whole clips: all that is kept for validation.
        sizes: fps, height, width and num_frames that a model trained on it makes by default.
        sources: hashes of all of it; a run that goes on must find the same.
    """

    rows: list[dict[str, Any]]
    train_count: int
    items: Sequence[Item]
    tensors: Tensor | _Cached
    temporal: int
    count: int
    train: Curriculum
    held_out: tuple[Draw, ...]
    sizes: dict[str, Any]
    sources: dict[str, str]

    def read(self, draw: Draw) -> Tensor:
        """The tensors of a draw, `b c t h w`."""
        steps = (draw.num_frames - 1) // self.temporal + 1
        return torch.stack([self.tensors[item][:, :steps] for item in draw.items.tolist()])

    def largest(self) -> Tensor:
        """The tensor `c t h w` of the largest item that is trained on."""
        return self.tensors[max(range(self.count), key=lambda n: math.prod(self.items[n].bucket))]

    def training(self, at_once: int) -> tuple[Draw, ...]:
        """Every item that is trained on once, whole, in batches of one shape each."""
        buckets = [item.bucket for item in self.items[: self.count]]
        return by_shape(list(enumerate(buckets)), at_once)

    def clips(self, draw: Draw) -> Tensor:
        """The rows of a draw's items, `b`."""
        return torch.tensor([self.items[item].clip for item in draw.items.tolist()])


class _Cached:
    """The tensors of items, read when asked for."""

    def __init__(self, cache: Cache, keys: Sequence[str]) -> None:
        self.cache, self.keys = cache, keys

    def __getitem__(self, item: int) -> Tensor:
        return self.cache.read(self.keys[item])


def is_world(data: str) -> bool:
    """Is it a folder of `t2v world`, whose clips lie in shards?"""
    manifest = Path(data) / MANIFEST
    if not manifest.is_file():
        return False
    with manifest.open(encoding="utf-8", errors="replace") as file:
        first = next((line for line in file if line.strip()), "")
    try:
        row = json.loads(first)
    except (ValueError, RecursionError):
        return False  # `read_manifest` will name the line
    return isinstance(row, dict) and str(row.get("shard")).endswith(".safetensors")


def filled(
    clips: ClipsConfig, data: str, *, fps: float, height: int, width: int, num_frames: int
) -> ClipsConfig:
    """The settings with a model's own rate and sizes where none are given, if `data` needs any."""
    if is_world(data):
        return clips
    resolution = round(math.sqrt(height * width))
    return clips.filled(fps=fps, resolution=resolution, num_frames=num_frames)


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
) -> Dataset:
    """The latents of a world folder or of a manifest: posterior means, float16, not normalised.

    What the cache lacks is encoded first. Clips of a manifest that cannot be used, also for want
    of a caption of at most `max_length` tokens, are left out with their reasons in a ledger.

    Args:
        data: a folder of `t2v world`, a manifest, or a folder of media with captions.
        clips: for a manifest, fps, resolution and num_frames must be filled in.
        held_out: how many of the last clips are kept for validation, unless rows of the manifest
            say `"split": "held_out"`; then these are.

    Raises:
        UserError: see `prepare` and `encode_folder`; or nothing is left to train or validate on.
    """
    if is_world(data):
        train_count(len(read_rows(data)), held_out)  # before the long work
        latents = encode_folder(vae, data, precision)
        sources = {"latents": latents_name(vae, data, precision)}
        return world_dataset(data, clips, latents, sources, vae, batch_size, held_out, seed)
    encoder = latents_encoder(vae, precision)
    prepared = prepare(data, clips, encoder, cache_folder(data, clips))
    prepared = with_captions(prepared, tokenizer, max_length)
    return _dataset(prepared, clips, encoder, batch_size, held_out, seed)


def load_frames(
    data: str, clips: ClipsConfig, vae: VAE, *, batch_size: int, held_out: int, seed: int
) -> Dataset:
    """The clips of a manifest as uint8 frames, read once and kept in the cache.

    Raises:
        UserError: see `prepare`; or nothing is left to train or validate on.
    """
    encoder = frames_encoder(vae)
    prepared = prepare(data, clips, encoder, cache_folder(data, clips))
    return _dataset(prepared, clips, encoder, batch_size, held_out, seed)


def cache_folder(data: str, clips: ClipsConfig) -> Path:
    """Where the tensors of a manifest lie."""
    if clips.cache is not None:
        return Path(clips.cache)
    return (Path(data) if Path(data).is_dir() else Path(data).parent) / "latents"


def latents_encoder(vae: VAE, precision: str) -> Encoder:
    """Posterior means in float16, one clip at a time, so that the bits depend on nothing else."""
    settings = {
        name: value
        for name, value in vae.config.items()
        if not name.startswith("_") and name not in ("latents_mean", "latents_std")
    }

    @torch.no_grad()
    def run(frames: np.ndarray) -> Tensor:
        device = ready(vae)
        video = pixels(torch.from_numpy(frames)[None].to(device))
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            posterior = vae.encode(video).latent_dist
        return posterior.mean[0].half().cpu().contiguous()

    name = digest("latents", weights_digest(vae), sorted(settings.items()), precision)
    temporal, spatial = vae.config.scale_factor_temporal, vae.config.scale_factor_spatial
    return Encoder(name, run, temporal, spatial, temporal, 2 * spatial)


def frames_encoder(vae: VAE) -> Encoder:
    """Frames as they are, in the shapes that `vae` takes."""

    def run(frames: np.ndarray) -> Tensor:
        return rearrange(torch.from_numpy(frames), "t h w c -> c t h w").contiguous()

    config = vae.config
    return Encoder(
        "frames", run, 1, 1, config.scale_factor_temporal, 2 * config.scale_factor_spatial
    )


def with_captions(
    prepared: Prepared, tokenizer: PreTrainedTokenizerBase, max_length: int
) -> Prepared:
    """The same without captions that are too long, and without clips that have none left.

    Raises:
        UserError: no clip is left.
    """
    texts, reasons = [], {}
    for number, clip in enumerate(prepared.clips):
        counts = {text: count_tokens(tokenizer, text) for text in prepared.texts[number]}
        texts.append(tuple(text for text, count in counts.items() if count <= max_length))
        if not counts and not clip.dropped:
            reasons[number] = 'no caption: give one in "caption", or in a .txt beside it'
        elif not texts[-1] and not clip.dropped:
            least = min(counts.values())
            reasons[number] = f"long caption: {least} tokens, {max_length} fit the model"
    return replace(prepared, texts=texts).without(reasons)


def world_dataset(
    data: str,
    clips: ClipsConfig,
    tensors: Tensor,
    sources: dict[str, str],
    vae: VAE,
    batch_size: int,
    held_out: int,
    seed: int,
) -> Dataset:
    """The clips of a world folder, all of one shape; the last `held_out` are for validation.

    Raises:
        UserError: settings that its clips cannot follow.
    """
    given = [n for n in ("fps", "resolution", "num_frames") if getattr(clips, n) is not None]
    given += ["stages.resolution" for stage in clips.stages if stage.resolution is not None]
    if given:
        raise UserError(
            f"clips.{given[0]} is given, but {data} is a folder of `t2v world`, whose clips have "
            "one size and rate. Omit it, or render the world anew."
        )
    rows = read_rows(data)
    sizes = {name: rows[0][name] for name in ("fps", "height", "width", "num_frames")}
    bucket = Bucket(sizes["num_frames"], sizes["height"], sizes["width"])
    items = [Item(number, None, bucket) for number in range(len(rows))]
    count = train_count(len(rows), held_out)
    stride = vae.config.scale_factor_temporal
    lengths = bucket_lengths(clips, bucket.num_frames, stride)
    curriculum = Curriculum(items[:count], clips.all_stages(), lengths, batch_size, seed)
    rest = torch.arange(count, len(rows)).split(min(HELD_OUT_AT_ONCE, batch_size))
    held = tuple(Draw(items, bucket.num_frames) for items in rest)
    return Dataset(rows, count, items, tensors, stride, count, curriculum, held, sizes, sources)


def _dataset(
    prepared: Prepared,
    clips: ClipsConfig,
    encoder: Encoder,
    batch_size: int,
    held_out: int,
    seed: int,
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
    assert clips.num_frames is not None
    lengths = bucket_lengths(clips, clips.num_frames, encoder.stride)
    train = Curriculum(items[:count], stages, lengths, batch_size, seed)
    last = [(n, i.bucket) for n, i in enumerate(items) if i.resolution == stages[-1].resolution]
    at_once = min(HELD_OUT_AT_ONCE, batch_size)
    validated = by_shape([each for each in last if each[0] >= count], at_once)
    if not validated:
        raise UserError(
            f"None of the {len(kept) - trained} clips held out is large enough for the last stage. "
            'Hold out others: raise held_out, or mark rows with "split": "held_out".'
        )
    usual = Counter(bucket for number, bucket in last if number < count).most_common(1)[0][0]
    sizes = {"fps": clips.fps} | usual._asdict()
    sources = {"clips": digest(keys, count, [rows[item.clip]["captions"] for item in items])}
    tensors = _Cached(prepared.cache, keys)
    return Dataset(
        rows, trained, items, tensors, encoder.temporal, count, train, validated, sizes, sources
    )


def _held_out_last(
    numbers: list[int], clips: Sequence[Clip], held_out: int
) -> tuple[list[int], int]:
    """Clips to train on, then those kept for validation: as rows say, else the last; the count."""
    marked = [number for number in numbers if clips[number].extra.get("split") == HELD_OUT]
    count = train_count(len(numbers), len(marked) or held_out)
    if marked:
        logger.info("%d clips are held out as their rows say", len(marked))
        numbers = [number for number in numbers if number not in set(marked)] + marked
    return numbers, count


def _row(clip: Clip, texts: Sequence[str]) -> dict[str, Any]:
    said = {"caption": clip.caption, "captions": texts}
    rights = {"source": clip.source, "license": clip.license}
    return {"path": clip.path, "start": clip.start} | said | rights
