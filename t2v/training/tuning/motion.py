"""The motion of one clip, learned as tokens beside the text: `t2v finetune method=motion`.

The model stays as it is, and tokens of each latent frame learn to denoise one clip from its first
frame (Reenact Anything, arXiv 2408.00458). That one clip would also teach them what it looks like,
so it is learned in twelve colourings: the orders of its channels, and their negatives. The first
frame then tells what moves, and the tokens how.
"""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from t2v.config.data import SIZES, ClipsConfig
from t2v.config.finetune import FinetuneConfig
from t2v.data.buckets import Unfit
from t2v.data.dataset import HELD_OUT
from t2v.data.decode import Transform, read_clip
from t2v.errors import UserError
from t2v.io.files import complete, write_text
from t2v.io.manifest import MANIFEST, SHARD_SUFFIX, read_manifest
from t2v.models.context_tokens import STD

FOLDER = "colourings"  # in the output
UNTOLD = "it"  # the caption of all of them: the tokens tell the rest


def of_one_clip(config: FinetuneConfig, pipeline: Any) -> FinetuneConfig:
    """The settings; of `method=motion` with the colourings of its clip as data.

    Raises:
        UserError: the first frame would not be given, or see `coloured`.
    """
    if config.method != "motion":
        return config
    first = config.tasks.first and not config.tasks.text
    if pipeline.transformer.config.conditioning != "channels" and not first:
        raise UserError(
            "method=motion: the first frame has to tell what moves. Give tasks.text=0 and "
            "tasks.first=1, as configs/finetune/motion.yaml does."
        )
    return coloured(config, {name: pipeline.config[name] for name in SIZES})


def coloured(config: FinetuneConfig, sizes: dict[str, Any]) -> FinetuneConfig:
    """The settings with the colourings of the one clip of `config.data` as data, which are written
    into the output; the last one is held out.

    Args:
        sizes: fps, height, width and num_frames that the model makes.

    Raises:
        UserError: there is another number of clips, or the clip cannot be read in that size.
    """
    folder = Path(config.output) / FOLDER
    if not (folder / MANIFEST).is_file():
        clips = [clip for clip in read_manifest(config.data) if not clip.dropped]
        if len(clips) != 1:
            raise UserError(
                f"method=motion learns the motion of one clip, and data={config.data} has "
                f"{len(clips)}. Give a manifest or a folder of one."
            )
        filled = config.clips.filled(**sizes)
        assert filled.num_frames is not None
        size = ((sizes["height"], sizes["width"]),)
        try:
            video = read_clip(clips[0], Transform.of(filled, size, (filled.num_frames,)))
        except Unfit as error:
            raise UserError(f"{clips[0].path}: {error}. Give another clip.") from error
        _write(folder, torch.from_numpy(video), float(filled.fps or 0))
    return replace(config, data=str(folder), clips=ClipsConfig(), held_out=1)


def colourings(video: Tensor) -> Tensor:
    """A clip, `t h w c` uint8, with its channels in all orders, and the negatives of those,
    `12 t h w c`."""
    turned = [video[..., list(order)] for order in permutations(range(3))]
    return torch.stack([*turned, *(255 - each for each in turned)])


def _write(folder: Path, video: Tensor, fps: float) -> None:
    """Write the colourings as a shard of `t2v world`, and their manifest, which comes last."""
    folder.mkdir(parents=True, exist_ok=True)
    clips, shard = colourings(video), f"clips-00000{SHARD_SUFFIX}"
    with complete(folder / shard) as partial:
        save_file(
            {"video": clips, "mask": torch.zeros(clips.shape[:4], dtype=torch.uint8)}, partial
        )
    frames, height, width = video.shape[:3]
    row = {"shard": shard, "fps": fps, "width": width, "height": height, "num_frames": frames}
    row |= {"caption": UNTOLD}
    rows = [row | {"index": number} for number in range(len(clips))]
    rows[-1]["split"] = HELD_OUT
    write_text(folder / MANIFEST, "".join(json.dumps(each) + "\n" for each in rows))


def motion_tokens(
    config: FinetuneConfig, num_frames: int, stride: int, empty: int
) -> tuple[int, tuple[int, int, int]]:
    """The tokens of a clip: their number, and what `ContextTokens` knows of frames.

    Args:
        stride: frames that a latent one stands for.
        empty: tokens of an empty prompt.
    """
    frames, each = (num_frames - 1) // stride + 1, config.motion_tokens
    return frames * each + config.shared_tokens, (frames, each, empty)


@torch.no_grad()
def begin_motion(transformer: Any, start: Tensor, generator: torch.Generator) -> None:
    """Have the tokens of a motion begin near one embedding, `d`."""
    tokens = transformer.condition_embedder.prefix.tokens
    tokens.copy_(start + STD * torch.randn(tokens.shape, generator=generator).to(tokens))
