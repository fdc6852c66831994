"""Every number that the commands gave at commit 85fb36c, they give today.

`unchanged/*.json` hold what the commands of `unchanged/commands.py` gave there. Where a processor
computes as that of the records did (`arithmetic`), every bit must be the same; elsewhere numbers
must be close, and what is text or a whole number equal. Figures that came since are not looked at.

A record is made anew by `unchanged/make.py`, with the reason in the commit, only where numbers are
to change.
"""

import json
from collections.abc import Iterator

import pytest
from unchanged.commands import CASES, need, working_in
from unchanged.compare import HERE, arithmetic, assert_unchanged

SLOW = {"plan", "plan-embedded"}


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
