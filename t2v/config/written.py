"""Settings files that a command wrote: which are of which command."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from t2v.config.load import MARK, load_config
from t2v.errors import UserError
from t2v.io.text_files import MOST_YAML


def wrote_config(path: Path, schema: type) -> bool:
    """Return whether `save_config` wrote this file for `schema`; False if it is unreadable.

    Files of before there was a mark hold nearly every setting, and none that is unknown. Where a
    command was split in two, a file of then belongs to the one that it loads under.
    """
    from yaml import YAMLError, safe_load  # type: ignore[import-untyped]

    retired = getattr(schema, "RETIRED", {})
    try:
        if not path.is_file() or path.stat().st_size > MOST_YAML:
            return False
        text = path.read_text(encoding="utf-8")
        if text.startswith(MARK):
            names = (schema.__name__, *getattr(schema, "FORMERLY", ()))
            mine = text.partition("\n")[0].removeprefix(MARK) in names
            return mine and (not retired or _loads(path, schema))
        values = safe_load(text)
    except (OSError, ValueError, YAMLError, RecursionError):
        return False
    own = {each.name for each in fields(cast(Any, schema))}
    known = own | {name.partition(".")[0] for name in retired}
    if not isinstance(values, dict) or not known >= values.keys():
        return False
    return len(values) > 0.75 * len(own) and (not retired or _loads(path, schema))


def _loads(path: Path, schema: type) -> bool:
    try:
        load_config(schema, path, [])
    except UserError:
        return False
    return True
