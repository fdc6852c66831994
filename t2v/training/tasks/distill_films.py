"""The films of a teacher that a student learns from: latents by prompt and noise, kept on disk."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from t2v.config.distill import DistillConfig
from t2v.data.cache import Cache
from t2v.data.captions import Captions, all_captions
from t2v.data.rng import keyed_generator, step_indices
from t2v.data.text_cache import Texts
from t2v.errors import UserError
from t2v.io.files import digest
from t2v.io.manifest import MANIFEST, read_manifest
from t2v.io.progress import progress
from t2v.io.prompts import read_prompts
from t2v.models.device import sent
from t2v.pipelines.generator import Generator, Request
from t2v.training.engine.loop import autocast
from t2v.world.prompts import random_prompts

logger = logging.getLogger(__name__)

WORLD = "world"
BLOCK = 64  # films of one size, one after the other
AT_ONCE = 16  # films that the teacher denoises together
Sizes = tuple[int, int, int]  # frames, height, width


class FilmBatch(NamedTuple):
    """Films of one size: noise, what the teacher makes of it, and the prompts' embeddings."""

    noise: Tensor  # b c t h w, standard normal
    latents: Tensor  # b c t h w, normalised
    text: Tensor  # b m d

    def on(self, device: torch.device) -> FilmBatch:
        """The batch on `device`."""
        return FilmBatch(*(sent(each, device) for each in self))


@dataclass(frozen=True)
class Film:
    """One film that is asked of the teacher: a function of its index and the settings."""

    prompt: str
    seed: int  # of its noise
    sizes: Sizes


def prompts_of(config: DistillConfig) -> list[str]:
    """The prompts that `config.prompts` names, without repetitions.

    Raises:
        UserError: it cannot be read, or holds none.
    """
    if config.prompts == WORLD:
        return random_prompts(config.pairs, config.seed)
    path = Path(config.prompts)
    if not (path.is_dir() or path.suffix in (".jsonl", ".csv")):
        return list(dict.fromkeys(read_prompts(path, "prompts")))
    rows = [{"captions": clip.texts(), "caption": clip.caption} for clip in read_manifest(path)]
    found = [text for text in dict.fromkeys(all_captions(rows)) if text.strip()]
    if not found:
        raise UserError(
            f"prompts={config.prompts}: its clips have no captions ({MANIFEST}, or lines in x.txt "
            "beside x.mp4). Caption them, or give a file of prompts, one a line."
        )
    return found


def films_of(config: DistillConfig, prompts: Sequence[str], own: Sizes) -> list[Film]:
    """The `config.pairs` films of a distillation.

    Args:
        own: the size that the teacher is saved with.
    """
    sizes = config.film_sizes() or (own,)
    return [
        Film(
            prompts[i % len(prompts)],
            keyed_generator(config.seed, i, "noise").initial_seed(),
            sizes[i // BLOCK % len(sizes)],
        )
        for i in range(config.pairs)
    ]


class Films:
    """The films of a teacher, drawn once and read by index.

    Args:
        teacher: hash of all that decides them beside film and request.
        request: steps and guidance of the teacher.
        shapes: of the latents, `c t h w`, by size.
    """

    def __init__(
        self,
        config: DistillConfig,
        films: Sequence[Film],
        teacher: str,
        request: Request,
        tokenizer: PreTrainedTokenizerBase,
        max_length: int,
        shapes: Mapping[Sizes, tuple[int, ...]],
    ) -> None:
        self.config, self.films, self.max_length, self.shapes = config, films, max_length, shapes
        self.folder = Path(config.cache or Path(config.output, "pairs"))
        self.cache = Cache(self.folder, BLOCK)
        about = teacher, request.num_inference_steps, request.guidance_scale
        self.keys = [digest("film", *about, film.prompt, film.seed, film.sizes) for film in films]
        self.name = digest("films", *self.keys)
        self.request = request
        self.captions = Captions([{"caption": f.prompt} for f in films], tokenizer, max_length)
        self.texts: Texts | None = None
        self.train_count = len(films) - config.held_out
        groups: dict[Sizes, list[int]] = {}
        for index, film in enumerate(films[: self.train_count]):
            groups.setdefault(film.sizes, []).append(index)
        self.groups = [torch.tensor(each) for each in groups.values()]

    def draw(self, generator: Generator) -> None:
        """Have the teacher make the films that are not on disk; a kill loses at most 64.

        Raises:
            UserError: a film is not finite.
        """
        pipeline = generator.pipeline
        self.texts = Texts(pipeline.text_encoder, self.folder / "text", self.config.precision)
        self.texts.add(self.captions, pipeline.text_encoder)
        missing = [i for i, key in enumerate(self.keys) if key not in self.cache]
        if not missing:
            return
        logger.info("The teacher makes %d films, kept in %s", len(missing), self.folder)
        batches = list(_of_one_size(missing, self.films))
        with self.cache:
            for batch in progress(batches, "teacher", "batches"):
                for index, latents in zip(batch, self._made(generator, batch), strict=True):
                    self.cache.add(self.keys[index], latents.to("cpu", torch.float16))

    def _made(self, generator: Generator, batch: Sequence[int]) -> Tensor:
        films = [self.films[i] for i in batch]
        generator.pipeline.set_progress_bar_config(disable=True)
        frames, height, width = films[0].sizes
        request = replace(self.request, num_frames=frames, height=height, width=width)
        prompts, seeds = [film.prompt for film in films], [film.seed for film in films]
        with autocast(self.config):
            return generator.generate(generator.encode(prompts, request), request, seeds)

    def batch(self, step: int, rank: int, world_size: int) -> FilmBatch:
        """Films of one size; sizes come as often as they have films."""
        config = self.config
        counts = torch.tensor([float(len(group)) for group in self.groups])
        chosen = keyed_generator(config.seed, step, "size")
        group = self.groups[int(torch.multinomial(counts, 1, generator=chosen))]
        place = step_indices(len(group), config.batch_size, config.seed, step, rank, world_size)
        return self.read(group[place].tolist())

    def read(self, indices: Sequence[int]) -> FilmBatch:
        """The films of these indices, all of one size."""
        assert self.texts is not None, "draw comes first"
        shape = self.shapes[self.films[indices[0]].sizes]
        noise = [_noise(self.films[i].seed, shape) for i in indices]
        latents = [self.cache.read(self.keys[i]).float() for i in indices]
        tokens, lengths = self.captions.first(torch.tensor(indices))
        text = self.texts.read(tokens, lengths, self.max_length)
        return FilmBatch(torch.stack(noise), torch.stack(latents), text)

    def held_out(self) -> Iterator[list[int]]:
        """The indices of the films kept for validation, in batches of one size."""
        return _of_one_size(range(self.train_count, len(self.films)), self.films)

    def trained(self, count: int) -> Iterator[list[int]]:
        """The first `count` indices of films that are learned from, in batches of one size."""
        return _of_one_size(range(min(count, self.train_count)), self.films)


def _noise(seed: int, shape: tuple[int, ...]) -> Tensor:
    """The noise that a pipeline begins with at this seed, see `sample_generators`."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _of_one_size(indices: Sequence[int], films: Sequence[Film]) -> Iterator[list[int]]:
    """Yield indices in batches of at most `AT_ONCE`, each of films of one size."""
    batch: list[int] = []
    for i in indices:
        if batch and (len(batch) == AT_ONCE or films[i].sizes != films[batch[0]].sizes):
            yield batch
            batch = []
        batch.append(i)
    if batch:
        yield batch
