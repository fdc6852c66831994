"""The provenance of a curation's decisions: versions, rules, settings and models by their hash."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av

from t2v.config.curation import STAGES, CurateConfig
from t2v.io.files import sha256

# The packages that decide on footage, and those that decide where a model is named.
LIBRARIES = ("t2v", "av", "opencv-python-headless", "numpy", "scikit-learn")
OF_MODELS = ("torch", "transformers")
OF_OCR = ("rapidocr", "onnxruntime")  # the models are in the package
# These settings change no decision.
NEUTRAL = ("input", "output", "engine", "workers", "seconds_per_file", "memory_gb", "report")
UNKNOWN = "unknown"


def provenance(config: CurateConfig, rules: int) -> dict[str, Any]:
    """The versions of the libraries that decide, `rules`, and hashes of the settings and models.

    Where all of them are equal, so are the decisions, on any machine.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in NEUTRAL}
    hashes = model_hashes(config)
    reads = config.overlay.ocr != "none" and "overlay" not in config.skip
    libraries = LIBRARIES + (OF_MODELS if hashes else ()) + (OF_OCR if reads else ())
    return {
        "versions": {name: _version(name) for name in libraries}
        | {"ffmpeg": str(av.ffmpeg_version_info)},
        "rules": rules,
        "settings": sha256(json.dumps(settings, sort_keys=True)),
        "models": hashes,
    }


def model_hashes(config: CurateConfig, stages: Iterable[str] = STAGES) -> dict[str, str]:
    """The hash of each model that the settings of some stages name, by folder or hub id."""
    groups = [getattr(config, name) for name in stages if name not in config.skip]
    models = {model for group in groups if hasattr(group, "models") for model in group.models()}
    return {name: model_hash(name) for name in sorted(models)}


def updated(hashes: dict[str, str]) -> dict[str, str]:
    """The hashes, with those of models that were missing and that a worker has downloaded since."""
    return {name: model_hash(name) if was == UNKNOWN else was for name, was in hashes.items()}


def model_hash(name: str) -> str:
    """SHA-256 over the names and contents of a model's files; `unknown` where there are none.

    Args:
        name: a folder, the embedded pipeline, or the hub id of a model in the local cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    from t2v.models.folder import EMBEDDED, embedded_model, files_hash

    if name == EMBEDDED:
        return files_hash(embedded_model())
    if Path(name).is_dir():
        return files_hash(Path(name))
    try:
        return files_hash(Path(snapshot_download(name, local_files_only=True)))
    except (HFValidationError, LocalEntryNotFoundError):
        return UNKNOWN


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"  # t2v itself, run from a clone
