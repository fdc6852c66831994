"""Training of a text encoder on captions alone: two views of each must find each other."""

from __future__ import annotations

from pathlib import Path

import torch
from einops import einsum
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.config.load import save_config
from t2v.config.text import TrainTextConfig
from t2v.errors import UserError
from t2v.io.manifest import read_manifest
from t2v.io.progress import Progress
from t2v.io.prompt_words import WORD, clean_prompt
from t2v.io.prompts import read_prompts
from t2v.models.load import load_text
from t2v.outputs import output_folder
from t2v.world.text import build_text, encoded, save_text

SPAN = (1 / 3, 2 / 3)  # shares of a caption's words that a span holds


def train_text(config: TrainTextConfig) -> None:
    """`t2v train-text`: leaves `tokenizer/` and `text_encoder/` in `config.output`.

    Raises:
        UserError: there are too few captions, or see `output_folder` and `load_text`.
    """
    captions = read_captions(config)
    with output_folder(config) as config:
        output = Path(config.output)
        save_config(config, output / "config.yaml")
        with torch.random.fork_rng(devices=[]):  # weights and dropout are of the global source
            torch.manual_seed(config.seed)
            if config.start_from:
                tokenizer, encoder = load_text(config.start_from)
            else:
                known = sorted({w.lower() for text in captions for w in WORD.findall(text)})
                tokenizer, encoder = build_text(config.kind, captions, known, config.vocabulary)
            _learn(tokenizer, encoder, captions, config)
        save_text(output, tokenizer, encoder)


def read_captions(config: TrainTextConfig) -> list[str]:
    """Return the different captions of `config.data`, in their order.

    Raises:
        UserError: it cannot be read, or there are fewer than `batch_size`.
    """
    if config.data.endswith(".txt"):
        texts = read_prompts(Path(config.data), "data")
    else:
        clips = [clip for clip in read_manifest(config.data) if not clip.dropped]
        texts = [text for clip in clips for text in clip.texts()]
    captions = list(dict.fromkeys(filter(None, map(clean_prompt, texts))))
    if len(captions) < config.batch_size:
        raise UserError(
            f"data={config.data} has {len(captions)} different captions, and a step takes "
            f"batch_size={config.batch_size}. Give more captions, or a smaller batch_size."
        )
    return captions


def _learn(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    captions: list[str],
    config: TrainTextConfig,
) -> None:
    generator = torch.Generator().manual_seed(config.seed)
    encoder.float().train()
    for module in encoder.modules():
        if isinstance(module, nn.Dropout):
            module.p = config.dropout
    parameters = list(encoder.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    with Progress(config.steps, "train", "steps") as bar:
        for _ in range(config.steps):
            chosen = torch.randperm(len(captions), generator=generator)[: config.batch_size]
            texts = [captions[n] for n in chosen.tolist()]
            loss, found = contrastive_loss(tokenizer, encoder, texts, config, generator)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            bar.update(loss=loss.item(), found=found)
    encoder.eval()


def contrastive_loss(
    tokenizer: PreTrainedTokenizerBase,
    encoder: PreTrainedModel,
    texts: list[str],
    config: TrainTextConfig,
    generator: torch.Generator,
) -> tuple[Tensor, float]:
    """Return the cross-entropy of finding each text's second view among those of all, by the cosine
    of mean embeddings over `config.temperature`; and the share that is found.

    "simcse": the views are two draws of dropout (SimCSE, arXiv 2104.08821, equation 4).
    "declutr": they are two spans of its words, which may overlap (DeCLUTR, arXiv 2006.03659,
    section 3.1; without its masked language model). An elastic encoder also does so with some of
    its layers and channels.
    """
    if config.objective == "simcse":
        views = [*texts, *texts]
    else:
        views = [span(text, generator) for _ in range(2) for text in texts]
    tokens = tokenizer(views, padding=True, return_tensors="pt")
    weight = tokens.attention_mask.float()
    truth, losses, found = torch.arange(len(texts)), [], 0.0
    inputs = {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}
    outputs = encoded(encoder, inputs, generator if config.elastic else None)
    for number, text in enumerate(outputs):
        mean = einsum(text, weight, "b m d, b m -> b d") / weight.sum(1, keepdim=True)
        one, other = F.normalize(mean, dim=-1).chunk(2)
        logits = one @ other.mT / config.temperature
        losses.append(F.cross_entropy(logits, truth))
        if not number:  # of the whole encoder
            found = (logits.argmax(-1) == truth).float().mean().item()
    return torch.stack(losses).sum(), found


def span(text: str, generator: torch.Generator) -> str:
    """Draw some words of a text that follow each other, a third to two thirds of them."""
    words = text.split()
    least, most = (max(1, round(share * len(words))) for share in SPAN)
    count = int(torch.randint(least, most + 1, (), generator=generator))
    start = int(torch.randint(len(words) - count + 1, (), generator=generator))
    return " ".join(words[start : start + count])
