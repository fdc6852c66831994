"""How well a model follows held-out prompts of the world, read off its videos by the judge."""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from tqdm import tqdm

from t2v.config import EvalConfig
from t2v.data.clips import pixels
from t2v.errors import UserError
from t2v.models.folder import model_folder
from t2v.models.load import loading, refuse_missing
from t2v.models.placement import ready
from t2v.pipeline import T2VPipeline
from t2v.settings import save_config
from t2v.video import contact_sheet, save_image
from t2v.world.grammar import DIRECTIONS, Scene, caption, draw_scene
from t2v.world.labels import HEADS, labels
from t2v.world.oracle import WorldOracle
from t2v.world.render import render
from t2v.world.run import clip_generator

logger = logging.getLogger(__name__)

SHEET_CLIPS = 24

Truth = dict[str, Any]
Answer = dict[str, str]


@dataclass(frozen=True)
class Attribute:
    """One column of the table: which scenes it is asked of, and which heads must all be right."""

    name: str
    asked: Callable[[Truth], bool]
    heads: tuple[str, ...]


def _single(truth: Truth) -> bool:
    return truth["count"] == 1


def _single_going(truth: Truth) -> bool:
    return _single(truth) and truth["things"][0]["motion"] in DIRECTIONS


def _pair(truth: Truth) -> bool:
    return truth["count"] == 2 and truth["things"][0] != truth["things"][1]


def _all(truth: Truth) -> bool:
    return True


ATTRIBUTES = (
    Attribute("background", _all, ("background",)),
    Attribute("camera", _all, ("camera",)),
    Attribute("count", _all, ("count",)),
    Attribute("colour", _single, ("colour1",)),
    Attribute("shape", _single, ("shape1",)),
    Attribute("size", _single, ("size1",)),
    Attribute("motion", _single, ("motion1",)),
    Attribute("direction", _single_going, ("motion1",)),
    Attribute("two colours", _pair, ("colour1", "colour2")),
    Attribute("two shapes", _pair, ("shape1", "shape2")),
)


def evaluate(config: EvalConfig) -> str:
    """Judge videos of held-out prompts beside real clips; writes `world.json`, `world.md`, a sheet.

    Returns the table, as in `world.md`. Rows: the model, real clips through its VAE (the ceiling),
    real clips (the judge itself), the most common answer (chance). Intervals are Wilson's, 95 %.

    Raises:
        UserError: the model or the judge is missing or is of another kind.
    """
    assert config.oracle is not None
    pipeline = load_pipeline(config.model)
    oracle = load_oracle(config.oracle)
    scenes, prompts = heldout_prompts(config.count, config.seed)
    truths = [scene.truth() for scene in scenes]
    clips = [render(scene) for scene in scenes]
    real, masks = (torch.stack(each) for each in zip(*clips, strict=True))  # n t h w c, n t h w
    rebuilt = through_vae(pipeline, real)
    generated = torch.cat(list(_generate(pipeline, prompts, config)))
    judged = {
        "model": _judge(oracle, generated),
        "real clips through the VAE": _judge(oracle, rebuilt),
        "real clips": _judge(oracle, real),
    }
    rows = {name: score(truths, answers) for name, answers in judged.items()}
    rows["most common answer"] = score(truths, most_common(truths))
    psnr, psnr_object = psnrs(rebuilt, real, masks)
    report = {"prompts": len(prompts), "rows": rows, "psnr": psnr, "psnr_object": psnr_object}
    output = Path(config.output)
    output.mkdir(parents=True, exist_ok=True)
    save_config(config, output / "config.yaml")
    details = [
        {"prompt": prompt, "truth": truth, "seen": seen}
        for prompt, truth, seen in zip(prompts, truths, judged["model"], strict=True)
    ]
    (output / "world.json").write_text(json.dumps(report | {"details": details}, indent=1))
    figures = f"{psnr:.1f} dB, {psnr_object:.1f} dB inside the objects"
    text = table(rows) + f"\nVAE: {figures}, on these {len(prompts)} real clips\n"
    (output / "world.md").write_text(text)
    shown = contact_sheet(list(generated[:SHEET_CLIPS].numpy()), prompts[:SHEET_CLIPS], columns=5)
    save_image(output / "world.png", shown)
    return text


def load_pipeline(model: str) -> T2VPipeline:
    """The pipeline of the embedded model, a folder or a hub id.

    Raises:
        UserError: it is not there, or it is damaged.
    """
    folder = model_folder(model)
    with loading(f"model={model}"):
        pipeline = T2VPipeline.from_pretrained(folder)
    refuse_missing(f"model={model}", pipeline.transformer, pipeline.text_encoder, pipeline.vae)
    return pipeline


def load_oracle(folder: str) -> WorldOracle:
    """The judge in `folder`, ready to read.

    Raises:
        UserError: it is not there, or it is damaged.
    """
    if not Path(folder, "config.json").is_file():
        raise UserError(
            f"{folder} holds no judge. Train one with `t2v world make=oracle output={folder}`."
        )
    with loading(f"oracle={folder}"):
        oracle = WorldOracle.from_pretrained(folder)
    refuse_missing(f"oracle={folder}", oracle)
    return oracle.eval()


