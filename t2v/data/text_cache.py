"""A cache of the embeddings of captions, for text encoders that are frozen."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2v.config.data import Precision
from t2v.data.cache import Cache, weights_digest
from t2v.data.captions import Captions
from t2v.errors import UserError
from t2v.io.files import digest
from t2v.io.progress import progress
from t2v.models.device import ready
from t2v.models.kernels.precision import picked_precision
from t2v.models.text import encode_alone, pad_text

logger = logging.getLogger(__name__)

FOLDER = "text"  # in that of the latents
PER_SHARD = 256
Embed = Callable[[Sequence[tuple[int, ...]]], Iterator[Tensor]]
IRRELEVANT = ("transformers_version", "architectures", "dtype")  # for what is computed


class Texts:
    """The embeddings of captions by a frozen text encoder, by their tokens and its weights.

    Each caption is embedded alone, so that its bits depend on neither the batch nor the run that
    embedded it. bfloat16 where `precision` is, or picks, "bf16", to which the first layer that
    takes them would round them; float32 otherwise. The encoder is not kept: what is read needs
    none.
    """

    def __init__(self, encoder: PreTrainedModel, folder: Path, precision: Precision) -> None:
        self.precision = picked_precision(precision, encoder.device)
        self.name = text_name(encoder, self.precision)
        self.cache = Cache(folder, PER_SHARD)

    def add(self, captions: Captions, encoder: PreTrainedModel, embed: Embed | None = None) -> None:
        """Embed captions that the cache lacks, and the empty one; a kill loses at most a shard.

        Args:
            encoder: the one that the cache was opened with.
            embed: has others embed them, in their order; None: they are embedded here.

        Raises:
            UserError: an embedding is not finite.
        """
        rows = zip(captions.tokens.tolist(), captions.lengths.tolist(), strict=True)
        ids = {tuple(row[:length]) for row, length in rows}
        missing = sorted(each for each in ids if self._key(each) not in self.cache)
        if not missing:
            return
        logger.info("Embedding %d captions to %s", len(missing), self.cache.folder)
        here = (embedded(encoder, each, self.precision) for each in missing)
        found = here if embed is None else embed(missing)
        with self.cache:
            for each, text in progress(
                zip(missing, found, strict=True), "embed", "captions", len(missing)
            ):
                self.cache.add(self._key(each), text)

    def read(self, tokens: Tensor, lengths: Tensor, rows: int) -> Tensor:
        """Read embeddings `b rows d`, float32, with zeros past each caption's end.

        Args:
            tokens: ids padded to the longest of the batch, `b m`.
            lengths: tokens before the padding, `b`.
        """
        ids = [row[:n] for row, n in zip(tokens.tolist(), lengths.tolist(), strict=True)]
        found = [self.cache.read(self._key(each)).float() for each in ids]
        return torch.stack([pad_text(each, rows) for each in found])

    def _key(self, ids: Sequence[int]) -> str:
        return digest(self.name, list(ids))


def text_name(encoder: PreTrainedModel, precision: str) -> str:
    """Return a hash of all that decides an embedding beside the tokens."""
    settings = encoder.config.to_dict().items()
    relevant = [(k, repr(v)) for k, v in settings if k not in IRRELEVANT and k[0] != "_"]
    return digest("text", weights_digest(encoder), sorted(relevant), precision)


@torch.no_grad()
def embedded(encoder: PreTrainedModel, ids: Sequence[int], precision: str) -> Tensor:
    """Embed the tokens of one caption, `m d`, on the CPU, as `Texts` keeps it.

    Raises:
        UserError: the embedding is not finite.
    """
    device = ready(encoder)
    halved = precision == "bf16"
    with torch.autocast(device.type, torch.bfloat16, enabled=halved):
        text = encode_alone(encoder, ids)
    text = text.to(torch.bfloat16 if halved else torch.float32).cpu()
    if not text.isfinite().all():
        raise UserError(
            f"The text encoder's embedding of the tokens {list(ids)} is not finite. "
            "Embed with precision=fp32, or use another text encoder."
        )
    return text
