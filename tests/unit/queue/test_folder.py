"""A queue's folder: order, states, and files that anybody may have written."""

import json
import os
import random
import shutil
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from t2v.cli import main
from t2v.errors import UserError
from t2v.queue.claims import claimed, end
from t2v.queue.folder import Queue, QueueFull
from t2v.queue.store import place_of

STATES = ("queued", "running", "done", "failed", "cancelled")


@pytest.fixture
def queue(tmp_path):
    return Queue.make(tmp_path / "queue", most=40)


def job(prompt, **settings):
    return {"prompt": prompt, "settings": settings}


def prompts(queue, *states):
    return [each.prompt for each in queue.jobs(states or STATES)]


def test_any_changes_leave_the_jobs_and_the_order_that_a_list_has(queue):
    draw, expected, ids = random.Random(0), list[str](), dict[str, str]()
    for number in range(60):
        action = draw.choice(("add", "move", "edit", "cancel", "retry", "duplicate"))
        waiting = [name for name in expected if name]
        if action == "add" and len(waiting) < 20:
            name = f"job {number}"
            ids[name] = queue.add(job(name, seed=number))
            expected.append(name)
        elif not waiting:
            continue
        elif action == "move":
            name, position = draw.choice(waiting), draw.choice((1, 2, len(waiting), 99))
            assert queue.move(ids[name], position).prompt == name
            expected.remove(name)
            expected.insert(position - 1, name)
        elif action == "edit":
            old, name = draw.choice(waiting), f"edited {number}"
            assert queue.edit(ids[old], name, ["seed=5"]).settings == {"seed": 5}
            ids[name] = ids.pop(old)
            expected[expected.index(old)] = name
        elif action in ("cancel", "retry"):
            name = draw.choice(waiting)
            assert queue.cancel(ids[name][:12]).state == "cancelled"
            expected.remove(name)
            if action == "retry":
                assert queue.retry(ids[name]).state == "queued"
                expected.append(name)
        elif len(waiting) < 20:
            name = f"copy {number}"
            ids[name] = queue.duplicate(ids[draw.choice(waiting)], name)
            expected.append(name)
        assert prompts(queue, "queued") == expected
    assert [each.position for each in queue.jobs(["queued"])] == [*range(1, len(expected) + 1)]


def test_room_between_two_jobs_is_made_when_there_is_none(queue):
    first, *_ = queue.add_all([job(f"{number}") for number in range(4)])
    for _ in range(30):  # a half of the room each time
        names = prompts(queue, "queued")
        moved = queue.move(queue.jobs(["queued"])[2].id, 2).prompt
        assert prompts(queue, "queued") == [names[0], moved, names[1], names[3]]
    assert len({place_of(each.name) for each in queue.jobs()}) == 4
    assert queue.job(first).position == 1


def test_every_job_is_taken_once_by_several_workers_and_those_of_dead_ones_again(queue):
    queue.add_all([job(f"{number}") for number in range(24)])
    dead = queue.store.names("queued")[3]
    queue.store.rename(("queued", dead), ("running", dead))  # nobody holds it

    again = Counter()

    def work(number):
        took = []
        while True:
            with claimed(queue.store) as taken:
                if taken is None:
                    return took
                assert queue.job(taken.id).has_worker
                again[taken.prompt] += 1
                if int(taken.prompt) % 5 or again[taken.prompt] == 2:  # the others wait again
                    took.append(taken.prompt)
                    end(queue.store, taken, "done", {})

    with ThreadPoolExecutor(3) as pool:
        took = [each for some in pool.map(work, range(3)) for each in some]
    assert sorted(took, key=int) == [str(number) for number in range(24)]
    assert sum(again.values()) == 24 + 5 and len(prompts(queue, "done")) == 24


def test_a_job_whose_worker_dies_twice_at_the_same_place_has_failed(queue):
    id = queue.add(job("a job that takes all memory"))
    for share, signal in ((0.2, 9), (0.7, 9), (0.7, 9)):
        with suppress(KeyError), claimed(queue.store) as taken:
            assert taken.id == id
            files = taken.files
            raise KeyError
        (name,) = queue.store.names("queued")
        queue.store.rename(("queued", name), ("running", name))
        (files / "progress.json").write_text(json.dumps({"share": share}))
        (files / "killed.json").write_text(json.dumps({"signal": signal}))
    with claimed(queue.store) as taken:
        assert taken is None
    failed = queue.job(id)
    assert failed.state == "failed" and "died twice" in failed.result["message"]
    assert "signal 9" in failed.result["message"]
    queue.retry(id)
    with claimed(queue.store) as taken:
        assert taken.id == id and taken.result == {}


