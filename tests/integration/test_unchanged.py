"""Every number that the commands gave at commit 85fb36c, they give today.

`unchanged/*.json` hold what the commands of `unchanged/commands.py` gave there. Where a processor
computes as that of the records did (`arithmetic`), every bit must be the same; elsewhere numbers
must be close, and what is text or a whole number equal. Figures that came since are not looked at.

A record is made anew by `unchanged/make.py`, with the reason in the commit, only where numbers are
to change.
"""

import json
import math
from collections.abc import Iterator

import pytest
from unchanged.commands import CASES, need, working_in
from unchanged.compare import HERE, arithmetic, assert_unchanged

SLOW = {"plan-transformers"}


@pytest.fixture(scope="module", autouse=True)
def work(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with working_in(tmp_path_factory.mktemp("unchanged")):
        yield
    need.cache_clear()


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] * (case in SLOW)) for case in CASES]
)
def test_the_numbers_of_a_command_are_what_they_were(case: str) -> None:
    then = json.loads((HERE / f"{case}.json").read_text())
    is_exact = arithmetic() == then["arithmetic"]
    assert_unchanged(need(case), then["gives"], exact=is_exact, where=case)


@pytest.mark.parametrize(
    ("then", "near", "far"),
    [
        (1.25, math.nextafter(1.25, 2), 1.5),
        (f"{'0' * 16} 1.0000e+00 2.0000e-01 3.0000e-01",
         f"{'1' * 16} 1.0001e+00 2.0000e-01 3.0000e-01",
         f"{'0' * 16} 1.0000e+00 2.0000e-01 3.0000e+00"),
        ("by the net 0123abcd", "by the net 4567abcd", "by another net 0123abcd"),
    ],
)  # fmt: skip
def test_another_bit_is_noticed_and_elsewhere_another_number(then, near, far):
    for now, exact in ((then, True), (then, False), (near, False)):
        assert_unchanged({"what": [now], "since": 1}, {"what": [then]}, exact=exact)
    for now, exact in ((near, True), (far, True), (far, False)):
        with pytest.raises(AssertionError, match="/what/0"):
            assert_unchanged({"what": [now]}, {"what": [then]}, exact=exact)
    with pytest.raises(AssertionError, match="is gone"):
        assert_unchanged({}, {"what": [then]}, exact=False)
