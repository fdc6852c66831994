"""Folders of rendered clips: `manifest.jsonl`, and the shards `clips-*.safetensors` it lists."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import torch
from einops import rearrange
from safetensors.torch import load
from torch import Tensor

from t2v.errors import UserError
from t2v.io.manifest import MANIFEST, Clip, is_rendered, manifest_of, read_manifest
from t2v.io.stores import Missing
from t2v.io.working_copies import at_hand


@dataclass(frozen=True)
class Clips:
    """Clips of one size, in the order of their manifest."""

    video: Tensor  # n t h w c, uint8
    mask: Tensor  # n t h w, uint8: coverage by objects, 0 to 255

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, span: slice) -> Clips:
        return Clips(self.video[span], self.mask[span])


def pixels(video: Tensor) -> Tensor:
    """Scale frames `b t h w c` in 0..255 to those networks take, `b c t h w` in [-1, 1].

    The memory stays channels last (`channels_last_3d`), where convolutions are fastest.
    """
    return rearrange(video.float() / 127.5 - 1, "b t h w c -> b c t h w")


def read_rendered(data: str | Path) -> list[Clip]:
    """Read the manifest of a folder of `t2v world`.

    Raises:
        UserError: there is no manifest, which is written last, so the folder is not finished; or
            it lists other clips.
    """
    manifest = manifest_of(data)
    if not manifest.is_file():
        raise UserError(
            f"{data} has no {MANIFEST}, so it is not a finished folder of clips. "
            f"Make one: t2v world output={data}"
        )
    clips = read_manifest(manifest)
    if others := [clip.path for clip in clips if not clip.is_rendered]:
        raise UserError(
            f"{manifest} lists {others[0]}, which `t2v world` did not render. "
            "Give a folder of `t2v world`."
        )
    return clips


def rendered_clips(data: str | Path) -> list[Clip]:
    """The clips of a folder of `t2v world`; none of other data."""
    return read_rendered(data) if is_rendered(data) else []


def read_shards(data: str | Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Read the shards of a folder in the manifest's order, one at a time: (video, mask).

    Raises:
        UserError: see `read_rendered`; or a shard is missing, or lacks clips of its manifest.
    """
    for path, clips in groupby(read_rendered(data), key=lambda clip: clip.path):
        # The bytes are read, not mapped: mapped pages are dropped under memory pressure.
        with suppress(Missing):  # told below
            at_hand(path)
        tensors = load(Path(path).read_bytes()) if Path(path).is_file() else {}
        indices, count = [clip.extra.get("index") for clip in clips], len(tensors.get("video", ()))
        if not all(isinstance(index, int) and 0 <= index < count for index in indices):
            raise UserError(
                f"{path} does not hold the {len(indices)} clips its manifest lists. "
                "Render the folder again with `t2v world`."
            )
        if indices == list(range(count)):
            yield tensors["video"], tensors["mask"]
        else:
            yield tensors["video"][indices], tensors["mask"][indices]


def load_clips(data: str | Path) -> Clips:
    """Read a whole folder of clips into memory; the peak is the clips and one shard.

    Raises:
        UserError: see `read_shards`; or the clips have several shapes.
    """
    count, filled = len(read_rendered(data)), 0
    video = mask = torch.empty(0)
    for shard_video, shard_mask in read_shards(data):
        if filled == 0:
            video = shard_video.new_empty(count, *shard_video.shape[1:])
            mask = shard_mask.new_empty(count, *shard_mask.shape[1:])
        if shard_video.shape[1:] != video.shape[1:]:
            first, other = ("x".join(map(str, v.shape[1:4])) for v in (video, shard_video))
            raise UserError(
                f"{data} holds clips of {first} and of {other} (frames x height x width), and "
                "here one shape is read. Give a folder that was rendered without shapes=."
            )
        end = filled + len(shard_video)
        video[filled:end], mask[filled:end] = shard_video, shard_mask
        filled = end
    return Clips(video, mask)
