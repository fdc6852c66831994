"""The part that makes a transformer predict codes: their table, and the scores of each place."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from t2v.config.codes import CAUSAL
from t2v.errors import UserError
from t2v.models.latents import normalize_latents
from t2v.models.quantizers import nearest

NAME = "code_head"  # of the part of a transformer
WIDTH = 256  # of the network that reads the codes before one in its patch


class CodeHead(nn.Module):
    """The codes of a quantizer in a transformer: from features to their scores, and to latents.

    A transformer of codes reads their latents, and gives `features` channels for each place. The
    scores are linear in them, so guidance of features is guidance of scores (arXiv 2207.12598).

    A causal transformer predicts a patch at a time, and the codes within it one after the other: to
    the features of a place comes what a small network makes of those before it (as the local model
    of MegaByte, arXiv 2305.07185, adds to the global one).

    Args:
        features: channels of a place.
        codebook_size: codes in the table.
        channels: of latents.
        places: latent places of a patch.
        is_causal: with that network.
    """

    def __init__(
        self, features: int, codebook_size: int, channels: int, places: int, *, is_causal: bool
    ) -> None:
        super().__init__()
        # parameters, so that they are saved; the table is the VAE's
        self.table = nn.Parameter(torch.zeros(codebook_size, channels), requires_grad=False)
        self.unknown = nn.Parameter(torch.zeros(channels))
        self.to_scores = nn.Linear(features, codebook_size)
        self.before: nn.ModuleList | None = None
        if is_causal:
            self.before = nn.ModuleList(
                nn.Sequential(
                    nn.Linear(number * channels, WIDTH),
                    nn.GELU("tanh"),
                    nn.Linear(WIDTH, features),
                )
                for number in range(1, places)
            )

    @torch.no_grad()
    def initialize(self, generator: torch.Generator) -> None:
        """Set the weights for training from scratch; all codes are as likely at first."""
        nn.init.normal_(self.unknown, generator=generator)
        nn.init.normal_(self.to_scores.weight, std=0.02, generator=generator)
        nn.init.zeros_(self.to_scores.bias)
        for each in self.before or ():
            nn.init.zeros_(each[2].weight)

    @torch.no_grad()
    def take_table(self, vae: Any) -> None:
        """Take the table of a VAE's quantizer, as normalised latents.

        Raises:
            UserError: it has none, or one of another size.
        """
        codes = getattr(vae.config, "codebook_size", 0) if vae.config.get("quantizer") else 0
        quantize = getattr(vae, "quantize", None)
        if quantize is None or codes != len(self.table):
            has = "none" if quantize is None else f"one of {codes}"
            raise UserError(
                f"model.codebook_size={len(self.table)}: the VAE has {has}. Give a VAE with such a "
                f"table of codes, as t2v train-vae model.quantizer=lfq makes, or set "
                f"model.codebook_size={0 if quantize is None else codes}."
            )
        latents = rearrange(quantize.table(), "k c -> 1 c k 1 1")
        latents = normalize_latents(latents, vae.config)
        self.table.copy_(rearrange(latents, "1 c k 1 1 -> k c"))

    def codes(self, latents: Tensor) -> Tensor:
        """The codes `b t h w` of normalised latents `b c t h w`."""
        b, _, t, h, w = latents.shape
        places = rearrange(latents, "b c t h w -> (b t h w) c")
        found = nearest(places.to(self.table.dtype), self.table)
        return rearrange(found, "(b t h w) -> b t h w", b=b, t=t, h=h, w=w)

    def codes_so_far(self, latents: Tensor) -> Tensor:
        """The codes `b t h w` of normalised latents `b c t h w` as `latents` gives them, with
        `codebook_size` for unknown ones."""
        unknown = rearrange(self.unknown.to(latents), "c -> c 1 1 1")
        is_code = (latents != unknown).any(dim=1)
        return self.codes(latents).masked_fill(~is_code, len(self.table))

    def embed(self, codes: Tensor) -> Tensor:
        """The normalised latents of codes, `... c`; what is no code, such as `codebook_size`, is
        unknown."""
        rows = torch.cat([self.table, self.unknown.to(self.table).unsqueeze(0)])
        return rows[codes.clamp(max=len(self.table))]

    def latents(self, codes: Tensor) -> Tensor:
        """The normalised latents `b c t h w` of codes `b t h w`."""
        return rearrange(self.embed(codes), "b t h w c -> b c t h w")

    def features_of(self, features: Tensor, latents: Tensor | None = None) -> Tensor:
        """The features of the places of patches that scores are made of, `... p f`.

        Args:
            features: those the transformer gave, `... p f`.
            latents: of a causal head: those of the codes, `... p c`; a place sees the ones before.
        """
        if self.before is None:
            return features
        assert latents is not None
        parts = [torch.zeros_like(features[..., 0, :])]
        parts += [each(latents[..., : n + 1, :].flatten(-2)) for n, each in enumerate(self.before)]
        return features + torch.stack(parts, dim=-2)

    def next_scores(self, features: Tensor, latents: Tensor) -> Tensor:
        """The scores of all codes, `... codes`, of the place after those that are given.

        Args:
            features: of that place, `... f`.
            latents: of the places before it in its patch, `... k c`; k may be 0.
        """
        if self.before is not None and (count := latents.shape[-2]):
            features = features + self.before[count - 1](latents.flatten(-2))
        return self.to_scores(features)


def give_code_head(transformer: Any, codebook_size: int, features: int) -> None:
    """Give a transformer that is being built the head of so many codes.

    Raises:
        UserError: some of its layers are causal, and some are not.
    """
    causal = [block.chosen.word in CAUSAL for block in transformer.blocks]
    if any(causal) != all(causal):
        words = list(dict.fromkeys(block.chosen.word for block in transformer.blocks))
        raise UserError(
            f"attention={words}: a model of codes is causal in all layers or in none. Choose among "
            f"{', '.join(CAUSAL)}, or among the others."
        )
    pt, ph, pw = transformer.config.patch_size
    channels = transformer.config.in_channels
    head = CodeHead(features, codebook_size, channels, pt * ph * pw, is_causal=all(causal))
    transformer.add_module(NAME, head)


def is_causal(transformer: Any) -> bool:
    """Return whether no token of a transformer sees a later one."""
    return all(block.chosen.word in CAUSAL for block in transformer.blocks)


def in_patches(x: Tensor, patch: tuple[int, int, int]) -> Tensor:
    """Places `b c t h w` as patches in their order, `b n p c`."""
    pt, ph, pw = patch
    return rearrange(x, "b c (t pt) (h ph) (w pw) -> b (t h w) (pt ph pw) c", pt=pt, ph=ph, pw=pw)


def of_patches(x: Tensor, patch: tuple[int, int, int], grid: tuple[int, int, int]) -> Tensor:
    """The inverse of `in_patches`; `grid` are the sides of the video in patches."""
    (pt, ph, pw), (t, h, w) = patch, grid
    sides = {"pt": pt, "ph": ph, "pw": pw, "t": t, "h": h, "w": w}
    return rearrange(x, "b (t h w) (pt ph pw) c -> b c (t pt) (h ph) (w pw)", **sides)
