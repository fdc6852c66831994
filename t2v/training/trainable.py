"""What of a saved model learns: LoRA beside its layers, some of its layers, or new words."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from copy import deepcopy
from difflib import get_close_matches
from pathlib import Path

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.config import FinetuneConfig, LoRAConfig
from t2v.data.order import keyed_generator
from t2v.errors import UserError
from t2v.models.lora import require_peft
from t2v.models.text import WORD
from t2v.models.transformer import T2VTransformer3DModel
from t2v.pipeline import T2VPipeline

logger = logging.getLogger(__name__)

NUMBER = re.compile(r"\.\d+\.")


def choose_trainable(model: nn.ModuleDict, config: FinetuneConfig) -> None:
    """Freeze all of `transformer` and `text_encoder` but what `config.method` trains; logs counts.

    New words (`add_concepts`) and the LoRA (`add_lora`) must be in place.

    Raises:
        UserError: nothing would learn.
    """
    transformer, text_encoder = model["transformer"], model["text_encoder"]
    chosen = _chosen(config, transformer)
    for name, parameter in transformer.named_parameters():
        parameter.requires_grad_(chosen(name))
    text_encoder.requires_grad_(config.train_text_encoder)
    if config.concept:
        text_encoder.get_input_embeddings().weight.requires_grad_(True)
    learning = [name for name, p in model.named_parameters() if p.requires_grad]
    if not learning:
        raise UserError(f"method={config.method} leaves nothing to learn in this model.")
    logger.info(
        "method=%s trains %s weights of the transformer, %s of the text encoder%s",
        *(config.method, _count(transformer), _count(text_encoder)),
        f" (the rows of {', '.join(config.concept)})" if config.concept else "",
    )
    layers = [re.sub(r"(\.lora_[AB]\.default)?\.(weight|bias)$", "", name) for name in learning]
    logger.info("trained: %s", ", ".join(dict.fromkeys(NUMBER.sub(".*.", each) for each in layers)))


def _count(part: nn.Module) -> str:
    sizes = [(p.numel(), p.requires_grad) for p in part.parameters()]
    return f"{sum(n for n, learns in sizes if learns)} of {sum(n for n, _ in sizes)}"


def _chosen(config: FinetuneConfig, transformer: T2VTransformer3DModel) -> Callable[[str], bool]:
    if config.method == "full":
        return lambda name: True
    if config.method == "lora":
        return lambda name: ".lora_" in name
    if config.method == "concept":
        return lambda name: False
    # 3D attention mixes places and frames in one layer: it is where motion is made
    temporal = transformer.config.attention == "factorized"
    parts = ("attn_temporal", "norm_temporal") if temporal else ("attn1",)
    return lambda name: any(f".{part}." in name for part in parts)


def add_lora(transformer: T2VTransformer3DModel, config: LoRAConfig, seed: int) -> None:
    """Put a fresh LoRA beside the target layers: A random, B zero, so nothing changes yet.

    Raises:
        UserError: peft is missing, or a target names no layer that can carry one.
    """
    require_peft()
    from peft import LoraConfig

    layers = [
        name
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | nn.Conv3d)
    ]
    for target in config.target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in layers):
            ends = dict.fromkeys(re.sub(r"^blocks\.\d+\.", "", name) for name in layers)
            near = get_close_matches(target, ends, n=3, cutoff=0.4) or list(ends)
            raise UserError(
                f"lora.target_modules: no layer is called {target!r}. Near: {', '.join(near)}."
            )
    if not config.target_modules:
        raise UserError("lora.target_modules=[] leaves nothing to learn. Name layers: to_q, to_v.")
    transformer.add_adapter(
        LoraConfig(
            r=config.rank, lora_alpha=config.alpha, target_modules=list(config.target_modules)
        )
    )
    for name, weight in transformer.named_parameters():
        if ".lora_A." in name:  # peft draws from the process's own source of chance
            nn.init.kaiming_uniform_(
                weight.data, a=5**0.5, generator=keyed_generator(seed, "lora", name)
            )


def save_lora(transformer: T2VTransformer3DModel, folder: Path) -> None:
    """Write `pytorch_lora_weights.safetensors`, which diffusers' `load_lora_weights` reads."""
    from diffusers.training_utils import _collate_lora_metadata
    from peft import get_peft_model_state_dict

    T2VPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        **_collate_lora_metadata({"transformer": transformer}),  # rank and alpha
    )


