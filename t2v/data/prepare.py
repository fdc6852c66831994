"""From the clips of a manifest to tensors in a cache, with a verdict for every clip."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor
from tqdm import tqdm

from t2v.config import ClipsConfig
from t2v.data.buckets import Bucket, bucket_lengths, bucket_sizes
from t2v.data.cache import Cache, digest
from t2v.data.curriculum import Item
from t2v.data.decode import VERSION, Transform, file_hashes, read_clips
from t2v.errors import UserError
from t2v.manifest import Clip, read_manifest

logger = logging.getLogger(__name__)

DROPPED_BY = "data"  # what a clip that cannot be used is said to be dropped by


@dataclass(frozen=True)
class Encoder:
    """What turns the frames of a clip into the tensor that is kept, `c t h w`.

    Args:
        name: a hash of all that decides the result beside the frames.
        run: frames `t h w c` uint8 to the tensor.
        temporal: frames a step of its time axis stands for; the first stands for one.
        spatial: pixels a step of its height and width stands for.
        stride: clips have a multiple of it plus one frames.
        multiple: sides are whole multiples of it.
    """

    name: str
    run: Callable[[np.ndarray], Tensor]
    temporal: int
    spatial: int
    stride: int
    multiple: int

    def steps(self, num_frames: int) -> int:
        """How many steps of the time axis hold the first `num_frames` frames."""
        return (num_frames - 1) // self.temporal + 1

    def bucket(self, shape: tuple[int, ...]) -> Bucket:
        """The bucket whose clips give tensors of `shape`."""
        _, t, h, w = shape
        return Bucket((t - 1) * self.temporal + 1, h * self.spatial, w * self.spatial)


@dataclass(frozen=True)
class Prepared:
    """The clips of a manifest after reading: kept or dropped, and what was made of the kept."""

    clips: list[Clip]  # as many as there were, in their order
    texts: list[tuple[str, ...]]  # of each clip, the captions that can be used
    items: list[Item]  # of the kept clips; `clip` is an index into `clips`
    keys: list[str]  # of the items, in the cache
    cache: Cache

    def without(self, reasons: dict[int, str]) -> Prepared:
        """The same with some clips dropped, by their numbers, and the ledger brought up to date.

        Raises:
            UserError: no clip is left; the reasons are counted.
        """
        clips = [
            clip.drop(DROPPED_BY, reasons[number]) if number in reasons else clip
            for number, clip in enumerate(self.clips)
        ]
        paired = zip(self.items, self.keys, strict=True)
        left = [(item, key) for item, key in paired if item.clip not in reasons]
        write_ledger(self.cache.folder / "ledger.jsonl", clips)
        if all(clip.dropped for clip in clips):
            raise UserError(_nothing_left(clips))
        return replace(
            self, clips=clips, items=[item for item, _ in left], keys=[key for _, key in left]
        )


def prepare(data: str, config: ClipsConfig, encoder: Encoder, cache: Path) -> Prepared:
    """Read every clip of `data` that the cache does not hold, and keep what `encoder` makes of it.

    A clip that cannot be used is dropped with its reason, here and in `ledger.jsonl` of the cache;
    the others go on. What was done before a kill is not done again.

    Raises:
        UserError: no manifest, no clip that can be used (the reasons are counted), or settings
            that are missing or do not fit the VAE.
    """
    _require(data, config)
    clips = read_manifest(data)
    transforms = _transforms(config, encoder)
    sees_images = any(stage.image_ratio for stage in config.all_stages())
    with Cache(cache) as kept:
        clips = _identified(clips, config)
        keys = {
            resolution: [_key(clip, transform, encoder) for clip in clips]
            for resolution, transform in transforms.items()
        }
        reasons: dict[int, str] = {}
        for resolution, transform in transforms.items():
            missing = {
                number: key
                for number, (clip, key) in enumerate(zip(clips, keys[resolution], strict=True))
                if not clip.dropped and key not in kept
            }
            reasons |= _fill(clips, missing, transform, config, encoder, kept)
    items, item_keys, failed = [], [], {}
    for number, clip in enumerate(clips):
        found = [r for r in transforms if not clip.dropped and keys[r][number] in kept]
        buckets = [encoder.bucket(kept.shape(keys[r][number])) for r in found]
        if buckets and not sees_images and all(bucket.num_frames == 1 for bucket in buckets):
            reasons[number], found = "one frame only, and image_ratio=0 sees no images", []
        if not clip.dropped and not found:
            failed[number] = reasons[number]
        for resolution, bucket in zip(found, buckets, strict=False):
            items.append(Item(number, resolution, bucket))
            item_keys.append(keys[resolution][number])
    texts = [clip.texts() for clip in clips]
    return Prepared(clips, texts, items, item_keys, kept).without(failed)


def write_ledger(path: Path, clips: Sequence[Clip]) -> None:
    """One line for each clip that was given and cannot be used: path, start, end, reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("path", "start", "end", "dropped", "reason")
    rows = [{name: getattr(clip, name) for name in names} for clip in clips if clip.dropped]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    partial.replace(path)
    ours = [row for row in rows if row["dropped"] == DROPPED_BY]
    for row in ours[:10]:
        logger.warning("left out: %s: %s", row["path"], row["reason"])
    if len(ours) > 10:
        logger.warning("left out: %d more clips, see %s", len(ours) - 10, path)


