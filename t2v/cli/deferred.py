"""Packages that diffusers and transformers import for what few commands do; they run when used.

`import diffusers` imports torch's compiler, its LoRAs import all of peft, its schedulers scipy:
seconds before every video, most of which need none of them. In the process of a command such a
module is there at once, and its code runs when it is first asked for a name. Nothing is hidden:
whoever imports it gets what is installed. Programs that import t2v are left alone.

`importlib.util.LazyLoader` does not serve: it runs a module at the second import, and at
`from module import name`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial, wraps
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from operator import attrgetter
from pathlib import Path
from threading import RLock
from types import ModuleType
from typing import Any

# Modules, and the names that others import from them long before they use them, if ever. A name
# that is not here, say after an update, makes the module run: slower, and no less right.
DEFERRED: dict[str, tuple[str, ...]] = {
    "peft": ("PeftModel", "set_peft_model_state_dict"),
    "peft.tuners": (),
    "peft.tuners.tuners_utils": ("BaseTunerLayer",),
    "scipy.integrate": (),
    "scipy.optimize": ("linear_sum_assignment",),
    "scipy.stats": (),
    "torch._dynamo": ("eval_frame", "eval_frame.OptimizedModule"),
    "torch._dynamo._trace_wrapped_higher_order_op": ("TransformGetItemToIndex",),
}
# Packages that only collect the names of their modules, of all networks of a library at once. A
# name is taken from its module; the rest of the package runs when that does not find it.
COLLECTIONS = {
    "diffusers.guiders",
    "diffusers.hooks",
    "diffusers.models.autoencoders",
    "diffusers.models.transformers",
    "diffusers.models.unets",
    "transformers.models",
}
PRIVATE = {"__all__", "__version__"}  # of those with underscores, what a package may define

_running = RLock()
_untold: list[Callable[[ModuleType], object]] = []  # for torch._dynamo, as soon as it runs


def defer() -> None:
    """Let the modules above run when they are used, in this process, from now on."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())


