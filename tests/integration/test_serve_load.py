"""The server with a worker: killed in the middle, stopped in the middle, and under load."""

import os
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from t2v.cli import main
from t2v.io.video import read_video

openai = pytest.importorskip("openai", reason="the extra `test` is not installed whole")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from test_serve import PROMPT, Served  # noqa: E402  needs both

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CLIENTS, REQUESTS, SECONDS = 8, 200, 120


def wait_for(condition, seconds=300):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_jobs_outlive_a_kill_and_a_stop_and_end_as_samples_of_the_same_bits(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    folder = tmp_path / "queue"
    settings = f"models=[{tmp_path / 'model'}]", "max_steps=1000"
    server = Served(folder, *settings)
    videos = [
        server.client.videos.create(
            prompt=f"{PROMPT} {seed}", extra_body={"seed": seed, "num_inference_steps": 120}
        )
        for seed in range(3)
    ]
    first = videos[0].id
    # every worker and the server at once, in the middle of a video
    wait_for(lambda: server.client.videos.retrieve(first).progress > 3)
    os.killpg(server.process.pid, signal.SIGKILL)
    server.process.communicate()
    server = Served(folder, *settings)
    # a worker alone: it is started again
    wait_for(lambda: server.client.videos.retrieve(videos[1].id).progress > 3)
    (running,) = server.queue.jobs({"running"})
    os.kill(running.progress["pid"], signal.SIGKILL)
    # the server alone: its worker ends by itself
    wait_for(lambda: server.client.videos.retrieve(videos[2].id).progress > 3)
    (running,) = server.queue.jobs({"running"})
    server.process.kill()
    server.process.communicate()
    wait_for(lambda: not Path(f"/proc/{running.progress['pid']}").exists(), 60)
    # an ordinary stop
    server = Served(folder, *settings)
    wait_for(lambda: server.client.videos.retrieve(videos[2].id).status == "in_progress")
    assert server.stop()[0] == 0
    assert [job.state for job in server.queue.jobs()].count("queued") <= 1
    server = Served(folder, *settings)
    for seed, video in enumerate(videos):
        assert server.client.videos.poll(video.id).status == "completed"
        plain = tmp_path / f"{seed}.mp4"
        line = ["sample", f"{PROMPT} {seed}", f"seed={seed}", "num_inference_steps=120"]
        assert main([*line, f"model={tmp_path / 'model'}", f"output={plain}"]) == 0
        made = folder / "videos" / f"{video.id.removeprefix('video_')}.mp4"
        assert (read_video(made)[0] == read_video(plain)[0]).all()
    running_one = server.client.videos.create(
        prompt=PROMPT, extra_body={"num_inference_steps": 100}
    )
    wait_for(lambda: server.client.videos.retrieve(running_one.id).status == "in_progress")
    server.client.videos.delete(running_one.id)
    wait_for(lambda: not list(folder.rglob(f"*{running_one.id.removeprefix('video_')}*")), 30)
    assert server.stop() == (0, "False")


KINDS = (
    *("create", "create", "status", "status", "status", "list", "edit", "duplicate"),
    *("cancel", "delete"),
)


class Client(threading.Thread):
    """Asks at random for a while, and keeps what it asked for and how long that took."""

    def __init__(self, server, number):
        super().__init__()
        self.client, self.number = server.new_client(), number
        self.draw = random.Random(number)
        self.alive, self.waits, self.times, self.faults, self.conflicts = {}, [], [], [], 0

    def run(self):
        for turn in range(REQUESTS // CLIENTS):
            try:
                self.ask(turn)
            except openai.RateLimitError as error:
                self.waits.append(int(error.response.headers["Retry-After"]))
            except openai.ConflictError:
                self.conflicts += 1  # it runs or is done, and stays what it is
            except Exception as error:  # shown by the test
                self.faults.append(repr(error))
            time.sleep(self.draw.uniform(0, 2 * SECONDS * CLIENTS / REQUESTS))

    def ask(self, turn):
        kind = self.draw.choice(KINDS)
        if kind == "create" or not self.alive:
            prompt = f"client {self.number} turn {turn}"
            body = {"num_inference_steps": 4}
            self.alive[self.client.videos.create(prompt=prompt, extra_body=body).id] = prompt
        elif kind == "status":
            began = time.perf_counter()
            self.client.videos.retrieve(self.draw.choice(list(self.alive)))
            self.times.append(time.perf_counter() - began)
        elif kind == "list":
            self.client.videos.list(limit=5)
        elif kind in ("edit", "duplicate", "cancel"):
            self.change(kind, self.draw.choice(list(self.alive)), f"{kind} {turn}")
        else:
            id = self.draw.choice(list(self.alive))
            assert self.client.videos.delete(id).deleted
            del self.alive[id]

    def change(self, kind, id, words):
        prompt = f"client {self.number} {words}"
        if kind == "cancel":
            self.client.post(f"/videos/{id}/cancel", cast_to=object)
        elif kind == "edit":
            self.client.patch(f"/videos/{id}", body={"prompt": prompt}, cast_to=object)
            self.alive[id] = prompt
        else:
            self.alive[self.client.videos.remix(id, prompt=prompt).id] = prompt


def held(pid):
    """The MB of memory that a process holds."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1]) / 1e3


def test_eight_clients_lose_and_double_nothing_while_videos_are_made(tmp_path):
    server = Served(tmp_path / "queue", "max_queued=6")
    server.client.videos.create(prompt=PROMPT)
    wait_for(lambda: server.queue.jobs({"running"}))
    clients = [Client(server, number) for number in range(CLIENTS)]
    for client in clients:
        client.client.models.list()  # its connection and code are there
    before = held(server.process.pid)
    for client in clients:
        client.start()
    for client in clients:
        client.join()
    after = held(server.process.pid)
    assert [client.faults for client in clients] == [[]] * CLIENTS
    expected = {id: prompt for client in clients for id, prompt in client.alive.items()}
    expected_prompts = sorted([PROMPT, *expected.values()])
    deleted = server.folder / "files"
    wait_for(lambda: not list(deleted.glob("*/deleted")), 60)
    listed = list(server.client.videos.list(limit=100))
    assert sorted(video.prompt for video in listed) == expected_prompts
    assert expected.keys() < {video.id for video in listed}
    waits = [wait for client in clients for wait in client.waits]
    times = sorted(taken for client in clients for taken in client.times)
    p95 = times[int(0.95 * len(times))]
    sys.stdout.write(
        f"\n{len(times)} status calls: median {1e3 * times[len(times) // 2]:.1f} ms, p95 "
        f"{1e3 * p95:.1f} ms; memory {before:.1f} MB, then {after:.1f} MB; {len(waits)} were 429, "
        f"{sum(client.conflicts for client in clients)} were 409; load {os.getloadavg()}\n"
    )
    assert waits and all(1 <= wait <= 3600 for wait in waits)
    assert p95 < 0.05 * max(1, os.getloadavg()[0] / len(os.sched_getaffinity(0)))
    assert after < before + 20
    assert server.stop() == (0, "False")
