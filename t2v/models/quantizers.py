"""The quantizers of `AutoencoderKLT2V`: continuous latents to codes of a finite table, and back."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from einops import einsum, rearrange
from torch import Tensor, nn

from t2v.config.models import FSQ_LEVELS, QuantizerName, check_codebook

VQ_CHANNELS = 8  # of a code of VQ: few, so that all of the table is used (arXiv 2110.04627)
COMMITMENT = 0.25  # weight of the pull of latents to their codes (VideoGPT, arXiv 2104.10157)
ENTROPY = 0.1  # weight of the entropy term of LFQ
ENTROPY_SCALE = 4.0  # of the distance to a sign, before it becomes a probability
ENTROPY_PLACES = 1024  # whose codes' distribution is averaged in a step
JOINT_BITS = 12  # most bits whose joint distribution is averaged
DECAY = 0.99  # of the averages of VQ
DEAD = 0.05  # a code that is used less than so often a step begins again at a latent


class CodedLatents(DiagonalGaussianDistribution):
    """Latents of a VAE with a quantizer, in the form of a posterior: without any spread.

    Args:
        continuous: what the encoder gave, `b z t h w`.
        latents: of their codes; gradients pass straight to `continuous`.
        chosen: what the quantizer made of `continuous`, before it is a latent again.
        codes: numbers in the table, `b t h w`.
    """

    def __init__(self, continuous: Tensor, latents: Tensor, chosen: Chosen, codes: Tensor) -> None:
        super().__init__(torch.cat([latents, torch.zeros_like(latents)], 1), deterministic=True)
        self.continuous, self.chosen, self.codes = continuous, chosen, codes


class Chosen(NamedTuple):
    """Vectors of places `p c` before they are quantized, the codes' vectors, and their numbers."""

    vectors: Tensor
    quantized: Tensor
    codes: Tensor  # p


