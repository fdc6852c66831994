"""`VideoUpscaler`: a clip enlarged 2 or 4 times, streamed over time and tiled over space."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain, islice, pairwise

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from t2v.config.models import SCALES
from t2v.errors import UserError
from t2v.models.causal import RMSNorm, joined, silu

LARGE_FRAMES = 4  # that are enlarged at a time, once their features are there
SMALL_FRAMES = 8  # that a layer takes at a time, and positions of frames that one over time takes
PLACES = 1024


class VideoUpscaler(ModelMixin, ConfigMixin):
    """Super-resolution of video: a residual over bicubic interpolation.

    Convolutions over space and over time take turns, at the clip's own size and at half of it, and
    pixel shuffles enlarge (ESPCN, arXiv 1609.05158); the factorised convolutions are those of
    (2+1)D networks (arXiv 1711.11248). A frame is decided by `reach_frames` on either side.

    Without gradients, time passes in chunks of `chunk_frames`, so memory does not grow with the
    length beyond that of the result; `enable_tiling` bounds it in height and width. Both give the
    same as the whole up to float rounding.

    The keywords are those of `t2v.config.models.UpscalerConfig`.
    """

    _no_split_modules = ("UpscalerBlock",)

    @register_to_config
    def __init__(
        self, scale: int, width: int, layers: tuple[int, int, int], steadiness: float = 0.0
    ) -> None:
        super().__init__()
        before, half, after = layers
        self.conv_in = nn.Conv2d(3, width, 3, padding=1)
        self.blocks_in = nn.ModuleList(UpscalerBlock(width) for _ in range(before))
        self.down = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.blocks_half = nn.ModuleList(UpscalerBlock(2 * width) for _ in range(half))
        self.up = nn.Conv2d(2 * width, 4 * width, 1)
        self.blocks_out = nn.ModuleList(UpscalerBlock(width) for _ in range(after))
        # the last two doublings keep fewer channels: most of the time goes there
        shuffled = [width, width // 2, width // 4][: 1 + scale // 2]
        self.enlarge = nn.ModuleList(
            nn.Conv2d(i, 4 * o, 3, padding=1) for i, o in pairwise(shuffled)
        )
        self.conv_out = nn.Conv2d(shuffled[-1], 3, 3, padding=1)
        nn.init.zeros_(self.conv_out.weight)  # a fresh network is bicubic interpolation
        nn.init.zeros_(self.conv_out.bias)
        self.reach_frames = before + half + after + (steadiness > 0)
        # in pixels of the clip: two convolutions a block; conv_in, the grid of half the size, and
        # those between the shuffles, which are worth two at most
        self.reach = 2 * (before + 2 * half + after) + 4
        self.chunk_frames = 24
        self.use_tiling = False
        self.tile_sample_min_size = 256

    def enable_tiling(self, tile_sample_min_size: int = 256) -> None:
        """Enlarge in square tiles of `tile_sample_min_size` pixels of the input, without seams.

        Raises:
            UserError: a size that is not a positive even number.
        """
        if tile_sample_min_size < 2 or tile_sample_min_size % 2:
            raise UserError(f"tile_sample_min_size={tile_sample_min_size}: give an even number.")
        self.use_tiling, self.tile_sample_min_size = True, tile_sample_min_size

    def disable_tiling(self) -> None:
        """Enlarge whole frames."""
        self.use_tiling = False

    def forward(self, video: Tensor) -> Tensor:
        """Return `video`, `b 3 t h w` about [-1, 1], at `scale` times its height and width.

        The result is not clamped.

        Raises:
            UserError: another shape.
        """
        self.check_video(video)
        frames, step = video.shape[2], self.chunk_frames
        if torch.is_grad_enabled() or frames <= step:
            return self._by_tile(video)
        return joined(self.enlarged((video,)), frames)

    @torch.no_grad()
    def enlarged(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield what `forward` gives of a clip, to the bit, of pieces of any length."""
        chunks = _regrouped(pieces, self.chunk_frames)
        some = list(islice(chunks, 2))
        if len(some) == 1:
            yield self._by_tile(some[0])
        else:
            yield from self.stream(chain(some, chunks))

    @torch.no_grad()
    def stream(self, chunks: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the enlarged clip piece by piece, of pieces `b 3 t h w` that follow each other.

        Each piece comes out once the `reach_frames` behind it are there; all together are what
        `forward` gives of the whole.

        Raises:
            UserError: see `check_video`.
        """
        reach = self.reach_frames
        held: Tensor | None = None
        past = 0  # frames of `held` that have come out already
        for chunk in chunks:
            self.check_video(chunk)
            held = chunk if held is None else torch.cat([held, chunk], dim=2)
            ready = held.shape[2] - reach
            if ready > past:
                yield self._by_tile(held, past, ready)
                kept = max(0, ready - reach)
                held, past = held[:, :, kept:], ready - kept
        if held is not None:
            yield self._by_tile(held, past)

    def check_video(self, video: Tensor) -> None:
        """Raise `UserError` where `forward` cannot take `video`."""
        if video.ndim != 5 or video.shape[1] != 3 or 0 in video.shape:
            raise UserError(
                f"A video of shape {tuple(video.shape)} does not fit the upscaler, which takes "
                "(batch, 3, frames, height, width)."
            )

    def _by_tile(self, video: Tensor, begin: int = 0, end: int | None = None) -> Tensor:
        """The frames from `begin` to `end` of what becomes of `video`."""
        end = video.shape[2] if end is None else end
        tile = self.tile_sample_min_size
        if not self.use_tiling or max(video.shape[-2:]) <= tile:
            return self._enlarge(video, begin, end)
        halo = self.reach + self.reach % 2  # tiles begin where the half-size grid of the whole does
        from t2v.models.tiling import run_tiled  # few videos are tiled

        run = partial(self._enlarge, begin=begin, end=end)
        return run_tiled(run, video, tile, halo, blend=False, zoom=self.config.scale)

    def _enlarge(self, video: Tensor, begin: int, end: int) -> Tensor:
        # frames are images in channels_last memory, in which both kinds of convolution are fastest
        batch, height, width = len(video), *video.shape[-2:]
        x = rearrange(video, "b c t h w -> (b t) c h w")
        scale = self.config.scale
        frames = x
        x = F.pad(x, (0, width % 2, 0, height % 2), mode="replicate")
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        for block in self.blocks_in:
            x = block(x, batch)
        h = self.down(x)
        for block in self.blocks_half:
            h = block(h, batch)
        x = x + F.pixel_shuffle(self.up(h), 2)
        for block in self.blocks_out:
            x = block(x, batch)
        # from here on no frame sees another, and features of all would be the most that is held
        first, last = max(0, begin - 1), min(video.shape[2], end + 1)  # with a neighbour each
        x = x.unflatten(0, (batch, -1))[:, first:last].flatten(0, 1)
        frames = frames.unflatten(0, (batch, -1))[:, first:last].flatten(0, 1)
        if torch.is_grad_enabled():
            large = self._large(x, frames)
        else:
            large = frames.new_empty(len(x), 3, scale * height, scale * width, dtype=torch.float32)
            for at in range(0, len(x), LARGE_FRAMES):
                part = slice(at, at + LARGE_FRAMES)
                large[part] = self._large(x[part], frames[part])
        large = self._steadied(rearrange(large, "(b t) c h w -> b c t h w", b=batch))
        return large[:, :, begin - first : end - first].to(video.dtype)

    def _large(self, x: Tensor, frames: Tensor) -> Tensor:
        """Frames by their features, `(b t) c h w`, at the full size."""
        height, width = frames.shape[-2:]
        scale = self.config.scale
        for conv in self.enlarge:
            x = silu(F.pixel_shuffle(conv(x), 2))
        x = self.conv_out(x)[..., : scale * height, : scale * width].float()
        return bicubic(frames.float(), scale) + x

    def _steadied(self, x: Tensor) -> Tensor:
        """The video with a share of both neighbours in each frame; its ends count twice."""
        share = self.config.steadiness
        if share == 0:
            return x
        around = torch.cat([x[:, :, :1], x[:, :, :-1]], dim=2)
        around[:, :, :-1] += x[:, :, 1:]
        around[:, :, -1:] += x[:, :, -1:]
        around.mul_(share)
        if torch.is_grad_enabled():
            return (1 - 2 * share) * x + around
        return x.mul_(1 - 2 * share).add_(around)


def bicubic(frames: Tensor, scale: int) -> Tensor:
    """Frames `b c h w` by bicubic interpolation, which goes a little beyond their range."""
    return F.interpolate(frames, scale_factor=scale, mode="bicubic", align_corners=False)


class UpscalerBlock(nn.Module):
    """Convolutions over space, time and space again, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.conv_time = nn.Conv2d(width, width, (3, 1), padding=(1, 0))  # over `t (h w)`
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor, batch: int) -> Tensor:
        # x: (b t) c h w
        if not torch.is_grad_enabled():
            return self._in_place(x, batch)
        height = x.shape[-2]
        h = silu(self.conv1(self.norm(x)))
        h = rearrange(h, "(b t) c h w -> b c t (h w)", b=batch)
        h = silu(self.conv_time(h))
        h = rearrange(h, "b c t (h w) -> (b t) c h w", h=height)
        return x + self.conv2(h)

    def _in_place(self, x: Tensor, batch: int) -> Tensor:
        """The same to the bit, written over `x`, some frames and then some places at a time.

        Layers that take all at once copy their input up to three times.
        """
        height = x.shape[-2]
        h = torch.empty_like(x)
        for part, some in zip(h.split(SMALL_FRAMES), x.split(SMALL_FRAMES), strict=True):
            part.copy_(silu(self.conv1(self.norm(some))))
        h = rearrange(h, "(b t) c h w -> b c t (h w)", b=batch)
        over_time = torch.empty_like(h, memory_format=torch.contiguous_format)
        for part, some in zip(over_time.split(PLACES, -1), h.split(PLACES, -1), strict=True):
            part.copy_(silu(self.conv_time(some)))
        h = rearrange(over_time, "b c t (h w) -> (b t) c h w", h=height)
        for part, some in zip(x.split(SMALL_FRAMES), h.split(SMALL_FRAMES), strict=True):
            part.add_(self.conv2(some))
        return x


