"""The effect of each word of a prompt on each region of a film."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import repeat
from torch import Tensor

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.models.conditions import Conditions
from t2v.models.text import count_tokens
from t2v.pipelines.features import Frames, latents_of, network_at, noised

WORD = re.compile(r"\w+(?:['’-]\w+)*")  # noqa: RUF001  with its hyphens and apostrophes
AT_ONCE = 8  # predictions


@dataclass(frozen=True)
class Word:
    """A word of a prompt, and the rows of the embedded prompt that are its tokens.

    `text` is empty for punctuation and the end mark, which are one. `scene` is the number of the
    scene that it stands in, from 0.
    """

    text: str
    rows: tuple[int, ...]
    scene: int = 0


@dataclass(frozen=True)
class WordEffect:
    """The effect of a word on a film.

    Args:
        places: how far the prediction of each latent place, `t h w`, moves where the word's tokens
            are zero, as padding is; 1 is the root mean square of the whole prediction.
        effect: the root mean square of that over the film.
    """

    word: Word
    places: Tensor
    effect: float


@torch.no_grad()
def word_effects(
    pipeline: Any,
    video: Frames,
    prompt: str,
    prompting: PromptingConfig | None = None,
    times: Sequence[float] = (0.3, 0.5, 0.7),
    generator: torch.Generator | None = None,
    fps: float | None = None,
) -> list[WordEffect]:
    """The effect of each word of its prompt on a film, in the order of the prompt.

    The film is noised and predicted with the prompt and without each word, whose embeddings are set
    to zero: a weight of 0, see `docs/prompts.md`. Unlike maps of attention this tells what a word
    changes, not where it is looked for.

    Args:
        video: as in `t2v.pipelines.features.features`, as for `times`, which are averaged, and
            `generator`.
        prompting: how signs in the prompt are read. None: they are letters.
        fps: of the film, for scenes by time. None: the model's own.

    Raises:
        UserError: see `features`; the prompt cannot be read, or is one of windows
            (`prompting.long`), whose rows are no words.
    """
    prompting = prompting or PromptingConfig()
    if prompting.long != "refuse":
        raise UserError(
            f"prompting.long={prompting.long}: the rows of such a prompt are not those of its "
            "words. Shorten the prompt, and leave the setting out."
        )
    words = list(_words(pipeline, prompt, prompting))
    latents = latents_of(pipeline, video)
    film = len(video), fps or pipeline.config.fps
    told, _ = pipeline.encode_read(
        prompting, film, prompt=prompt, do_classifier_free_guidance=False
    )
    moved = [torch.zeros(latents.shape[2:]) for _ in words]
    for time in times:
        transformer, noisy = network_at(pipeline, time), noised(pipeline, latents, time, generator)
        (whole,) = _predicted(transformer, *noisy, told)
        size = whole.square().mean()
        for at in range(0, len(words), AT_ONCE):
            without = _predicted(transformer, *noisy, _without(told, words[at:][:AT_ONCE]))
            for place, each in enumerate((without - whole).square().mean(1) / size, at):
                moved[place] += each.cpu() / len(times)
    return [
        WordEffect(word, each.sqrt(), each.mean().sqrt().item())
        for word, each in zip(words, moved, strict=True)
    ]


def _predicted(transformer: Any, noisy: Tensor, timestep: Tensor, told: Conditions) -> Tensor:
    """The predictions of a film, by what the transformer is told, `b c t h w` float32."""
    count = len(told)
    found = transformer(
        noisy.to(transformer.dtype).expand(count, *noisy.shape[1:]),
        timestep.expand(count),
        **told.keywords(transformer),
        return_dict=False,
    )
    return found[0].float()


def _without(told: Conditions, words: Sequence[Word]) -> Conditions:
    """The conditions without each of some words, a video each."""
    text = repeat(told.text, "1 m d -> w m d", w=len(words)).clone()
    for each, word in zip(text, words, strict=True):
        each[list(word.rows)] = 0
    mask = told.text_mask
    if mask is not None:
        mask = mask.expand(len(words), *mask.shape[1:])
    return Conditions(text=text, text_mask=mask)


def _words(pipeline: Any, prompt: str, prompting: PromptingConfig) -> Iterator[Word]:
    """The words of a prompt in its order; those of a blend share their rows."""
    reader = pipeline.reader(prompting)
    begin = 0
    for number, scene in enumerate(reader.check(prompt)):
        at = begin
        for blend in scene.blends:
            clauses = [blend.first, *(other for _, other in blend.others)]
            for clause in clauses:
                for text, rows in _of_clause(reader.tokenizer, clause.text):
                    yield Word(text, tuple(at + row for row in rows), number)
            at += max(count_tokens(reader.tokenizer, clause.text) for clause in clauses)
        begin += -(-(at - begin) // reader.limit) * reader.limit


def _of_clause(tokenizer: Any, text: str) -> Iterator[tuple[str, list[int]]]:
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(
            f"prompt {text[:60]!r}: {type(tokenizer).__name__} does not tell where its tokens lie "
            "in it, so words have no report."
        )
    spans = tokenizer(text, return_offsets_mapping=True, verbose=False).offset_mapping
    left = set(range(len(spans)))
    for word in WORD.finditer(text):
        rows = [
            row
            for row, (first, last) in enumerate(spans)
            if row in left and last > first and first < word.end() and last > word.start()
        ]
        left -= set(rows)
        if rows:
            yield word[0], rows
    if left:
        yield "", sorted(left)
