"""Preparation of clips: they become tensors in a cache, or are dropped with a reason."""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from t2v.config.data import ClipsConfig
from t2v.data.buckets import bucket_lengths, bucket_sizes
from t2v.data.cache import Cache
from t2v.data.curriculum import Item
from t2v.data.decode import VERSION, Transform, file_hashes, read_clip, read_clips, readers
from t2v.data.dropped import NO_FILE, OTHER_FILE, drop
from t2v.data.latents import ClipEncoder
from t2v.errors import UserError
from t2v.io.addresses import address_of
from t2v.io.files import digest
from t2v.io.manifest import Clip, read_manifest
from t2v.io.progress import Progress

logger = logging.getLogger(__name__)

RENDERED_AT_ONCE = 32
SIZES = ("fps", "resolution", "num_frames")


@dataclass(frozen=True)
class Rendered:
    """The facts of a folder of `t2v world` as a whole.

    Args:
        sources: a hash of all that decides its tensors; of the clips, it is the manifest's.
        tensors: of all its clips, `n c t h w`, where they are in memory already.
        masks: `n t h w`, uint8, where they are.
    """

    sources: dict[str, str]
    tensors: Tensor | None = None
    masks: Tensor | None = None

    def key(self, number: int) -> str:
        """Return the key of a clip's tensor, by its number in the manifest."""
        return f"{next(iter(self.sources.values()))} {number}"


@dataclass(frozen=True)
class Prepared:
    """The clips of a manifest, kept or dropped, and the tensors of those kept."""

    clips: list[Clip]  # all of them, in their order
    texts: list[tuple[str, ...]]  # of each clip, the captions that can be used
    items: list[Item]  # of the kept clips; `clip` is an index into `clips`
    keys: list[str]  # of the items, in the cache
    cache: Cache
    rendered: Rendered | None = None

    @property
    def is_whole(self) -> bool:
        """True where nothing was left out: no clip and no caption."""
        pairs = zip(self.clips, self.texts, strict=True)
        return all(not clip.dropped and texts == clip.texts() for clip, texts in pairs)

    def without(self, reasons: dict[int, str]) -> Prepared:
        """Drop some clips, by their numbers, and bring the ledger up to date.

        Raises:
            UserError: no clip is left; the reasons are counted.
        """
        paired = zip(self.items, self.keys, strict=True)
        left = [(item, key) for item, key in paired if item.clip not in reasons]
        clips = drop(self.clips, reasons, self.cache.folder / "ledger.jsonl")
        return replace(
            self, clips=clips, items=[item for item, _ in left], keys=[key for _, key in left]
        )


class Spread(Protocol):
    """Workers elsewhere that do what takes the time of a preparation."""

    def hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """The SHA-256 of every file that can be read, by its path."""

    def tensors(
        self, clips: Sequence[Clip], transform: Transform
    ) -> Iterator[tuple[int, Tensor | str]]:
        """Yield each clip's number with its tensor, or the reason why there is none, in order."""


