"""Captions of the parts of a clip made one, by a text model or by a rule."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from t2v.config.captions import CaptionConfig
from t2v.config.prompting import PromptingConfig
from t2v.curation.text.selection import merged

if TYPE_CHECKING:
    from t2v.prompting.rewrite import Rewriter

INSTRUCTION = (
    "These lines describe one video: the first its middle, the others its parts in the order of "
    "time. Write one description of the whole video in one paragraph. Keep every word of the "
    "first line, tell what the others add, say nothing that no line says, and answer with the "
    "description alone."
)


def merge_parts(coarse: str, fine: Sequence[str], config: CaptionConfig) -> str:
    """Return one caption of the middle frame's and those of a clip's parts, in order of time.

    The coarse and fine captions of InternVid (arXiv 2307.06942, section 3.2) become one: the model
    `config.writer` writes it, and is believed where every content word of the coarse caption is in
    it. Without a writer, or where it is not believed, which is logged, sentences of the fine ones
    that add to the coarse one are put behind it (`selection.merged`).

    Raises:
        UserError: the writer cannot be loaded or reached.
    """
    if config.writer:
        lines = "\n".join((coarse, *fine))
        written = _writer(config).rewrite(lines, keep=coarse)
        if written != lines:
            return written
    return merged(coarse, fine)


@lru_cache(maxsize=1)
def _writer(config: CaptionConfig) -> Rewriter:
    from t2v.prompting.rewrite import Rewriter  # loads torch, and few captions are merged so

    return Rewriter.of(
        PromptingConfig(
            rewrite=config.writer,
            instruction=INSTRUCTION,
            max_new_tokens=config.max_new_tokens,
            timeout=config.timeout,
            retries=config.retries,
            key_variable=config.key_variable,
        )
    )
