"""Other settings of one evaluation, made beside it and compared with it: `versus=`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from string import ascii_uppercase
from typing import Any

from t2v.config.evaluation import CompareConfig, EvalConfig
from t2v.config.load import load_config
from t2v.errors import UserError
from t2v.evaluation.samples import kept_in

MOST = len(ascii_uppercase) - 1  # beside the first
COMPARED = "compared"  # the folder of the comparison
# what is asked and how it is measured: two evaluations that differ in it cannot be compared
ASKED = ("suites", "count", "seed", "seeds", "num_frames", "height", "width", "upscale")
MEASURED = (
    *("metrics", "oracle", "perceptual", "features", "clip", "scorer", "captioner", "sentences"),
    *("training", "teacher", "page_videos"),
)
WRITTEN = ("output", "overwrite", "clips_kept", "versus")


def variants(config: EvalConfig) -> list[EvalConfig]:
    """Return the settings of each evaluation that `versus` asks for, its folder in the output.

    Raises:
        UserError: one is no setting, is of what all have to share, or is asked for twice.
    """
    if len(config.versus) > MOST:
        raise UserError(f"versus: {len(config.versus)} texts, and {MOST} fit into one comparison.")
    found: dict[str, EvalConfig] = {}
    for text in config.versus:
        other = _variant(config, text)
        if other.output in found:
            raise UserError(f"versus={text}: is asked for twice. Leave one of them out.")
        found[other.output] = other
    return list(found.values())


def comparison(config: EvalConfig, others: list[EvalConfig]) -> CompareConfig:
    """Return the settings of the comparison of an evaluation with those of `variants`."""
    return CompareConfig(
        runs=(config.output, *(each.output for each in others)),
        output=str(Path(config.output, COMPARED)),
        overwrite=config.overwrite,
        page_videos=config.page_videos,
    )


def _variant(config: EvalConfig, text: str) -> EvalConfig:
    words = _words(text)
    for word in words:
        name = word.partition("=")[0]
        if name in (*ASKED, *MEASURED, *WRITTEN):
            raise UserError(
                f"versus={text}: {name} is the same in all that is compared. Leave it out, or give "
                "`t2v eval compare` the folders of two evaluations."
            )
    try:
        other = load_config(EvalConfig, None, words, dict(_flat(asdict(config))))
    except UserError as error:
        raise UserError(f"versus={text}: {error}") from error
    folder = re.sub(r"[^\w.]+", "-", text).strip("-")[:100]
    return replace(
        other,
        output=str(Path(config.output, folder)),
        overwrite=config.overwrite,
        clips_kept=str(kept_in(config)),
        versus=(),
    )


def _words(text: str) -> list[str]:
    """The settings of a text, as a shell would part them."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UserError(f"versus={text}: cannot be read ({error}). Close the quotation.") from error
    if not words:
        raise UserError("versus: a text is empty. Give settings, such as num_inference_steps=4.")
    return words


def _flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Settings by dotted name, as JSON holds them."""
    found: list[tuple[str, Any]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            found += _flat(value, f"{prefix}{name}.")
        else:
            found.append((prefix + name, json.loads(json.dumps(value))))
    return found