class Quantizer(nn.Module):
    """One table of codes between the encoder and the decoder.

    A linear layer brings latents to the channels of a code, another one brings codes back; what is
    between them is the kind's own:

    - `vq`: the nearest of learned unit vectors, which follow the averages of what they stand for;
      those that nothing falls on begin again elsewhere (VideoGPT, arXiv 2104.10157).
    - `lfq`: the signs of the channels, `log2(codebook_size)` bits (MAGVIT-v2, arXiv 2310.05737).
    - `fsq`: each channel rounded to a few levels (arXiv 2309.15505).

    Args:
        channels: of the latents.
        codebook_size: codes in the table.

    Raises:
        UserError: the kind has no table of that size.
    """

    def __init__(self, kind: QuantizerName, channels: int, codebook_size: int) -> None:
        super().__init__()
        check_codebook(kind, codebook_size)
        self.kind, self.codebook_size = kind, codebook_size
        self.levels = FSQ_LEVELS[codebook_size] if kind == "fsq" else ()
        width = {
            "vq": VQ_CHANNELS,
            "lfq": codebook_size.bit_length() - 1,
            "fsq": len(self.levels),
        }[kind]
        self.width = width
        self.project_in, self.project_out = nn.Linear(channels, width), nn.Linear(width, channels)
        if kind == "vq":  # averages, so no gradient reaches them; parameters, so they are saved
            self.codebook = _kept(F.normalize(torch.randn(codebook_size, width), dim=1))
            self.used = _kept(torch.ones(codebook_size))
            self.sums = _kept(self.codebook.detach().clone())

    def posterior(self, moments: Tensor) -> CodedLatents:
        """The latents of the codes nearest to the first half of `moments`, `b 2z t h w`."""
        continuous = moments.chunk(2, dim=1)[0]
        b, _, t, h, w = continuous.shape
        places = rearrange(continuous, "b z t h w -> (b t h w) z")
        chosen = self._choose(self.project_in(places))
        latents = self.project_out(chosen.quantized)
        latents = rearrange(latents, "(b t h w) z -> b z t h w", b=b, t=t, h=h, w=w)
        codes = rearrange(chosen.codes, "(b t h w) -> b t h w", b=b, t=t, h=h, w=w)
        return CodedLatents(continuous, latents, chosen, codes)

    def losses(self, posterior: CodedLatents, generator: torch.Generator) -> dict[str, Tensor]:
        """The losses that the choice of codes adds in a training step, by name; averages and dead
        codes of VQ are brought up to date.

        Args:
            generator: of the places that dead codes begin again at, and of those whose entropy
                counts.
        """
        vectors, quantized, codes = posterior.chosen
        losses = {"commitment": COMMITMENT * F.mse_loss(vectors, quantized.detach())}
        if self.kind == "lfq":
            losses["entropy"] = ENTROPY * self._entropy(vectors, generator)
        elif self.kind == "vq" and self.training and torch.is_grad_enabled():
            self._follow(vectors.detach().float(), codes, generator)
        return losses

    @torch.no_grad()
    def fit(self, latents: Tensor, generator: torch.Generator) -> None:
        """Set all weights in closed form to the latents of a VAE without a quantizer.

        Codes see the principal components, of unit variance, and are turned back by least squares;
        the table of VQ holds some of the latents.

        Args:
            latents: `b z t h w`; more places than there are codes.
        """
        places = rearrange(latents, "b z t h w -> (b t h w) z").double()
        mean = places.mean(dim=0)
        variance, basis = torch.linalg.eigh((places - mean).T.cov())
        kept = min(self.width, len(mean))
        variance, basis = variance[-kept:].flip(0), basis[:, -kept:].flip(1)
        weight = basis.T / variance.clamp(min=1e-9).sqrt()[:, None]
        if self.kind == "lfq":  # each bit tells of every component, the widest ones most
            turn = torch.linalg.qr(torch.randn(self.width, kept, generator=generator))[0]
            weight = turn.double().to(weight) @ (weight * variance.clamp(min=0).pow(0.25)[:, None])
            weight /= ((places - mean) @ weight.T).abs().mean(dim=0)[:, None]  # a sign is 1 wide
        weight = F.pad(weight, (0, 0, 0, self.width - len(weight)))
        self.project_in.weight.copy_(weight)
        self.project_in.bias.copy_(-(weight @ mean))
        vectors = self.project_in(places.to(self.project_in.weight))
        if self.kind == "vq":
            order = torch.randperm(len(vectors), generator=generator)[: self.codebook_size]
            self.codebook[: len(order)] = F.normalize(vectors[order.to(vectors.device)], dim=1)
            self.sums.copy_(self.codebook)
            self.used.fill_(1)
        quantized = self._choose(vectors).quantized.double()
        ones = torch.cat([quantized, torch.ones_like(quantized[:, :1])], dim=1)
        back = torch.linalg.lstsq(ones, places, driver="gelsd").solution
        self.project_out.weight.copy_(back[:-1].T)
        self.project_out.bias.copy_(back[-1])

    def table(self) -> Tensor:
        """The latents of all codes, `codebook_size z`."""
        numbers = torch.arange(self.codebook_size, device=self.project_out.weight.device)
        return self.project_out(self.vectors(numbers))

    def vectors(self, codes: Tensor) -> Tensor:
        """The vectors of codes, `... c`."""
        if self.kind == "vq":
            return self.codebook[codes]
        dtype = self.project_out.weight.dtype
        if self.kind == "lfq":
            bits = torch.arange(self.width, device=codes.device)
            return ((codes.unsqueeze(-1) >> bits & 1) * 2 - 1).to(dtype)
        digits, rest = [], codes
        for levels in self.levels:
            digits.append(rest % levels - levels // 2)
            rest = rest // levels
        halves = torch.tensor([levels // 2 for levels in self.levels], device=codes.device)
        return torch.stack(digits, dim=-1).to(dtype) / halves

    def latents(self, codes: Tensor) -> Tensor:
        """The latents `b z t h w` of codes `b t h w`, as the decoder takes them."""
        return rearrange(self.project_out(self.vectors(codes)), "b t h w z -> b z t h w")

    def codes(self, latents: Tensor) -> Tensor:
        """The codes `b t h w` whose latents are nearest to `latents`, `b z t h w`: of latents that
        a quantizer gave, in any number format, the very ones."""
        b, _, t, h, w = latents.shape
        places = rearrange(latents, "b z t h w -> (b t h w) z")
        found = nearest(places, self.table().to(places))
        return rearrange(found, "(b t h w) -> b t h w", b=b, t=t, h=h, w=w)

    def _choose(self, vectors: Tensor) -> Chosen:
        match self.kind:
            case "vq":
                vectors = F.normalize(vectors, dim=1)
                codes = nearest(vectors, self.codebook.to(vectors))
                quantized = self.codebook.to(vectors)[codes]
            case "lfq":
                signs = vectors > 0
                places = 1 << torch.arange(self.width, device=vectors.device)
                codes = (signs * places).sum(dim=1)
                quantized = (signs * 2 - 1).to(vectors)
            case _:
                vectors, codes, quantized = self._round(vectors)
        return Chosen(vectors, vectors + (quantized - vectors).detach(), codes)

    def _round(self, vectors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Round each channel to its levels; an even number of them lies half a level aside."""
        levels = torch.tensor(self.levels, device=vectors.device)
        half = (levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(levels % 2 == 0, 0.5, 0.0)
        shift = (offset / half).atanh()
        bounded = (vectors + shift).tanh() * half - offset
        rounded = bounded.round()
        digits = rounded.long() + levels // 2
        bases = torch.tensor([math.prod(self.levels[:k]) for k in range(self.width)])
        codes = (digits * bases.to(digits.device)).sum(dim=1)
        return bounded / (levels // 2), codes, rounded / (levels // 2)

    def _entropy(self, vectors: Tensor, generator: torch.Generator) -> Tensor:
        """E[H(q(z))] - H[E q(z)]: each place sure of its code, all codes used alike."""
        chosen = torch.randperm(len(vectors), generator=generator)[:ENTROPY_PLACES]
        some = vectors[chosen.to(vectors.device)].float()
        logits = ENTROPY_SCALE * some  # of a bit: 2 * z / temperature, each
        sure = _binary_entropy(logits).sum(dim=1).mean()
        spread = torch.zeros_like(sure)
        for part in logits.split(JOINT_BITS, dim=1):  # more bits: of groups, an upper bound
            mean = _joint(part).mean(dim=0)
            spread = spread - (mean * mean.clamp(min=1e-12).log()).sum()
        return sure - spread

    @torch.no_grad()
    def _follow(self, vectors: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move each code to the average of what fell on it, dead ones to latents of the step."""
        counts = torch.bincount(codes, minlength=self.codebook_size).to(self.used)
        sums = torch.zeros_like(self.sums).index_add_(0, codes, vectors.to(self.sums))
        order = torch.randperm(len(vectors), generator=generator)
        fresh = vectors[order[: self.codebook_size].to(vectors.device)].to(self.sums).clone()
        if dist.is_initialized():
            dist.all_reduce(counts)
            dist.all_reduce(sums)
            dist.broadcast(fresh, 0)
        self.used.lerp_(counts, 1 - DECAY)
        self.sums.lerp_(sums, 1 - DECAY)
        dead = (self.used < DEAD).nonzero()[: len(fresh), 0]
        self.sums[dead] = fresh[: len(dead)]
        self.used[dead] = 1
        self.codebook.copy_(F.normalize(self.sums, dim=1))


def usage(codes: Tensor, codebook_size: int) -> tuple[float, float]:
    """The share of the table that `codes` use, and their perplexity, from 1 to `codebook_size`."""
    counts = torch.bincount(codes.flatten(), minlength=codebook_size).double()
    shares = counts / counts.sum()
    entropy = -(shares * shares.clamp(min=1e-300).log()).sum()
    return (counts > 0).double().mean().item(), entropy.exp().item()


def _kept(values: Tensor) -> nn.Parameter:
    return nn.Parameter(values, requires_grad=False)


def nearest(places: Tensor, table: Tensor) -> Tensor:
    """The row of `table` nearest to each row of `places`, a part of them at a time."""
    table = table.float()
    half = table.square().sum(dim=1) / 2
    rows = places.float().split(4096)
    return torch.cat([(half - some @ table.T).argmin(dim=1) for some in rows])


def _binary_entropy(logits: Tensor) -> Tensor:
    """The entropy of bits whose two log-probabilities differ by `2 * logits`."""
    both = torch.stack([F.logsigmoid(2 * logits), F.logsigmoid(-2 * logits)])
    return -(both.exp() * both).sum(dim=0)


def _joint(logits: Tensor) -> Tensor:
    """The probabilities of all combinations of independent bits, `p 2^bits`."""
    joint = torch.ones_like(logits[:, :1])
    for bit in logits.unbind(dim=1):
        pair = torch.stack([torch.sigmoid(-2 * bit), torch.sigmoid(2 * bit)], dim=1)
        joint = rearrange(einsum(joint, pair, "p v, p s -> p s v"), "p s v -> p (s v)")
    return joint