def check_scale(scale: int | None, upscaler: VideoUpscaler | None, what: str) -> int:
    """Return how many times a video is enlarged: by the upscaler's own scale if None is asked for.

    Args:
        scale: 1 for the plain video.
        what: the setting's name; begins the message.

    Raises:
        UserError: the upscaler has another scale, or there is none.
    """
    own = 1 if upscaler is None else int(upscaler.config.scale)
    if scale is None or scale in (1, own):
        return own if scale is None else scale
    if upscaler is None:
        raise UserError(
            f"{what}={scale}: this model has no upscaler. Give {what}=1, or a folder with "
            f"upscaler/ in it; `t2v train-upscaler` makes one."
        )
    another = f"t2v train-upscaler model.scale={scale}"
    raise UserError(
        f"{what}={scale}: this upscaler enlarges {own} times. Give {what}={own}"
        + (f", or train another: {another}." if scale in SCALES else ".")
    )


def _regrouped(pieces: Iterable[Tensor], length: int) -> Iterator[Tensor]:
    """Yield a clip in pieces of `length` frames, the last one shorter."""
    held: Tensor | None = None
    for piece in pieces:
        held = piece if held is None else torch.cat([held, piece], dim=2)
        while held.shape[2] >= length:
            yield held[:, :, :length]
            held = held[:, :, length:]
    if held is not None and held.shape[2]:
        yield held
