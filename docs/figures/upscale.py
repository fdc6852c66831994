"""Measure an upscaler beside bicubic interpolation, on clips held out of its training.

python docs/figures/upscale.py COUNT                the embedded model's, on scenes of the world
python docs/figures/upscale.py COUNT --sheet FILE   the same, with four clips as a picture
python docs/figures/upscale.py COUNT --upscaler RUN --footage MANIFEST    another, on footage
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from itertools import count as numbers
from itertools import islice
from pathlib import Path

import torch
from diffusers import ModelMixin
from einops import rearrange

from t2v.config.load import load_config
from t2v.config.training import TrainUpscalerConfig
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
from t2v.training.tasks.upscaler_data import FootagePairs
from t2v.world.grammar import random_scene
from t2v.world.render import render
from t2v.world.run import clip_generator

CONFIG = Path("configs/train-upscaler/footage.yaml")
FRAMES = 2  # of a clip, whose perceptual distance is measured


@torch.no_grad()
def main(count: int, name: str, footage: str | None, sheet: Path | None) -> None:
    """Print the table, a line a metric: mean and 95 % interval of bicubic, upscaler, difference."""
    upscaler, vae = load_upscaler(name, torch.float32), load_vae(embedded_model())
    scale, net = upscaler.config.scale, vae_frames(vae)
    found: dict[str, dict[str, list[torch.Tensor]]] = {}
    rows = []
    for low, real in islice(on_footage(footage) if footage else of_world(vae, scale), count):
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
        if sheet and len(rows) < 12:
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


def of_world(vae: ModelMixin, scale: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Scenes held out, as the VAE gives them back, and rendered `scale` times as large."""
    for number in numbers():
        scene = random_scene(clip_generator(0, "heldout", number), "heldout")
        low, real = render(scene)[0][None], render(scene, 17, 64 * scale, 64 * scale)[0][None]
        yield through_vae(vae, low), real


def on_footage(manifest: str) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """The clips of a manifest made smaller, and as they are at the larger size."""
    config = load_config(TrainUpscalerConfig, CONFIG, [f"data={manifest}", "held_out=1"])
    pairs = FootagePairs(config, None)
    for number in range(pairs.count):
        low, real = pairs.pair(number)
        yield low[None], real[None]


def interval(values: torch.Tensor) -> str:
    """The mean of values with its 95 % interval."""
    if len(values) < 3:
        return f"{values.mean():.3f}"
    low, high = bootstrap(values, torch.Generator().manual_seed(0))
    return f"{values.mean():.3f} ({low:.3f} to {high:.3f})"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--upscaler", default="t2v-tiny")
    parser.add_argument("--footage")
    parser.add_argument("--sheet", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    main(asked.count, asked.upscaler, asked.footage, asked.sheet)
