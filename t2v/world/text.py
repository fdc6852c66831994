"""The embedded model's tokenizer and text encoder, trained on captions alone."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)
from tokenizers.processors import TemplateProcessing
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    BatchEncoding,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from t2v.config.load import save_config
from t2v.config.text import TextKind
from t2v.config.world import WorldTextConfig
from t2v.io.progress import Progress
from t2v.models.device import check_memory
from t2v.models.load import load_text
from t2v.outputs import output_folder
from t2v.world.grammar import SHAPES, Scene, caption, random_scene, words
from t2v.world.labels import HEADS, labels

NAMES = [form for names in SHAPES.values() for forms in names for form in forms]
NAME = re.compile(rf"\b({'|'.join(NAMES)})\b")
VOCABULARY = 512  # every word of the world whole, letters and pieces for the rest


def build_tokenizer(
    captions: Iterator[str], known: Sequence[str] | None = None, vocabulary: int = VOCABULARY
) -> PreTrainedTokenizerFast:
    """Train a fast BPE tokenizer that keeps the words of `captions` whole and spells out others.

    Args:
        known: the words that it will know, see `unknown_words`; None: the world's.
        vocabulary: most tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Metaspace(), pre_tokenizers.Punctuation()]
    )
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=["<pad>", "</s>", "<unk>"],
        initial_alphabet=list("abcdefghijklmnopqrstuvwxyz0123456789,.!?'-▁"),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.token_to_id("</s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        known_words=words() if known is None else list(known),
    )


