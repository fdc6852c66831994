"""Measure films of `t2v sample motion=`: where each frame lies against the first, and how alike.

python docs/figures/moved.py 32 2 0      scenes, pixels to the right and down a frame
"""

from __future__ import annotations

import sys

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.evaluation.intervals import bootstrap
from t2v.pipelines.moving_pictures import film_of_pictures
from t2v.pipelines.t2v import T2VPipeline
from t2v.world.grammar import caption, random_scene

FRAMES, FINE = 8, 4  # of a film; parts of a pixel that are told apart
REACH = 24  # pixels, each way, that are searched


def error(a: Tensor, b: Tensor, right: int, down: int) -> float:
    """The mean square of the difference of `b` to `a`, moved, where both have pixels."""
    height, width = a.shape[-2:]
    rows = slice(max(0, down), min(height, height + down))
    columns = slice(max(0, right), min(width, width + right))
    y = slice(rows.start - down, rows.stop - down)
    x = slice(columns.start - right, columns.stop - right)
    return float((b[..., rows, columns] - a[..., y, x]).square().mean())


def place(a: Tensor, b: Tensor) -> tuple[float, float, float]:
    """How far `b` lies to the right of `a` and below it, in pixels, and the error there."""
    reach = range(-REACH, REACH + 1)
    _, right, down = min((error(a, b, x, y), x, y) for x in reach for y in reach)
    a, b = (F.interpolate(x[None], scale_factor=FINE, mode="bicubic")[0] for x in (a, b))
    near = range(-FINE, FINE + 1)
    found = min(
        (error(a, b, right * FINE + x, down * FINE + y), right * FINE + x, down * FINE + y)
        for x in near
        for y in near
    )
    return found[1] / FINE, found[2] / FINE, found[0]


def told(name: str, values: Tensor) -> None:
    """Write a mean over scenes and its 95 % interval."""
    low, high = bootstrap(values, torch.Generator().manual_seed(0))
    sys.stdout.write(f"{name}: {values.mean():.3f} [{low:.3f}, {high:.3f}]\n")


def main(scenes: int, right: float, down: float) -> None:
    """Write the figures of films of that many captions of the world, by the embedded model."""
    pipe = T2VPipeline.from_pretrained("t2v-tiny")
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(0)
    prompts = [caption(random_scene(generator), generator) for _ in range(scenes)]
    settings = {"num_inference_steps": pipe.config.num_inference_steps}

    def film(prompt: str, seed: int, count: int, motion: tuple[float, float]) -> Tensor:
        made = film_of_pictures(
            pipe, prompt, motion=motion, num_frames=count, seed=seed, **settings
        )
        return rearrange(torch.from_numpy(made), "t h w c -> t c h w")

    asked = torch.arange(1, FRAMES)[:, None] * torch.tensor([right, down])
    errors, steps, alike, apart = [], [], [], []
    for seed, prompt in enumerate(prompts):
        first, *others = film(prompt, seed, FRAMES, (right, down))
        found = torch.tensor([place(first, each) for each in others])
        errors.append((found[:, :2] - asked).norm(dim=1))
        steps.append(found[-1, :2] / (FRAMES - 1))
        alike.append(-10 * found[:, 2].clamp_min(1e-9).log10())
        other = film(prompt, scenes + seed, 1, (0.0, 0.0))[0]
        apart.append(-10 * (other - first).square().mean().log10())
    errors, steps, alike = (torch.stack(each) for each in (errors, steps, alike))
    told("pixels a frame to the right", steps[:, 0])
    told("pixels a frame down", steps[:, 1])
    told("pixels from the asked place", errors.mean(1))
    told("frames within a pixel of it", (errors <= 1).float().mean(1))
    told("dB to the first frame, there", alike.mean(1))
    told("dB between pictures of two seeds", torch.stack(apart))
    still = film(prompts[0], 0, FRAMES, (0.0, 0.0))
    is_still = all(torch.equal(each, still[0]) for each in still)
    sys.stdout.write(f"without motion all frames are equal: {is_still}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
