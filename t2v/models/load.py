"""Loading saved parts: whatever is wrong with a folder becomes one message that names it."""

from collections.abc import Iterator
from contextlib import contextmanager

from safetensors import SafetensorError
from torch import nn

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
