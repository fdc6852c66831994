"""What a curation's judgments came from: versions, rules, settings and models, each by its hash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import av

from t2v.config.curation import CurateConfig

# What judges footage, and what judges captions where a model is named.
LIBRARIES = ("t2v", "av", "opencv-python-headless", "numpy", "scikit-learn")
OF_MODELS = ("torch", "transformers")
OF_OCR = ("rapidocr", "onnxruntime")  # the models are in the package
# Where footage lies, and who works on it how long, changes no judgment.
ELSEWHERE = ("input", "output", "engine", "workers", "seconds_per_file", "memory_gb", "report")
UNKNOWN = "unknown"


def provenance(config: CurateConfig, rules: int) -> dict[str, Any]:
    """Versions of what decides, of FFmpeg too; `rules`; the settings' hash; the models' hashes.

    The same judges give the same, whenever and wherever they run.
    """
    settings = {name: value for name, value in asdict(config).items() if name not in ELSEWHERE}
    named = any(models(config))
    reads = config.overlay.ocr != "none" and "overlay" not in config.skip
    libraries = LIBRARIES + (OF_MODELS if named else ()) + (OF_OCR if reads else ())
    return {
        "versions": {name: _version(name) for name in libraries}
        | {"ffmpeg": str(av.ffmpeg_version_info)},
        "rules": rules,
        "settings": hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest(),
        "models": model_hashes(config),
    }


def model_hashes(config: CurateConfig, stage: str = "") -> dict[str, str]:
    """The hash of each model that judges or writes, or of those of one stage."""
    return {name: model_hash(name) for name in sorted({*models(config, stage)})}


def models(config: CurateConfig, stage: str = "") -> Iterator[str]:
    """The models that judge or write, or those of one stage: folders and hub ids."""
    given = {
        "quality": [config.quality.aesthetic_model],
        "caption": [
            *(
                author.removeprefix("model:")
                for author in config.caption.authors
                if author.startswith("model:")
            ),
            config.caption.scorer,
            config.caption.tokenizer,
        ],
        "topics": [config.topics.encoder, config.topics.scorer],
    }
    for name, names in given.items():
        if name not in config.skip and stage in ("", name):
            yield from filter(None, names)


def looked_for(hashes: dict[str, str]) -> dict[str, str]:
    """The hashes, with those of models that were not here and that a worker has fetched since."""
    return {name: model_hash(name) if was == UNKNOWN else was for name, was in hashes.items()}


def model_hash(name: str) -> str:
    """SHA-256 over the names and contents of a model's files; `unknown` where there are none here.

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
