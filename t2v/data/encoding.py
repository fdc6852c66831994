"""Latents and text embeddings of all clips, and a report on them, for `t2v encode`."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from einops import rearrange
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.config.data import SIZES, ClipsConfig, EncodeConfig
from t2v.config.load import save_config
from t2v.data.captions import Captions
from t2v.data.dataset import with_captions
from t2v.data.dropped import count_reasons
from t2v.data.latents import VAE, latents_encoder
from t2v.data.prepare import Prepared, prepare
from t2v.data.spread import captions_on, clips_on
from t2v.data.text_cache import FOLDER, Texts
from t2v.io.files import write_text
from t2v.io.manifest import MANIFEST, write_manifest
from t2v.io.video import contact_sheet, save_image
from t2v.models.device import pick_device, ready
from t2v.models.folder import model_folder
from t2v.models.kernels.precision import picked_precision
from t2v.models.load import load_text
from t2v.models.text import count_tokens
from t2v.models.vae_folder import load_vae

logger = logging.getLogger(__name__)

TOKENS_PER_BAR = 8
BAR = 40  # characters of the longest bar of a histogram


def encode_clips(config: EncodeConfig) -> Path:
    """Encode every clip into the output folder, which the caller holds; returns the report."""
    output = Path(config.output)
    folder = model_folder(config.model)
    saved = DiffusionPipeline.load_config(folder)
    clips = config.clips
    if all(name in saved for name in SIZES):
        clips = clips.filled(**{name: saved[name] for name in SIZES})
    device = pick_device(config.device)
    config = replace(config, precision=picked_precision(config.precision, device))
    vae = load_vae(folder).to(device)
    tokenizer, text_encoder = load_text(folder)
    encoder = latents_encoder(vae, config.precision)
    cache = Path(clips.cache) if clips.cache else output / "latents"
    with clips_on(config, encoder) as spread:
        prepared = prepare(config.data, clips, encoder, cache, spread=spread)
    length = saved.get("max_sequence_length", 512)
    prepared = with_captions(prepared, tokenizer, length)
    save_config(config, output / "config.yaml")
    paired = zip(prepared.clips, prepared.texts, strict=True)
    usable = [{"captions": texts} for clip, texts in paired if not clip.dropped]
    captions = Captions(usable, tokenizer, length)
    text_encoder = text_encoder.float().to(vae.device)  # as trainings hold it
    with captions_on(config, text_encoder) as embed:
        Texts(text_encoder, cache / FOLDER, config.precision).add(captions, text_encoder, embed)
    write_manifest(output / MANIFEST, prepared.clips)
    report = summary(prepared, tokenizer)
    text = json.dumps(report, indent=2, ensure_ascii=False) + "\n"
    write_text(output / "report.json", text)
    text = _as_text(report)
    write_text(output / "report.txt", text)
    save_image(output / "sheet.png", _sheet(prepared, vae, clips, config.sheet_clips))
    logger.info("%s", text.strip())
    return output / "report.txt"


def summary(prepared: Prepared, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """Count clips, buckets, token lengths and reasons; `in` is `kept` plus `dropped`."""
    buckets = Counter(
        f"{item.bucket.num_frames} x {item.bucket.height} x {item.bucket.width}"
        for item in prepared.items
    )
    kept = [n for n, clip in enumerate(prepared.clips) if not clip.dropped]
    counts = [count_tokens(tokenizer, text) for number in kept for text in prepared.texts[number]]
    bars = Counter(count // TOKENS_PER_BAR for count in counts)
    return {
        "in": len(prepared.clips),
        "kept": len(kept),
        "dropped": len(prepared.clips) - len(kept),
        "dropped by": count_reasons(prepared.clips),
        "buckets (frames x height x width)": dict(buckets.most_common()),
        "captions": len(counts),
        "tokens of a caption": {
            f"{bar * TOKENS_PER_BAR} to {(bar + 1) * TOKENS_PER_BAR - 1}": bars[bar]
            for bar in sorted(bars)
        },
    }


def _as_text(report: dict[str, Any]) -> str:
    """Format a report, with histograms of bars."""
    lines = [f"in {report['in']} = kept {report['kept']} + dropped {report['dropped']}"]
    for name, counts in report.items():
        if isinstance(counts, dict) and counts:
            wide, most = max(map(len, counts)), max(counts.values())
            lines += ["", f"{name}:"]
            lines += [
                f"  {key:<{wide}}  {count:>6}  {'#' * round(BAR * count / most)}"
                for key, count in counts.items()
            ]
    return "\n".join(lines) + "\n"


def _sheet(prepared: Prepared, vae: VAE, clips: ClipsConfig, count: int) -> Any:
    """Some clips of the last stage's size, spread over the manifest, as their latents decode."""
    resolution = clips.all_stages()[-1].resolution
    shown = [n for n, item in enumerate(prepared.items) if item.resolution == resolution]
    chosen = [shown[i] for i in np.linspace(0, len(shown) - 1, min(count, len(shown))).astype(int)]
    videos = [_decoded(vae, prepared.cache.read(prepared.keys[n])) for n in chosen]
    return contact_sheet(videos, _captions(prepared, chosen))


def _captions(prepared: Prepared, items: Sequence[int]) -> list[str]:
    return [prepared.texts[prepared.items[number].clip][0] for number in items]


@torch.no_grad()
def _decoded(vae: VAE, latents: Tensor) -> np.ndarray:
    device = ready(vae)
    video = vae.decode(latents[None].to(device).float()).sample[0].float().clamp(-1, 1)
    frames = rearrange(video, "c t h w -> t h w c") * 127.5 + 127.5
    return frames.round().to(torch.uint8).cpu().numpy()
