"""Models as clients see them: what they make by themselves, and the fields that they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from t2v.config.serve import ServeConfig
from t2v.io.files import EMBEDDED_MODELS
from t2v.serve.fields import FIELDS
from t2v.serve.models import Model
from t2v.serve.uploads import FILES

# fields, and what a model has to take for one of them
NEEDED: dict[str, tuple[str, ...]] = {
    "input_reference": ("image", "video"),
    "reference_start": ("video",),
    "reference_end": ("video",),
    "last_reference": ("last_image",),
    "subject_reference": ("reference_images",),
    "mask": ("mask",),
    "strength": ("strength",),
    "fit": ("image", "video", "last_image"),
}


def shown_model(model: Model, config: ServeConfig, loras: Mapping[str, str]) -> dict[str, Any]:
    """A model as OpenAI's `Model`, with what a form of it needs."""
    takes = model.takes
    if model.name in EMBEDDED_MODELS or takes is None:
        fields = list(FIELDS)
    else:
        fields = [name for name in FIELDS if name != "best_of"]  # the scorer is the embedded ones'
    if takes is not None:
        fields = [name for name in fields if _is_taken(name, takes)]
    if not loras:
        fields.remove("lora")
    size = model.size
    return {
        "id": model.name,
        "object": "model",
        "created": model.created,
        "owned_by": "t2v",
        "defaults": {
            "size": None if size == "auto" else size,
            "seconds": model.seconds,
            "fps": model.fps,
            "num_inference_steps": model.steps,
            "guidance_scale": model.guidance,
        },
        "sizes": list(model.sizes),
        "scale": model.scale,
        "multiple": model.step,
        "is_known": takes is not None,
        "fields": fields,
        "files": {
            name: [kind for kind, setting in kinds.items() if takes is None or setting in takes]
            for name, kinds in FILES.items()
            if name in fields
        },
        "needs": [
            name
            for name, kinds in FILES.items()
            if any(each in model.needs for each in kinds.values())
        ],
        "goes_on": takes is None or goes_on(takes),
        "loras": list(loras),
        "max_tokens": model.max_tokens,
        "limits": {
            "prompt": config.max_prompt,
            "seconds": config.max_seconds,
            "pixels": config.max_pixels,
            "num_inference_steps": config.max_steps,
            "best_of": config.max_best_of,
            "scenes": config.max_scenes,
            "clip_seconds": config.max_clip,
            "upload_bytes": int(config.max_upload * 1e6),
        },
    }


def _is_taken(name: str, takes: frozenset[str]) -> bool:
    return name not in NEEDED or any(each in takes for each in NEEDED[name])


def goes_on(takes: frozenset[str]) -> bool:
    """True where a clip without strength or mask is gone on from; others edit clips alone."""
    return "video" in takes and ("strength" not in takes or "conditions" in takes)
