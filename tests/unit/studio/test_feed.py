"""The stream that keeps a page up to date."""

import asyncio
import json
import shutil

import pytest

pytest.importorskip("starlette", reason="the extra `serve` is not installed")

from t2v.queue.folder import Queue
from t2v.queue.job import file_name
from t2v.queue.store import tell
from t2v.serve.offer import Offer
from t2v.serve.videos import DELETED, Videos
from t2v.studio.feed import MOST_ENDED, MOST_WAITING, Feed, events


@pytest.fixture
def videos(tmp_path):
    return Videos(Queue.make(tmp_path / "queue"), Offer.read(["t2v-tiny"], []))


def add(videos, prompt="a red ball", state="queued", **progress):
    """A job in a state, as its worker leaves it."""
    id = videos.queue.add({"prompt": prompt, "settings": {"seed": 3}})
    store = videos.queue.store
    _, name = store.find(id)
    store.rename(("queued", name), (state, name))
    if progress:
        (store.files / id).mkdir(exist_ok=True)
        tell(store.files / id / "progress.json", progress)
    return id


def read(piece):
    """A piece of the stream, as pairs of a name and a value."""
    both = [each.split("\ndata: ") for each in piece.strip().split("\n\n")]
    return [(name.removeprefix("event: "), json.loads(value)) for name, value in both]


def test_each_video_is_in_the_list_of_its_state_and_deleted_ones_in_none(videos):
    waiting = [add(videos, f"ball {number}") for number in range(3)]
    videos.queue.move(waiting[2], 1)
    add(videos, state="running", stage="denoising", step=2, steps=8, share=0.25, left=3.5)
    made, wrong = add(videos, state="done"), add(videos, state="failed")
    gone = add(videos, state="cancelled")
    (videos.queue.store.files / gone).mkdir()
    (videos.queue.store.files / gone / DELETED).touch()
    found = Feed(videos).look()
    assert [video["prompt"] for video in found["queued"]] == ["ball 2", "ball 0", "ball 1"]
    assert [video["position"] for video in found["queued"]] == [1, 2, 3] and found["waiting"] == 3
    (running,) = found["running"]
    assert (running["step"], running["steps"], running["left"], running["progress"]) == (
        *(2, 8, 3.5),
        25,
    )
    assert running["has_worker"] is False  # nobody holds it
    assert [video["id"] for video in found["done"]] == [f"video_{made}"]
    assert [video["id"] for video in found["failed"]] == [f"video_{wrong}"]


def test_long_lists_are_cut_and_the_waiting_are_counted(videos):
    def write(state, number):
        path = videos.queue.store.path(state, file_name(10**12 + number, f"{number:032x}"))
        path.write_text(json.dumps({"prompt": f"ball {number}", "settings": {}}))

    for number in range(MOST_WAITING + 5):
        write("queued", number)
    for number in range(1000, 1000 + MOST_ENDED + 3):
        write("done", number)
    found = Feed(videos).look()
    assert (len(found["queued"]), found["waiting"]) == (MOST_WAITING, MOST_WAITING + 5)
    assert len(found["done"]) == MOST_ENDED
    assert found["done"][0]["prompt"] == f"ball {1000 + MOST_ENDED + 2}"


def test_the_stream_tells_all_at_first_and_then_what_changes(videos):
    id = add(videos, state="running", stage="denoising", step=1, steps=8, share=0.125)
    (videos.queue.store.files / id / "preview.png").write_bytes(b"a picture")

    async def pieces():
        stream = events(Feed(videos), lambda: False)
        yield await asyncio.wait_for(anext(stream), 20)
        videos.queue.cancel(id)
        yield await asyncio.wait_for(anext(stream), 20)
        await stream.aclose()

    async def all_pieces():
        return [read(piece) async for piece in pieces()]

    first, second = asyncio.run(all_pieces())
    assert [name for name, _ in first] == [
        *("preview", "queued", "waiting", "running", "done", "failed")
    ]
    assert first[0][1] == {"id": f"video_{id}", "b64_png": "YSBwaWN0dXJl"}  # and it is told once
    assert [name for name, _ in second] == ["running", "failed"]
    assert second[0][1] == [] and second[1][1][0]["error"]["code"] == "cancelled"


def test_a_list_that_has_not_changed_is_not_read_again(videos):
    add(videos)
    feed = Feed(videos)
    before = feed.look()["queued"]
    assert feed.look()["queued"] is before or feed.look()["queued"] is feed.look()["queued"]
    add(videos)
    assert len(feed.look()["queued"]) == 2


def test_the_stream_ends_with_the_server_and_where_the_queue_has_gone(videos):
    async def all_of(is_ending):
        return [piece async for piece in events(Feed(videos), is_ending)]

    assert asyncio.run(all_of(lambda: True)) == []
    shutil.rmtree(videos.queue.folder)
    assert asyncio.run(asyncio.wait_for(all_of(lambda: False), 20)) == []