def normalizer() -> normalizers.Normalizer:
    """Normalisation of prompts before they are split into words: lower case, words kept apart.

    Captions have no punctuation but a comma and a space after a word, and the words of the
    vocabulary begin with a space: `snow,blue` and `"red"` would be spelled in letters that mean
    nothing. So `,.!?` get a space after them, an apostrophe stays, and any other sign becomes one.
    """
    return normalizers.Sequence(
        [
            normalizers.NFKC(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[^\w\s,.!?']|_"), " "),
            normalizers.Replace(Regex(r"(?<=[,.!?])(?=\w)"), " "),
            normalizers.Replace(Regex(r"\s+"), " "),
            normalizers.Strip(),
        ]
    )


def build_text_encoder(vocabulary: int) -> T5EncoderModel:
    """Build the embedded model's text encoder: about 1.8M parameters, width 192, 4 layers."""
    config = T5Config(
        vocab_size=vocabulary,
        d_model=192,
        d_kv=32,
        d_ff=512,
        num_layers=4,
        num_heads=6,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        eos_token_id=1,
    )
    encoder = T5EncoderModel(config)
    # A fresh T5 is nearly blind to order: its embeddings drown what attention adds, and its
    # attention weighs all distances alike. A short training would not leave that state.
    order = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias
    with torch.no_grad():
        encoder.shared.weight.mul_(0.1)
        order.weight.mul_(20)
    return encoder


class CaptionReader(nn.Module):
    """A classifier of every attribute by the token embeddings, and by their sum.

    The sum steers the transformer's modulation, and the tokens are the input of its
    cross-attention: both must hold the whole scene. Cross-attention ignores order, so each token
    must also hold the number of things named before it: without that, "a red cube and a blue ball"
    stayed a bag of words.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(3, dim) * 0.5)  # scene, first thing, second thing
        layer = nn.TransformerDecoderLayer(dim, 4, 2 * dim, 0.0, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(dim, len(names)) for name, (names, _) in HEADS.items()}
        )
        self.rank = nn.Linear(dim, 4)
        self.pooled_heads = nn.ModuleDict(
            {name: nn.Linear(dim, len(names)) for name, (names, _) in HEADS.items()}
        )

    def forward(self, text: Tensor, mask: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
        # text: b m d    mask: b m
        queries = self.queries.expand(len(text), -1, -1)
        read = self.decoder(queries, text, memory_key_padding_mask=~mask)  # b 3 d
        pooled = F.rms_norm((text * mask.unsqueeze(-1)).sum(1), text.shape[-1:])  # b d
        for name, (_, slot) in HEADS.items():
            yield name, self.heads[name](read[:, slot]), self.pooled_heads[name](pooled)


def train_text(config: WorldTextConfig) -> None:
    """Train tokenizer and encoder; leaves `tokenizer/` and `text_encoder/` in `config.output`.

    Raises:
        UserError: see `output_folder`, `load_text` and `check_memory`.
    """
    with output_folder(config) as config:
        output = Path(config.output)
        save_config(config, output / "config.yaml")
        tokenizer, encoder = _trained(config)
        save_text(output, tokenizer, encoder)


def save_text(output: Path, tokenizer: Any, encoder: PreTrainedModel) -> None:
    """Write `tokenizer/` and `text_encoder/`, without the padding of the last batch."""
    if (backend := getattr(tokenizer, "backend_tokenizer", None)) is not None:
        backend.no_padding()
    tokenizer.save_pretrained(output / "tokenizer")
    encoder.save_pretrained(output / "text_encoder")


def build_text(
    kind: TextKind,
    captions: Sequence[str],
    known: Sequence[str] | None = None,
    vocabulary: int = VOCABULARY,
) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    """Build a tokenizer, trained on captions but of bytes, and an untrained text encoder for it.

    Weights are of torch's global random state. The other arguments are those of `build_tokenizer`.
    """
    if kind == "t5":
        tokenizer = build_tokenizer(iter(captions), known, vocabulary)
        return tokenizer, build_text_encoder(len(tokenizer))
    from t2v.models.text_small import build_small_text  # the embedded model needs none
    from t2v.models.text_tokenizers import byte_tokenizer

    if kind == "bytes":
        tokenizer = byte_tokenizer(words() if known is None else known)
    else:
        tokenizer = build_tokenizer(iter(captions), known, vocabulary)
    return tokenizer, build_small_text(kind, len(tokenizer))


def encoded(
    encoder: PreTrainedModel, tokens: Mapping[str, Any], elastic: torch.Generator | None
) -> Iterator[Tensor]:
    """Yield the embeddings `b m d` of a batch, and for an elastic encoder those of some of its
    first layers, with zeros past some of its first channels (2DMSE, arXiv 2402.14776, section 3).

    Args:
        tokens: the keywords of the encoder.
        elastic: draws the layer and the quarters of the channels; None: it is not to be elastic.
    """
    yield encoder(**tokens).last_hidden_state
    if elastic is None:
        return
    from t2v.models.text_reading import depth_of, shortened

    depth, width = depth_of(encoder), encoder.config.hidden_size
    layers = int(torch.randint(depth, (), generator=elastic)) + 1 if depth else 0
    kept = width * (int(torch.randint(4, (), generator=elastic)) + 1) // 4
    with shortened(encoder, layers):
        text = encoder(**tokens).last_hidden_state
    yield F.pad(text[..., :kept], (0, width - kept))


def _trained(config: WorldTextConfig) -> tuple[PreTrainedTokenizerFast, PreTrainedModel]:
    generator = torch.Generator().manual_seed(config.seed)
    scenes = [random_scene(generator) for _ in range(config.count)]
    captions = [caption(scene, generator) for scene in scenes]
    with torch.random.fork_rng(devices=[]):  # transformers initialises from the global source
        torch.manual_seed(config.seed)
        if config.start_from:
            tokenizer, encoder = load_text(config.start_from)
        else:
            tokenizer, encoder = build_text(config.kind, captions)
        reader = CaptionReader(encoder.config.hidden_size)
    if not config.steps:
        return tokenizer, encoder
    width, shortest = encoder.config.hidden_size, min(len(each.split()) for each in captions)
    batch = 4 * shortest * width * max(encoder.config.num_hidden_layers, 1) * config.batch_size
    check_memory(f"batch_size={config.batch_size}", batch, torch.device("cpu"), "Give less.")
    elastic = generator if config.elastic else None
    parameters = [*encoder.parameters(), *reader.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.lr, total_steps=config.steps)
    with Progress(config.steps, "train", "steps") as bar:
        for _ in range(config.steps):
            chosen = torch.randint(len(scenes), (config.batch_size,), generator=generator).tolist()
            some = [captions[i] for i in chosen], [scenes[i] for i in chosen]
            loss, accuracy = _text_loss(tokenizer, encoder, reader, *some, elastic)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            worst = min(accuracy, key=lambda name: accuracy[name])
            bar.update(loss=loss.item(), worst=f"{worst} {accuracy[worst]:.2f}")
    return tokenizer, encoder


def _text_loss(
    tokenizer: PreTrainedTokenizerFast,
    encoder: PreTrainedModel,
    reader: CaptionReader,
    captions: list[str],
    scenes: list[Scene],
    elastic: torch.Generator | None,
) -> tuple[Tensor, dict[str, float]]:
    tokens = tokenizer(captions, padding=True, return_tensors="pt")
    with torch.autocast("cpu", torch.bfloat16):
        views = [text.float() for text in encoded(encoder, tokens, elastic)]  # b m d each
    truth = labels([scene.truth() for scene in scenes])
    mask, before = tokens.attention_mask.bool(), _named_before(captions, tokens)
    losses, accuracy = [], {}
    for text in reversed(views):  # what is told at last is of the whole encoder
        ranks = reader.rank(text[mask])
        losses.append(F.cross_entropy(ranks, before))
        accuracy["rank"] = (ranks.argmax(-1) == before).float().mean().item()
        for name, read, pooled in reader(text, mask):
            losses += [
                F.cross_entropy(logits, truth[name], ignore_index=-1) for logits in (read, pooled)
            ]
            known = truth[name] >= 0
            accuracy[name] = (read.argmax(-1) == truth[name])[known].float().mean().item()
    return torch.stack(losses).sum(), accuracy


def _named_before(captions: list[str], tokens: BatchEncoding) -> Tensor:
    """Count the shapes named before each token, "under the stars" included: 0 to 3, of all tokens
    of all captions but the padding."""
    found = []
    for number, text in enumerate(captions):
        ends = [each.end() for each in NAME.finditer(text)]
        encoding = tokens.encodings[number]
        for (start, stop), real in zip(encoding.offsets, encoding.attention_mask, strict=True):
            if real:  # the end mark is of no place, and behind all
                place = start if stop > start else len(text)
                found.append(sum(end <= place for end in ends))
    return torch.tensor(found)
