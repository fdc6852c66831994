"""The report of which word of its prompt moves which region of a film, as JSON and a picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.io.files import write_text
from t2v.io.video import contact_sheet, save_image
from t2v.pipelines.word_effects import WordEffect

DARK = 0.2  # of a frame's brightness is left where nothing looks, or moves
COLUMNS = 6  # frames of each word in the picture
REGION = 0.5  # of the largest effect: the least in a word's region
DIGITS = 4
REST = "(punctuation and end mark)"


def write_report(
    effects: Sequence[WordEffect], frames: np.ndarray, prompt: str, stride: int, stem: Path
) -> list[Path]:
    """Write `STEM.json`, all words with their maps and regions, and `STEM.png`, a row of each.

    Args:
        frames: the film, `t h w c` uint8.
        stride: frames of a latent frame.

    Returns:
        Both files.
    """
    rows = [told(each) for each in effects]
    words = json.dumps({"prompt": prompt, "words": rows}, ensure_ascii=False)
    places = stem.with_suffix(".json"), stem.with_suffix(".png")
    write_text(places[0], words + "\n")
    highest = max(each.places.max().item() for each in effects)
    strips = [frames, *(lit(frames, each.places, stride, highest) for each in effects)]
    names = [prompt, *(f"{row['word']} {row['effect']:.3f}" for row in rows)]
    save_image(places[1], contact_sheet(strips, names, COLUMNS))
    return list(places)


def told(effect: WordEffect) -> dict[str, Any]:
    """A word's row of the report.

    `region` is the box, from 0 to 1 of the film's width and height, of the places that it moves at
    least `REGION` as much as the one that it moves most; `frames` are the latent frames of these.
    """
    most = effect.places >= REGION * effect.places.max()
    return {
        "word": effect.word.text or REST,
        "scene": effect.word.scene,
        "tokens": list(effect.word.rows),
        "effect": round(effect.effect, DIGITS),
        "region": dict(zip(("left", "top", "right", "bottom"), _box(most), strict=True)),
        "frames": most.any(2).any(1).nonzero()[:, 0].tolist(),
        "map": [
            [[round(each, DIGITS) for each in row] for row in frame]
            for frame in effect.places.tolist()
        ],
    }


def _box(places: Tensor) -> list[float]:
    """The least box around places `t h w`, as shares of width and height."""
    _, height, width = places.shape
    rows, columns = places.any(0).any(1).nonzero()[:, 0], places.any(0).any(0).nonzero()[:, 0]
    ends = columns.min() / width, rows.min() / height
    others = (columns.max() + 1) / width, (rows.max() + 1) / height
    return [round(float(each), DIGITS) for each in (*ends, *others)]


def lit(frames: np.ndarray, looks: Tensor, stride: int, highest: float | None = None) -> np.ndarray:
    """Frames (`t h w c` uint8), dark but where `looks` (`t h w`, of latent frames) is high.

    Args:
        highest: what is fully bright; 0 is dark. None: the highest and lowest of `looks` are.
    """
    whole = F.interpolate(
        looks[None].float().cpu(), frames.shape[1:3], mode="bilinear", align_corners=False
    )[0]
    per = -(-(len(frames) - 1 + stride) // len(whole))  # frames of a map, patches of time included
    of_frame = torch.tensor([(each + stride - 1) // per for each in range(len(frames))])
    light = whole[of_frame.clamp(max=len(whole) - 1)]
    low = whole.amin() if highest is None else torch.zeros(())
    high = whole.amax() if highest is None else torch.tensor(highest)
    light = (light - low) / (high - low).clamp(min=1e-6)
    shown = frames * (DARK + (1 - DARK) * light.numpy()[..., None])
    return shown.round().astype(np.uint8)
