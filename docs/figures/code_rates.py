"""Compare VAEs with a quantizer, and H.264, by their bits a pixel and PSNR on clips of the world.

python docs/figures/code_rates.py COUNT VAE...   VAE: a folder, or the output of `t2v train-vae`
"""

from __future__ import annotations

import io
import math
import sys
from typing import Any, cast

import av
import numpy as np
import torch
from upscale import interval

from t2v.data.world_shards import pixels
from t2v.models.quantizers import CodedLatents, usage
from t2v.models.vae_folder import load_vae
from t2v.world.grammar import random_scene
from t2v.world.render import render
from t2v.world.run import clip_generator

SEED = 20_000  # no clip of training has it
QUALITIES = (26, 32, 38, 44, 51)  # constant rate factors of x264


def clips(count: int) -> list[np.ndarray]:
    """Held-out clips of the world, `t h w c` uint8."""
    found = []
    for number in range(count):
        scene = random_scene(clip_generator(SEED, "train", number))
        found.append(render(scene)[0].numpy())
    return found


def coded(frames: np.ndarray, quality: int) -> tuple[float, np.ndarray]:
    """The bits a pixel that x264 takes for slices of frames, and the frames again."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream: Any = container.add_stream("libx264", rate=8)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.options = {"crf": str(quality), "preset": "veryslow"}
        size = 0
        for frame in (*(av.VideoFrame.from_ndarray(each) for each in frames), None):
            for packet in stream.encode(frame):
                parts = bytes(packet).split(b"\0\0\1")  # without headers and the encoder's words
                size += sum(len(each) for each in parts if each and each[0] & 31 in (1, 5))
                container.mux(packet)
    file.seek(0)
    with av.open(file) as container:
        again = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return 8 * size / math.prod(frames.shape[:3]), np.stack(again)


def psnr(frames: np.ndarray, again: np.ndarray) -> float:
    """The PSNR of a clip, in dB."""
    error = np.square(frames.astype(float) - again.astype(float)).mean()
    return 10 * math.log10(255**2 / error)


def row(name: str, bits: float, figures: list[float], more: str = "") -> None:
    """Print a row of the table."""
    sys.stdout.write(f"| {name} | {bits:.3f} | {interval(torch.tensor(figures))} | {more} |\n")


@torch.no_grad()
def main(count: int, folders: list[str]) -> None:
    """Print the table."""
    films = clips(count)
    sys.stdout.write("| | bits a pixel | PSNR, dB | codes used, perplexity |\n")
    sys.stdout.write("| --- | --- | --- | --- |\n")
    for folder in folders:
        vae: Any = load_vae(folder)
        codes, figures = [], []
        for frames in films:
            video = pixels(torch.from_numpy(frames).unsqueeze(0))
            posterior = vae.encode(video).latent_dist
            again = vae.decode(posterior.mode()).sample[0].clamp(-1, 1)
            levels = ((again.permute(1, 2, 3, 0) + 1) * 127.5).round().numpy()
            figures.append(psnr(frames, levels))
            if vae.quantize is not None:
                codes.append(cast(CodedLatents, posterior).codes)
        if not codes:
            row(folder, math.nan, figures, "none")
            continue
        share, perplexity = usage(torch.cat(codes), vae.config.codebook_size)
        bits = (
            codes[0].numel() * math.log2(vae.config.codebook_size) / math.prod(films[0].shape[:3])
        )
        row(folder, bits, figures, f"{100 * share:.1f} %, {perplexity:,.0f}")
    for quality in QUALITIES:
        found = [coded(frames, quality) for frames in films]
        figures = [psnr(frames, again) for frames, (_, again) in zip(films, found, strict=True)]
        row(f"H.264, crf {quality}", float(np.mean([bits for bits, _ in found])), figures)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