def _nothing_left(clips: Sequence[Clip]) -> str:
    counted = Counter(f"{clip.dropped}: {clip.reason}" for clip in clips)
    most = "; ".join(f"{count} x {reason}" for reason, count in counted.most_common(5))
    return (
        f"None of the {len(clips)} clips can be used. {most}"
        f"{'; and more' if len(counted) > 5 else ''}. Mend the clips or the settings clips.*."
    )


def _require(data: str, config: ClipsConfig) -> None:
    missing = [
        f"clips.{name}"
        for name in ("fps", "resolution", "num_frames")
        if getattr(config, name) is None
    ]
    if missing:
        raise UserError(
            f"{', '.join(missing)}: not given, and the clips of {data} come in any size. "
            "Give them, for example clips.fps=8 clips.resolution=64 clips.num_frames=17."
        )


def _transforms(config: ClipsConfig, encoder: Encoder) -> dict[int, Transform]:
    """One for each resolution that a stage sees."""
    assert config.num_frames is not None
    lengths = bucket_lengths(config, config.num_frames, encoder.stride)
    transforms = {}
    for stage in config.all_stages():
        assert stage.resolution is not None
        sizes = bucket_sizes(stage.resolution, config.aspects, encoder.multiple)
        transforms[stage.resolution] = Transform.of(config, sizes, lengths)
    return transforms


def _identified(clips: list[Clip], config: ClipsConfig) -> list[Clip]:
    """The clips with the hash of their files; one whose file is another than stated is dropped.

    A file that is gone keeps the hash its manifest states: its latents may still be there.
    """
    hashes = file_hashes((clip.path for clip in clips if not clip.dropped), config.workers)

    def identified(clip: Clip) -> Clip:
        found = hashes.get(clip.path)
        if clip.dropped or (found is None and clip.sha256):
            return clip
        if found is None:
            return clip.drop(DROPPED_BY, "the file is not there, or may not be read")
        if clip.sha256 and clip.sha256 != found:
            return clip.drop(DROPPED_BY, "the file is not the one of the manifest (sha256)")
        return replace(clip, sha256=found)

    return [identified(clip) for clip in clips]


def _key(clip: Clip, transform: Transform, encoder: Encoder) -> str:
    span = (clip.sha256, float(clip.start), clip.end and float(clip.end), clip.extra.get("crop"))
    return digest(VERSION, encoder.name, sorted(asdict(transform).items()), span)


def _fill(
    clips: list[Clip],
    missing: dict[int, str],
    transform: Transform,
    config: ClipsConfig,
    encoder: Encoder,
    cache: Cache,
) -> dict[int, str]:
    """Put the clips that are missing, by number and key, into the cache; why some cannot be."""
    if not missing:
        return {}
    logger.info("Reading %d of %d clips to %s", len(missing), len(clips), cache.folder)
    reasons: dict[int, str] = {}
    numbers = list(missing)
    results = read_clips([clips[number] for number in numbers], transform, config)
    with tqdm(total=len(missing), unit=" clips", desc="encode", disable=None) as bar:
        for done, (position, frames) in enumerate(results, start=1):
            number = numbers[position]
            if isinstance(frames, str):
                reasons[number] = frames
            elif (
                tensor := encoder.run(frames)
            ).is_floating_point() and not tensor.isfinite().all():
                reasons[number] = "its latents are not finite; precision=fp32 may help"
            else:
                cache.add(missing[number], tensor)
            bar.update()
            if bar.disable and (done % 100 == 0 or done == len(missing)):  # no terminal
                logger.info("read %d of %d clips", done, len(missing))
    return reasons
