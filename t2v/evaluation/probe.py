"""The `t2v eval probe` command: things found by a linear head on features of the denoiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from t2v.config.features import ProbeConfig
from t2v.data.world_shards import read_rendered, read_shards
from t2v.errors import UserError
from t2v.evaluation.intervals import Interval, summary
from t2v.families.load import load_generator
from t2v.io.progress import Progress
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.models.taps import check_layers
from t2v.pipelines.features import features, latents_of

RIDGE = 1e-3  # of the variance of a standardised feature
THRESHOLDS = torch.linspace(0.1, 0.7, 25)
HALF = 127  # of 255, the coverage from which a pixel belongs to a thing


@dataclass(frozen=True)
class Probed:
    """Features and masks of clips, `n p d` for `p` patches of a clip, each one token.

    Args:
        given: features, by their name.
        things: true where a thing covers a pixel, a row of pixels for each patch.
    """

    given: dict[str, Tensor]
    things: Tensor

    def take(self, each: slice) -> Probed:
        """Those of some clips."""
        return Probed({name: x[each] for name, x in self.given.items()}, self.things[each])


def probe(config: ProbeConfig) -> str:
    """Fit heads to the clips of `config.data`, and measure them on those of `config.test`.

    Each token gives the pixels of its patch by a linear function (ridge regression, in closed
    form), as ReferEverything (arXiv 2410.23287) reads masks from a video denoiser. The figure is
    the intersection over union of a clip with its mask, averaged over clips.

    Returns:
        A table: each block, the VAE's latents, and as chance the mean mask of the clips of `data`.

    Raises:
        UserError: the model is not ours, there is no such block, or clips do not fit it.
    """
    device, folder = pick_device(config.device), model_folder(config.model)
    dtype = pick_dtype(config.dtype, device)
    generator = load_generator(config.model, folder, device, dtype, "t2v eval probe", ())
    pipeline = generator.pipeline
    transformer = pipeline.components.get("transformer")
    layers = config.layers or tuple(range(len(getattr(transformer, "blocks", ()))))
    check_layers(transformer, layers)
    learned = looked_at(pipeline, replace(config, layers=layers), config.data)
    tested = looked_at(pipeline, replace(config, layers=layers), config.test)
    draws = torch.Generator().manual_seed(config.seed)
    rows = {name: summary(found, draws) for name, found in overlaps(learned, tested).items()}
    return _table(rows, config, len(learned.things), len(tested.things))


def looked_at(pipeline: Any, config: ProbeConfig, data: str) -> Probed:
    """The features and masks of the first clips of a folder of `t2v world`.

    Raises:
        UserError: it is none; its clips do not fit the model.
    """
    captions = [clip.caption for clip in read_rendered(data)[: config.count]]
    patch = pixels_of_patch(pipeline)
    found: dict[str, list[Tensor]] = {}
    things: list[Tensor] = []
    with Progress(len(captions), data, "clip") as bar:
        for video, mask in read_shards(data):
            for clip, covered in zip(video, mask, strict=True):
                if len(things) == len(captions):
                    break
                caption = captions[len(things)] if config.prompts else ""
                noise = torch.Generator().manual_seed(config.seed + len(things))
                given = features_of(pipeline, clip, config.layers, config.time, caption, noise)
                for name, x in given.items():
                    found.setdefault(name, []).append(x.float().cpu())
                things.append(in_patches(covered > HALF, patch))
                bar.update()
    return Probed({name: torch.stack(each) for name, each in found.items()}, torch.stack(things))


def features_of(
    pipeline: Any,
    clip: Tensor,
    layers: tuple[int, ...],
    time: float,
    caption: str,
    noise: torch.Generator,
) -> dict[str, Tensor]:
    """The features of each patch of a clip (`t h w c`), `p d`: of the blocks, and of the VAE."""
    _, height, width = pixels_of_patch(pipeline)
    if clip.shape[1] % height or clip.shape[2] % width:
        raise UserError(
            f"Clips of {clip.shape[1]}x{clip.shape[2]} pixels: this model takes multiples of "
            f"{height}x{width}. Render others."
        )
    states = features(pipeline, clip, layers, time, caption, noise)
    states = rearrange(states, "1 d t h w -> (t h w) d")
    parts = states.chunk(len(layers), dim=-1)
    a, p, q = pipeline.transformer.config.patch_size
    latents = rearrange(
        latents_of(pipeline, clip), "1 c (t a) (h p) (w q) -> (t h w) (c a p q)", a=a, p=p, q=q
    )
    named = {f"block {layer}": part for layer, part in zip(layers, parts, strict=True)}
    return {**named, "VAE latents": latents}


def pixels_of_patch(pipeline: Any) -> tuple[int, int, int]:
    """The frames, rows and columns of a film that one token stands for."""
    vae, (a, p, q) = pipeline.vae.config, pipeline.transformer.config.patch_size
    return vae.scale_factor_temporal * a, vae.scale_factor_spatial * p, vae.scale_factor_spatial * q


def in_patches(mask: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """A mask (`t h w`) by patches, `p pixels`; the first frame has a group of frames of its own."""
    frames, rows, columns = patch
    short = -len(mask) % frames
    mask = torch.cat([mask[:1].expand(short, -1, -1), mask])
    return rearrange(mask, "(t a) (h p) (w q) -> (t h w) (a p q)", a=frames, p=rows, q=columns)


def overlaps(learned: Probed, tested: Probed) -> dict[str, Tensor]:
    """The overlap of each tested clip with its things, by the name of what it was found in."""
    found = {}
    truth = learned.things.float()
    for name, x in learned.given.items():
        head = fit_head(x, truth)
        threshold = best_threshold(head(x), learned.things)
        found[name] = overlap(head(tested.given[name]) > threshold, tested.things)
    mean = reduce(truth, "n p v -> 1 p v", "mean")
    threshold = best_threshold(mean.expand_as(truth), learned.things)
    found["mean mask (chance)"] = overlap(
        (mean > threshold).expand_as(tested.things), tested.things
    )
    found["everything (chance)"] = overlap(torch.ones_like(tested.things), tested.things)
    return found


def fit_head(x: Tensor, y: Tensor) -> Callable[[Tensor], Tensor]:
    """The linear function from `x` (`n p d`) to `y` (`n p v`) of least squares, with a ridge."""
    flat, wanted = x.flatten(0, 1).double(), y.flatten(0, 1).double()
    mean, deviation = flat.mean(0), flat.std(0) + 1e-6

    def rows(given: Tensor) -> Tensor:
        scaled = (given.double() - mean) / deviation
        return torch.cat([scaled, torch.ones(*scaled.shape[:-1], 1, dtype=scaled.dtype)], -1)

    a = rows(flat)
    ridge = RIDGE * len(a) * torch.eye(a.shape[1], dtype=a.dtype)
    weights = torch.linalg.solve(a.mT @ a + ridge, a.mT @ wanted)
    return lambda given: rows(given) @ weights


def best_threshold(scores: Tensor, things: Tensor) -> float:
    """The threshold of the highest mean overlap."""
    means = [overlap(scores > each, things).nanmean() for each in THRESHOLDS]
    return THRESHOLDS[int(torch.stack(means).argmax())].item()


def overlap(found: Tensor, things: Tensor) -> Tensor:
    """Intersection over union of each clip, `n`; nan where there is neither."""
    both, either = (found & things).flatten(1).sum(1), (found | things).flatten(1).sum(1)
    return both.double() / either


def _table(rows: dict[str, Interval], config: ProbeConfig, learned: int, tested: int) -> str:
    lines = [
        f"intersection over union on {tested} clips of {Path(config.test).name}; heads fitted to "
        f"{learned} of {Path(config.data).name}; time {config.time:g}, "
        f"{'captions' if config.prompts else 'no captions'}; 95 % intervals over clips",
        *(
            f"{name:20} {each.value:.3f} [{each.low:.3f}, {each.high:.3f}]"
            for name, each in rows.items()
        ),
    ]
    return "\n".join(lines)