class _Deferred(ModuleType):
    """A module whose code has not run."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in PRIVATE:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        with _running:
            if is_idle(self):
                early = _early(self, name)
                if early is not None:
                    return early
            elif sys.modules[self.__name__] is self:  # as in any module that is half imported
                raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
            return getattr(_run(self), name)

    def __dir__(self) -> list[str]:
        return dir(_run(self)) if is_idle(self) else list(super().__dir__())


class _Name:
    """A function or class of a module that has not run: used in any way, it makes it run.

    Nothing is an instance of its class before that.
    """

    def __init__(self, module: _Deferred, name: str) -> None:
        self._module, self._name = module, name

    def _itself(self) -> Any:
        return attrgetter(self._name)(_run(self._module))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._itself()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        both = f"{self._name}.{name}"
        if is_idle(self._module) and both in DEFERRED[self._module.__name__]:
            return _Name(self._module, both)
        return getattr(self._itself(), name)

    def __instancecheck__(self, thing: object) -> bool:
        return not is_idle(self._module) and isinstance(thing, self._itself())

    def __subclasscheck__(self, kind: type) -> bool:
        return not is_idle(self._module) and issubclass(kind, self._itself())

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return (self._itself(),)


def is_idle(module: object) -> bool:
    """Return whether a module is one whose code has neither run nor begun to."""
    return type(module) is _Deferred and _loader_of(module).is_idle


def _loader_of(module: ModuleType) -> _Loader:
    spec = module.__spec__
    assert spec is not None and isinstance(spec.loader, _Loader)
    return spec.loader


def _early(module: _Deferred, name: str) -> Any:
    """A stand-in for a name of an idle module; None where the module has to run."""
    place = module.__name__
    above = place.rpartition(".")[0]
    if above in DEFERRED and not is_idle(sys.modules[above]):
        return None  # it is its own package that asks
    if place in COLLECTIONS:
        return _collected(module, name)
    if place == "torch._dynamo" and name in DECORATORS:
        return DECORATORS[name]
    return _Name(module, name) if name in DEFERRED[place] else None


def _collected(package: _Deferred, name: str) -> Any:
    """A name that the source of a package imports from one of its modules, taken from there."""
    assert package.__file__ is not None
    for node in ast.walk(ast.parse(Path(package.__file__).read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            for alias in node.names:
                if name == (alias.asname or alias.name):
                    return getattr(import_module(f"{package.__name__}.{node.module}"), alias.name)
    return None


def _run(module: _Deferred) -> ModuleType:
    """Run the code of a module unless it has, and return the module as it is imported now."""
    place = module.__name__
    with _running:
        if is_idle(module):
            above = sys.modules.get(place.rpartition(".")[0])
            if isinstance(above, _Deferred) and above.__name__ not in COLLECTIONS:
                _run(above)  # which may have run this one
        if is_idle(module):
            loader = _loader_of(module)
            loader.is_idle = False
            try:
                loader.real.exec_module(module)
            except BaseException:
                loader.is_idle = True  # as after any import that fails, the next one tries again
                raise
            assert module.__spec__ is not None
            if sys.modules[place] is module:  # transformers' put others in their place
                module.__class__ = ModuleType  # type: ignore[assignment]
                module.__spec__.loader = module.__loader__ = loader.real
            if place == "torch._dynamo":
                for tell in _untold:
                    tell(module)
    return sys.modules[place]


def _mark(name: str, function: Any) -> Any:
    """A function as it is, which the compiler is told about as soon as it runs."""
    _untold.append(lambda dynamo: getattr(dynamo, name)(function))
    return function


def _disable(function: Any = None, recursive: bool = True, **how: Any) -> Any:
    """A function that is never compiled: as it is while there is no compiler."""
    if function is None:
        return partial(_disable, recursive=recursive, **how)
    if not inspect.isfunction(function):
        return import_module("torch._dynamo.decorators").disable(function, recursive, **how)
    way = [function]

    @wraps(function)
    def uncompiled(*args: Any, **kwargs: Any) -> Any:
        return way[0](*args, **kwargs)

    def tell(dynamo: ModuleType) -> None:
        way[0] = dynamo.disable(function, recursive, **how)

    _untold.append(tell)
    return uncompiled


# of torch._dynamo: used while modules are imported, and by torch's own functions
DECORATORS = {
    "allow_in_graph": partial(_mark, "allow_in_graph"),
    "assume_constant_result": partial(_mark, "assume_constant_result"),
    "disable": _disable,
}


class _Loader(Loader):
    """The loader of a module that is to run later, by its `real` one."""

    def __init__(self, real: Loader) -> None:
        self.real, self.is_idle = real, True

    def exec_module(self, module: ModuleType) -> None:
        module.__class__ = _Deferred


class _Found(Loader):
    """The loader of a module that its package imported just now: gives that one back."""

    def __init__(self, module: ModuleType) -> None:
        self.module, self.spec = module, module.__spec__

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return self.module

    def exec_module(self, module: ModuleType) -> None:
        with suppress(AttributeError):  # torch's modules of settings keep theirs, and take no other
            module.__spec__ = self.spec


class _Finder(MetaPathFinder):
    """The modules above, found where they are, with a loader that waits."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in DEFERRED and name not in COLLECTIONS:
            return _after_package(name)
        others = (finder for finder in list(sys.meta_path) if finder is not self)
        spec = next(filter(None, (each.find_spec(name, path, target) for each in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


def _after_package(name: str) -> ModuleSpec | None:
    """Run the package of a module that is imported; a spec where that imported the module."""
    package = sys.modules.get(name.rpartition(".")[0])
    if not isinstance(package, _Deferred) or package.__name__ in COLLECTIONS:
        return None
    if not is_idle(package):
        return None
    _run(package)
    module = sys.modules.get(name)
    if module is None:
        return None
    # importlib takes the spec of the module that it finds there now, and would run that once more
    found = ModuleType(name)
    found.__spec__ = ModuleSpec(name, _Found(module))
    sys.modules[name] = found
    return found.__spec__
