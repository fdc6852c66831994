"""One caller at a time: the state that a pipeline's parts carry from step to step is one call's."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from threading import Lock, RLock
from typing import Any, Concatenate, ParamSpec, TypeVar, cast
from weakref import WeakKeyDictionary

P = ParamSpec("P")
T = TypeVar("T")

PARTS = (
    *("tokenizer", "text_encoder", "image_processor", "image_encoder"),
    *("transformer", "transformer_2", "vae", "scheduler"),
)

_locks: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
_opening = Lock()


def alone(method: Callable[Concatenate[Any, P], T]) -> Callable[Concatenate[Any, P], T]:
    """Let a second thread wait until the method of a pipeline returns, or has yielded its last.

    The scheduler counts steps, diffusers' caches hang on the transformer, tokenizers and VAEs have
    settings and caches of a call. Pipelines that share one of them wait for each other; others do
    not.
    """

    @wraps(method)
    def waiting(self: Any, *args: P.args, **kwargs: P.kwargs) -> T:
        with _held(self):
            return method(self, *args, **kwargs)

    @wraps(method)
    def waiting_to_the_end(self: Any, *args: P.args, **kwargs: P.kwargs) -> Iterator[Any]:
        with _held(self):
            yield from cast(Iterator[Any], method(self, *args, **kwargs))

    return cast(Any, waiting_to_the_end) if isgeneratorfunction(method) else waiting


@contextmanager
def _held(pipeline: Any) -> Iterator[None]:
    parts = [getattr(pipeline, name, None) for name in PARTS]
    with ExitStack() as held:
        # in one order everywhere, so that no two calls wait for each other
        for part in sorted((each for each in parts if each is not None), key=id):
            held.enter_context(_lock_of(part))
        yield


def _lock_of(part: Any) -> Any:
    with _opening:
        return _locks.setdefault(part, RLock())
