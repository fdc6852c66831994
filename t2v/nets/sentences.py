"""Text encoders of transformers that compare sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoModel, AutoTokenizer

from t2v.data.cache import weights_digest
from t2v.models.folder import EMBEDDED, embedded_model
from t2v.models.load import load_part, load_text, loading


class SentenceEncoder:
    """Sentences as the mean of their tokens' vectors (Sentence-BERT, arXiv 1908.10084).

    Args:
        name: a text encoder of transformers, from a folder or the Hub; or that of a pipeline, from
            its folder or `t2v-tiny`.
        device: where it computes.

    Raises:
        UserError: it cannot be loaded.
    """

    def __init__(self, name: str, device: str = "cpu") -> None:
        folder = embedded_model() if name == EMBEDDED else Path(name)
        if (folder / "text_encoder").is_dir():
            self.tokenizer, model = load_text(folder, "sentences")
        else:
            with loading(f"sentences={name}"):
                self.tokenizer = AutoTokenizer.from_pretrained(name)
                model = load_part(f"sentences={name}", AutoModel, name, heads=True)
        model = model.to(device).eval()
        self.model = model.get_encoder() if model.config.is_encoder_decoder else model
        self.name = f"{name} {weights_digest(self.model)[:8]}"

    @torch.inference_mode()
    def similarity(self, sentence: str, others: Sequence[str]) -> Tensor:
        """Return the cosine of a sentence with each of the others, `n`."""
        options = {"padding": True, "truncation": True, "return_tensors": "pt"}
        tokens = self.tokenizer([sentence, *others], **options).to(self.model.device)
        states = self.model(**tokens).last_hidden_state.float()
        mask = tokens.attention_mask[..., None]
        vectors = F.normalize((states * mask).sum(1) / mask.sum(1), dim=-1)
        return (vectors[1:] @ vectors[0]).cpu()
