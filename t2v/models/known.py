"""Known latents on their way into the transformer, and out of its sampling loop.

Two encodings, by the transformer's `conditioning`. "tokens": known latents stand in place of the
noisy ones and each token has a time of its own, as in Wan 2.2 TI2V-5B. "channels": a mask and the
known latents stand beside the noisy ones, as in Wan 2.1 I2V (and Emu Video, arXiv 2311.10709).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from einops import einsum, rearrange, reduce
from torch import Tensor, nn

from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.device import ready, tiled_at_need
from t2v.models.diffusion import NUM_TRAIN_TIMESTEPS
from t2v.models.latents import denormalize_latents, normalize_latents

REFERENCE_GAP = 4.0  # latent frames; those of 17 frames span as much


def picture_position(frame: int, temporal: int) -> float:
    """The place in time of a frame, in latent frames.

    A latent frame k > 0 stands for the frames (k - 1) * temporal + 1 to k * temporal and lies in
    their middle; the first one stands for frame 0 alone.
    """
    return 0.0 if frame == 0 else (frame + (temporal - 1) / 2) / temporal


def reference_position(number: int) -> float:
    """The place in time of a reference picture, the first being 0: before all frames of a video,
    as far from each other as from its first."""
    return -REFERENCE_GAP * (number + 1)


def frame_at(position: float, temporal: int) -> int:
    """The frame at a place in time, the inverse of `picture_position`."""
    return round(max(0.0, position * temporal - (temporal - 1) / 2))


def transformer_inputs(
    transformer: nn.Module, latents: Tensor, timestep: Tensor, conditions: Conditions
) -> dict[str, Tensor]:
    """The keywords of the transformer's forward for noisy latents and all that is given.

    Args:
        latents: noisy, `b c t h w`.
        timestep: in [0, 1000], `b`, or `b t` for one of each latent frame.
        conditions: with `known` the tokens that are given are told their own time.

    Raises:
        UserError: the transformer does not take one of the conditions.
    """
    keywords = conditions.keywords(transformer)
    check_taken(transformer, conditions)
    patch: tuple[int, int, int] = transformer.config.patch_size
    if conditions.known is not None:
        assert conditions.known_mask is not None
        limit = time_limit(conditions.known_mask)
        times = rearrange(timestep, "b ... -> b 1 (...) 1 1")
        held = limit < times
        latents = torch.where(held, conditions.known.to(latents.dtype), latents)
        timestep = token_times(torch.minimum(times, limit.to(times.dtype)), patch)
    elif timestep.ndim == 2:
        times = rearrange(timestep, "b t -> b 1 t 1 1").expand(-1, -1, *latents.shape[2:])
        timestep = token_times(times, patch)
    if conditions.channels is not None:
        latents = torch.cat([latents, conditions.channels.to(latents.dtype)], dim=1)
    return {"hidden_states": latents, "timestep": timestep, **keywords}


def check_taken(transformer: nn.Module, conditions: Conditions) -> None:
    """Raise `UserError` for known latents that the transformer takes in another form, or not."""
    config: Any = transformer.config
    needed = {"known": "tokens", "channels": "channels"}
    for name, kind in needed.items():
        if getattr(conditions, name) is not None and config.get("conditioning", "none") != kind:
            raise UserError(
                f"The condition {name!r} is given, but this {type(transformer).__name__} has "
                f"conditioning={config.get('conditioning', 'none')!r}. Use a model that was "
                "trained with pictures and clips as conditions."
            )
    if config.get("conditioning") == "channels" and conditions.channels is None:
        raise UserError(
            "This model makes videos of a picture, and none is given: give image"
            f"{' and last_image' if config.get('pos_embed_seq_len') is not None else ''}."
        )
    references = 0
    if conditions.picture_positions is not None:
        references = int((conditions.picture_positions[0] < 0).sum())
    check_references(transformer, references)
    if conditions.pictures is not None and not config.get("picture_tokens", False):
        raise UserError(
            "A picture at another place than the first frame is given, but this "
            f"{type(transformer).__name__} has picture_tokens=false. Give the first frame alone."
        )


def check_references(transformer: nn.Module, count: int) -> None:
    """Raise `UserError` for more reference pictures than the transformer takes."""
    config: Any = transformer.config
    if count > (most := config.get("references", 0)):
        takes = f"takes {most}" if most else "was trained with none"
        raise UserError(
            f"reference_images: {count} given, and this {type(transformer).__name__} {takes}. "
            f"{'Give fewer' if most else 'Leave them out'}, or use a model trained with more."
        )


def time_limit(known_mask: Tensor) -> Tensor:
    """The time up to which latents are given: 0 for sure ones, 1000 for unknown ones."""
    return NUM_TRAIN_TIMESTEPS * (1 - known_mask)


def token_times(times: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """The time of every token, `b n`: the latest within its patch of `times`, `b 1 t h w`."""
    pt, ph, pw = patch
    return reduce(times, "b 1 (t pt) (h ph) (w pw) -> b (t h w)", "max", pt=pt, ph=ph, pw=pw)


def whole_tokens(known_mask: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """The mask where a token is known as surely as the least known latent in it, `b 1 t h w`."""
    pt, ph, pw = patch
    least = reduce(known_mask, "b 1 (t pt) (h ph) (w pw) -> b 1 t h w", "min", pt=pt, ph=ph, pw=pw)
    return least.repeat_interleave(pt, 2).repeat_interleave(ph, 3).repeat_interleave(pw, 4)


def put_back(latents: Tensor, conditions: Conditions, t: Tensor, following: Tensor) -> Tensor:
    """The latents after a step from time `t` to `following`, with the known ones in their place.

    Known latents enter the loop where it passes the time up to which they hold: sure ones at its
    end, less sure ones before, from where they are denoised like all others (as in LTX-Video).
    """
    if conditions.known is None:
        return latents
    assert conditions.known_mask is not None
    limit = time_limit(conditions.known_mask)
    return torch.where((limit < t) & (limit >= following), conditions.known.to(latents), latents)


def softened(conditions: Conditions, noise: Tensor, asked: Tensor | None = None) -> Conditions:
    """The conditions with latents that are less than surely known noised to their time.

    Args:
        asked: the mask of what is known, where asking whether all is sure waits for no device.
    """
    known, mask = conditions.known, conditions.known_mask
    if known is None or mask is None:
        return conditions
    asked = mask if asked is None else asked
    if bool(((asked == 0) | (asked == 1)).all()):
        return conditions
    return replace(conditions, known=mask * known + (1 - mask) * noise)


@torch.no_grad()
def pictures_held(vae: Any, latents: Tensor, conditions: Conditions) -> Tensor:
    """The finished latents with their frames at pictures drawn to those pictures.

    A picture is a token beside the video, which the transformer follows and does not copy. So the
    frames are decoded, those at pictures get what they lack, their neighbours half of it, and the
    latents move by the difference that this makes to the encoder. Known latents stay.

    Args:
        latents: normalised, `b c t h w`; the same ones where no frame has a picture.
    """
    pictures, positions = conditions.pictures, conditions.picture_positions
    if pictures is None:
        return latents
    assert positions is not None
    temporal = vae.config.scale_factor_temporal
    held = []
    for row, places in enumerate(positions.tolist()):  # one by one, as they are decoded
        # a picture at the first frame, or before it, is an example of how things look
        found = {i: frame_at(place, temporal) for i, place in enumerate(places) if place > 0}
        video = latents[row : row + 1]
        mask = None if conditions.known_mask is None else conditions.known_mask[row : row + 1]
        if found:
            chosen = pictures[row : row + 1, :, list(found)]
            draw = partial(_drawn, vae, video, chosen, list(found.values()), mask)
            video = tiled_at_need(vae, draw)
        held.append(video)
    return torch.cat(held)


def _drawn(
    vae: Any, latents: Tensor, pictures: Tensor, frames: list[int], known_mask: Tensor | None
) -> Tensor:
    """The latents of one video, `1 c t h w`, drawn to the pictures `1 c k h w` at some frames."""
    video = _pixels(vae, latents)
    wanted = torch.cat([_pixels(vae, each) for each in pictures.split(1, dim=2)], dim=2)
    share = _shares(frames, video.shape[2]).to(video)
    surely = None if known_mask is None else (known_mask == 1).to(latents.device)
    if surely is not None:
        temporal = vae.config.scale_factor_temporal
        groups = [-(-frame // temporal) for frame in range(video.shape[2])]
        share = share * ~surely.flatten(3).all(3)[0, 0, groups].to(video.device)
    lack = wanted - video[:, :, frames]
    change = einsum(lack, share, "b c k h w, k t -> b c t h w")
    moved = _latents(vae, video + change) - _latents(vae, video)
    moved = latents + moved.to(latents)
    return moved if surely is None else torch.where(surely, latents, moved)


def _shares(frames: list[int], count: int) -> Tensor:
    """The share of what each of `frames` lacks that each of `count` frames gets, `k t`.

    Measured on the embedded model: with half for the frames beside them, one pass comes as near to
    the pictures as the VAE itself; without, 0.4 dB less. Shares over four frames harm some clips.
    """
    away = torch.arange(count) - torch.tensor(frames).unsqueeze(1)
    share = (1 - away.abs() / 2).clamp(min=0)
    share[:, frames] = torch.eye(len(frames))
    return share


def _pixels(vae: Any, latents: Tensor) -> Tensor:
    z = denormalize_latents(latents.to(ready(vae)), vae.config).to(vae.dtype)
    video: Tensor = vae.decode(z, return_dict=False)[0]
    return video


def _latents(vae: Any, video: Tensor) -> Tensor:
    return normalize_latents(vae.encode(video).latent_dist.mode().float(), vae.config)
