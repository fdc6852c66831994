"""The page and the tables: every figure with what it is, the worst videos first, all in step."""

import shutil

import pytest
import torch

from t2v.evaluation.report.html import worst_first
from t2v.evaluation.report.page import write_page
from t2v.evaluation.report.suite import by_topic
from t2v.evaluation.report.table import markdown, topics_sentence
from t2v.evaluation.rows import MODEL, REAL


def cell(value):
    numbers = {"value": value, "low": value - 0.1, "high": value + 0.1, "n": 3}
    return numbers | {"better": "higher", "method": "the net x"}


@pytest.fixture
def report():
    values = (0.2, None, 0.1)
    videos = [
        {"prompt": f"prompt {i}", "topic": "", "values": {"f.sim": value}, "marks": [],
         "said": {"a captioner": f"a ball <{i}>"}}
        for i, value in enumerate(values)
    ]  # fmt: skip
    tables = {
        "f": {MODEL: {"sim": cell(0.5), "rm": {"not_run": "no clips"}}, REAL: {"sim": cell(0.9)}},
        "g": {MODEL: {"kernel": {"not_run": "no net is named"}}},
    }
    suite = {"prompts": 3, "warnings": [], "ranking": "f.sim", "tables": tables, "videos": videos}
    suite |= by_topic(videos, "f.sim")
    rows = {MODEL: "the sampled videos", REAL: "the clips themselves"}
    return {"protocol": {"model": "m"}, "rows": rows, "suites": {"s": suite}}


@pytest.fixture
def page(report, tmp_path):
    """The page of three videos of 1 s, 2 s and 1 s."""
    video = torch.zeros(3, 8, 32, 32, 3, dtype=torch.uint8)
    path = tmp_path / "page.html"
    write_page(path, report, {"s": {MODEL: video, REAL: video.repeat(1, 2, 1, 1, 1)}}, 8, most=3)
    return path


def test_tables_say_what_each_row_and_figure_is_and_how_many_were_asked(report, page):
    for text in (markdown(report), page.read_text()):
        assert "the sampled videos" in text and "the clips themselves" in text
        assert "0.5 [0.4, 0.6]" in text and "sim: the net x" in text
        assert "rm: not run, no clips" in text and "kernel: not run, no net is named" in text
    assert "| n | 3 |" in markdown(report)
    html = page.read_text()
    assert '<tr class="count"><th>n</th><td>3</td>' in html
    assert "kernel</th>" not in html  # nothing was measured: no table of it
    assert "a captioner: a ball &lt;0&gt;" in html and "a ball <0>" not in html


def test_suspicious_videos_come_first_then_the_worst_then_the_unknown(report):
    videos = report["suites"]["s"]["videos"]
    assert worst_first(videos, "f.sim") == [2, 0, 1]
    videos[1]["marks"] = ["still"]
    assert worst_first(videos, "f.sim") == [1, 2, 0]


def test_topics_are_averaged_and_then_the_worst_and_best_of_them():
    videos = [
        {"topic": f"topic {i}", "values": {"x": i + shift}} for i in range(24) for shift in (-1, 1)
    ]
    found = by_topic(videos, "x")
    assert [each["topic"] for each in found["worst_topics"]] == ["topic 0", "topic 1", "topic 2"]
    assert found["worst_topics"][2] == {"topic": "topic 2", "value": 2, "n": 2}
    assert found["topics"] == {"n": 24, "low_10": 4.5, "top_10": 18.5}
    few = by_topic(videos[:16], "x")["topics"]  # 8 topics: a quarter of them
    assert few == {"n": 8, "low_2": 0.5, "top_2": 6.5}
    assert by_topic(videos[:2], "x")["worst_topics"] == []
    assert topics_sentence(found | {"ranking": "x"}) == (
        "By x, the worst topics: topic 0 0 (n 2), topic 1 1 (n 2), topic 2 2 (n 2). "
        "Means of 24 topics, lowest 10: 4.5, highest 10: 18.5."
    )


@pytest.mark.slow
def test_in_a_browser_videos_play_in_step_and_headings_sort(page):
    api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = window.new_page(viewport={"width": 1500, "height": 3000})
        tab.goto(page.as_uri())
        tab.wait_for_timeout(3_000)
        clocks = "films.map(film => [film.currentTime, film.duration, film.paused])"
        moved = set()
        for _ in range(5):
            times = tab.evaluate(clocks)
            longest = [time for time, length, _ in times if length > 1.5]
            assert max(longest) - min(longest) < 0.125  # a frame
            moved |= set(longest)
            tab.wait_for_timeout(300)
        assert len(times) == 6 and len(moved) > 5
        tab.click("#play")
        tab.wait_for_timeout(500)
        stopped = tab.evaluate(clocks)
        tab.wait_for_timeout(500)
        assert tab.evaluate(clocks) == stopped and all(paused for *_, paused in stopped)
        column = (
            "[...document.querySelector('.videos').tBodies[0].rows].map(r => r.cells[5].innerText)"
        )
        for wanted in (["0.1", "0.2", ""], ["0.2", "0.1", ""]):
            tab.locator("th[data-sort]", has_text="f.sim").click()
            assert tab.evaluate(column) == wanted
        window.close()
