"""`t2v encode`: latents and text embeddings, made once, and a report on every clip."""

from __future__ import annotations

from pathlib import Path

from t2v.config.data import EncodeConfig
from t2v.data.dropped import refuse_unusable
from t2v.errors import UserError
from t2v.io.engine import require_engine
from t2v.io.manifest import MANIFEST, is_rendered, manifest_of, read_manifest
from t2v.outputs import output_folder


def encode(config: EncodeConfig) -> Path:
    """Read, resize and encode every clip; returns the path of the report, `report.txt`.

    The folder also holds `manifest.jsonl`, every clip, kept or dropped with the reason, `latents/`
    with the cache, its ledger and in `text/` the embedded captions, `report.json`, and `sheet.png`,
    decoded from the latents as a model sees them. It can be given as the data of `t2v train` and
    `t2v finetune`, which use the embeddings where this text encoder is theirs and frozen. A run
    that was interrupted goes on.

    Raises:
        UserError: no clip can be used, or a setting does not fit; see `prepare`.
    """
    require_engine(config)
    _check_places(config.data, Path(config.output))
    with output_folder(config) as config:
        refuse_unusable(read_manifest(config.data))
        from t2v.data.encoding import (
            encode_clips,  # imports the models' classes, which takes seconds
        )

        return encode_clips(config)


def _check_places(data: str, output: Path) -> None:
    if is_rendered(data):
        raise UserError(
            f"data={data} is a folder of `t2v world`; `t2v train` encodes it when it begins."
        )
    read, written = manifest_of(data), output / MANIFEST
    if read.exists() and written.exists() and read.samefile(written):
        raise UserError(
            f"output={output} holds the manifest to be read and would overwrite it. "
            "Choose another output."
        )
