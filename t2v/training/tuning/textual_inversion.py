"""New words and soft prompts: tokens of which the embeddings alone learn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from tempfile import TemporaryDirectory

import torch
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from t2v.config.finetune import FinetuneConfig
from t2v.errors import UserError
from t2v.io.prompt_words import WORD, clean_prompt


def add_words(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, config: FinetuneConfig
) -> PreTrainedTokenizerBase:
    """Add the new words and the soft prompt of `config`, and let only their embeddings learn.

    Both lie in the text encoder and the tokenizer that is given back, which are saved as usual
    and load anywhere.

    Raises:
        UserError: see `concept_starts`, `soft_prompt_starts` and `put_before`.
    """
    words = concept_starts(tokenizer, text_encoder, config.concept, config.concept_from)
    soft = soft_prompt_starts(tokenizer, text_encoder, config.soft_prompt)
    if words or soft:
        add_tokens(tokenizer, text_encoder, words | soft)
    return put_before(tokenizer, list(soft)) if soft else tokenizer


def concept_starts(
    tokenizer: PreTrainedTokenizerBase,
    text_encoder: PreTrainedModel,
    concepts: Sequence[str],
    begin_as: Sequence[str],
) -> dict[str, Tensor]:
    """New words (arXiv 2208.01618), and the embedding each begins with: the mean of a text of
    `begin_as`, or of its own letters.

    Raises:
        UserError: a word holds spaces, is known already, or has no embedding to start from.
    """
    starts = {}
    for concept, text in zip(concepts, begin_as or concepts, strict=True):
        if concept.split() != [concept] or concept in tokenizer.get_vocab():
            raise UserError(f'concept={concept!r}: take a new word without spaces, like "<toy>".')
        embeddings = _embeddings(tokenizer, text_encoder, " ".join(WORD.findall(text)))
        if not len(embeddings):
            raise UserError(
                f"concept={concept!r} has no known letters to start from. Give concept_from=[TEXT]."
            )
        starts[concept] = embeddings.mean(0)
    return starts


def soft_prompt_starts(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, text: str | None
) -> dict[str, Tensor]:
    """A token for each one of `text`, and its embedding to begin with (arXiv 2104.08691).

    Put before a prompt they are, before they learn, to the bit what `text` before it is.

    Raises:
        UserError: there are no tokens in it.
    """
    if text is None:
        return {}
    embeddings = _embeddings(tokenizer, text_encoder, clean_prompt(text))
    if not len(embeddings):
        raise UserError(f"soft_prompt={text!r} has no tokens to start from. Give it a few words.")
    first = len(tokenizer)  # so that a second soft prompt has names of its own
    return {f"<soft-{first + n}>": each for n, each in enumerate(embeddings)}


def add_tokens(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, starts: Mapping[str, Tensor]
) -> None:
    """Teach the tokenizer new tokens with the embeddings `starts`, and let no others learn."""
    from tokenizers import AddedToken

    for token in starts:
        # the prompt is read as it is given: no case or form is folded before this word is found
        tokenizer.add_tokens([AddedToken(token, normalized=False)])
    table = text_encoder.get_input_embeddings()
    if len(tokenizer) > table.num_embeddings:
        table = text_encoder.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    rows = torch.tensor(tokenizer.convert_tokens_to_ids(list(starts)))
    with torch.no_grad():
        table.weight[rows] = torch.stack(list(starts.values()))
    table.weight.requires_grad_(True)

    def only_new_learn(_: nn.Module, given: tuple[Tensor], embedded: Tensor) -> Tensor:
        is_new = torch.isin(given[0], rows.to(given[0].device))
        return torch.where(rearrange(is_new, "b m -> b m 1"), embedded, embedded.detach())

    # Adam leaves a row whose gradient was always zero where it is, to the bit. The hook is the
    # module's and not the weight's, which FSDP2 replaces.
    table.register_forward_hook(only_new_learn)


def put_before(
    tokenizer: PreTrainedTokenizerBase, tokens: Sequence[str]
) -> PreTrainedTokenizerBase:
    """A tokenizer that puts `tokens` before every text, behind the mark it may begin with; also
    once it is saved and loaded.

    It is of the general class: those of single models, such as T5's, make their marks again.

    Raises:
        UserError: it cannot, or loses it when it is saved.
    """
    from tokenizers.processors import TemplateProcessing

    name = type(tokenizer).__name__
    instead = "Write a new word into the captions instead: concept=[WORD]."
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(f"soft_prompt: a {name} cannot put tokens before prompts. {instead}")
    ids, plain = (tokenizer("a", add_special_tokens=marks).input_ids for marks in (True, False))
    first = next(at for at in range(len(ids)) if ids[at : at + len(plain)] == plain)
    before, after = ids[:first], ids[first + len(plain) :]
    marks = [*tokenizer.convert_ids_to_tokens(before), *tokens]
    ends = tokenizer.convert_ids_to_tokens(after)
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*marks, "$A", *ends]),
        special_tokens=[(each, tokenizer.convert_tokens_to_ids(each)) for each in (*marks, *ends)],
    )
    if type(tokenizer) is not PreTrainedTokenizerFast:
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=tokenizer.backend_tokenizer,
            model_max_length=tokenizer.model_max_length,
            padding_side=tokenizer.padding_side,
            **tokenizer.special_tokens_map,
        )
    with TemporaryDirectory() as folder:
        tokenizer.save_pretrained(folder)
        loaded = type(tokenizer).from_pretrained(folder)
    if loaded("a").input_ids != tokenizer.convert_tokens_to_ids(marks) + plain + after:
        raise UserError(f"soft_prompt: a {name} loses it when it is saved. {instead}")
    return tokenizer


def _embeddings(
    tokenizer: PreTrainedTokenizerBase, text_encoder: PreTrainedModel, text: str
) -> Tensor:
    ids = tokenizer(text, add_special_tokens=False).input_ids if text else []
    return text_encoder.get_input_embeddings().weight.detach()[torch.tensor(ids).long()]
