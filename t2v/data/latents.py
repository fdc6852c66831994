"""Latents of a folder of clips, encoded once and kept beside them."""

from __future__ import annotations

import hashlib
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor
from tqdm import tqdm

from t2v.data.cache import Cache
from t2v.data.world_shards import pixels, read_rows, read_shards
from t2v.errors import UserError
from t2v.io.files import complete
from t2v.models.device import ready
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
    changes with the weights and the clips, so a stale latent is never read. A kill loses those of
    one shard of clips.

    Raises:
        UserError: no finished folder of clips, or a latent that is not finite.
    """
    count = len(read_rows(folder))
    path = Path(folder) / latents_name(vae, folder, precision)
    if path.is_file():
        return load(path.read_bytes())["latents"]
    logger.info("Encoding %d clips of %s to %s", count, folder, path.name)
    with Cache(path.with_suffix(".parts"), per_shard=1) as parts:
        keys = list(_encode_shards(vae, folder, precision, count, parts))
        latents = torch.cat([parts.read(key) for key in keys])
    with complete(path) as partial:
        save_file({"latents": latents}, partial)
    shutil.rmtree(parts.folder)
    return latents


def _encode_shards(
    vae: AutoencoderKLT2V, folder: str | Path, precision: str, count: int, parts: Cache
) -> Iterator[str]:
    """The keys of the latents of each shard, encoded if `parts` lacks them."""
    done = 0
    with tqdm(total=count, unit=" clips", desc="encode", disable=None) as bar:
        for video, _ in read_shards(folder):
            key = f"from clip {done}"
            if key not in parts:
                batches = video.split(CLIPS_AT_ONCE)
                latents = torch.cat([_encode(vae, batch, precision) for batch in batches])
                _refuse_no_numbers(latents, folder, done)
                parts.add(key, latents)
            done += len(video)
            bar.update(len(video))
            if bar.disable:  # no terminal
                logger.info("encoded %d of %d clips", done, count)
            yield key


def _refuse_no_numbers(latents: Tensor, folder: str | Path, first: int) -> None:
    bad = (~latents.isfinite().flatten(1).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise UserError(
            f"Clip {first + bad[0]} of {folder} has latents that are not finite. "
            "Encode with precision=fp32, or train the VAE again."
        )


@torch.no_grad()
def _encode(vae: AutoencoderKLT2V, video: Tensor, precision: str) -> Tensor:
    device = ready(vae)
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        posterior = vae.encode(pixels(video.to(device))).latent_dist
    return posterior.mean.half().cpu().contiguous()  # the network leaves channels last
