"""Progress: log lines where no terminal shows a bar."""

import logging

import pytest

from t2v.io import progress as module
from t2v.io.progress import Progress, progress


def test_without_a_terminal_the_end_is_logged(caplog):
    with caplog.at_level(logging.INFO):
        assert list(progress("abc", "spell", "letters")) == ["a", "b", "c"]
    (line,) = caplog.messages
    assert line.startswith("spell: 3 of 3 letters, ")
    assert line.endswith(" s left")


def test_a_line_is_logged_every_ten_seconds_with_the_rate_of_this_run(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO), Progress(100, "encode", "clips", done=40) as bar:
        for _ in range(4):
            clock[0] += 4.0
            bar.update(2, loss=0.5)
    assert caplog.messages == ["encode: 46 of 100 clips, 0.50 a second, 108 s left, loss 0.500"]


def test_work_of_unknown_length_tells_no_time_left(caplog, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: clock[0])
    with caplog.at_level(logging.INFO), Progress(None, "read", "rows") as bar:
        clock[0] += 20.0
        bar.update(10)
    assert caplog.messages == ["read: 10 rows, 0.50 a second"]


def test_an_error_in_the_work_passes_through():
    with pytest.raises(KeyError), Progress(2, "read", "rows"):
        raise KeyError
