"""The losses of token generators: how surely the codes of a video are predicted."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from t2v.models.code_head import CodeHead, in_patches, of_patches
from t2v.models.diffusion import NUM_TRAIN_TIMESTEPS, Predict

AT_ONCE = 256  # places whose scores are held: a CPU's cache holds those, three times as fast
SEEN = 0.1  # weight of codes that are given, beside those that are not


def masked_losses(
    head: CodeHead,
    predict: Predict,
    latents: Tensor,
    noise: Tensor,
    t: Tensor,
    patch: tuple[int, int, int],
    known: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Tensor]:
    """The three losses of a masked generator for each sample, `b`, in nats a code
    (COMMIT of MAGVIT, arXiv 2212.05199, 3.2).

    `mask` is of masked places, `refine` of given ones that the noise on what is given turned into
    another code, `reconstruct` of all others, which the model has but to repeat. Where a sample has
    no such place it is 0.

    Args:
        predict: features `b f t h w` of latents with some of them unknown, and their time.
        latents: clean and normalised, `b c t h w`.
        noise: standard normal, as `latents`; the order of its first channel chooses what is masked.
        t: uniform, `b`; the share that is masked is its quarter cosine (MaskGIT, 3.2).
        known: latents that are given and their mask, `b c t h w` and `b 1 t h w`.
    """
    codes = head.codes(latents)
    seen, given = codes, torch.zeros_like(codes, dtype=torch.bool)
    if known is not None:
        given = (known[1] > 0)[:, 0].expand_as(codes)
        seen = torch.where(given, head.codes(known[0]), codes)
    masked = masked_places(noise[:, 0], given, t)
    share = masked.flatten(1).float().mean(dim=1)
    read = head.latents(seen.masked_fill(masked, len(head.table))).to(latents)
    features = in_patches(predict(read, NUM_TRAIN_TIMESTEPS * share), patch)
    wanted, drawn = (in_patches(each.unsqueeze(1), patch)[..., 0] for each in (codes, masked))
    wrong = in_patches((seen != codes).unsqueeze(1), patch)[..., 0] & ~drawn
    nats = _nats(head, head.features_of(features), wanted)
    return {
        "mask": _mean(nats, drawn),
        "refine": _mean(nats, wrong),
        "reconstruct": _mean(nats, ~(drawn | wrong)),
    }


def next_losses(
    head: CodeHead,
    predict: Predict,
    latents: Tensor,
    patch: tuple[int, int, int],
) -> dict[str, Tensor]:
    """The loss of an autoregressive generator for each sample, `b`, in nats a code.

    Args:
        predict: features `b f t h w` of latents and their time. Each patch is told the one before
            it, the first one unknown latents.
        latents: clean and normalised, `b c t h w`.
    """
    codes = head.codes(latents)
    grid = _grid(codes, patch)
    exact = in_patches(head.latents(codes).to(latents), patch)  # b n p c
    read = of_patches(before(head, exact), patch, grid)
    features = predict(read, latents.new_zeros(len(latents)))
    wanted = in_patches(codes.unsqueeze(1), patch)[..., 0]
    nats = _nats(head, head.features_of(in_patches(features, patch), exact), wanted)
    return {"next": nats.flatten(1).mean(dim=1)}


def before(head: CodeHead, patches: Tensor) -> Tensor:
    """The patches `b n p c` each in the place of the next, and unknown latents in the first."""
    first = head.unknown.to(patches).expand_as(patches[:, :1])
    return torch.cat([first, patches[:, :-1]], dim=1)


def masked_places(order: Tensor, given: Tensor, t: Tensor) -> Tensor:
    """The places that are masked, `b t h w`: of those not given the share `cos(pi t / 2)`, at least
    one, where `order` is least.

    Args:
        order: `b t h w`.
        given: likewise.
        t: in [0, 1], `b`.
    """
    ranks = order.masked_fill(given, torch.inf).flatten(1).argsort(dim=1).argsort(dim=1)
    free = (~given).flatten(1).sum(dim=1)
    share = torch.cos(math.pi / 2 * t.to(order.device))
    count = (share * free).ceil().clamp(min=1).minimum(free)
    return (ranks < count.unsqueeze(1)).view_as(given)


def total(losses: dict[str, Tensor]) -> Tensor:
    """The loss that is trained on for each sample, `b`."""
    weighted = [(SEEN if name == "reconstruct" else 1.0) * each for name, each in losses.items()]
    return torch.stack(weighted).sum(dim=0)


def _nats(head: CodeHead, features: Tensor, wanted: Tensor) -> Tensor:
    """The cross-entropy of the scores of places, of features `b n p f`, in float32, `b n p`."""
    pairs = zip(features.flatten(0, 2).split(AT_ONCE), wanted.flatten().split(AT_ONCE), strict=True)
    parts = [F.cross_entropy(head.to_scores(f).float(), k, reduction="none") for f, k in pairs]
    return torch.cat(parts).view_as(wanted)


def _mean(nats: Tensor, where: Tensor) -> Tensor:
    count = where.flatten(1).sum(dim=1)
    return (nats * where).flatten(1).sum(dim=1) / count.clamp(min=1)


def _grid(codes: Tensor, patch: tuple[int, int, int]) -> tuple[int, int, int]:
    t, h, w = (size // step for size, step in zip(codes.shape[1:], patch, strict=True))
    return t, h, w
