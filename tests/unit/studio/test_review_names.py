"""Reviews by the names that their addresses have."""

import pytest

from t2v.config.load import load_config
from t2v.config.serve import StudioConfig
from t2v.errors import UserError

pytest.importorskip("starlette", reason="the extra `serve` is not installed")


def test_a_review_has_the_name_of_its_folder_and_no_two_are_alike(tmp_path):
    from t2v.studio.review import named

    for name in ("a/curated", "b/curated", "c/ünï <b>", "d/curated-2"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "a/curated/manifest.jsonl").touch()
    (tmp_path / "a/curated/clips.jsonl").touch()
    names = (
        "a/curated/manifest.jsonl",
        "a/curated/clips.jsonl",
        "d/curated-2",
        "b/curated",
        "c/ünï <b>",
    )
    found = named([str(tmp_path / name) for name in names])
    assert list(found) == ["curated", "clips", "curated-2", "curated-3", "n-b"]
    assert list(found.values()) == [str(tmp_path / name) for name in names]


def test_what_cannot_be_reviewed_is_refused_before_the_studio_opens(tmp_path):
    from t2v.studio.review import named

    with pytest.raises(UserError, match=r"there is no .*gone"):
        named([str(tmp_path / "gone")])
    config = load_config(StudioConfig, None, ["reviews=[s3://bucket/curated]"])
    with pytest.raises(UserError, match="s3://bucket/curated is an address"):
        named(config.reviews)
