"""Our classes under the names by which diffusers' loaders look classes up."""

from contextlib import suppress

import diffusers


def register(pipeline: type, *parts: type) -> None:
    """Make a pipeline class and its networks known to diffusers, so that its loaders find them."""
    for loadable in (pipeline, *parts):
        setattr(diffusers, loadable.__name__, loadable)
    setattr(diffusers.pipelines, pipeline.__name__, pipeline)
    # not public: without it, folders name classes by module and only the pipeline loads them
    with suppress(ImportError, AttributeError):
        from diffusers.pipelines.pipeline_loading_utils import LOADABLE_CLASSES

        LOADABLE_CLASSES.setdefault("t2v", {"ModelMixin": ["save_pretrained", "from_pretrained"]})
