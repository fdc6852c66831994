"""Settings from defaults, file and `name=value`; the only file that knows OmegaConf."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import MISSING, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from t2v.errors import UserError

Config = TypeVar("Config")


def settings(schema: type, built: Any = None) -> dict[str, tuple[Any, Any]]:
    """Every setting of `schema` by its dotted name: its type and default (`MISSING`: required).

    Args:
        built: where the defaults are those of a group that another one builds its own way.
    """
    hints = get_type_hints(schema)
    found: dict[str, tuple[Any, Any]] = {}
    for each in fields(schema):
        hint, make = hints[each.name], each.default_factory
        default = each.default if make is MISSING else make()
        default = default if built is None else getattr(built, each.name)
        if is_dataclass(hint):
            group = settings(cast(type, hint), None if default is MISSING else default)
            found |= {f"{each.name}.{name}": setting for name, setting in group.items()}
        else:
            found[each.name] = (hint, default)
    return found


def type_words(hint: Any) -> str:
    """A type the way help and errors show it: `int | null`, `muon | adamw`, `[int, int]`."""
    if get_origin(hint) is Literal:
        return " | ".join(str(choice) for choice in get_args(hint))
    if get_origin(hint) is tuple:
        return f"[{', '.join('...' if each is ... else each.__name__ for each in get_args(hint))}]"
    if get_origin(hint) in (Union, UnionType):
        return " | ".join(type_words(each) for each in get_args(hint))
    return "null" if hint is NoneType else str(hint.__name__)


def load_config(schema: type[Config], file: Path | None, overrides: Sequence[str]) -> Config:
    """The settings of `schema`: its defaults, then those of `file`, then `overrides`.

    Args:
        schema: one of the dataclasses of `t2v.config`.
        file: YAML with what differs from the defaults, nested as the dataclass is.
        overrides: `name=value` with dotted names. Text is taken as it stands; anything else is
            read as YAML (`optim.lr=1e-3 height=null model.patch_size=[1,2,2]`).

    Raises:
        UserError: an unknown setting, a value of the wrong type, a required setting that is
            missing, a file that is not there or cannot be read.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    known = settings(schema)
    merged = OmegaConf.structured(schema)
    from_file = _read_file(file) if file else ()
    for name, value, given in [*from_file, *(_read_override(text, known) for text in overrides)]:
        if name not in known:
            raise UserError(f"{given}: there is no setting {name!r}. {_nearest(name, known)}")
        hint = known[name][0]
        if _is_text(hint) and not isinstance(value, str | NoneType):
            raise UserError(f"{given}: {name} takes {type_words(hint)}; put the value in quotes.")
        try:
            merged = OmegaConf.merge(merged, _nested(name, _typed(hint, _escape(value))))
        except (OmegaConfBaseException, TypeError) as error:
            raise UserError(f"{given}: {name} takes {type_words(hint)}.") from error
    if missing := [name for name in known if name in OmegaConf.missing_keys(merged)]:
        raise UserError(
            f"{', '.join(missing)}: required and not given. "
            f"Add {' '.join(f'{name}=VALUE' for name in missing)} or a --config file that says."
        )
    return cast(Config, OmegaConf.to_object(merged))


def save_config(config: Any, path: Path) -> None:
    """Write every setting of `config` as YAML; `load_config` reads an equal object back."""
    from omegaconf import OmegaConf

    values = OmegaConf.to_container(OmegaConf.structured(config))
    OmegaConf.save(OmegaConf.create(_escape(values)), path)


def _read_file(path: Path) -> Iterator[tuple[str, Any, str]]:
    """The leaves of a YAML file: dotted name, value, and where they stand for messages."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException
    from yaml import YAMLError  # type: ignore[import-untyped]

    if not path.is_file():
        raise UserError(f"--config {path}: there is no such file.")
    try:
        values = OmegaConf.to_container(OmegaConf.load(path), resolve=True)
    except (YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
        raise UserError(f"--config {path}: not readable as YAML. {error}") from error
    if not isinstance(values, dict):
        raise UserError(f"--config {path}: holds a list; it should hold `name: value` lines.")
    for name, value in _leaves(values):
        yield name, value, f"{path}, {name}: {value}"


def _leaves(values: dict[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _read_override(text: str, known: dict[str, tuple[Any, Any]]) -> tuple[str, Any, str]:
    """Name, value and the text itself; text stays text, so that `yes` never becomes `True`."""
    from omegaconf import OmegaConf
    from yaml import YAMLError

    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"{text!r} is not a setting: settings are given as name=value.")
    if name in known and _is_text(known[name][0]) and value != "null":
        return name, value, text
    try:
        parsed: Any = OmegaConf.from_dotlist([f"value={value}"])
    except YAMLError as error:
        raise UserError(f"{text}: the value cannot be read; lists look like [1,2,2].") from error
    return name, cast(dict[str, Any], OmegaConf.to_container(parsed))["value"], text


def _is_text(hint: Any) -> bool:
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    return get_origin(hint) is Literal or str in choices


def _escape(value: Any) -> Any:
    """`value` with every `${` made literal: a path or prompt is no OmegaConf interpolation."""
    if isinstance(value, dict):
        return {name: _escape(each) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [_escape(each) for each in value]
    return str(value).replace("${", "\\${") if isinstance(value, str) else value


def _typed(hint: Any, value: Any) -> Any:
    """`value`, its items checked and completed where a tuple of dataclasses is asked for.

    OmegaConf does that for lists only.
    """
    from omegaconf import OmegaConf

    of = get_args(hint)[0] if get_origin(hint) is tuple else None
    if not is_dataclass(of) or not isinstance(value, list):
        return value
    if not all(isinstance(each, dict) for each in value):
        raise TypeError
    return [OmegaConf.merge(OmegaConf.structured(of), each) for each in value]


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value


def _nearest(name: str, known: dict[str, Any]) -> str:
    """What the user may have meant: names alike, else those of the same group."""
    group, _, last = name.rpartition(".")
    by_last = {each.rpartition(".")[2]: each for each in known}
    if close := get_close_matches(last, by_last):
        return f"Did you mean {' or '.join(by_last[each] for each in close)}?"
    allowed = [each for each in known if each.rpartition(".")[0] in (name, group)]
    return f"Allowed: {', '.join(allowed or known)}."
