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

from t2v.config.data import ClipsConfig
from t2v.data.buckets import Bucket, bucket_lengths, bucket_sizes
from t2v.data.cache import Cache
from t2v.data.curriculum import Item
from t2v.data.decode import VERSION, Transform, file_hashes, read_clips
from t2v.errors import UserError
from t2v.io.files import write_text
from t2v.io.hashes import digest
from t2v.io.manifest import Clip, read_manifest

logger = logging.getLogger(__name__)

WARNINGS = 10  # at most; the ledger has all
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
        _write_ledger(self.cache.folder / "ledger.jsonl", clips)
        for number, reason in list(reasons.items())[:WARNINGS]:
            logger.warning("left out: %s: %s", clips[number].path, reason)
        if len(reasons) > WARNINGS:
            logger.warning("left out: %d more, see ledger.jsonl", len(reasons) - WARNINGS)
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
    failed: dict[int, str] = {}
    sees_images = any(stage.image_ratio for stage in config.all_stages())
    with Cache(cache) as kept:
        clips, reasons = _identified(clips, config)
        keys = {
            resolution: [_key(clip, transform, encoder) for clip in clips]
            for resolution, transform in transforms.items()
        }
        for resolution, transform in transforms.items():
            missing = {
                number: key
                for number, (clip, key) in enumerate(zip(clips, keys[resolution], strict=True))
                if not clip.dropped and number not in reasons and key not in kept
            }
            failed |= _fill(clips, missing, transform, config, encoder, kept)
    items, item_keys = [], []
    for number, clip in enumerate(clips):
        usable = not clip.dropped and number not in reasons
        found = [r for r in transforms if usable and keys[r][number] in kept]
        buckets = [encoder.bucket(kept.shape(keys[r][number])) for r in found]
        if buckets and not sees_images and all(bucket.num_frames == 1 for bucket in buckets):
            failed[number], found = "image: one frame, and image_ratio=0 sees no images", []
        if usable and not found:
            reasons[number] = failed[number]
        for resolution, bucket in zip(found, buckets, strict=False):
            items.append(Item(number, resolution, bucket))
            item_keys.append(keys[resolution][number])
    texts = [clip.texts() for clip in clips]
    return Prepared(clips, texts, items, item_keys, kept).without(reasons)


def _write_ledger(path: Path, clips: Sequence[Clip]) -> None:
    """One line for each clip that was given and cannot be used: path, start, end, reason."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("path", "start", "end", "dropped", "reason")
    rows = [{name: getattr(clip, name) for name in names} for clip in clips if clip.dropped]
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def count_reasons(clips: Sequence[Clip]) -> dict[str, int]:
    """How many clips were dropped by whom and for what kind of reason, the commonest first."""
    kinds = (f"{clip.dropped}: {clip.reason.split(':')[0]}" for clip in clips if clip.dropped)
    return dict(Counter(kinds).most_common())


def _nothing_left(clips: Sequence[Clip]) -> str:
    counted = "; ".join(f"{count} x {kind}" for kind, count in count_reasons(clips).items())
    return (
        f"None of the {len(clips)} clips can be used ({counted}). The first: {clips[0].reason}. "
        "Mend the clips, or the settings clips.*."
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


def _identified(clips: list[Clip], config: ClipsConfig) -> tuple[list[Clip], dict[int, str]]:
    """The clips with the hashes of their files, and why some have none, by number.

    A file that is gone keeps the hash its manifest states: its latents may still be there.
    """
    hashes = file_hashes((clip.path for clip in clips if not clip.dropped), config.workers)

    identified, reasons = [], {}
    for number, clip in enumerate(clips):
        found = hashes.get(clip.path)
        if clip.sha256 and found and clip.sha256 != found:
            reasons[number] = "another file: its sha256 is not the one of the manifest"
        elif not (clip.dropped or found or clip.sha256):
            reasons[number] = "no file: it is not there, or may not be read"
        identified.append(replace(clip, sha256=found or clip.sha256))
    return identified, reasons


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
                reasons[number] = "not finite: its latents are no numbers; precision=fp32 may help"
            else:
                cache.add(missing[number], tensor)
            bar.update()
            if bar.disable and (done % 100 == 0 or done == len(missing)):  # no terminal
                logger.info("read %d of %d clips", done, len(missing))
    return reasons
