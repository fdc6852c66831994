"""Settings from defaults, file and `name=value`; the only file that knows OmegaConf."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, asdict, is_dataclass
from difflib import get_close_matches
from functools import cache
from os.path import exists, normpath
from pathlib import Path
from types import UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin

from t2v.config.checks import within_range
from t2v.config.schema import hints_of, settings, taken, type_words
from t2v.errors import UserError, shortened
from t2v.io.addresses import local_in, shown_in
from t2v.io.files import write_text
from t2v.io.text_files import MOST_YAML, Plain, parse_yaml, read_text

Config = TypeVar("Config")
MARK = "# written by t2v: "
LONGEST = 1500  # characters of a message, whose reason comes first and whose way out last


def load_config(
    schema: type[Config],
    file: Path | None,
    overrides: Sequence[str],
    stored: Mapping[str, Any] | None = None,
    option: str = "--config",
) -> Config:
    """The settings of `schema`: its defaults, then `file`, then `stored`, then `overrides`.

    Args:
        schema: one of the dataclasses of `t2v.config`.
        file: YAML with what differs from the defaults, nested as the dataclass is. Paths that the
            schema lists as `BESIDE_FILE` are looked for in its folder first.
        overrides: `name=value` with dotted names. Text is taken as it stands; anything else is
            read as YAML 1.2 (`optim.lr=1e-3 height=null model.patch_size=[1,2,2]`). Nothing is
            interpolated: `${x}` is these four letters.
        stored: values as JSON holds them, by dotted name or nested.
        option: what named the file, for messages. A file that another option than `--config` names
            holds all settings, and every message names it.

    Raises:
        UserError: an unknown setting, a value of the wrong type or out of range, a required
            setting that is missing, a file that is not there or cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known, stored = settings(schema), dict(stored or {})
    lists, paths = (getattr(schema, name, ()) for name in ("ONE_OR_MORE", "BESIDE_FILE"))
    retired = getattr(schema, "RETIRED", {})
    merged = deepcopy(_defaults(cast(type, schema)))
    own_file = "" if file is None or option == "--config" else f"{file}: "
    from_file = list(_read_file(file, option)) if file else []
    in_files = [
        *from_file,
        *((name, _as_parsed(each), f"{name}={shortened(each)}") for name, each in _leaves(stored)),
    ]
    places: dict[str, str] = {}
    for number, (old, value, given) in enumerate(
        [*in_files, *(_read_override(text, known, lists) for text in overrides)]
    ):
        name: str | None = old
        if old in retired:
            name = retired[old].current_name(old, _plain(value), given, number < len(in_files))
        if name is None:
            continue
        if value == {} and any(each.startswith(f"{name}.") for each in known):
            continue  # a group of which nothing is set
        if name not in known:
            raise UserError(f"{given}: {_unknown(name, known)}")
        hint = known[name][0]
        if name in lists and not isinstance(value, list):
            is_null = isinstance(value, Plain) and value.value is None
            value = [] if is_null else [value]  # one stands for a list of one
        if file and name in paths and number < len(from_file):
            value = _beside(file, value)
        places[name] = f" of {file}" if number < len(from_file) else ""
        try:
            OmegaConf.update(merged, name, _for_omegaconf(hint, value, name, places[name]))
        except (OmegaConfBaseException, TypeError, OverflowError) as error:
            one = f"{taken(get_args(hint)[0])}, or " if name in lists else ""
            raise UserError(f"{given}: {name} takes {one}{taken(hint)}.") from error
    if missing := [
        name
        for name, (_, default) in known.items()
        if default is MISSING and (name not in places or OmegaConf.select(merged, name) == "")
    ]:
        ways = f"{' '.join(f'{name}=VALUE' for name in missing)} or a --config file"
        if own_file:
            ways = f"{', '.join(f'`{name}: ...`' for name in missing)} to it"
        raise UserError(f"{own_file}{', '.join(missing)}: required and not given. Add {ways}.")
    values = local_in(_shown(OmegaConf.to_container(merged, resolve=False)))
    try:
        built = cast(Config, _built(schema, values, places))
    except UserError as error:  # which tells values whole
        named = "" if str(file) in str(error) else own_file
        raise UserError(shortened(f"{named}{error}", LONGEST)) from error
    for name, value in _leaves(values):
        within_range(name, value)
    return built


@cache
def _defaults(schema: type) -> Any:
    """OmegaConf's form of a schema, to be copied: to make it takes five times as long."""
    from omegaconf import OmegaConf

    made = OmegaConf.structured(schema)
    for group in ["", *{name.rpartition(".")[0] for name in settings(schema) if "." in name}]:
        # frozen dataclasses become read-only; to merge each value instead takes ten times as long
        OmegaConf.set_readonly(OmegaConf.select(made, group) if group else made, False)
    return made