def heldout_prompts(count: int, seed: int) -> tuple[list[Scene], list[str]]:
    """Scenes that training never saw, and one caption of each; the same for the same seed."""
    scenes, prompts = [], []
    for index in range(count):
        # a seed of its own: the clips of `split=heldout` serve to follow training
        generator = clip_generator(seed + 1_000, "heldout", index)
        scenes.append(draw_scene(generator, "heldout"))
        prompts.append(caption(scenes[-1], generator))
    return scenes, prompts


def score(truths: list[Truth], answers: list[Answer]) -> dict[str, dict[str, float]]:
    """Share right of each attribute with its 95 % interval and number of cases."""
    classes = labels(truths)
    columns = {}
    for attribute in ATTRIBUTES:
        asked = [i for i, truth in enumerate(truths) if attribute.asked(truth)]
        right = sum(
            all(answers[i][head] == HEADS[head][0][classes[head][i]] for head in attribute.heads)
            for i in asked
        )
        low, high = wilson(right, len(asked))
        share = right / len(asked) if asked else math.nan
        columns[attribute.name] = {"share": share, "low": low, "high": high, "n": len(asked)}
    return columns


def wilson(right: int, n: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's 95 % interval of a share (Wilson 1927, JASA 22:209)."""
    if n == 0:
        return math.nan, math.nan
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return centre - reach, centre + reach


def most_common(truths: list[Truth]) -> list[Answer]:
    """One constant answer, the best there is: what a judge scores who sees nothing."""
    classes = labels(truths)
    answer = {}
    for name, (names, _) in HEADS.items():
        known = Counter(index for index in classes[name].tolist() if index >= 0)
        answer[name] = names[known.most_common(1)[0][0]] if known else names[0]
    return [answer] * len(truths)


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """The rows as a Markdown table: share [low, high] in percent, and n below."""
    names = [attribute.name for attribute in ATTRIBUTES]
    lines = ["| | " + " | ".join(names) + " |", "| --- |" + " --- |" * len(names)]
    for row, columns in rows.items():
        cells = [
            f"{100 * c['share']:.1f} [{100 * c['low']:.0f}, {100 * c['high']:.0f}]"
            for c in (columns[name] for name in names)
        ]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    counts = [str(next(iter(rows.values()))[name]["n"]) for name in names]
    return "\n".join([*lines, "| n | " + " | ".join(counts) + " |"]) + "\n"


def _generate(pipeline: T2VPipeline, prompts: list[str], config: EvalConfig) -> Iterator[Tensor]:
    """Videos of each batch of prompts, `b t h w c` uint8; prompt i is drawn with seed + i."""
    pipeline.set_progress_bar_config(disable=True)
    bar = tqdm(range(0, len(prompts), config.batch_size), unit="batch", disable=None)
    for first in bar:
        if bar.disable:  # no terminal
            logger.info("drawing %d of %d", first + 1, len(prompts))
        chosen = prompts[first : first + config.batch_size]
        seeds = range(config.seed + first, config.seed + first + len(chosen))
        frames = pipeline(
            chosen,
            num_inference_steps=config.num_inference_steps,
            guidance_scale=config.guidance_scale,
            generator=[torch.Generator().manual_seed(seed) for seed in seeds],
            output_type="np",
        ).frames
        yield torch.from_numpy(np.round(frames * 255).astype(np.uint8))


@torch.no_grad()
def through_vae(pipeline: T2VPipeline, videos: Tensor) -> Tensor:
    """What the VAE makes of `n t h w c` uint8 videos, of the same kind."""
    recons, device = [], ready(pipeline.vae)
    for chunk in videos.split(16):
        latents = pipeline.vae.encode(pixels(chunk.to(device))).latent_dist.mean
        video = (pipeline.vae.decode(latents).sample.clamp(-1, 1) + 1) * 127.5
        recons.append(rearrange(video, "b c t h w -> b t h w c").round().to("cpu", torch.uint8))
    return torch.cat(recons)


def psnrs(rebuilt: Tensor, real: Tensor, masks: Tensor) -> tuple[float, float]:
    """PSNR in dB: the mean over clips, and that of all pixels of objects together.

    Args:
        rebuilt, real: `n t h w c`, uint8.
        masks: how far objects cover each pixel, `n t h w`, uint8.
    """
    square = (rebuilt.float() - real.float()).square().mean(-1)  # n t h w
    errors = square.flatten(1).mean(1), square[masks > 127].mean()
    per_clip, inside = (10 * torch.log10(255**2 / error) for error in errors)
    return per_clip.mean().item(), inside.item()


def _judge(oracle: WorldOracle, videos: Tensor) -> list[Answer]:
    return [seen for chunk in videos.split(32) for seen in oracle.judge(pixels(chunk))]
