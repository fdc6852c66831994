"""The pictures of training clips, for a transformer that reads known frames as channels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from t2v.errors import UserError
from t2v.models.latents import denormalize_latents
from t2v.pipelines.channels import encode_beside
from t2v.pipelines.visuals import VisualInputs


class FramesBeside:
    """The conditions of clips whose first frame is given, and the last one to a model of two.

    The frames are decoded from the latents, so training needs no pixels beside its cache; without
    them no clip is trained on, as Wan's image-to-video models were.

    Args:
        parts: the transformer, the VAE, and where it reads pictures an image encoder.
    """

    def __init__(self, parts: Any) -> None:
        self.parts, config = parts, parts.transformer.config
        self.two = config.pos_embed_seq_len is not None

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> dict[str, Tensor]:
        """The fields of `Conditions` for clips of latents `b c t h w`.

        Raises:
            UserError: a clip of one frame, which leaves nothing to make.
        """
        if latents.shape[2] == 1:
            raise UserError(
                "A clip of the data has one frame, and this model learns to go on from a picture. "
                "Leave pictures out: clips.image_ratio=0."
            )
        if self.parts.image_encoder is not None:
            self.parts.image_encoder.to(latents.device)
        with torch.autocast(latents.device.type, enabled=False):
            given = [
                encode_beside(self.parts, *self._frames(video), latents.shape[2])
                for video in latents.float().split(1)
            ]
        fields = {"channels": torch.cat([channels for channels, _ in given])}
        images = [image for _, image in given if image is not None]
        return fields | ({"image": torch.cat(images)} if images else {})

    def visuals(self, latents: Tensor) -> VisualInputs:
        """The pictures of one clip as a sampling run is given them."""
        frames, _ = self._frames(latents)
        return VisualInputs(image=frames[0], last_image=frames[-1] if self.two else None)

    def of_prompts(
        self,
        clips: Iterable[tuple[Tensor, Tensor]],
        rows: Sequence[dict[str, Any]],
        prompts: Sequence[str],
    ) -> dict[str, VisualInputs]:
        """The pictures of the first clip of every prompt.

        Args:
            clips: their rows, `b`, and latents, `b c t h w`.
        """
        found: dict[str, VisualInputs] = {}
        for numbers, latents in clips:
            for number, each in zip(numbers.tolist(), latents.split(1), strict=True):
                caption = rows[number]["caption"]
                if caption in prompts and caption not in found:
                    found[caption] = self.visuals(each)
        return found

    @torch.no_grad()
    def _frames(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """The frames of one clip, `t c h w` in [0, 1], and 1 for each that is given, `t`."""
        vae = self.parts.vae
        total = (latents.shape[2] - 1) * vae.config.scale_factor_temporal + 1
        needed = latents if self.two else latents[:, :, :1]
        z = denormalize_latents(needed, vae.config).to(vae.dtype)
        pixels = rearrange(vae.decode(z, return_dict=False)[0], "1 c t h w -> t c h w")
        pixels = (pixels.float() / 2 + 0.5).clamp(0, 1)
        frames, known = pixels.new_zeros(total, *pixels.shape[1:]), pixels.new_zeros(total)
        for place in (0, -1) if self.two else (0,):
            frames[place], known[place] = pixels[place], 1
        return frames, known
