"""The work of `t2v encode` on many workers: files hashed, clips and captions encoded."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2v.config.checks import is_spread
from t2v.config.data import EncodeConfig
from t2v.data.decode import Transform, file_hashes, read_clips, readers
from t2v.data.latents import ClipEncoder, latents_encoder
from t2v.data.text_cache import Embed, embedded, text_name
from t2v.errors import UserError
from t2v.io.engine import model_pool, succeeded
from t2v.io.manifest import Clip
from t2v.io.workers import Pool
from t2v.models.device import pick_device
from t2v.models.folder import model_folder
from t2v.models.load import load_text
from t2v.models.vae_folder import load_vae

FILES, CAPTIONS = 16, 64  # of one item: a worker is asked for some seconds of work


@dataclass(frozen=True)
class _Encoding:
    """The encoder of clips that a worker holds, and a process that reads them."""

    encoder: ClipEncoder
    readers: Pool


class Clips:
    """Workers that each hold the VAE.

    Args:
        workers: of `_encoding`.
        name: of the encoder here, which theirs has to be.
    """

    def __init__(self, workers: Pool, name: str) -> None:
        self.workers, self.name = workers, name

    def hashes(self, paths: Sequence[str]) -> dict[str, str]:
        """The SHA-256 of every file that can be read, by its path."""
        chunks = [paths[first : first + FILES] for first in range(0, len(paths), FILES)]
        tasks = (partial(_hashes, paths=chunk) for chunk in chunks)
        names = [f"the files from {chunk[0]} on" for chunk in chunks]
        results = self.workers.results(tasks, count=len(chunks))
        return {path: found for each in succeeded(results, names) for path, found in each.items()}

    def tensors(
        self, clips: Sequence[Clip], transform: Transform
    ) -> Iterator[tuple[int, Tensor | str]]:
        """Yield each clip's number with its tensor, or the reason why there is none, in order."""
        encode = partial(_latents, transform=transform, name=self.name)
        tasks = (partial(encode, clip=clip) for clip in clips)
        results = self.workers.results(tasks, count=len(clips), in_order=True)
        yield from enumerate(succeeded(results, [f"the clip {clip.path}" for clip in clips]))


@contextmanager
def clips_on(config: EncodeConfig, encoder: ClipEncoder) -> Iterator[Clips | None]:
    """Give the workers that the settings ask for; None: this process does the work alone.

    Args:
        encoder: of this process.
    """
    if not is_spread(config):
        yield None
        return
    device = str(pick_device(config.device))
    load = partial(_encoding, config)
    with model_pool(config, load, device, torch.get_num_threads()) as workers:
        yield Clips(workers, encoder.name)


@contextmanager
def captions_on(config: EncodeConfig, encoder: PreTrainedModel) -> Iterator[Embed | None]:
    """Give the function that has workers embed captions; None: this process does.

    Args:
        encoder: of this process.
    """
    if not is_spread(config):
        yield None
        return
    name, device = text_name(encoder, config.precision), str(pick_device(config.device))
    load = partial(_text_encoder, config, name)
    with model_pool(config, load, device, torch.get_num_threads()) as workers:

        def embed(captions: Sequence[tuple[int, ...]]) -> Iterator[Tensor]:
            chunks = [captions[n : n + CAPTIONS] for n in range(0, len(captions), CAPTIONS)]
            tasks = (partial(_embedded, captions=each, precision=config.precision)
                     for each in chunks)  # fmt: skip
            results = workers.results(tasks, count=len(chunks), in_order=True)
            names = [f"the captions of the tokens {list(each[0])} and on" for each in chunks]
            yield from chain.from_iterable(succeeded(results, names))

        yield embed


def text_encoder_of(config: EncodeConfig) -> PreTrainedModel:
    """The text encoder of a model on its device, as trainings hold it."""
    _, encoder = load_text(model_folder(config.model))
    return encoder.float().to(pick_device(config.device))


def _encoding(config: EncodeConfig) -> _Encoding:
    vae = load_vae(model_folder(config.model)).to(pick_device(config.device))
    return _Encoding(latents_encoder(vae, config.precision), readers(config.clips, 1))


def _text_encoder(config: EncodeConfig, name: str) -> PreTrainedModel:
    encoder = text_encoder_of(config)
    _check_same(text_name(encoder, config.precision), name, "text encoder")
    return encoder


def _check_same(theirs: str, ours: str, part: str) -> None:
    if theirs != ours:
        raise UserError(
            f"model: on {socket.gethostname()} its {part} is another one than where the command "
            "was given. Put the same files on every machine."
        )


def _hashes(held: _Encoding, paths: Sequence[str]) -> dict[str, str]:
    return file_hashes(paths, 1)


def _latents(held: _Encoding, clip: Clip, transform: Transform, name: str) -> Tensor | str:
    _check_same(held.encoder.name, name, "VAE")
    ((_, frames),) = read_clips([clip], transform, held.readers)
    return frames if isinstance(frames, str) else held.encoder.run(frames[None])[0]


def _embedded(
    encoder: PreTrainedModel, captions: Sequence[tuple[int, ...]], precision: str
) -> list[Tensor]:
    return [embedded(encoder, each, precision) for each in captions]
