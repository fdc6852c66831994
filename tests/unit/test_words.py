"""The words of settings: read from the comments beside the fields, shown by `--help`."""

from dataclasses import dataclass, field

from t2v.cli.parser import settings_table
from t2v.config.words import setting_words


@dataclass(frozen=True, kw_only=True)
class Group:
    """Settings of a group."""

    lr: float = 1e-3  # learning rate


@dataclass(frozen=True, kw_only=True)
class Base:
    """Settings that another schema takes over."""

    steps: int = 10  # steps to train, # counted from 1
    # a comment of two lines,
    # above its field
    seed: int = 0

    # no field follows directly, so this belongs to none

    silent: str = "#"


@dataclass(frozen=True, kw_only=True)
class Derived(Base):
    """The same with another default and more."""

    steps: int = 5
    optim: Group = field(default_factory=Group)


def test_words_stand_behind_a_field_or_right_above_it():
    assert setting_words(Base) == {
        "steps": "steps to train, # counted from 1",
        "seed": "a comment of two lines, above its field",
        "silent": "",
    }


def test_a_derived_schema_keeps_the_words_of_its_base_and_names_groups():
    words = setting_words(Derived)
    assert words["steps"] == "steps to train, # counted from 1"
    assert words["optim.lr"] == "learning rate"


def test_help_shows_words_type_and_default():
    lines = settings_table(Derived, setting_words(Derived)).splitlines()
    (line,) = (line for line in lines if line.startswith("  optim.lr "))
    assert line.split(maxsplit=1)[1] == "learning rate [float; default 0.001]"
