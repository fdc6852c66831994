"""`t2v world oracle`: the oracle learns to read the scenes of rendered clips."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F

from t2v.config.load import save_config
from t2v.config.world import WorldOracleConfig
from t2v.data.world_shards import pixels, read_rendered, read_shards
from t2v.io.progress import Progress, progress
from t2v.models.device import check_memory
from t2v.outputs import output_folder
from t2v.world.labels import HEADS, labels
from t2v.world.oracle import FRAMES, OF_THE_START, SIDE, WorldOracle, fitted, load_oracle, windows

AT_ONCE = 32  # windows whose features are computed together
UNKNOWN = -1  # the class of what a window cannot show


def train_oracle(config: WorldOracleConfig) -> None:
    """Train the oracle on the clips of `config.data`; leaves a model folder in `config.output`.

    Raises:
        UserError: see `output_folder`, `read_shards`, `load_oracle` and `check_memory`.
    """
    with output_folder(config) as config:
        batch = 4 * FRAMES * SIDE * SIDE * 3 * config.batch_size
        check_memory(f"batch_size={config.batch_size}", batch, torch.device("cpu"), "Give less.")
        oracle = _begun(config)
        generator = torch.Generator().manual_seed(config.seed)
        save_config(config, Path(config.output) / "config.yaml")
        if config.train_body:
            parts, truth = _gathered(config, lambda video: video)

            def logits(chosen: Tensor) -> dict[str, Tensor]:
                with torch.autocast("cpu", torch.bfloat16):
                    return oracle(_soften(pixels(parts[chosen]), generator))
        else:
            parts, truth = _gathered(config, lambda video: _features(oracle, video, generator))

            def logits(chosen: Tensor) -> dict[str, Tensor]:
                return oracle.answer(parts[chosen])

        oracle.train()
        oracle.body.train(config.train_body)  # its batch norms stay with its convolutions
        _train(config, oracle, logits, truth, generator)
        oracle.eval().save_pretrained(config.output)


def _begun(config: WorldOracleConfig) -> WorldOracle:
    if config.start_from:
        return load_oracle(config.start_from)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return WorldOracle(width=48)


@torch.no_grad()
def _features(oracle: WorldOracle, video: Tensor, generator: torch.Generator) -> Tensor:
    found = [oracle.features(_soften(pixels(chunk), generator)) for chunk in video.split(AT_ONCE)]
    return torch.cat(found)


def _gathered(
    config: WorldOracleConfig, keep: Callable[[Tensor], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Gather what `keep` makes of all clips' windows, a shard at a time, and their classes."""
    kept, truths, later = [], [], []
    count = sum(1 for _ in groupby(read_rendered(config.data), key=lambda clip: clip.path))
    for video, rows in progress(_shards(config), "read", "shards", count):
        shown, of, first = _shard_windows(video, rows)
        kept.append(keep(shown))
        truths += of
        later += [not each for each in first]
    classes = labels(truths)
    hidden = torch.tensor(later)
    for name in classes:
        if name.startswith(OF_THE_START):
            classes[name][hidden] = UNKNOWN
    return torch.cat(kept), classes


def _shards(config: WorldOracleConfig) -> Iterator[tuple[Tensor, list[dict[str, Any]]]]:
    """The clips of each shard that are learned from, and what their rows say of them."""
    groups = groupby(read_rendered(config.data), key=lambda clip: clip.path)
    shards = read_shards(config.data)
    for (_, clips), (video, _) in zip(groups, shards, strict=True):
        rows = [clip.extra for clip in clips][: config.clips_per_shard]
        yield video[: len(rows)], rows


def _shard_windows(
    video: Tensor, rows: list[dict[str, Any]]
) -> tuple[Tensor, list[dict[str, Any]], list[bool]]:
    """Windows `n t h w c` uint8 of the clips of a shard, their scenes, and which begin one."""
    shown, truths, first = [], [], []
    for clip, row in zip(video, rows, strict=True):
        whole = [{"start": 0, "end": len(clip), "truth": row["truth"]}]
        for scene in row.get("scenes", whole):
            frames = rearrange(clip[scene["start"] : scene["end"]], "t h w c -> 1 c t h w")
            seen = windows(fitted(frames.float()))
            shown += [
                rearrange(each[0], "c t h w -> t h w c").round().to(torch.uint8) for each in seen
            ]
            truths += [scene["truth"]] * len(seen)
            first += [number == 0 for number in range(len(seen))]
    return torch.stack(shown), truths, first


def _train(
    config: WorldOracleConfig,
    oracle: WorldOracle,
    logits: Callable[[Tensor], dict[str, Tensor]],
    truth: dict[str, Tensor],
    generator: torch.Generator,
) -> None:
    """Train on batches of windows, drawn by their numbers, whose answers `logits` gives."""
    learned = (
        oracle.parameters()
        if config.train_body
        else [*oracle.read.parameters(), *oracle.heads.parameters()]
    )
    optimizer = torch.optim.AdamW(learned, lr=config.lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    count = len(truth["background"])
    with Progress(config.steps, "train", "steps") as bar:
        for _ in range(config.steps):
            chosen = torch.randint(count, (config.batch_size,), generator=generator)
            found = logits(chosen)
            losses = {
                name: F.cross_entropy(
                    found[name].float(), truth[name][chosen], ignore_index=UNKNOWN
                )
                for name in HEADS
                if (truth[name][chosen] != UNKNOWN).any()
            }
            optimizer.zero_grad()
            torch.stack(list(losses.values())).sum().backward()
            optimizer.step()
            schedule.step()
            worst = max(losses, key=lambda name: losses[name].item())
            bar.update(worst=f"{worst} {losses[worst].item():.3f}")


def _soften(video: Tensor, generator: torch.Generator) -> Tensor:
    """Add blur and noise of a random strength for the batch: generated clips are less crisp."""
    blur, noise = torch.rand(2, generator=generator).tolist()
    blurred = F.avg_pool3d(video, (1, 3, 3), 1, (0, 1, 1), count_include_pad=False)
    noisy = 0.06 * noise * torch.randn(video.shape, generator=generator)
    return video.lerp(blurred, 0.7 * blur) + noisy