def save_config(config: Any, path: Path) -> None:
    """Write every setting of `config` as YAML; `load_config` reads an equal object back."""
    import yaml  # type: ignore[import-untyped]

    text = yaml.safe_dump(shown_in(_lists(asdict(config))), sort_keys=False, allow_unicode=True)
    write_text(path, f"{MARK}{type(config).__name__}\n{text}")


def _lists(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _lists(each) for name, each in value.items()}
    return [_lists(each) for each in value] if isinstance(value, tuple) else value


def _read_file(path: Path, option: str) -> Iterator[tuple[str, Any, str]]:
    """The leaves of a YAML file: dotted name, value, and where they stand for messages."""
    # four bytes a character at most, in UTF-8
    values = parse_yaml(read_text(path, option, 4 * MOST_YAML), f"{option} {path}")
    if values == Plain(""):
        values = {}
    if not isinstance(values, dict):
        raise UserError(f"{option} {path}: should hold `name: value` lines.")
    for name, value in _leaves(values):
        yield name, value, f"{path}, {shortened(name)}: {shortened(_as_written(value))}"


def given_names(file: Path | None, overrides: Sequence[str], option: str = "--config") -> set[str]:
    """The names of the settings that a file and overrides give.

    Raises:
        UserError: the file cannot be read.
    """
    in_file = {name for name, *_ in _read_file(file, option)} if file else set()
    return in_file | {each.partition("=")[0] for each in overrides}


def _beside(file: Path, value: Any) -> Any:
    """A path in a file of settings, from that file's folder where it is there, else as it stands.

    One below the working folder is told from there, however the file was named: a run that goes on
    compares it.
    """
    text = value.value if isinstance(value, Plain) else value
    if not isinstance(text, str):
        return value
    place, here = Path(normpath(file.parent.resolve() / text)), Path.cwd()
    if not exists(place):  # noqa: PTH110 (that of Path raises at names of 256 characters)
        return value
    return str(place.relative_to(here) if place.is_relative_to(here) else place)


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """Return a value of `parse_yaml` in Python's types."""
    if isinstance(value, list):
        return tuple(map(_plain, value))
    return value.value if isinstance(value, Plain) else value


def _as_parsed(value: Any) -> Any:
    """Return a value of JSON as `parse_yaml` would give it."""
    if isinstance(value, list):
        return [_as_parsed(each) for each in value]
    if isinstance(value, dict):
        return {name: _as_parsed(each) for name, each in value.items()}
    return value if isinstance(value, str) else Plain(json.dumps(value))


