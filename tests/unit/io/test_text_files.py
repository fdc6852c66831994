"""Files that people wrote: every byte order mark, every kind of file, JSON and YAML."""

import os
import time
from math import inf

import pytest

from t2v.errors import UserError
from t2v.io.text_files import Plain, check_file, parse_json, parse_yaml, read_text

BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{each}'] * 9)}]\n"
    for each, after in zip("abcdefg", "bcdefgh", strict=True)
)
ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_reads_the_same_whatever_saved_it(encoding, tmp_path):
    (tmp_path / "x.txt").write_bytes("ein roter Ball\r\n雪 🎈\r\n".encode(encoding))
    assert read_text(tmp_path / "x.txt") == "ein roter Ball\n雪 🎈\n"


@pytest.mark.parametrize("mark", ["utf-16-le", "utf-16-be"])
def test_utf_16_without_its_mark_is_no_text(mark, tmp_path):
    (tmp_path / "x.txt").write_bytes("a red ball".encode(mark))
    with pytest.raises(UserError, match=r"x\.txt: holds zero bytes.*UTF-8"):
        read_text(tmp_path / "x.txt")


def test_what_is_no_file_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    started = time.monotonic()
    for name, words in (
        ("pipe", "is a pipe"),
        ("/dev/zero", "or a device"),
        (".", "is a folder"),
        ("nowhere", "no such file"),
        ("a\0b", "null"),
        ("latin.txt", "Save it as UTF-8"),
    ):
        with pytest.raises(UserError, match=words):
            read_text(tmp_path / name, "--config")
    with pytest.raises(UserError, match="is a pipe"):
        check_file(tmp_path / "pipe", "lora=pipe")
    assert time.monotonic() - started < 5


def test_a_file_that_is_too_long_is_not_read(tmp_path):
    with (tmp_path / "x.yaml").open("wb") as file:
        file.truncate(2**40)  # a hole: it takes no room on the disk
    with pytest.raises(UserError, match="at most 1,000 are read"):
        read_text(tmp_path / "x.yaml", most=1000)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("no", "no"),
        ("yes", "yes"),
        ("on", "on"),
        ("16:9", "16:9"),
        ("2024-01-01", "2024-01-01"),
        ("1e5", 1e5),
        ("1e-3", 1e-3),
        ("-.5", -0.5),
        ("012", 12),
        ("0o17", 15),
        ("0x1F", 31),
        ("true", True),
        ("~", None),
        ("-.inf", -inf),
        ("9" * 5000, "9" * 5000),
    ],
)
def test_plain_yaml_is_read_by_the_rules_of_1_2(text, value):
    plain = Plain(text).value
    assert plain == value and type(plain) is type(value)


def test_quotes_make_text_and_the_rest_keeps_what_was_written():
    assert parse_yaml("a: [no, '1', 1e5]\nb: {c: d}\n", "x") == {
        "a": [Plain("no"), "1", Plain("1e5")],
        "b": {"c": Plain("d")},
    }
    assert parse_yaml("a: ${x}", "x") == {"a": Plain("${x}")}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "a stands there twice"),
        ("a: !!python/name:os.system x", "Tags are not read"),
        ("a: &x [*x]", "nested more than"),
        ("[" * 5000, "nested"),
        (BOMB, "100,000 values"),
        ("? [a]\n: 1", "where a name belongs"),
        ("a: 1\n--- \nb: 2\n", "cannot be read as YAML"),
        ("x" * 300_000, "are read"),
    ],
    ids=["twice", "tag", "recursive", "deep", "bomb", "key", "documents", "long"],
)  # fmt: skip
def test_yaml_that_does_harm_is_one_message(text, words):
    with pytest.raises(UserError, match=words) as error:
        parse_yaml(text, "c.yaml")
    assert str(error.value).startswith("c.yaml: ") and len(str(error.value)) < 500


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 5000, "9" * 5000, "NaN", "[-Infinity]", "", "{"]
)
def test_json_that_does_harm_is_one_message(text):
    with pytest.raises(UserError, match=r"^r.json: ") as error:
        parse_json(text, "r.json")
    assert len(str(error.value)) < 500
