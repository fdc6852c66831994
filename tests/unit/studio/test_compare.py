"""The table of a comparison."""

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.studio.compare import compared


def test_settings_that_differ_come_first_and_keep_their_order():
    rows = compared([{"Size": "1", "Seed": "3", "Steps": "4"}, {"Size": "1", "Seed": "5"}])
    assert [(row.name, row.differs) for row in rows] == [
        ("Seed", True),
        ("Steps", True),
        ("Size", False),
    ]
    assert rows[1].values == ["4", ""]
