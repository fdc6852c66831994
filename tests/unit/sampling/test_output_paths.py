"""Names of videos, and places that cannot be written."""

import pytest

from t2v.errors import UserError
from t2v.sampling.output_paths import check_writable, output_paths


def test_names_are_numbered_from_the_second_on(tmp_path):
    names = [path.name for path in output_paths(str(tmp_path / "x.y.mp4"), 3)]
    assert names == ["x.y.mp4", "x.y-1.mp4", "x.y-2.mp4"]


def test_a_folder_is_made_for_the_output_but_is_no_output(tmp_path):
    check_writable(tmp_path / "new" / "deep" / "x.mp4")
    (tmp_path / "new" / "y.mp4").mkdir()
    with pytest.raises(UserError, match="is a folder"):
        check_writable(tmp_path / "new" / "y.mp4")