def merged(transformer: T2VTransformer3DModel, scale: float) -> T2VTransformer3DModel:
    """A copy of a transformer with its LoRA, at `scale`, added into the weights."""
    copy = deepcopy(transformer)
    copy.fuse_lora(lora_scale=scale)
    copy.unload_lora()
    return copy


@torch.no_grad()
def interpolated(base: nn.Module, tuned: nn.Module, share: float) -> nn.Module:
    """A copy of `tuned` whose weights lie on the line from `base` (`share` 0) to `tuned` (1).

    Between them there is often a model that knows the new and keeps the old (WiSE-FT,
    arXiv 2109.01903). The two have the same parameters.
    """
    copy = deepcopy(tuned)
    own = dict(base.named_parameters())
    for name, parameter in copy.named_parameters():
        parameter.copy_(own[name].to(parameter).lerp(parameter, share))
    return copy


def add_concepts(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    concepts: Sequence[str],
    begin_as: Sequence[str] = (),
) -> None:
    """Teach the tokenizer new words, and let only their embeddings learn (arXiv 2208.01618).

    Each begins as the mean embedding of a text of `begin_as`, or of its own letters.

    Raises:
        UserError: a word holds spaces, is known already, or has nothing to begin as.
    """
    from tokenizers import AddedToken

    for concept in concepts:
        if concept.split() != [concept] or concept in tokenizer.get_vocab():
            raise UserError(f'concept={concept!r}: take a new word without spaces, like "<toy>".')
    starts = [
        _mean_embedding(tokenizer, text_encoder, concept, text)
        for concept, text in zip(concepts, begin_as or concepts, strict=True)
    ]
    for concept in concepts:
        # the prompt is read as it is given: no case or form is folded before this word is found
        tokenizer.add_tokens([AddedToken(concept, normalized=False)])
    table = text_encoder.get_input_embeddings()
    if len(tokenizer) > table.num_embeddings:
        table = text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = torch.tensor(tokenizer.convert_tokens_to_ids(list(concepts)))
    with torch.no_grad():
        table.weight[rows] = torch.stack(starts)
    table.weight.requires_grad_(True)

    def only_new_learn(_: nn.Module, given: tuple[Tensor], embedded: Tensor) -> Tensor:
        is_new = torch.isin(given[0], rows.to(given[0].device))
        return torch.where(rearrange(is_new, "b m -> b m 1"), embedded, embedded.detach())

    # Adam leaves a row whose gradient was always zero where it is, to the bit. The hook is the
    # module's and not the weight's, which FSDP2 replaces.
    table.register_forward_hook(only_new_learn)


def _mean_embedding(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, concept: str, text: str
) -> Tensor:
    words = " ".join(WORD.findall(text))
    ids = tokenizer(words, add_special_tokens=False).input_ids if words else []
    if not ids:
        raise UserError(f"concept={concept!r} begins as nothing: give concept_from=[TEXT].")
    return text_encoder.get_input_embeddings().weight.detach()[torch.tensor(ids)].mean(0)


def add_known_words(tokenizer: PreTrainedTokenizerBase, captions: Sequence[str]) -> None:
    """A tokenizer that lists the words of its training gets those of `captions` too."""
    known = tokenizer.init_kwargs.get("known_words")
    if known is not None:
        seen = {word.lower() for text in captions for word in WORD.findall(text)}
        tokenizer.init_kwargs["known_words"] = sorted({*known, *seen})
