"""Prompt files of any editor."""

import pytest

from t2v.errors import UserError
from t2v.io.prompts import read_prompts


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_the_prompts_are_the_lines_that_are_not_blank(encoding, tmp_path):
    file = tmp_path / "p.txt"
    file.write_bytes("ein Hügel\r\n\r\n  zwei \r\nzwei".encode(encoding))
    assert read_prompts(file, "--prompt-file") == ["ein Hügel", "zwei", "zwei"]


def test_too_few_different_prompts_are_named_by_the_setting(tmp_path):
    file = tmp_path / "p.txt"
    for text, message in (
        (" \n", "holds no prompt"),
        ("a dog\na dog\n", "holds 1 different prompts and 2 are needed"),
    ):
        file.write_text(text)
        with pytest.raises(UserError, match=rf"base_prompts .*p\.txt: {message}"):
            read_prompts(file, "base_prompts", least=2)
    with pytest.raises(UserError, match=r"suites .*gone: there is no such file"):
        read_prompts(tmp_path / "gone", "suites")
