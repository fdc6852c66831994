"""A folder of rendered clips (`clips-*.safetensors` and `manifest.jsonl`) in memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load
from torch import Tensor

from t2v.errors import UserError
from t2v.io.text_files import parse_json, read_text


@dataclass(frozen=True)
class Clips:
    """Clips of one size, in the order of their manifest."""

    video: Tensor  # n t h w c, uint8
    mask: Tensor  # n t h w, uint8: how far objects cover the pixel, 0 to 255

    def __len__(self) -> int:
        return len(self.video)

    def __getitem__(self, span: slice) -> Clips:
        return Clips(self.video[span], self.mask[span])


def pixels(video: Tensor) -> Tensor:
    """Frames `b t h w c` in 0..255 as networks take them, `b c t h w` in [-1, 1].

    The memory stays channels last (`channels_last_3d`), where convolutions are fastest.
    """
    return rearrange(video.float() / 127.5 - 1, "b t h w c -> b c t h w")


def train_count(count: int, held_out: int) -> int:
    """How many of `count` clips are trained on when the last `held_out` are kept for validation.

    Raises:
        UserError: one of the two parts would be empty.
    """
    if not 0 < held_out < count:
        raise UserError(
            f"held_out={held_out} of {count} clips leaves nothing to train on or to validate on. "
            f"Allowed: 1 to {count - 1}; or make more clips with `t2v world`."
        )
    return count - held_out


def read_rows(folder: str | Path) -> list[dict[str, Any]]:
    """The manifest of a folder of clips, one dict a clip, never empty.

    Raises:
        UserError: there is no manifest, which is written last, so the folder is not finished; or
            it lists no clips.
    """
    manifest = Path(folder) / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(
            f"{folder} has no manifest.jsonl, so it is not a finished folder of clips. "
            f"Make one: t2v world output={folder}"
        )
    rows = [
        parse_json(line, f"{manifest} line {number}")
        for number, line in enumerate(read_text(manifest).split("\n"), start=1)
        if line.strip()
    ]
    if not all(isinstance(row, dict) and isinstance(row.get("shard"), str) for row in rows):
        raise UserError(f"{manifest}: has a row that names no shard. Make it anew: t2v world.")
    if not rows:
        raise UserError(f"{manifest} lists no clips. Make some: t2v world output={folder}")
    return rows


def read_shards(folder: str | Path) -> Iterator[tuple[Tensor, Tensor]]:
    """The shards of a folder in the manifest's order, each read once: (video, mask).

    Raises:
        UserError: a shard is missing, or does not hold the clips its manifest lists.
    """
    rows = read_rows(folder)
    for name in dict.fromkeys(row["shard"] for row in rows):
        path = Path(folder) / name
        listed = sum(row["shard"] == name for row in rows)
        # The bytes are read, not mapped: mapped pages are dropped under memory pressure.
        tensors = load(path.read_bytes()) if path.is_file() else {}
        if len(tensors.get("video", ())) != listed:
            raise UserError(
                f"{path} does not hold the {listed} clips its manifest lists. "
                "Make the folder again with `t2v world`."
            )
        yield tensors["video"], tensors["mask"]


def load_clips(folder: str | Path) -> Clips:
    """Read a whole folder of clips into memory; the peak is the clips and one shard.

    Raises:
        UserError: see `read_rows` and `read_shards`.
    """
    count, filled = len(read_rows(folder)), 0
    video = mask = torch.empty(0)
    for shard_video, shard_mask in read_shards(folder):
        if filled == 0:
            video = shard_video.new_empty(count, *shard_video.shape[1:])
            mask = shard_mask.new_empty(count, *shard_mask.shape[1:])
        end = filled + len(shard_video)
        video[filled:end], mask[filled:end] = shard_video, shard_mask
        filled = end
    return Clips(video, mask)
