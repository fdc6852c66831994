"""Our classes under the names that diffusers and saved folders have for them."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DiffusionPipeline

from t2v.io.addresses import is_address
from t2v.io.files import EMBEDDED_MODELS
from t2v.models.folder import by_package, embedded_model, read_base
from t2v.models.load import load_parts


class SavedPipeline(DiffusionPipeline):
    """A pipeline that loads by the name of the embedded model, and from old folders."""

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **kwargs: Any) -> Any:
        """Load a pipeline as every diffusers one does; "t2v-tiny" is the embedded model,
        "t2v-tiny-distilled" and "t2v-tiny-references" its siblings.

        A checkpoint that refers to its base model is loaded with it, in float32 unless told. A VAE
        of Wan's is computed by the class of ours.

        A folder may lie at an address, `s3://bucket/model`.

        Raises:
            UserError: the base model moved or changed, see `base_folder`; the address cannot be
                read.
        """
        if is_address(str(pretrained_model_name_or_path)):
            from t2v.io.working_copies import brought_folder  # few models lie at one

            pretrained_model_name_or_path = brought_folder(str(pretrained_model_name_or_path))
        if (name := str(pretrained_model_name_or_path)) in EMBEDDED_MODELS:
            pretrained_model_name_or_path = embedded_model(name)
        folder = Path(pretrained_model_name_or_path)
        if read_base(folder) is not None:
            dtype = kwargs.get("dtype") or kwargs.get("torch_dtype") or torch.float32
            kwargs = load_parts(f"model={folder}", folder, dtype, kwargs) | kwargs
        pipeline = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        if "vae" not in kwargs and type(pipeline.vae).__name__ == "AutoencoderKLWan":
            from t2v.models.wan_vae import AutoencoderKLWan  # most pipelines have another

            AutoencoderKLWan.of(pipeline.vae)
        return pipeline

    @classmethod
    def load_config(
        cls,
        pretrained_model_name_or_path: str | Path,
        return_unused_kwargs: bool = False,
        **kwargs: Any,
    ) -> Any:
        """Read a saved config; classes that old folders name by module are found by package."""
        loaded = super().load_config(pretrained_model_name_or_path, return_unused_kwargs, **kwargs)
        config = loaded[0] if isinstance(loaded, tuple) else loaded
        config |= {name: by_package(entry) for name, entry in config.items()}
        return loaded


def register(pipeline: type, *parts: type) -> None:
    """Make a pipeline class and its networks known to diffusers, so that its loaders find them."""
    for loadable in (pipeline, *parts):
        setattr(diffusers, loadable.__name__, loadable)
    setattr(diffusers.pipelines, pipeline.__name__, pipeline)
    # not public: without it, folders name classes by module and only the pipeline loads them
    with suppress(ImportError, AttributeError):
        from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

        kinds = ("ModelMixin", "PreTrainedModel", "PreTrainedTokenizer", "SchedulerMixin")
        methods = ["save_pretrained", "from_pretrained"]
        LOADABLE_CLASSES.setdefault("t2v", {kind: methods for kind in kinds})
