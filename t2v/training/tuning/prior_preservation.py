"""The base model's own videos of some prompts: what a fine-tune must not forget."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path

import torch
from safetensors.torch import load, save_file
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.data.captions import Captions
from t2v.data.rng import keyed_generator, step_indices
from t2v.io.files import complete
from t2v.pipelines.generator import Generator, sample_videos

logger = logging.getLogger(__name__)

HELD_OUT = 0.25  # share of the prompts that are only validated on
TIMES = 4  # noise levels at which each is validated


class Prior:
    """Videos of the base model, as latents, with their prompts (DreamBooth's prior preservation,
    arXiv 2208.12242, 3.3).

    Args:
        latents: what `sample_prior` gave for `prompts`.
        tokenizer: of the model that is tuned; its soft prompt is before these prompts too.
    """

    def __init__(
        self,
        prompts: list[str],
        latents: Tensor,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        seed: int,
    ) -> None:
        self.prompts, self.latents, self.seed = prompts, latents, seed
        self.captions = Captions([{"caption": p} for p in prompts], tokenizer, max_length)
        self.repeated = len(prompts) - max(1, int(HELD_OUT * len(prompts)))

    def is_turn(self, step: int, ratio: float) -> bool:
        """Return whether this step repeats the base model's videos, as `ratio` of all steps do."""
        share = torch.rand(1, generator=keyed_generator(self.seed, step, "prior"))
        return share.item() < ratio

    def batch(
        self, batch_size: int, step: int, rank: int, world_size: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised latents `b c t h w`, tokens and lengths of the prompts that are repeated."""
        index = step_indices(self.repeated, batch_size, self.seed, step, rank, world_size)
        return self.latents[index], *self.captions.first(index)

    def held_out(self) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
        """The videos never trained on, as `batch` gives them but `TIMES` times over, and times.

        With few prompts all are validated on when none are trained on.
        """
        index = torch.arange(self.repeated, len(self.prompts)).repeat_interleave(TIMES)
        times = (torch.arange(len(index)) % TIMES + 0.5) / TIMES
        return (self.latents[index], *self.captions.first(index)), times


def sample_prior(
    generator: Generator, weights: str, prompts: list[str], seed: int, folder: Path
) -> Tensor:
    """Return the videos of `prompts` by its own settings, normalised latents `n c t h w`.

    Sampled once and kept in `folder`, under a name that changes with the weights and the prompts.
    """
    key = hashlib.sha256(repr((weights, prompts, seed)).encode()).hexdigest()[:16]
    path = folder / f"prior-{key}.safetensors"
    if path.is_file():
        return load(path.read_bytes())["latents"]
    logger.info("Sampling %d prompts with the base model, to see what is forgotten", len(prompts))
    seeds = range(seed, seed + len(prompts))
    videos = sample_videos(generator, prompts, seeds, generator.defaults, doing="base")
    latents = torch.cat([video.cpu() for video in videos])
    folder.mkdir(parents=True, exist_ok=True)
    with complete(path) as partial:
        save_file({"latents": latents.contiguous()}, partial)
    return latents