def test_what_a_state_does_not_allow_is_told(queue, tmp_path):
    id = queue.add(job("a ball"))
    refused = []
    for change in (
        lambda: queue.retry(id),
        lambda: queue.move(id, 0),
        lambda: queue.job("zzzz"),
        lambda: queue.job(id[:3]),
        lambda: queue.clear(["queued"]),
        lambda: queue.edit(id, None, ["sede=3"]),
        lambda: queue.edit(id, " "),
    ):
        with pytest.raises(UserError) as told:
            change()
        refused.append(str(told.value))
    with claimed(queue.store) as taken:
        for change in (queue.edit, queue.retry, lambda id: queue.move(id, 1)):
            with pytest.raises(UserError, match=r"runs|is running") as told:
                change(id)
            refused.append(str(told.value))
        queue.cancel(id)
        end(queue.store, taken, "done", {"message": ""})
    assert queue.job(id).state == "cancelled"
    with pytest.raises(UserError, match="is cancelled already"):
        queue.cancel(id)
    with pytest.raises(QueueFull, match="40 may"):
        queue.add_all([job("x")] * 41)
    assert prompts(queue) == ["a ball"] and queue.clear() == 1 and prompts(queue) == []
    with pytest.raises(UserError, match="is no queue"):
        Queue(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "film.mp4").touch()
    with pytest.raises(UserError, match="holds other files"):
        Queue.make(tmp_path / "full")
    words = ["only those that failed", "begin with 1", "there is none", "more digits"]
    words += ["have not ended", "Did you mean seed", "prompt is ' '", "cancel", "is running"]
    for told, part in zip(refused, words, strict=False):
        assert part in told, (told, part)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "cannot be read as JSON"),
        ("[" * 100_000, "nested too deeply"),
        (json.dumps({"prompt": "x" * 2**20}), "at most 1,048,576 are read"),
        (json.dumps([1]), "is no job"),
        (json.dumps({"prompt": "x"}), "is no job"),
        (json.dumps(job(["x"])), "prompt is ['x']"),
        (json.dumps(job("\ud800")), "prompt is '\\ud800'"),
        (json.dumps(job("x" * 30_000)), "20,000 are taken"),
        (b"\xff\xfe\xff", "cannot be read"),
        (None, "a regular file"),
    ],
)
def test_a_file_that_is_no_job_is_one_message(queue, content, words, tmp_path):
    name = f"{7:016d}-{'a' * 32}.json"
    place = queue.store.path("queued", name)
    if content is None:
        place.symlink_to("/etc/passwd")
    else:
        place.write_bytes(content if isinstance(content, bytes) else content.encode())
    (read,) = queue.jobs()
    assert words in read.problem and read.prompt == ""
    with claimed(queue.store) as taken:
        assert words in taken.problem
        end(queue.store, taken, "failed", {"message": taken.problem})
    with pytest.raises(UserError):
        queue.retry(read.id, "a ball")
    assert queue.clear() == 1 and not os.path.lexists(place)


def test_a_recipe_that_is_put_there_becomes_a_job_behind_the_others(queue):
    queue.add(job("a ball"))
    name = queue.store.names("queued")[0]
    for place in ("mine.json", "half.json", f"{3:016d}-{name[17:]}"):  # the last one is there twice
        path = queue.folder / "queued" / place
        path.write_text(json.dumps(job(place)))
        if place != "half.json":
            os.utime(path, (0, 0))
    (queue.folder / "queued" / ".hidden.json").write_text("{")
    with claimed(queue.store):
        pass
    assert len({each.id for each in queue.jobs()}) == len(queue.jobs()) == 3
    assert "mine.json" in prompts(queue) and "half.json" not in prompts(queue)


def test_a_queue_that_may_not_be_written_is_listed(queue):
    waiting = queue.add(job("a red ball"))
    running = queue.add(job("a blue cube"))
    queue.move(running, 1)
    with claimed(queue.store), tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "queue"  # the folders of tests are their user's alone
        shutil.copytree(queue.folder, copy)
        for path in (copy, *copy.rglob("*"), Path(place)):
            path.chmod(0o555 if path.is_dir() else 0o444)
        other = Queue(copy)
        with suppress(PermissionError):  # of root, who may write anything
            os.seteuid(65534)
        try:
            listed = [(each.id, each.state, each.has_worker) for each in other.jobs()]
            with pytest.raises(UserError, match="cannot be changed"):
                other.cancel(waiting)
        finally:
            os.seteuid(os.getuid())
            for path in (Path(place), copy, *copy.rglob("*")):
                path.chmod(0o755)
    assert listed == [(running, "running", False), (waiting, "queued", True)]


def test_a_line_of_the_list_is_one_line_whatever_a_prompt_holds(queue, capsys):
    queue.add(job("a red\x1b[2J\nball\r\u202e"))
    assert main(["queue", "list", str(queue.folder)]) == 0
    row, count = capsys.readouterr().out.splitlines()
    assert row.endswith("a red [2J ball") and count == "1 queued"


def test_an_address_is_named_as_it_was_given(capsys):
    for line in (["queue", "list", "s3://a/b"], ["sample", "--queue", "s3://a/b", "a red ball"]):
        assert main(line) == 2
        assert "s3://a/b: is an address" in capsys.readouterr().err