def prepare(
    data: str,
    config: ClipsConfig,
    encoder: ClipEncoder,
    cache: Path,
    rendered: Rendered | None = None,
    spread: Spread | None = None,
) -> Prepared:
    """Read and encode every clip of `data` that the cache does not hold.

    A clip that cannot be used is dropped with its reason, here and in `ledger.jsonl` of the cache;
    the others go on. What was done before a kill is not done again.

    Args:
        rendered: facts of a folder of `t2v world`, whose clips keep their own size and rate.
        spread: does it in the place of this process; not for rendered clips.

    Raises:
        UserError: there is no manifest, no clip can be used (the reasons are counted), or settings
            are missing, do not fit the VAE, or have no effect on rendered clips.
    """
    _check_settings(data, config, rendered)
    clips = read_manifest(data)
    _refuse_mixture(data, clips, rendered)
    transforms = _transforms(config, encoder) if rendered is None else {None: None}
    with Cache(cache) as kept:
        if rendered is None:
            clips, reasons = _identified(clips, config, spread)
            keys = {each: [_key(c, t, encoder) for c in clips] for each, t in transforms.items()}
        else:
            reasons, keys = {}, {None: [rendered.key(number) for number in range(len(clips))]}
            if rendered.tensors is not None:
                kept.hold(keys[None], rendered.tensors)
        failed: dict[int, str] = {}
        for resolution, transform in transforms.items():
            missing = {
                number: key
                for number, (clip, key) in enumerate(zip(clips, keys[resolution], strict=True))
                if not clip.dropped and number not in reasons and key not in kept
            }
            made = _tensors(clips, missing, transform, config, encoder, spread)
            failed |= _fill(made, missing, kept, len(clips))
    if rendered is not None and rendered.tensors is None:
        found = [key for key in keys[None] if key in kept]
        # small and read many times: no step should wait for the disk
        kept.hold(found, [kept.read(key).clone() for key in found])
    sees_images = any(stage.image_ratio for stage in config.all_stages())
    items, item_keys = [], []
    for number, clip in enumerate(clips):
        if clip.dropped or number in reasons:
            continue
        sizes = [r for r in transforms if keys[r][number] in kept]
        buckets = [encoder.bucket(kept.shape(keys[r][number])) for r in sizes]
        if not sizes:
            reasons[number] = failed[number]
        elif not sees_images and all(bucket.num_frames == 1 for bucket in buckets):
            reasons[number] = "image: one frame, and image_ratio=0 sees no images"
            continue
        items += [Item(number, *each) for each in zip(sizes, buckets, strict=True)]
        item_keys += [keys[resolution][number] for resolution in sizes]
    texts = [clip.texts() for clip in clips]
    return Prepared(clips, texts, items, item_keys, kept, rendered).without(reasons)


def _check_settings(data: str, config: ClipsConfig, rendered: Rendered | None) -> None:
    if rendered is None:
        if missing := [f"clips.{n}" for n in SIZES if getattr(config, n) is None]:
            raise UserError(
                f"{', '.join(missing)}: not given, and the clips of {data} come in any size. "
                "Give them, for example clips.fps=8 clips.resolution=64 clips.num_frames=17."
            )
        return
    refuse_sizes(data, config)


def refuse_sizes(data: str, config: ClipsConfig) -> None:
    """Raise `UserError` where a size or a rate is given to clips of `t2v world`, which have one."""
    given = [f"clips.{n}" for n in SIZES if getattr(config, n) is not None]
    given += ["clips.stages.resolution" for stage in config.stages if stage.resolution is not None]
    if given:
        raise UserError(
            f"{given[0]} is given, but {data} is a folder of `t2v world`, whose clips have a size "
            "and a rate of their own. Omit it, or render other clips."
        )


def _refuse_mixture(data: str, clips: Sequence[Clip], rendered: Rendered | None) -> None:
    for clip in clips:
        if clip.is_rendered != (rendered is not None):
            raise UserError(
                f"{data} lists clips of `t2v world` and media files, among them {clip.path}. "
                "Train on one kind; put each in a manifest of its own."
            )


def _transforms(config: ClipsConfig, encoder: ClipEncoder) -> dict[int | None, Transform | None]:
    """The transform of each resolution of a stage."""
    assert config.num_frames is not None
    lengths = bucket_lengths(config, config.num_frames, encoder.stride)
    transforms: dict[int | None, Transform | None] = {}
    for stage in config.all_stages():
        assert stage.resolution is not None
        sizes = bucket_sizes(stage.resolution, config.aspects, encoder.multiple)
        transforms[stage.resolution] = Transform.of(config, sizes, lengths)
    return transforms


