"""Pictures, clips and masks on their way to the conditions of a model."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from numbers import Real
from typing import Any

import torch
from einops import rearrange, reduce, repeat
from torch import Tensor
from torch.nn import functional as F

from t2v.errors import UserError, shortened
from t2v.models.alone import alone
from t2v.models.conditions import Conditions
from t2v.models.device import ready
from t2v.models.known import check_taken, picture_position, whole_tokens
from t2v.models.latents import normalize_latents
from t2v.pipelines.channels import embed_pictures, encode_beside
from t2v.pipelines.students import check_student
from t2v.pipelines.visuals import (
    WHITE,
    VideoCondition,
    VisualInputs,
    check_visuals,
    fit_frames,
    frames_tensor,
)

Pair = tuple[Conditions, Conditions | None]  # positive, and for guidance negative


@dataclass(frozen=True, eq=False)
class Known:
    """Frames that are given, as the model's conditions; the first axis is the video.

    Args:
        latents, mask: `b c t h w` and `b 1 t h w`; None where no latent is known as a whole.
        pictures, positions: `b c k h w` and `b k`, see `Conditions`; None without any.
        source: latents of the clip that an edit starts from.
        channels, image: see `encode_beside`.
    """

    latents: Tensor | None = None
    mask: Tensor | None = None
    pictures: Tensor | None = None
    positions: Tensor | None = None
    source: Tensor | None = None
    channels: Tensor | None = None
    image: Tensor | None = None


class VisualEncoding:
    """The part of a pipeline that encodes what its videos are given to see."""

    vae: Any
    transformer: Any
    image_encoder: Any
    image_processor: Any
    _execution_device: Any

    def encode_image(self, pictures: Tensor) -> Tensor:
        """The image encoder's states of pictures, see `embed_pictures`."""
        return embed_pictures(self.image_processor, self.image_encoder, pictures)

    @alone
    @torch.no_grad()
    def add_visuals(
        self,
        conditions: Pair,
        visuals: Sequence[VisualInputs],
        num_frames: int,
        height: int,
        width: int,
        strength: float | None = None,
    ) -> Pair:
        """Conditions with what the videos are given to see, encoded by the VAE.

        Args:
            conditions: of the text, rows of one video next to each other.
            visuals: of each video, or one for all.

        Raises:
            UserError: see `FrameEncoder`; or the model takes no such condition.
        """
        seen = [name for each in visuals for name in each.names()]
        check_student(self, seen=list(dict.fromkeys(seen)), strength=strength)
        if not any(each.names() for each in visuals):
            check_visuals(visuals[0] if visuals else VisualInputs(), strength)
            check_taken(self.transformer, conditions[0])
            return conditions
        positive, negative = conditions
        encode = FrameEncoder(self, num_frames, height, width)
        known = joined([encode(each, strength) for each in visuals])
        given = known_conditions(known, len(positive), self._execution_device)
        positive = replace(positive, **given)
        check_taken(self.transformer, positive)
        return positive, None if negative is None else replace(negative, **given)

    @alone
    def encode_frames(self, frames: Tensor) -> Tensor:
        """Normalised latents of frames, see the function of this name."""
        return encode_frames(self.vae, frames)

    @alone
    def features(
        self,
        video: Any,
        layer: int | Sequence[int],
        time: float,
        prompt: str = "",
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Hidden states of the denoiser for a film, `b d t h w`, see the function of this name."""
        from t2v.pipelines.features import features  # few films are looked at

        return features(self, video, layer, time, prompt, generator)

    @alone
    def attention_maps(
        self, video: Any, words: Sequence[str], prompt: str, **options: Any
    ) -> Tensor:
        """Maps of where the denoiser looks for words, `w t h w`, see the function of this name."""
        from t2v.pipelines.features import attention_maps

        return attention_maps(self, video, words, prompt, **options)


class FrameEncoder:
    """The encoder of what is given, for one pipeline and one size of video.

    Args:
        pipeline: its VAE encodes, its transformer's patches say what a token is.
    """

    def __init__(self, pipeline: Any, num_frames: int, height: int, width: int) -> None:
        self.pipeline, self.vae, config = pipeline, pipeline.vae, pipeline.transformer.config
        self.beside = config.get("conditioning") == "channels"
        self.patch: tuple[int, int, int] = tuple(config.patch_size)
        self.takes_pictures = bool(config.get("picture_tokens", False))
        self.num_frames, self.size = num_frames, (height, width)
        self.temporal = self.vae.config.scale_factor_temporal
        self.spatial = self.vae.config.scale_factor_spatial
        t = -(-(num_frames - 1) // self.temporal) + 1
        self.latent_frames = -(-t // self.patch[0]) * self.patch[0]

    def __call__(self, visuals: VisualInputs, strength: float | None) -> Known:
        """Encode what one video is given.

        Raises:
            UserError: it contradicts itself, or does not fit the video.
        """
        check_visuals(visuals, strength)
        if visuals.reference_images:
            from t2v.pipelines.references import reference_frames, with_references  # few have any

            others = replace(visuals, reference_images=())
            known = self(others, strength) if others.names() else Known()
            pictures = reference_frames(visuals, *self.size)
            references = torch.cat([self._encode(each) for each in pictures], dim=2)
            beside = with_references(references, known.pictures, known.positions)
            return replace(known, pictures=beside[0], positions=beside[1])
        video = self._fitted(visuals, "video")
        if video is not None and (strength is not None or visuals.mask is not None):
            if self.beside:
                raise UserError(
                    f"{'mask' if strength is None else 'strength'} is given, and this model makes "
                    "videos of pictures: it takes image, last_image, video or conditions alone."
                )
            return self._partly(visuals, video, strength)
        return self._placed(self._placements(visuals, video))

    def _fitted(self, visuals: VisualInputs, name: str) -> Tensor | None:
        frames = getattr(visuals, name)
        if frames is None:
            return None
        return fit_frames(frames_tensor(frames, name), *self.size, visuals.fit)

    def _partly(self, visuals: VisualInputs, video: Tensor, strength: float | None) -> Known:
        """A clip that is edited, made anew where the mask is white, or both."""
        if len(video) < self.num_frames:
            raise UserError(
                f"video has {len(video)} frames and {self.num_frames} are asked for. "
                f"Ask for at most {len(video)} frames, or leave mask and strength out to go on "
                "from its end."
            )
        latents = self._encode(video[: self.num_frames])
        source = latents if strength is not None else None
        if visuals.mask is None:
            return Known(source=source)
        mask = frames_tensor(visuals.mask, "mask")
        size = frames_tensor(visuals.video, "video").shape[2:]  # type: ignore[arg-type]
        if mask.shape[2:] != size or len(mask) not in (1, len(video)):
            raise UserError(
                f"mask has {len(mask)} frames of {mask.shape[2]}x{mask.shape[3]} and video "
                f"{len(video)} of {size[0]}x{size[1]} (height x width): give a mask of the same "
                "size, one picture or one a frame."
            )
        white = fit_frames(mask, *self.size, visuals.fit)[:, :1] >= WHITE
        known = (~white).float().expand(len(video), -1, -1, -1)[: self.num_frames]
        return Known(latents, self._latent_mask(known), source=source)

    def _placements(
        self, visuals: VisualInputs, video: Tensor | None
    ) -> list[tuple[str, Tensor, int, float]]:
        """All that is given as (name, frames, place, strength)."""
        placed = []
        if video is not None:
            placed.append(("video", video, 0, 1.0))
        for name, place in (("image", 0), ("last_image", self.num_frames - 1)):
            frames = self._fitted(visuals, name)
            if frames is not None:
                placed.append((name, frames, place, 1.0))
        for number, each in enumerate(visuals.conditions):
            name = f"conditions[{number}]"
            place, strength = place_of(each, name, self.num_frames)
            frames = fit_frames(frames_tensor(each.frames, name), *self.size, visuals.fit)
            placed.append((name, frames, place, strength))
        return placed

    def _placed(self, placements: list[tuple[str, Tensor, int, float]]) -> Known:
        frames = torch.zeros(self.num_frames, 3, *self.size)
        known = torch.zeros(self.num_frames)
        for name, clip, place, strength in placements:
            end = place + len(clip)
            if place < 0 or end > self.num_frames:
                what = f"frame {place}" if len(clip) == 1 else f"the frames {place} to {end - 1}"
                raise UserError(
                    f"{name} stands for {what} of a video of {self.num_frames}, whose last is "
                    f"{self.num_frames - 1}. Ask for more frames, or give fewer."
                )
            if known[place:end].any():
                raise UserError(
                    f"{name}: one of its frames ({place} to {end - 1}) is given already. Give each "
                    "frame once."
                )
            frames[place:end], known[place:end] = clip, strength
        if known.all():
            raise UserError(
                f"All {self.num_frames} frames are given, so nothing is left to make. Ask for more "
                "frames, or give mask or strength."
            )
        return self._known(frames, known)

    def _known(self, frames: Tensor, known: Tensor) -> Known:
        """The latents of groups of frames that are known as a whole, and pictures of the others."""
        if self.beside:
            channels, image = encode_beside(
                self.pipeline, frames, known, self.latent_frames, self.pipeline.encode_image
            )
            return Known(channels=channels, image=image)
        groups = self._groups(known)  # least of each latent frame, t
        alone = [f for f in known.nonzero().flatten().tolist() if not groups[self._group(f)]]
        if alone and not self.takes_pictures:
            raise UserError(
                f"The frames {', '.join(map(str, alone))} are given alone, and this model takes "
                f"known frames from the first on, {self.temporal}k + 1 of them. Give those."
            )
        latents = mask = pictures = positions = None
        if groups.any():
            last = int(groups.nonzero().max())
            filled = _filled(frames, known)[: last * self.temporal + 1]
            encoded = self._encode(filled)
            latents = F.pad(encoded, (0, 0, 0, 0, 0, self.latent_frames - encoded.shape[2]))
            mask = repeat(
                groups, "t -> 1 1 t h w", h=latents.shape[3], w=latents.shape[4]
            ).contiguous()
        if alone:
            strengths = {float(known[f]) for f in alone}
            if strengths != {1.0}:
                raise UserError(
                    "A picture between the first and the last known clip is kept exactly: give it "
                    "strength=1."
                )
            pictures = torch.cat([self._encode(frames[f : f + 1]) for f in alone], dim=2)
            places = [picture_position(f, self.temporal) for f in alone]
            positions = torch.tensor([places], device=pictures.device)
        return Known(latents, mask, pictures, positions)

    def _group(self, frame: int) -> int:
        return -(-frame // self.temporal)

    def _groups(self, known: Tensor) -> Tensor:
        """The least of each latent frame's frames, `t`; frames past the end count as the last."""
        total = (self.latent_frames - 1) * self.temporal + 1
        padded = torch.cat([known, known[-1:].expand(total - len(known))])
        rest = reduce(padded[1:], "(t s) -> t", "min", s=self.temporal)
        return torch.cat([padded[:1], rest])

    def _latent_mask(self, known: Tensor) -> Tensor:
        """The mask of latents, `1 1 t h w`, of one of pixels, `t 1 h w`: 1 where all are known."""
        total = (self.latent_frames - 1) * self.temporal + 1
        padded = torch.cat([known, known[-1:].expand(total - len(known), -1, -1, -1)])
        space = reduce(padded, "t 1 (h p) (w q) -> t h w", "min", p=self.spatial, q=self.spatial)
        rest = reduce(space[1:], "(t s) h w -> t h w", "min", s=self.temporal)
        mask = torch.cat([space[:1], rest])
        return whole_tokens(mask[None, None], self.patch)

    def _encode(self, frames: Tensor) -> Tensor:
        return encode_frames(self.vae, frames)


def place_of(condition: VideoCondition, name: str, num_frames: int) -> tuple[int, float]:
    """The place of a condition's first frame in a video, and its strength.

    Args:
        name: of the condition, for messages.

    Raises:
        UserError: it is no condition, or its place or strength no such number.
    """
    if not isinstance(condition, VideoCondition):
        raise UserError(
            f"{name} is {type(condition).__name__}: give VideoCondition(frames, frame_index)."
        )
    try:
        index = operator.index(condition.frame_index)
    except TypeError as error:
        raise UserError(
            f"{name}: frame_index={shortened(condition.frame_index)} is no whole number. Give "
            f"{-num_frames} to {num_frames - 1}; frame_index=-1 is the last frame."
        ) from error
    if index < -num_frames:
        raise UserError(
            f"{name}: frame_index={index} of a video of {num_frames}. Give {-num_frames} to "
            f"{num_frames - 1}."
        )
    strength = condition.strength
    if not isinstance(strength, Real) or not 0 < strength <= 1:
        raise UserError(
            f"{name}: strength={shortened(strength)} must be a number over 0 and at most 1."
        )
    return index + (num_frames if index < 0 else 0), float(strength)


@torch.no_grad()
def encode_frames(vae: Any, frames: Tensor) -> Tensor:
    """Normalised latents `1 c t h w` of frames `t c h w` in [0, 1]; the last latent frame stands
    for repeated frames where they do not fill it."""
    short = -(len(frames) - 1) % vae.config.scale_factor_temporal
    frames = torch.cat([frames, frames[-1:].expand(short, -1, -1, -1)])
    video = rearrange(frames * 2 - 1, "t c h w -> 1 c t h w").to(ready(vae), vae.dtype)
    return normalize_latents(vae.encode(video).latent_dist.mode().float(), vae.config)


def _filled(frames: Tensor, known: Tensor) -> Tensor:
    """The frames with unknown ones replaced by the next known one, or else by the last one."""
    places = known.nonzero().flatten()
    index = torch.searchsorted(places, torch.arange(len(frames))).clamp(max=len(places) - 1)
    return frames[places[index]]


def joined(parts: Sequence[Known]) -> Known:
    """The known frames of several videos, as one.

    Raises:
        UserError: they are given different kinds.
    """
    values: dict[str, Tensor | None] = {}
    for name in (field.name for field in fields(Known)):
        each = [getattr(part, name) for part in parts]
        shapes = {None if one is None else one.shape for one in each}
        if len(shapes) > 1:
            raise UserError(
                "The videos of one call are given different kinds of pictures and clips. Make them "
                "one by one."
            )
        values[name] = None if each[0] is None else torch.cat(each)
    return Known(**values)


def known_conditions(known: Known, count: int, device: torch.device) -> dict[str, Tensor]:
    """The fields of `Conditions` for `count` rows, those of one video next to each other."""
    values = {
        "known": known.latents,
        "known_mask": known.mask,
        "pictures": known.pictures,
        "picture_positions": known.positions,
        "source": known.source,
        "channels": known.channels,
        "image": known.image,
    }
    given = {name: value for name, value in values.items() if value is not None}
    return {
        name: value.repeat_interleave(count // len(value), dim=0).to(device)
        for name, value in given.items()
    }
