"""Tables are read back as they were written, and other files are told in one message."""

import json
from dataclasses import fields, replace

import pytest

from t2v.acceleration.table import Exact, Measured, Row, Setting, Table, read_tables, write_table
from t2v.errors import UserError

EXACT = Exact(
    weights="a" * 64, scheduler=None, num_inference_steps=8, guidance_scale=1.5,
    negative_prompt="", size=(17, 64, 64),
)  # fmt: skip
FIGURES = Measured(
    error=0.01, most_error=0.02, psnr=40.0, least_psnr=35.0, speed=2.0, speed_low=1.9,
    speed_high=2.1,
)  # fmt: skip
ROWS = (
    Row(setting=Setting(num_inference_steps=4, guidance_interval=(0.0, 0.5)), measured=FIGURES),
    Row(setting=Setting(num_inference_steps=8, cache="faster:2"), reason="it does not fit"),
)
TABLE = Table(
    exact=EXACT, prompts=8, share=0.98, confidence=0.95, on="cpu fp32", versions={}, rows=ROWS
)


def test_a_file_keeps_the_tables_of_its_weights_and_one_of_each_video(tmp_path):
    path = tmp_path / "new" / "acceleration.json"
    assert read_tables(path) == []
    longer = replace(TABLE, exact=replace(EXACT, size=(33, 64, 64)))
    for each in (TABLE, longer, replace(TABLE, prompts=9)):
        write_table(path, each)
    assert read_tables(path) == [longer, replace(TABLE, prompts=9)]
    other = replace(TABLE, exact=replace(EXACT, weights="b" * 64))
    write_table(path, other)
    assert read_tables(path) == [other]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 2}', "is of format 2"),
        ('{"tables": []}', "format is missing"),
        ('{"format": 1, "tables": [{"rows": 3}]}', "table 1: confidence is missing"),
        ("[]", r"the file is \[\], not a group of named values"),
        ('{"format": 1, "tables": [{"x": 3}]}', "table 1: x is not known"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    assert said_of(tmp_path, text, said).count("acceleration.json") == 1


def said_of(folder, text, said):
    """The message on a file of this text, which holds words and nothing of Python's."""
    path = folder / "acceleration.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said) as refused:
        read_tables(path)
    assert "Error" not in str(refused.value) and str(refused.value).startswith(str(path))
    return str(refused.value)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        *(
            (("rows", 0, "measured", each.name), "abc", f'measured: {each.name} is "abc", not a n')
            for each in fields(Measured)
        ),
        (("rows", 0, "measured", "error"), True, "error is true, not a number"),
        (("rows", 0, "measured", "error"), 10**400, "error is 1000.*, not a number"),
        (("rows", 0, "measured"), 3, "table 1, row 1: measured is 3, not a group of named values"),
        (("rows", 1, "reason"), [], r"table 1, row 2: reason is \[\], not text"),
        (("rows", 1, "quality"), [], "not a group of named values"),
        (("rows", 0, "setting", "cache"), "foo:3", "table 1, row 1: cache=foo:3: give none, or"),
        (("rows", 0, "setting", "guidance_interval"), [0.5], "two shares of the steps"),
        (("rows", 0, "setting", "guidance_interval"), [0, "x"], 'guidance_interval 2 is "x"'),
        (("rows", 0, "setting", "num_inference_steps"), 2.5, "is 2.5, not a whole number"),
        (("rows", 0, "setting", "num_inference_steps"), 0, "it must be from 1 to"),
        (("rows", 0, "setting", "token_merging"), 2, "it must be from 0 to 0.75"),
        (("exact", "size"), [17, 64], r"exact: size is \[17, 64\], not a list of 3"),
        (("versions",), {"torch": 2}, "versions: torch is 2, not text"),
    ],
)
def test_a_damaged_value_is_told_with_its_place(tmp_path, place, value, said):
    path = tmp_path / "acceleration.json"
    write_table(path, TABLE)
    values = json.loads(path.read_text())
    *outer, last = place
    inner = values["tables"][0]
    for each in outer:
        inner = inner[each]
    inner[last] = value
    said_of(tmp_path, json.dumps(values), said)


def test_a_folder_is_told_to_be_one(tmp_path):
    with pytest.raises(UserError, match="is a folder, not a file"):
        read_tables(tmp_path)


def test_a_place_that_cannot_be_written_is_told_with_another(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*Give output=FILE\.json"):
        write_table(tmp_path / "file" / "acceleration.json", TABLE)


def test_a_setting_is_told_in_words():
    assert str(ROWS[0].setting) == "4 steps, guidance from 0 to 0.5"
    assert str(ROWS[1].setting) == "8 steps, faster:2"
