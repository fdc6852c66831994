"""The transformer's small parts: linear layers, positions, norms, modulation, embeddings."""

from __future__ import annotations

import functools

import diffusers.models.attention
import torch
import torch.nn.functional as F
from diffusers.models.embeddings import (
    PixArtAlphaTextProjection,
    TimestepEmbedding,
    Timesteps,
    get_1d_rotary_pos_embed,
    get_1d_sincos_pos_embed_from_grid,
    get_3d_sincos_pos_embed,
)
from diffusers.models.normalization import FP32LayerNorm
from einops import einsum, rearrange, reduce, repeat
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.context_tokens import ContextTokens
from t2v.models.kernels.norms import gated, modulated, normed, rms_norm
from t2v.models.kernels.products import linear, linear_gelu
from t2v.models.kv_cache import KVCache, cached


class Linear(nn.Linear):
    """`nn.Linear` with the fastest kernel of its device."""

    def forward(self, x: Tensor, *, gelu: bool = False) -> Tensor:
        product = linear_gelu if gelu else linear
        return product(x, self.weight, self.bias)


class FeedForward(diffusers.models.attention.FeedForward):
    """Linear, GELU (tanh), Linear; of diffusers' class, which its layer skipping looks for."""

    def __init__(self, dim: int, inner_dim: int) -> None:
        nn.Module.__init__(self)
        self.net = nn.ModuleList(
            [_LinearGELU(dim, inner_dim), nn.Dropout(0.0), Linear(inner_dim, dim)]
        )


class _LinearGELU(nn.Module):
    def __init__(self, dim: int, inner_dim: int) -> None:
        super().__init__()
        self.proj = Linear(dim, inner_dim)

    def forward(self, x: Tensor) -> Tensor:
        if type(self.proj) is Linear:
            return self.proj(x, gelu=True)
        return F.gelu(self.proj(x), approximate="tanh")  # an adapter adds to what GELU takes


