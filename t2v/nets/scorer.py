"""A CLIP-style scorer of videos and texts, small enough to be trained at home."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.data.cache import weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.models.convolution import Conv3d
from t2v.models.load import load_part, load_text

FRAMES, SIDE = 17, 64  # the video tower's input; other videos are resampled to it
TOKENS = 5 * 4 * 4  # what its convolutions leave of them
CHUNK = 32


class ScorerTowers(ModelMixin, ConfigMixin):
    """The video tower, and the head of the text tower.

    Convolutions come first, for attention on bare patches learns slowly (Xiao et al. 2021, arXiv
    2106.14881); attention over space and time at once combines what they find.
    """

    @register_to_config
    def __init__(
        self, channels: int, width: int, layers: int, heads: int, dim: int, text_dim: int
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            *_layer(3 * 4 * 4, channels, (1, 1, 1)),
            *_layer(channels, 2 * channels, (2, 2, 2)),
            *_layer(2 * channels, 2 * channels, (1, 1, 1)),
            *_layer(2 * channels, width, (2, 1, 1)),
            nn.MaxPool3d((1, 2, 2)),
        )
        self.place = nn.Parameter(0.02 * torch.randn(TOKENS, width))
        layer = nn.TransformerEncoderLayer(
            width, heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(width)
        self.video_head = nn.Linear(2 * width, dim)
        self.text_head = nn.Sequential(
            nn.Linear(text_dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim)
        )
        # SigLIP begins at 10 and -10; a short training has no time to raise the scale from there
        self.scale = nn.Parameter(torch.tensor(20.0).log())
        self.bias = nn.Parameter(torch.tensor(-10.0))

    def embed_video(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return unit vectors of videos, `b d`; the arguments are those of `read_video`."""
        x = self.read_video(video, keep)
        return F.normalize(self.video_head(torch.cat((x.mean(1), x.amax(1)), -1)), dim=-1)

    def read_video(self, video: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what is seen in videos, `b n d`: `TOKENS` places and times of each.

        Args:
            video: `b c t h w` in [-1, 1], any length and size.
            keep: the tokens that attention is given, `b n` indices; None: all.
        """
        if video.shape[2:] != (FRAMES, SIDE, SIDE):
            video = F.interpolate(video, (FRAMES, SIDE, SIDE), mode="trilinear")
        x = rearrange(video, "b c t (h p) (w q) -> b (c p q) t h w", p=4, q=4)
        x = self.stem(x.contiguous(memory_format=torch.channels_last_3d))
        x = rearrange(x, "b d t h w -> b (t h w) d") + self.place
        if keep is not None:
            x = x.gather(1, keep.unsqueeze(-1).expand(-1, -1, x.shape[2]))
        seen: Tensor = self.norm(self.blocks(x))
        return seen

    def embed_text(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return unit vectors of texts, `b d`.

        Args:
            tokens: the texts as a text encoder gives them, `b m d`.
            mask: 1 where there is text, `b m`.
        """
        summed = (tokens * mask.unsqueeze(-1)).sum(1)
        pooled = F.rms_norm(summed, summed.shape[-1:])
        return F.normalize(self.text_head(pooled), dim=-1)

    def logits(self, videos: Tensor, texts: Tensor) -> Tensor:
        """Return the logit of each video `b d` and text `m d` belonging together, `b m`."""
        return self.scale.exp() * videos @ texts.mT + self.bias


def _layer(inputs: int, outputs: int, stride: tuple[int, int, int]) -> list[nn.Module]:
    convolution = Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
    return [convolution, nn.GroupNorm(8, outputs), nn.ReLU()]


class Scorer(nn.Module):
    """An `Aligner`: the towers with the tokenizer and the text encoder."""

    num_frames: int | None = FRAMES

    def __init__(
        self, towers: ScorerTowers, tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedModel
    ) -> None:
        super().__init__()
        self.towers, self.tokenizer, self.encoder = towers, tokenizer, encoder

    @property
    def name(self) -> str:
        """The word `scorer` and a hash of the towers' weights."""
        return f"scorer {weights_digest(self.towers)[:8]}"

    def embed_video(self, video: Tensor) -> Tensor:
        """Return unit vectors of videos `n t h w c` uint8: `n 1 d`."""
        chunks = video.to(self.towers.device).split(CHUNK)
        return torch.cat([self.towers.embed_video(pixels(chunk)) for chunk in chunks]).unsqueeze(1)

    def embed_text(self, texts: Sequence[str]) -> Tensor:
        """Return unit vectors of texts, `m d`."""
        tokens = self.tokenizer(list(texts), padding=True, return_tensors="pt")
        tokens = tokens.to(self.encoder.device)
        ids, mask = tokens.input_ids, tokens.attention_mask
        encoded = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        return self.towers.embed_text(encoded.float(), mask)

    @torch.inference_mode()
    def score(self, video: Tensor, texts: Sequence[str]) -> Tensor:
        """Return the cosine of each video with its own text, `n`.

        Args:
            video: `n t h w c`, uint8.
            texts: one for each.
        """
        return (self.embed_video(video).squeeze(1) * self.embed_text(texts)).sum(-1)

    @torch.inference_mode()
    def match(self, frames: Sequence[np.ndarray], texts: Sequence[str]) -> list[float]:
        """Return the cosine of each text with a clip's frames, `h w c` uint8 RGB, cropped square.

        Training crops footage so too.
        """
        video = rearrange(torch.from_numpy(np.stack(list(frames))), "t h w c -> t c h w")
        side = min(video.shape[2:])
        top, left = ((each - side) // 2 for each in video.shape[2:])
        square = video[..., top : top + side, left : left + side].float()
        small = F.interpolate(square, (SIDE, SIDE), mode="bicubic", antialias=True)
        levels = rearrange(small.round().clamp(0, 255).byte(), "t c h w -> 1 t h w c")
        return (self.embed_text(texts) @ self.embed_video(levels)[0, 0]).tolist()

    def save(self, folder: str | Path) -> None:
        """Write `towers/`, `tokenizer/` and `text_encoder/` into a folder."""
        self.towers.save_pretrained(Path(folder, "towers"))
        self.tokenizer.save_pretrained(str(Path(folder, "tokenizer")))
        self.encoder.save_pretrained(Path(folder, "text_encoder"))


def is_scorer(folder: str) -> bool:
    """Return whether a folder holds what `Scorer.save` writes."""
    return Path(folder, "towers", "config.json").is_file()


def load_scorer(folder: str) -> Scorer:
    """Load the scorer in a folder, ready to score.

    Raises:
        UserError: it is not there, or it is damaged.
    """
    if not is_scorer(folder):
        raise UserError(f"scorer={folder}: holds no scorer. Train one: t2v scorer output={folder}")
    towers = load_part(f"scorer={folder}", ScorerTowers, Path(folder, "towers"))
    return Scorer(towers, *load_text(folder)).eval()