def _identified(
    clips: list[Clip], config: ClipsConfig, spread: Spread | None
) -> tuple[list[Clip], dict[int, str]]:
    """Add the hashes of their files to clips; give the reasons why some have none, by number.

    A clip whose file is gone keeps the hash in the manifest: its latents may still be there.
    """
    # a row at an address that tells its hash is believed: its file is fetched if it is to be read
    wanted = (c.path for c in clips if not c.dropped and not (c.sha256 and address_of(c.path)))
    paths = list(dict.fromkeys(wanted))
    hashes = spread.hashes(paths) if spread else file_hashes(paths, config.workers)
    identified, reasons = [], {}
    for number, clip in enumerate(clips):
        found = hashes.get(clip.path)
        if clip.sha256 and found and clip.sha256 != found:
            reasons[number] = OTHER_FILE
        elif not (clip.dropped or found or clip.sha256):
            reasons[number] = NO_FILE
        identified.append(replace(clip, sha256=found or clip.sha256))
    return identified, reasons


def _key(clip: Clip, transform: Transform | None, encoder: ClipEncoder) -> str:
    assert transform is not None
    span = (clip.sha256, float(clip.start), clip.end and float(clip.end), clip.extra.get("crop"))
    return digest(VERSION, encoder.name, sorted(asdict(transform).items()), span)


def _fill(
    made: Iterator[tuple[Sequence[int], Tensor | str]],
    missing: dict[int, str],
    cache: Cache,
    total: int,
) -> dict[int, str]:
    """Add missing clips, by number and key, to the cache; give the reasons why some cannot be.

    Args:
        made: as `_tensors` gives it.
        total: of all clips, for the log.
    """
    if not missing:
        return {}
    logger.info("Reading %d of %d clips to %s", len(missing), total, cache.folder)
    reasons: dict[int, str] = {}
    with Progress(len(missing), "encode", "clips") as bar:
        for numbers, tensors in made:
            if isinstance(tensors, str):
                reasons |= dict.fromkeys(numbers, tensors)
            else:
                for number, tensor in zip(numbers, tensors, strict=True):
                    if tensor.is_floating_point() and not tensor.isfinite().all():
                        reasons[number] = (
                            "not finite: its latents hold NaN or inf; precision=fp32 may help"
                        )
                    elif number in missing:
                        cache.add(missing[number], tensor)
            bar.update(sum(number in missing for number in numbers))
    return reasons


def _tensors(
    clips: list[Clip],
    missing: Collection[int],
    transform: Transform | None,
    config: ClipsConfig,
    encoder: ClipEncoder,
    spread: Spread | None,
) -> Iterator[tuple[Sequence[int], Tensor | str]]:
    """Yield numbers of clips with their tensors, or the reason why there are none."""
    if spread is None:
        for numbers, frames in _batches(clips, missing, transform, config):
            yield numbers, frames if isinstance(frames, str) else encoder.run(frames)
        return
    assert transform is not None
    media = list(missing)
    for position, tensor in spread.tensors([clips[number] for number in media], transform):
        yield [media[position]], tensor if isinstance(tensor, str) else tensor[None]


def _batches(
    clips: list[Clip], missing: Collection[int], transform: Transform | None, config: ClipsConfig
) -> Iterator[tuple[Sequence[int], np.ndarray | str]]:
    """Yield numbers of clips with their frames `b t h w c`, or the reason why there are none.

    Media is encoded one clip at a time, so that the bits depend on nothing else. Rendered clips are
    small: those of a shard are encoded `RENDERED_AT_ONCE` at a time, always the same ones together.
    """
    if transform is not None:
        media = list(missing)
        with readers(config, len(media)) as workers:
            for position, frames in read_clips([clips[n] for n in media], transform, workers):
                yield [media[position]], frames if isinstance(frames, str) else frames[None]
        return
    usable = [number for number, clip in enumerate(clips) if not clip.dropped]
    for _, group in groupby(usable, key=lambda number: clips[number].path):
        shard = list(group)
        for first in range(0, len(shard), RENDERED_AT_ONCE):
            numbers = shard[first : first + RENDERED_AT_ONCE]
            if any(number in missing for number in numbers):
                yield numbers, np.stack([read_clip(clips[number], None) for number in numbers])
