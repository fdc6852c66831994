"""The list behind the gallery, with jobs that are made up."""

import json
import os
import secrets
import time

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.queue.folder import Queue
from t2v.serve.errors import Refused
from t2v.serve.models import Model
from t2v.serve.offer import Offer
from t2v.serve.videos import Videos
from t2v.studio.finished import PAGE, Finished

MODELS = {"t2v-tiny": Model(name="t2v-tiny", setting="t2v-tiny")}


@pytest.fixture
def queue(tmp_path):
    return Queue.make(tmp_path / "queue")


def add(queue, prompt, created):
    """A job that is done, without its film."""
    id = secrets.token_hex(16)
    path = queue.store.path("done", f"{secrets.randbelow(10**15):016d}-{id}.json")
    path.write_text(json.dumps({"prompt": prompt, "settings": {"seed": 1}}))
    os.utime(path, (created, created))
    return f"video_{id}"


def finished(queue):
    return Finished(Videos(queue, Offer(models=MODELS, loras={})))


def ids(part):
    return [film["id"] for film in part.films]


def test_pages_lead_through_all_videos_and_back(queue):
    made = [add(queue, f"number {number}", 1e9 + number) for number in range(2 * PAGE + 3)]
    made.reverse()
    found = finished(queue)
    first = found.part("", "", False)
    second = found.part(first.older, "", False)
    third = found.part(second.older, "", False)
    assert ids(first) + ids(second) + ids(third) == made
    assert (first.newer, second.newer, third.newer) == (None, "", first.older)
    assert (first.first, third.first, third.older) == (1, 2 * PAGE + 1, None)
    assert ids(found.part(third.newer, "", False)) == ids(second)


def test_words_are_found_in_any_case_and_order(queue):
    ball = add(queue, "A Red BALL bounces", 1e9)
    add(queue, "a red cube", 1e9 + 1)
    found = finished(queue)
    assert ids(found.part("", "ball red", False)) == [ball]
    assert found.part("", "green", False).total == 0
    later = add(queue, "the red ball again", 1e9 + 2)
    assert ids(found.part("", "ball", False)) == [later, ball]


def test_a_page_behind_a_video_that_is_gone_says_so_and_is_the_first(queue):
    id = add(queue, "a red ball", 1e9)
    part = finished(queue).part("video_" + "0" * 32, "", False)
    assert part.is_lost
    assert ids(part) == [id]


def test_stars_are_kept_in_the_queue(queue):
    starred, other = add(queue, "a red ball", 1e9), add(queue, "a blue cube", 1e9 + 1)
    finished(queue).star(starred, True)
    again = finished(queue)  # another process, after a restart
    assert ids(again.part("", "", True)) == [starred]
    again.star(starred, False)
    assert again.part("", "", True).total == 0
    with pytest.raises(Refused, match="no video"):
        again.star("video_../" + other, True)


def test_a_file_that_is_no_job_is_listed_and_hides_no_other(queue):
    good, bad = add(queue, "a red ball", 1e9), add(queue, "a red ball", 1e9 + 1)
    (path,) = queue.folder.glob(f"done/*{bad.removeprefix('video_')}.json")
    path.write_text("{")
    assert ids(finished(queue).part("", "", False)) == [bad, good]
    assert ids(finished(queue).part("", "ball", False)) == [good]


@pytest.mark.slow
def test_2000_videos_are_listed_and_searched_in_under_a_second(queue):
    for number in range(2000):
        add(queue, f"ball number {number}", 1e9 + number)
    found, began = finished(queue), time.perf_counter()
    assert found.part("", "", False).total == 2000
    assert found.part("", "number 19", False).total == sum("19" in str(n) for n in range(2000))
    assert time.perf_counter() - began < 1
