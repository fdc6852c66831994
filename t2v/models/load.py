"""Loading saved parts: whatever is wrong with a folder becomes one message that names it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import diffusers
import transformers
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForTextEncoding,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from t2v.errors import UserError


@contextmanager
def loading(what: str) -> Iterator[None]:
    """Raise `UserError` for all that loaders raise over a damaged, unfinished or foreign folder.

    Args:
        what: the setting and its value, `model=runs/x`; begins the message.
    """
    try:
        yield
    except (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        ImportError,
        RuntimeError,
        SafetensorError,
    ) as error:
        raise UserError(f"{what}: cannot be loaded. {error}") from error


def refuse_missing(what: str, *parts: nn.Module) -> None:
    """Raise `UserError` where diffusers only warned: a weight that no file had has no values."""
    if any(weight.is_meta for part in parts for weight in part.parameters()):
        raise UserError(f"{what}: some of its weights are missing. Get it anew.")


def quiet_bars() -> None:
    """Without a terminal the loaders' own progress bars are noise in a log: switch them off."""
    if not sys.stderr.isatty():
        diffusers.utils.logging.disable_progress_bar()
        transformers.utils.logging.disable_progress_bar()


def load_text(folder: str | Path) -> tuple[PreTrainedTokenizerBase, PreTrainedModel]:
    """The tokenizer and text encoder, of the class it was saved as, of a folder with both.

    Raises:
        UserError: `tokenizer/` or `text_encoder/` is missing or damaged.
    """
    for part in ("tokenizer", "text_encoder"):
        if not (Path(folder) / part).is_dir():
            raise UserError(
                f"text={folder} has no {part}/. Make it: t2v world make=text output={folder}"
            )
    with loading(f"text={folder}"):
        tokenizer = AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")
        encoder = AutoModelForTextEncoding.from_pretrained(Path(folder) / "text_encoder")
    return tokenizer, encoder
