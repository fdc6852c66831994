"""CLIP, SigLIP, X-CLIP and other models of transformers that compare images with texts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoProcessor

from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.models.load import load_part, loading
from t2v.nets.preprocessing import preprocessing, sample_frames


class ClipModel:
    """An `Aligner` from a folder or the Hub, with a tower for images or videos and one for texts.

    A text longer than the model takes counts by its beginning.

    Args:
        name: a model of transformers.
        setting: the setting that names it, for messages.
        device: where it computes.

    Raises:
        UserError: it cannot be loaded, or has no such towers.
    """

    num_frames: int | None = None  # as many as one likes

    def __init__(self, name: str, setting: str = "clip", device: str = "cpu") -> None:
        with loading(f"{setting}={name}"):
            model = load_part(f"{setting}={name}", AutoModel, name, heads=True)
            self.model = model.eval().to(device)
            self.processor = AutoProcessor.from_pretrained(name)
            if not (hasattr(model, "get_image_features") or hasattr(model, "get_video_features")):
                raise ValueError("It compares no videos with texts; CLIP, SigLIP and X-CLIP do.")
            self._prepare, self._by = preprocessing(name)
        self._folder = name
        self.takes_videos = hasattr(model, "get_video_features") and hasattr(model, "mit")  # X-CLIP

    @cached_property
    def name(self) -> str:
        """The model's name, a hash of its weights, and how frames are prepared for it."""
        return f"{self._folder} {weights_digest(self.model)[:8]} {self._by}"

    @torch.inference_mode()
    def embed_video(self, video: Tensor) -> Tensor:
        """Return unit vectors of videos `n t h w c` uint8: `n t d`, or `n 1 d` of an X-CLIP."""
        frames = rearrange(pixels(video).to(self.model.device), "n c t h w -> n t c h w")
        if self.takes_videos:
            count = self.model.config.vision_config.num_frames
            prepared = self._prepare(sample_frames(frames, count).flatten(0, 1))
            found = self.model.get_video_features(pixel_values=prepared.unflatten(0, (-1, count)))
            return F.normalize(_vectors(found), dim=-1)[:, None]
        found = self.model.get_image_features(pixel_values=self._prepare(frames.flatten(0, 1)))
        return F.normalize(_vectors(found), dim=-1).unflatten(0, (len(video), -1))

    @torch.inference_mode()
    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, `m d`."""
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        tokens = self.processor(text=list(texts), **options).to(self.model.device)
        return F.normalize(_vectors(self.model.get_text_features(**tokens)), dim=-1)

    @torch.inference_mode()
    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """Return the cosine of each text with frames `h w c` uint8, their mean (GODIVA's SIM)."""
        inputs = self.processor(
            text=list(texts),
            images=list(frames),
            padding="max_length",
            truncation=True,
            return_tensors="pt",
        ).to(self.model.device)
        # the model's own forward, whose roundings manifests were written with
        output = self.model(**inputs)
        images = F.normalize(output.image_embeds.float(), dim=-1)  # n d
        said = F.normalize(output.text_embeds.float(), dim=-1)  # m d
        return (said @ images.mT).mean(dim=1).tolist()


def _vectors(output: Any) -> Tensor:
    """The features of one tower: transformers 5 gives an output where 4 gave a tensor."""
    return (output if isinstance(output, Tensor) else output.pooler_output).float()
