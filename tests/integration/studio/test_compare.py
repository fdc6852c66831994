"""Films that play in step, in a browser."""

import pytest
from studio.made_up import finished, until

pytestmark = pytest.mark.slow

FPS = 24
TIMES = "[...document.querySelectorAll('#films video')].map((film) => film.currentTime)"


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]")


def drift(page):
    times = page.evaluate(TIMES)
    return max(times) - min(times)


def address(studio, *ids):
    return f"{studio.url}/compare?ids={','.join(ids)}"


def test_two_films_stay_within_a_frame_playing_after_a_scrub_and_over_the_end(studio, page):
    ids = [
        finished(studio.queue, f"film {n}", frames=96, fps=FPS, size=(64, 64), guidance_scale=n)
        for n in (1.0, 2.0)
    ]
    page.goto(address(studio, *ids))
    until(page, f"{TIMES}.every((time) => time > 0.1)")
    page.wait_for_timeout(1000)
    drifts = [drift(page)]
    page.locator("#scrub").fill("70")
    until(page, f"{TIMES}.every((time) => time > 2.8)")
    drifts.append(drift(page))
    for _ in range(20):
        page.wait_for_timeout(150)  # 3 s: over the end, and on from the beginning
        drifts.append(drift(page))
    assert max(drifts) < 1 / FPS, drifts
    page.keyboard.press(" ")
    page.keyboard.press(".")
    until(page, "[...document.querySelectorAll('#films video')].every((film) => film.paused)")
    before = page.evaluate(TIMES)
    page.keyboard.press(".")
    assert page.evaluate(TIMES) == pytest.approx([time + 1 / FPS for time in before], abs=1e-4)
    assert drift(page) == 0
    rows = page.locator("tbody tr").all_inner_texts()
    assert rows[0].startswith("Prompt")
    assert rows[1].split("\t")[1:] == ["1", "2"]  # the guidance, which differs too


def test_a_shorter_film_waits_on_its_last_frame_for_the_longer_one(studio, page):
    ids = [finished(studio.queue, f"{n} frames", frames=n, fps=FPS) for n in (12, 48)]
    page.goto(address(studio, *ids))
    until(page, f"{TIMES}[1] > 1.2")
    short, long = page.evaluate(TIMES)
    assert 0.4 < short <= 0.5 < long
    until(page, f"{TIMES}.every((time) => time < 0.4)")  # both begin again


def test_films_of_one_size_are_wiped_by_a_slider_and_others_are_not(studio, page):
    one, two = (finished(studio.queue, "one size") for _ in range(2))
    other = finished(studio.queue, "another size", size=(32, 32))
    page.goto(address(studio, one, two))
    page.keyboard.press("w")
    page.locator("#place").fill("25")
    clip = "getComputedStyle(document.querySelectorAll('#films video')[1]).clipPath"
    assert page.evaluate(clip) == "inset(0px 0px 0px 25%)"
    page.reload()
    assert page.is_checked("#wipe")
    page.goto(address(studio, one, other))
    assert page.locator("#wipe").count() == 0


def test_what_cannot_be_compared_says_why_on_a_page(studio, page):
    one = finished(studio.queue, "alone")
    for ids, words in ((one, "1 video: 2 to 4"), (f"{one},video_0", "no video of this id")):
        page.goto(f"{studio.url}/compare?ids={ids}")
        assert words in page.inner_text("[role=alert]")
