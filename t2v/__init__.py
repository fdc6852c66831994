"""Text to video: a diffusers pipeline, its networks, and the training behind them.

Importing this package is quick and loads no torch; the public names load when they are used.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from types import ModuleType
from typing import Any

__version__ = "0.1.0"

# diffusers looks up the classes of a saved pipeline here, and the base classes they must have.
_HOMES = {
    "AutoencoderKLT2V": "t2v.models.vae",
    "MaskedCodeScheduler": "t2v.models.code_schedulers",
    "ModelMixin": "diffusers",
    "NextCodeScheduler": "t2v.models.code_schedulers",
    "PreTrainedModel": "transformers",
    "PreTrainedTokenizer": "transformers",
    "SmallText": "t2v.models.text_networks",
    "T2VPipeline": "t2v.pipelines.t2v",
    "T2VPipelineOutput": "t2v.pipelines.t2v",
    "T2VTokenPipeline": "t2v.pipelines.tokens",
    "VideoCondition": "t2v.pipelines.visuals",
    "T2VTransformer3DModel": "t2v.models.transformer",
    "SchedulerMixin": "diffusers",
    "TextPair": "t2v.models.text_networks",
    "TextReading": "t2v.models.text_networks",
    "TokenizerPair": "t2v.models.text_networks",
    "VideoUpscaler": "t2v.models.upscaler",
}
_DIFFUSERS = "diffusers.pipelines.pipeline_utils"  # home of DiffusionPipeline


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 't2v' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])


class _AfterDiffusers(MetaPathFinder):
    """The registration of our classes with diffusers, right after its pipelines are loaded.

    After `import t2v`, `DiffusionPipeline.from_pretrained` is to load our folders, whichever of the
    two is imported first. It takes classes from diffusers' own attributes and reads no entry
    points, and to set an attribute diffusers must be imported, which takes torch and seconds. So
    this waits until a program imports it by itself; nothing else happens at import.
    """

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name != _DIFFUSERS:
            return None
        sys.meta_path.remove(self)  # let the others find it
        spec = find_spec(name)
        sys.meta_path.insert(0, self)
        assert spec is not None and spec.loader is not None
        load = spec.loader.exec_module

        def load_and_register(module: ModuleType) -> None:
            load(module)
            import_module("t2v.pipelines.tokens")  # and those of latents with it

        spec.loader.exec_module = load_and_register  # type: ignore[method-assign]
        return spec


if _DIFFUSERS in sys.modules:
    import_module("t2v.pipelines.tokens")
else:
    sys.meta_path.insert(0, _AfterDiffusers())
