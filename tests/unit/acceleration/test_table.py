"""Tables are read back as they were written, and other files are told in one message."""

from dataclasses import replace

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
        ('{"tables": []}', "holds no table"),
        ('{"format": 1, "tables": [{"rows": 3}]}', "holds no table"),
        ("[]", "holds no table"),
    ],
)
def test_other_files_are_refused(tmp_path, text, said):
    path = tmp_path / "acceleration.json"
    path.write_text(text)
    with pytest.raises(UserError, match=said):
        read_tables(path)


def test_a_place_that_cannot_be_written_is_told_with_another(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"cannot be written .*Give output=FILE\.json"):
        write_table(tmp_path / "file" / "acceleration.json", TABLE)


def test_a_setting_is_told_in_words():
    assert str(ROWS[0].setting) == "4 steps, guidance from 0 to 0.5"
    assert str(ROWS[1].setting) == "8 steps, faster:2"