class RotaryEmbedding(nn.Module):
    """Rotary positions of a video grid (RoFormer, arXiv 2104.09864, one part of a head per axis).

    Height and width take `2 * (head_dim // 6)` channels each and time the rest, as in Wan 2.1.
    Positions are whole numbers from 0.
    """

    freqs: Tensor

    def __init__(
        self, head_dim: int, patch_size: tuple[int, ...], max_length: int, theta: float
    ) -> None:
        super().__init__()
        self.patch_size, self.theta = tuple(patch_size), theta
        space = 2 * (head_dim // 6)
        self.axis_dims = (head_dim - 2 * space, space, space)
        tables = [
            get_1d_rotary_pos_embed(
                dim, max_length, theta, use_real=False, freqs_dtype=torch.float64
            )
            for dim in self.axis_dims
        ]
        rotations = torch.view_as_real(torch.cat(tables, dim=1)).float()
        # one real table with (cos, sin) side by side: it splits, casts and offloads like any tensor
        self.register_buffer(
            "freqs", rearrange(rotations, "n pairs two -> n (pairs two)"), persistent=False
        )

    def forward(
        self, video: Tensor, pictures: Tensor | None = None, positions: Tensor | None = None
    ) -> Tensor:
        """The rotations of the tokens of `video` (`b c t h w`), `1 n 1 d`: d/2 pairs (cos, sin).

        Args:
            pictures: `b c k h w`; the rotations of their tokens follow, `b n 1 d`.
            positions: their places in time, `b k`, which need not be whole.
        """
        rotations = self._of_grid(video)
        if pictures is None:
            return rotations
        assert positions is not None
        beside = self._of_pictures(pictures, positions)
        return torch.cat([rotations.expand(len(beside), -1, -1, -1), beside], dim=1)

    def _of_grid(self, video: Tensor) -> Tensor:
        sizes = [
            size // patch for size, patch in zip(video.shape[2:], self.patch_size, strict=True)
        ]
        if max(sizes) > len(self.freqs):
            raise UserError(
                f"The latent grid {tuple(sizes)} (frames, height, width in patches) is longer than "
                f"the {len(self.freqs)} positions of this model. "
                "Ask for fewer frames or a smaller size, or raise rope_max_seq_len."
            )
        t, h, w = sizes
        time, height, width = self.freqs.split(self.axis_dims, dim=1)
        rotations = torch.cat(
            [
                repeat(time[:t], "t d -> t h w d", h=h, w=w),
                repeat(height[:h], "h d -> t h w d", t=t, w=w),
                repeat(width[:w], "w d -> t h w d", t=t, h=h),
            ],
            dim=-1,
        )
        return rearrange(rotations, "t h w d -> 1 (t h w) 1 d")

    def _of_pictures(self, pictures: Tensor, positions: Tensor) -> Tensor:
        time, *_ = self.axis_dims
        turns = get_1d_rotary_pos_embed(
            time, positions.flatten().double(), self.theta, freqs_dtype=torch.float64
        )
        whole = self._of_grid(pictures[:, :, :1])  # time 0 turns nothing
        whole = repeat(whole, "1 n 1 d -> b k n d", b=len(positions), k=positions.shape[1]).clone()
        at = torch.view_as_real(turns).float().flatten(1).to(whole)
        whole[..., : at.shape[1]] = rearrange(at, "(b k) d -> b k 1 d", b=len(positions))
        return rearrange(whole, "b k n d -> b (k n) 1 d")


@functools.lru_cache(maxsize=4)
def sincos_table(dim: int, t: int, h: int, w: int) -> Tensor:
    """Sinusoids of every token's position, `1 (t h w) dim`: a quarter time, the rest space."""
    table = get_3d_sincos_pos_embed(dim, (w, h), t, output_type="pt")
    return rearrange(table, "t places d -> 1 (t places) d")


def sincos_at(positions: Tensor, dim: int, h: int, w: int) -> Tensor:
    """The rows of `sincos_table` at `positions` in time (`b k`), which need not be whole,
    `b (k h w) dim`."""
    time = get_1d_sincos_pos_embed_from_grid(dim // 4, positions.flatten(), output_type="pt")
    space = sincos_table(dim, 1, h, w)[0, :, dim // 4 :].to(time)  # (h w) d
    count, k = positions.shape
    table = torch.cat(
        [
            repeat(time, "bk d -> bk n d", n=len(space)),
            repeat(space, "n d -> bk n d", bk=count * k),
        ],
        dim=-1,
    )
    return rearrange(table, "(b k) n d -> b (k n) d", b=count)


def with_pictures(timestep: Tensor, count: int, total: int) -> Tensor:
    """The times of all tokens, `b n`: those of the video, and 0 for those of pictures."""
    if timestep.ndim == 1:
        timestep = repeat(timestep, "b -> b n", n=count)
    return F.pad(timestep, (0, total - count))


def mask_of_tokens(
    mask: Tensor, count: int, t: int, h: int, w: int, positions: Tensor | None
) -> Tensor:
    """A mask of the text by latent frames, `b frames m`, as one by tokens, `b count m`.

    Args:
        t, h, w: patches of the video; one of several frames sees what its first one does.
        positions: places of pictures in time, `b k`: a picture sees what the frame there does.
    """
    frames = mask[:, :: mask.shape[1] // t]
    if positions is not None:
        there = positions.round().long().clamp(0, mask.shape[1] - 1)
        beside = mask.gather(1, repeat(there, "b k -> b k m", m=mask.shape[2]))
        frames = torch.cat([frames, beside], dim=1)
    tokens = repeat(frames, "b t m -> b (t places) m", places=h * w)
    assert tokens.shape[1] == count
    return tokens


def refuse_mask(way: object, mask: Tensor | None) -> None:
    """Raise `UserError` where blocks see other tokens than the video's, which have no mask each."""
    if way is not None and mask is not None and mask.ndim == 3:
        raise UserError(
            "prompt: has scenes by time, and the middle blocks of this model see learned tokens, "
            "which belong to no frame. Leave the times out, or tell a story."
        )


def apply_rotary(x: Tensor, rotations: Tensor) -> Tensor:
    """Rotate the channel pairs of `x` (`b n k d`) by `rotations` (`1|b n 1 d`), in its dtype."""
    pairs = rearrange(x, "... (pairs two) -> ... pairs two", two=2)
    rotations = rearrange(rotations, "... (pairs two) -> ... pairs two", two=2)
    if _complex_is_fast(rotations):
        rotated = torch.view_as_complex(pairs.float()) * torch.view_as_complex(rotations)
        return torch.view_as_real(rotated).flatten(-2).type_as(x)
    (a, b), (cos, sin) = pairs.unbind(-1), rotations.unbind(-1)
    rotated = torch.stack((a * cos - b * sin, a * sin + b * cos), dim=-1)
    return rotated.flatten(-2).type_as(x)


def _complex_is_fast(rotations: Tensor) -> bool:
    # Eager: one kernel instead of six, and the same bits. Inductor has no complex kernels but fuses
    # the real form; a table cast to half precision has no complex type.
    return (
        rotations.dtype == torch.float32
        and rotations.device.type in ("cpu", "cuda")
        and not torch.compiler.is_compiling()
    )


class RMSNorm(nn.RMSNorm):
    """RMS norm in the dtype of its input, also where autocast leaves the weight in fp32."""

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


def modulate(norm: FP32LayerNorm, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """`norm(x) * (1 + scale) + shift`, computed in fp32, in the dtype of `x` (`b n d`)."""
    faster = modulated(x, norm.eps, scale, shift)
    if faster is not None:
        return faster
    if x.dtype == scale.dtype == torch.float32:
        return torch.addcmul(shift, norm(x), 1 + scale)
    return (norm(x.float()) * (1 + scale) + shift).type_as(x)


def zero(layer: nn.Module) -> None:
    """Set the weights of a layer to zero."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


def in_fp32(norm: nn.Module, x: Tensor) -> Tensor:
    """`norm(x)`, computed in fp32, in the dtype of `x` (`b n d`)."""
    if isinstance(norm, FP32LayerNorm):
        faster = normed(x, norm.weight, norm.bias, norm.eps)
        if faster is not None:
            return faster
    return norm(x.float()).type_as(x)


def add_gated(x: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """`x + gate * update`, computed in fp32, in the dtype of `x` (`b n d`)."""
    faster = gated(x, update, gate)
    if faster is not None:
        return faster
    if x.dtype == update.dtype == gate.dtype == torch.float32:
        return torch.addcmul(x, update, gate)
    return (x.float() + update * gate).type_as(x)


class TimeTextEmbedding(nn.Module):
    """The embeddings of time and text: AdaLN-single (PixArt-alpha, arXiv 2310.00426, 2.3).

    With `pooled_text` the text, summed over its tokens and RMS-normalised, is added to the time
    embedding (`adain_with_text` of VidGen-1M, arXiv 2408.02629).
    """

    def __init__(
        self,
        dim: int,
        freq_dim: int,
        text_dim: int,
        *,
        pooled_text: bool,
        image_dim: int | None = None,
        pos_embed_seq_len: int | None = None,
    ) -> None:
        super().__init__()
        self.timesteps_proj = Timesteps(freq_dim, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.time_embedder = TimestepEmbedding(in_channels=freq_dim, time_embed_dim=dim)
        self.act_fn = nn.SiLU()
        self.time_proj = nn.Linear(dim, 6 * dim)
        self.text_embedder = PixArtAlphaTextProjection(text_dim, dim, act_fn="gelu_tanh")
        self.pooled_text = nn.Linear(text_dim, dim) if pooled_text else None
        self.prefix: ContextTokens | None = None
        self.image_embedder = (
            None if image_dim is None else ImageEmbedding(image_dim, dim, pos_embed_seq_len)
        )

    def forward(
        self,
        timestep: Tensor,
        text: Tensor,
        text_mask: Tensor | None = None,
        kv_cache: KVCache | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Embed `timestep` (`b`, or `b n` for one time per token) and `text` (`b m text_dim`).

        Returns:
            The time embedding `b 1|n d`, the six modulations `b 1|n 6 d` and the text `b m d`.
        """
        waves = self.timesteps_proj(timestep.flatten())
        waves = waves.unflatten(0, timestep.shape)  # b d or b n d
        weight = self.time_embedder.linear_1.weight
        if weight.is_floating_point():  # quantised weights bring their own compute dtype
            waves = waves.to(weight.dtype)
        temb = rearrange(self.time_embedder(waves).type_as(text), "b ... d -> b (...) d")
        if self.pooled_text is not None:
            temb = temb + self.pooled_text(_pool(self._prefixed(text), text_mask))
        modulation = self.time_proj(self.act_fn(temb))
        modulation = rearrange(modulation, "b n (six d) -> b n six d", six=6)
        return temb, modulation, cached(kv_cache, self, text, self._embed_text)

    def _embed_text(self, text: Tensor) -> Tensor:
        embedded: Tensor = self.text_embedder(self._prefixed(text))
        return embedded

    def _prefixed(self, text: Tensor) -> Tensor:
        return text if self.prefix is None else self.prefix.beside(text)

    def seen(self, text_mask: Tensor | None, text: Tensor, frames: int) -> Tensor | None:
        """The mask of the text with the learned tokens before it, see `ContextTokens.seen`."""
        return text_mask if self.prefix is None else self.prefix.seen(text_mask, text, frames)

    def embed_image(self, image: Tensor, kv_cache: KVCache | None = None) -> Tensor:
        """Embed the hidden states of an image encoder (`b m image_dim`) as `b m d`.

        Raises:
            UserError: the model takes none, or as many as another number of pictures gives.
        """
        if self.image_embedder is None:
            raise UserError(
                "encoder_hidden_states_image is given, but this transformer has no image_dim: it "
                "takes no embeddings of pictures. Leave them out."
            )
        return cached(kv_cache, self.image_embedder, image, self.image_embedder)


def check_image_parts(
    dim: int, image_dim: int | None, added_kv_proj_dim: int | None, pos_embed_seq_len: int | None
) -> None:
    """Raise `UserError` where the parts for an image do not make a whole."""
    if (image_dim is None) != (added_kv_proj_dim is None) or added_kv_proj_dim not in (None, dim):
        raise UserError(
            f"image_dim={image_dim}, added_kv_proj_dim={added_kv_proj_dim}: the image enters by "
            f"both, with added_kv_proj_dim={dim}, the width of the model, or by none. Set both, or "
            "neither."
        )
    if pos_embed_seq_len is not None and image_dim is None:
        raise UserError(
            f"pos_embed_seq_len={pos_embed_seq_len} counts the tokens of two pictures, but "
            "image_dim is not set. Set image_dim, or leave it out."
        )


class ImageEmbedding(nn.Module):
    """The hidden states of an image encoder as tokens of the transformer's width (Wan 2.1 I2V).

    Args:
        length: tokens of the two pictures together, where the model was trained on a first and a
            last one, which a learned position tells apart (FLF2V). None: one picture.
    """

    def __init__(self, image_dim: int, dim: int, length: int | None) -> None:
        super().__init__()
        self.norm1 = FP32LayerNorm(image_dim)
        self.ff = diffusers.models.attention.FeedForward(
            image_dim, dim, mult=1, activation_fn="gelu"
        )
        self.norm2 = FP32LayerNorm(dim)
        self.pos_embed = None if length is None else nn.Parameter(torch.zeros(1, length, image_dim))

    def forward(self, image: Tensor) -> Tensor:
        """The tokens, `b m d`, of `image`, `b m image_dim`."""
        if self.pos_embed is not None:
            if image.shape[1] != self.pos_embed.shape[1]:
                raise UserError(
                    f"encoder_hidden_states_image has {image.shape[1]} tokens, and this "
                    f"transformer takes the {self.pos_embed.shape[1]} of two pictures. Give the "
                    "first and the last picture."
                )
            image = image + self.pos_embed
        return self.norm2(self.ff(self.norm1(image)))


def _pool(text: Tensor, text_mask: Tensor | None) -> Tensor:
    """The text's sum over its tokens, `b 1 d`; over those that each of the video's sees, `b n d`,
    with a mask `b n m`."""
    if text_mask is not None and text_mask.ndim == 3:
        pooled = einsum(text_mask.type_as(text), text, "b n m, b m d -> b n d")
        return F.rms_norm(pooled, pooled.shape[-1:], eps=1e-6)
    if text_mask is not None:
        text = text * rearrange(text_mask, "b m -> b m 1")
    pooled = reduce(text, "b m d -> b 1 d", "sum")  # padding is zero, so it adds nothing
    return F.rms_norm(pooled, pooled.shape[-1:], eps=1e-6)
