"""Latents of a folder of clips, encoded once and kept beside them."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor
from tqdm import tqdm

from t2v.data.clips import pixels, read_rows, read_shards
from t2v.errors import UserError
from t2v.models.placement import ready
from t2v.models.vae import AutoencoderKLT2V

logger = logging.getLogger(__name__)

CLIPS_AT_ONCE = 32


def latents_name(vae: AutoencoderKLT2V, folder: str | Path, precision: str) -> str:
    """The cache's file name: a hash of the VAE's weights, the manifest and the precision."""
    digest = hashlib.sha256(precision.encode())
    digest.update((Path(folder) / "manifest.jsonl").read_bytes())
    for name, tensor in sorted(vae.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return f"latents-{digest.hexdigest()[:16]}.safetensors"


def encode_folder(vae: AutoencoderKLT2V, folder: str | Path, precision: str) -> Tensor:
    """Posterior means of the clips of `folder`, not normalised: `n c t h w`, float16, on the CPU.

    Encoded with bfloat16 autocast where `precision` is "bf16". Kept in `folder` under a name that
    changes with the weights and the clips, so a stale latent is never read.

    Raises:
        UserError: no finished folder of clips, or a latent that is not finite.
    """
    count = len(read_rows(folder))
    path = Path(folder) / latents_name(vae, folder, precision)
    if path.is_file():
        return load(path.read_bytes())["latents"]
    logger.info("Encoding %d clips of %s to %s", count, folder, path.name)
    latents = torch.cat([_encode(vae, video, precision) for video in _batches(folder, count)])
    bad = (~latents.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"{len(bad)} of {count} clips of {folder} have latents that are not finite, "
            f"the first is clip {bad[0]}. Encode with precision=fp32, or train the VAE again."
        )
    partial = path.with_suffix(".partial")
    save_file({"latents": latents}, partial)
    partial.rename(path)
    return latents


@torch.no_grad()
def _encode(vae: AutoencoderKLT2V, video: Tensor, precision: str) -> Tensor:
    device = ready(vae)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        posterior = vae.encode(pixels(video.to(device))).latent_dist
    return posterior.mean.half().cpu().contiguous()  # the network leaves channels last


def _batches(folder: str | Path, count: int) -> Iterator[Tensor]:
    done = 0
    with tqdm(total=count, unit=" clips", desc="encode", disable=None) as bar:
        for video, _ in read_shards(folder):
            for batch in video.split(CLIPS_AT_ONCE):
                yield batch
                bar.update(len(batch))
            done += len(video)
            if bar.disable:  # no terminal
                logger.info("encoded %d of %d clips", done, count)