def _as_written(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_as_written, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{name}: {_as_written(each)}' for name, each in value.items())}}}"
    return value.text if isinstance(value, Plain) else repr(value)


def _read_override(
    text: str, known: dict[str, tuple[Any, Any]], lists: Sequence[str] = ()
) -> tuple[str, Any, str]:
    """Name, value and the text itself; text stays text, so that `yes` never becomes `True`.

    Args:
        lists: the settings that take one value or a list.
    """
    name, equals, value = text.partition("=")
    given = shortened(text)
    if not equals:
        raise UserError(
            f"{shortened(repr(text))} is not a setting: settings are given as name=value."
        )
    is_text = name in known and _is_text(known[name][0])
    if name in lists and not value.startswith("["):
        is_text = _is_text(get_args(known[name][0])[0])
    if is_text and value != "null":
        return name, value, given
    try:
        return name, parse_yaml(value, given), given
    except UserError as error:
        raise UserError(f"{error} Lists look like [1,2,2].") from error


def _is_text(hint: Any) -> bool:
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return get_origin(hint) is Literal or str in choices


def _for_omegaconf(hint: Any, value: Any, name: str, place: str) -> Any:
    """Return a value of `parse_yaml` in the form that OmegaConf converts to the type `hint`.

    Text stays as it was written, `yes`, `1e5` and `16:9` too.

    Args:
        name: of the setting.
        place: the words for the file that it stands in.

    Raises:
        TypeError: it is of another kind.
        UserError: an item of a list of groups is.
    """
    if isinstance(value, Plain) and (value.value is None or not _is_text(hint)):
        value = value.text if isinstance(value.value, str) else value.value
        if isinstance(value, str) and "${" in value:  # OmegaConf would take it for any type
            raise TypeError
        return value
    if isinstance(value, list):
        return _items(hint, value, name, place)
    if isinstance(value, dict) or (not _is_text(hint) and "${" in value):
        raise TypeError
    text = value.text if isinstance(value, Plain) else value
    if "\0" in text:
        raise UserError(f"{shortened(repr(text))}: no text may hold a zero byte.")
    return _hidden(text)


def _items(hint: Any, values: list[Any], name: str, place: str) -> list[Any]:
    """A list for a tuple of `hint`; OmegaConf checks groups in lists only, not in tuples."""
    of = get_args(hint)
    if get_origin(hint) is not tuple or (of[-1] is not ... and len(of) != len(values)):
        raise TypeError
    each_of = (of[0],) * len(values) if of[-1] is ... else of
    if not is_dataclass(of[0]):
        # `null` among texts is a text
        values = [v.text or v if isinstance(v, Plain) and of[0] is str else v for v in values]
        pairs = zip(each_of, values, strict=True)
        return [_for_omegaconf(each, value, name, place) for each, value in pairs]
    return [
        _group(of[0], value, f"{_one_of(name, number)}{place}")
        for number, value in enumerate(values)
    ]


def _one_of(name: str, number: int) -> str:
    """An item of a list, for messages that count from 1: `scene 2` of `scenes`."""
    return f"{name.removesuffix('s')} {number + 1}"


def _group(schema: Any, value: Any, place: str) -> Any:
    """An item of a list of groups, each of whose mistakes names the item.

    Raises:
        UserError: it is no group, or not this one.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = settings(schema)
    if not isinstance(value, dict):
        raise UserError(
            f"{place}: {shortened(_as_written(value))} is no group of settings. "
            f"Give {type_words(schema)}."
        )
    if unknown := [each for each in value if each not in known]:
        raise UserError(f"{place}: {_unknown(unknown[0], known)}")
    if missing := [each for each in known if known[each][1] is MISSING and each not in value]:
        raise UserError(
            f"{place}: {' and '.join(missing)} required and not given. "
            f"Add {', '.join(f'`{each}: ...`' for each in missing)} to it."
        )
    made = deepcopy(_defaults(cast(type, schema)))
    for name, each in value.items():
        hint = known[name][0]
        try:
            OmegaConf.update(made, name, _for_omegaconf(hint, each, name, f" of {place}"))
        except (OmegaConfBaseException, TypeError, OverflowError) as error:
            given = shortened(_as_written(each))
            raise UserError(f"{place}: {name}: {given}: it takes {taken(hint)}.") from error
    return made


def _hidden(text: str) -> str:
    """A text in which OmegaConf sees neither an interpolation nor its mark of what is missing."""
    return text.replace("${", "\0{").replace("???", "\0?")


def _shown(value: Any) -> Any:
    """Return a value of OmegaConf with its texts as they were before `_hidden`."""
    if isinstance(value, str):
        return value.replace("\0{", "${").replace("\0?", "???")
    if isinstance(value, dict):
        return {name: _shown(each) for name, each in value.items()}
    return tuple(map(_shown, value)) if isinstance(value, list | tuple) else value


def _built(hint: Any, value: Any, places: Mapping[str, str], group: str = "") -> Any:
    """The dataclasses that nested values stand for, checked for their ranges.

    Args:
        places: the words for the file that each setting stands in, by dotted name.
        group: the dotted name of the value; the messages of a group do not know it.
    """
    if is_dataclass(hint):
        hints, prefix = hints_of(cast(type, hint)), f"{group}." if group else ""
        given = {
            name: _built(hints[name], each, places, prefix + name) for name, each in value.items()
        }
        try:
            return cast(Any, hint)(**given)
        except UserError as error:
            begins_with = re.split("[=: ]", str(error), maxsplit=1)[0]
            raise UserError(f"{prefix if begins_with in hints else ''}{error}") from error
    of = get_args(hint)[0] if get_origin(hint) is tuple else None
    if not is_dataclass(of):
        return value
    found = []
    for number, each in enumerate(value):
        try:
            found.append(_built(of, each, {}))
        except UserError as error:
            place = f"{_one_of(group, number)}{places.get(group, '')}"
            raise UserError(f"{place}: {error}") from error
    return tuple(found)


def _unknown(name: str, known: dict[str, tuple[Any, Any]]) -> str:
    """Say that there is no such setting, and which was meant."""
    if above := next((each for each in known if name.startswith(f"{each}.")), None):
        return f"{above} takes {taken(known[above][0])}, and no settings of its own."
    return f"there is no setting {shortened(repr(name))}. {_nearest(name, known)}"


def _nearest(name: str, known: dict[str, Any]) -> str:
    """Return the hint for an unknown name: similar names, else those of the same group."""
    from t2v.config.other_words import meant  # few names are unknown

    group, _, last = name.rpartition(".")
    by_last = {n.rpartition(".")[2]: n for n in sorted(known, key=lambda each: -each.count("."))}
    close = get_close_matches(last, by_last, cutoff=0.7) or sorted({*last.split("_")} & {*by_last})
    if found := meant(last, known) or [by_last[each] for each in close]:
        return f"Did you mean {' or '.join(found)}?"
    allowed = [each for each in known if each.rpartition(".")[0] in (name, group)]
    return f"Allowed: {', '.join(allowed or known)}."
