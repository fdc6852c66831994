"""Measure the embedded model's upscaler beside bicubic interpolation, on scenes held out.

python docs/figures/upscale.py COUNT [SHEET.png]    a table of COUNT clips; four as a picture
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from einops import rearrange

from t2v.data.world_shards import pixels
from t2v.evaluation.intervals import bootstrap
from t2v.evaluation.metrics.upscaling import bicubic, measure
from t2v.evaluation.samples import through_vae
from t2v.evaluation.types import PerVideo
from t2v.io.video import contact_sheet, save_image
from t2v.models.folder import embedded_model
from t2v.models.upscaler_folder import load_upscaler
from t2v.models.vae_folder import load_vae
from t2v.nets.features import vae_frames
from t2v.world.grammar import random_scene
from t2v.world.render import render
from t2v.world.run import clip_generator

FRAMES = 2  # of a clip, whose perceptual distance is measured


@torch.no_grad()
def main(count: int, sheet: Path | None) -> None:
    """Print the table; small clips are those that the VAE gives back."""
    upscaler, vae = load_upscaler("t2v-tiny", torch.float32), load_vae(embedded_model())
    scale, net = upscaler.config.scale, vae_frames(vae)
    found: dict[str, dict[str, list[torch.Tensor]]] = {}
    rows = []
    for number in range(count):
        scene = random_scene(clip_generator(0, "heldout", number), "heldout")
        low, real = render(scene)[0][None], render(scene, 17, 64 * scale, 64 * scale)[0][None]
        low = through_vae(vae, low)
        large = ((upscaler(pixels(low)).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
        versions = {
            "bicubic": bicubic(low, scale),
            "upscaler": rearrange(large, "n c t h w -> n t h w c"),
        }
        some = slice(0, None, 16 // (FRAMES - 1))
        for name, video in versions.items():
            measured = measure(video, real, None) | {
                "perceptual": PerVideo(
                    net.distance(video[:, some], real[:, some]).mean(1), "lower", net.name
                )
            }
            for metric, each in measured.items():
                assert isinstance(each, PerVideo)
                found.setdefault(metric, {}).setdefault(name, []).append(each.values)
        if sheet and number < 4:
            rows += [each[0].numpy() for each in (*versions.values(), real)]
    for metric, each in found.items():
        values = {name: torch.cat(parts).double() for name, parts in each.items()}
        moves = values["bicubic"].isfinite() & values["upscaler"].isfinite()  # else it has no jerk
        values = {name: some[moves] for name, some in values.items()}
        values["difference"] = values["upscaler"] - values["bicubic"]
        cells = [metric, *map(interval, values.values())]
        sys.stdout.write(f"| {' | '.join(cells)} |\n")
    if sheet:
        save_image(sheet, contact_sheet(rows, columns=4))


def interval(values: torch.Tensor) -> str:
    """The mean of values with its 95 % interval."""
    if len(values) < 3:
        return f"{values.mean():.3f}"
    low, high = bootstrap(values, torch.Generator().manual_seed(0))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
