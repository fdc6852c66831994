"""A folder of rendered clips (`clips-*.safetensors` and `manifest.jsonl`) in memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from t2v.errors import UserError


@dataclass(frozen=True)
class Clips:
    """Clips of one size, in the order of their manifest."""

    video: Tensor  # n t h w c, uint8
    mask: Tensor  # n t h w, uint8: how far objects cover the pixel, 0 to 255
    rows: list[dict]  # the manifest, one row a clip

    def __len__(self) -> int:
        return len(self.video)

    def split(self, held_out: int) -> tuple[Clips, Clips]:
        """(all but the last `held_out` clips, the last `held_out`).

        Raises:
            UserError: nothing would be left to train on.
        """
        if not 0 < held_out < len(self):
            raise UserError(
                f"held_out={held_out} clips of {len(self)} leave nothing to train on or nothing to "
                f"validate on. Allowed: 1 to {len(self) - 1}; or make more clips with `t2v world`."
            )
        return self[: len(self) - held_out], self[len(self) - held_out :]

    def __getitem__(self, span: slice) -> Clips:
        return Clips(self.video[span], self.mask[span], self.rows[span])


def read_rows(folder: str | Path) -> list[dict]:
    """The manifest of a folder of clips, one dict a clip.

    Raises:
        UserError: there is no manifest, which is written last: the folder is not a finished one.
    """
    manifest = Path(folder) / "manifest.jsonl"
    if not manifest.is_file():
        raise UserError(
            f"{folder} has no manifest.jsonl, so it is not a finished folder of clips. "
            f"Make one: t2v world output={folder}"
        )
    return [json.loads(line) for line in manifest.read_text().splitlines() if line.strip()]


def load_clips(folder: str | Path) -> Clips:
    """Read a folder of clips into memory, each shard once.

    Raises:
        UserError: the folder is missing, unfinished, empty, or manifest and shards disagree.
    """
    rows = read_rows(folder)
    shards = list(dict.fromkeys(row["shard"] for row in rows))
    if not shards:
        raise UserError(
            f"{folder}/manifest.jsonl lists no clips. Make some: t2v world output={folder}"
        )
    video = mask = torch.empty(0)
    filled = 0
    for shard in shards:
        # Reading the bytes, not mapping them: pages of a mapped file are dropped under memory pressure.
        tensors = load((Path(folder) / shard).read_bytes())
        if filled == 0:  # allocate once, so that the peak is the data and one shard
            video = tensors["video"].new_empty(len(rows), *tensors["video"].shape[1:])
            mask = tensors["mask"].new_empty(len(rows), *tensors["mask"].shape[1:])
        end = filled + len(tensors["video"])
        if end > len(rows) or tensors["video"].shape[1:] != video.shape[1:]:
            raise UserError(
                f"{folder}/{shard} holds {len(tensors['video'])} clips of "
                f"{tuple(tensors['video'].shape[1:])}, which its manifest ({len(rows)} clips of "
                f"{tuple(video.shape[1:])}) does not allow. Make the folder again with `t2v world`."
            )
        video[filled:end], mask[filled:end] = tensors["video"], tensors["mask"]
        filled = end
    if filled != len(rows):
        raise UserError(
            f"{folder}: the manifest lists {len(rows)} clips, the shards hold {filled}. "
            "Make the folder again with `t2v world`."
        )
    return Clips(video, mask, rows)
