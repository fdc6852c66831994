"""Processes that may die: every item gets a result or a verdict, and the others go on."""

import ctypes
import time
from itertools import count, islice

from t2v.io.workers import work


def answer(item):
    """What an item asks for: a square, or one of the ways to go wrong."""
    if item == "crash":
        ctypes.string_at(0)
    if item == "hang":
        while True:
            time.sleep(1)
    if item == "eat":
        return len(bytearray(2**31))
    if item == "error":
        raise ZeroDivisionError("by naught")
    return item * item


def test_an_item_that_crashes_hangs_or_eats_memory_gets_a_verdict_and_the_others_go_on():
    items = [2, "crash", "hang", "eat", "error", 3]
    results = dict(work(answer, items, workers=2, seconds=3, memory_gb=1))
    assert (results[0], results[5]) == (4, 9)
    kinds = [results[number].kind for number in (1, 2, 3, 4)]
    assert kinds == ["crash", "time", "memory", "error"]
    assert "signal 11" in results[1].reason
    assert "3 s" in results[2].reason
    assert "1 GB" in results[3].reason
    assert "by naught" in results[4].reason


def test_results_come_in_the_order_of_the_items_where_that_is_asked_for(tmp_path):
    drawn = []

    def items():
        for number in count():
            drawn.append(number)
            yield number

    results = work(answer, items(), workers=2, in_order=True)
    # items without an end: they are drawn as workers become free, not all at once
    assert [*islice(results, 6)] == [(number, number**2) for number in range(6)]
    assert len(drawn) >= 6
    results.close()
