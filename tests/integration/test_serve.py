"""The server as OpenAI's client and hostile ones see it: a process of its own, and its queue."""

import http.client
import io
import json
import os
import signal
import socket
import subprocess
import sys
import time
import warnings
from contextlib import contextmanager, suppress
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2v.io.video import write_video
from t2v.queue.claims import claimed, end
from t2v.queue.folder import Queue
from t2v.queue.store import tell

openai = pytest.importorskip("openai", reason="the extra `test` is not installed whole")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

TOKEN = "a-token-of-these-tests"
PROMPT = "a red ball rolls on the grass"
RUN = """
import sys
from t2v.cli import main
if __name__ == "__main__":
    code = main(sys.argv[1:])
    print("torch" in sys.modules)
    sys.exit(code)
"""


class Served:
    """A server in a process of its own."""

    def __init__(self, folder, *settings, token=TOKEN):
        self.folder, self.token = folder, token
        (folder.parent / "run.py").write_text(RUN)
        line = [sys.executable, str(folder.parent / "run.py"), "serve", str(folder), "port=0"]
        self.process = subprocess.Popen(
            [*line, *settings],
            stdout=subprocess.PIPE,
            stderr=(folder.parent / "log.txt").open("a"),
            text=True,
            env={**os.environ, "T2V_TOKEN": token},
            start_new_session=True,
        )
        self.url = self.process.stdout.readline().strip()
        self.port = int(self.url.rpartition(":")[2])
        self.queue, self.clients = Queue(folder), []

    @cached_property
    def client(self):
        return self.new_client()

    def new_client(self):
        client = openai.OpenAI(base_url=f"{self.url}/v1", api_key=self.token, max_retries=0)
        self.clients.append(client)
        return client

    def ask(self, method, path, body=None, **headers):
        """The status, headers and content of an answer, without OpenAI's client."""
        given = {"Authorization": f"Bearer {self.token}"}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}
        line = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        line.request(method, path, body, {k: v for k, v in given.items() if v is not None})
        answer = line.getresponse()
        content = answer.read()
        line.close()
        return answer.status, answer.headers, content

    def refused(self, *args, **headers):
        status, _, content = self.ask(*args, **headers)
        error = json.loads(content)["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert str(self.folder) not in error["message"]
        return status, error["code"]

    def create(self, **fields):
        return self.refused("POST", "/v1/videos", json.dumps(fields), Content_Type=JSON)

    def connection(self, *lines):
        """A bare connection that has sent some lines."""
        line = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        line.sendall("\r\n".join(lines).encode())
        return line

    def stop(self):
        for client in self.clients:
            client.close()
        self.process.send_signal(signal.SIGTERM)
        told, _ = self.process.communicate(timeout=90)
        return self.process.returncode, told.splitlines()[-1]


JSON = "application/json"


@pytest.fixture(autouse=True)
def quiet():
    """OpenAI's client calls its own videos deprecated, and leaves sockets to the collector."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    limits = ("max_queued=3", "max_upload=0.2", "max_streams=1", "patience=1", "max_prompt=100")
    server = Served(tmp_path_factory.mktemp("served") / "queue", "devices=[]", *limits)
    yield server
    code, has_torch = server.stop()
    assert (code, has_torch) == (0, "False")


@pytest.fixture
def server(served):
    """The server with an empty queue."""
    for job in served.queue.jobs():
        served.queue.delete(job.id, "deleted")
    return served


@contextmanager
def made(queue, frames=5):
    """A job as a worker takes and ends it, with a video of noise."""
    with claimed(queue.store) as job:
        yield job
        pixels = np.random.default_rng(0).integers(0, 256, (frames, 32, 48, 3), np.uint8)
        write_video(job.output, pixels, fps=8)
        settings = {"num_frames": frames, "fps": 8, "width": 48, "height": 32, "upscale": 1}
        job.output.with_suffix(".json").write_text(json.dumps({"settings": settings}))
        end(queue.store, job, "done", {"message": "", "seconds": 7, "time": time.time()})


def png(size=(48, 32), colour="red"):
    kept = io.BytesIO()
    Image.new("RGB", size, colour).save(kept, "PNG")
    return kept.getvalue()


def test_the_calls_of_openais_client_work_as_they_are(server):
    client = server.client
    assert [model.id for model in client.models.list()] == ["t2v-tiny"]
    assert client.models.retrieve("t2v-tiny").object == "model"
    video = client.videos.create(prompt=PROMPT, model="t2v-tiny", seconds="4", size="256x192")
    assert (video.status, video.progress, video.seconds, video.size) == (
        *("queued", 0, "4", "256x192"),
    )
    (job,) = server.queue.jobs()
    assert {**job.settings, "seed": 0} == {
        **{"model": "t2v-tiny", "duration": 4.0, "width": 64, "height": 48, "upscale": 4},
        "seed": 0,
    }
    with made(server.queue) as job:
        tell(job.files / "progress.json", {"share": 0.25})
        video = client.videos.retrieve(video.id)
        assert (video.status, video.progress) == ("in_progress", 25)
    video = client.videos.poll(video.id)
    assert (video.status, video.progress, video.seconds, video.size) == (
        *("completed", 100, "0.625", "48x32"),
    )
    assert video.completed_at >= video.created_at
    content = client.videos.download_content(video.id).read()
    assert content == job.output.read_bytes()
    picture = client.videos.download_content(video.id, variant="thumbnail").read()
    assert Image.open(io.BytesIO(picture)).format == "WEBP"
    assert client.videos.delete(video.id).deleted
    assert not job.output.exists() and server.queue.jobs() == []
    with pytest.raises(openai.NotFoundError, match="no video of this id"):
        client.videos.retrieve(video.id)


def test_videos_are_listed_in_pages(server):
    ids = [server.client.videos.create(prompt=f"{PROMPT} {number}").id for number in range(3)]
    assert [video.id for video in server.client.videos.list(limit=2)] == ids[::-1]
    first = server.client.videos.list(limit=2, order="asc")
    assert [video.id for video in first.data] == ids[:2] and first.has_more
    after = server.client.videos.list(after=ids[1], order="asc")
    assert [video.id for video in after.data] == ids[2:] and not after.has_more


def test_parts_of_a_video_are_sent(server):
    video = server.client.videos.create(prompt=PROMPT)
    with made(server.queue) as job:
        path = f"/v1/videos/{video.id}/content"
        assert server.refused("GET", path) == (400, "video_not_ready")
    status, headers, part = server.ask("GET", path, Range="bytes=4-7")
    assert (status, part) == (206, b"ftyp")
    assert headers["Content-Range"] == f"bytes 4-7/{job.output.stat().st_size}"
    status, headers, content = server.ask("GET", path, Range="bytes=99999999-")
    assert (status, json.loads(content)["error"]["code"]) == (416, "range_not_satisfiable")
    assert headers["Content-Range"] == f"bytes */{job.output.stat().st_size}"
    assert server.refused("GET", path, Range="lines=1-2") == (400, "invalid_range")


def test_a_picture_is_decoded_and_kept_as_long_as_its_video(server):
    video = server.client.videos.create(prompt=PROMPT, input_reference=("../a.png", png()))
    (job,) = server.queue.jobs()
    kept = Path(job.settings["image"])
    assert kept.parent == server.folder / "uploads" and Image.open(kept).size == (48, 32)
    server.client.videos.delete(video.id)
    assert list(kept.parent.iterdir()) == []
    with pytest.raises(openai.BadRequestError, match="no picture or clip that can be read"):
        server.client.videos.create(prompt=PROMPT, input_reference=("a.png", png()[:60]))
    assert list(kept.parent.iterdir()) == [] and server.queue.jobs() == []


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({}, "missing_required_parameter"),
        ({"prompt": " "}, "invalid_value"),
        ({"prompt": "a" * 101}, "invalid_value"),
        ({"prompt": "\ud800"}, "invalid_value"),
        ({"prompt": ["a"]}, "invalid_value"),
        ({"prompt": "a", "model": "/etc"}, "model_not_found"),
        ({"prompt": "a", "model": ["t2v-tiny"]}, "model_not_found"),
        ({"prompt": "a", "seconds": "11"}, "invalid_value"),
        ({"prompt": "a", "seconds": "nan"}, "invalid_value"),
        ({"prompt": "a", "size": "99999x99999"}, "invalid_value"),
        ({"prompt": "a", "size": "0x64"}, "invalid_value"),
        ({"prompt": "a", "size": "65x65"}, "invalid_value"),
        ({"prompt": "a", "size": "\uff16\uff14x64"}, "invalid_value"),
        ({"prompt": "a", "seed": -1}, "invalid_value"),
        ({"prompt": "a", "seed": True}, "invalid_value"),
        ({"prompt": "a", "num_inference_steps": 101}, "invalid_value"),
        ({"prompt": "a", "guidance_scale": "much"}, "invalid_value"),
        ({"prompt": "a", "output": "/tmp/x.mp4"}, "unknown_parameter"),
        ({"prompt": "a", "image": "/etc/passwd"}, "unknown_parameter"),
        ({"prompt": "a", "input_reference": "/etc/passwd"}, "invalid_value"),
        ({"prompt": "a", "input_reference": {"image_url": "http://10.0.0.1/"}}, "invalid_value"),
        ({"prompt": "a", "input_reference": {"image_url": "file:///etc/passwd"}}, "invalid_value"),
        (
            {"prompt": "a", "input_reference": {"image_url": "data:image/png;base64,!"}},
            "invalid_value",
        ),
    ],
    ids=lambda value: None if isinstance(value, dict) else value,
)
def test_a_field_that_is_wrong_is_refused_and_named(server, fields, code):
    status, given = server.create(**fields)
    assert (status, given) == (404 if code == "model_not_found" else 400, code)
    assert server.queue.jobs() == []


def test_a_body_that_is_no_request_is_refused(server):
    post = "POST", "/v1/videos"
    assert server.refused(*post, "{", Content_Type=JSON) == (400, "invalid_json")
    assert server.refused(*post, "[" * 100_000, Content_Type=JSON) == (400, "invalid_json")
    assert server.refused(*post, "a=b", Content_Type="text/plain") == (415, "unsupported_type")
    assert server.refused(*post, "a", Content_Type="multipart/form-data")[0] == 400


def test_a_full_queue_says_when_to_come_again(server):
    for _ in range(4):
        server.queue.add({"prompt": PROMPT, "settings": {}})
    with made(server.queue):
        pass
    body = json.dumps({"prompt": PROMPT})
    status, headers, content = server.ask("POST", "/v1/videos", body, Content_Type=JSON)
    assert (status, headers["Retry-After"]) == (429, "7")
    assert json.loads(content)["error"]["code"] == "queue_full"


def test_only_this_host_its_own_pages_and_its_token_pass(server):
    path = "/v1/videos"
    assert server.refused("GET", path, Authorization=None) == (401, "invalid_api_key")
    assert server.refused("GET", path, Authorization="Bearer x") == (401, "invalid_api_key")
    assert server.refused("GET", path, Authorization=f"Basic {TOKEN}") == (401, "invalid_api_key")
    for host in ("evil.example", f"localhost.evil.example:{server.port}", "a@localhost", ""):
        assert server.refused("GET", path, Host=host) == (403, "host_not_allowed")
    for host in ("localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"):
        assert server.ask("GET", path, Host=host)[0] == 200
    for origin in ("https://evil.example", "null", "http://localhost:1"):
        assert server.refused("GET", path, Origin=origin) == (403, "origin_not_allowed")
    assert server.refused("GET", path, Sec_Fetch_Site="cross-site")[0] == 403
    status, headers, _ = server.ask("GET", path, Origin=f"http://127.0.0.1:{server.port}")
    assert status == 200
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    assert "Server" not in headers
    assert server.ask("GET", "/health", Authorization=None)[0] == 200


@pytest.mark.parametrize(
    "id", ["..", "%2e%2e%2fqueue.json", "video_" + "0" * 32, "a" * 5000, "*", "video_..%2f.."]
)
def test_an_id_that_is_none_finds_nothing(server, id):
    for path in (f"/v1/videos/{id}", f"/v1/videos/{id}/content", f"/v1/videos/{id}/events"):
        assert server.refused("GET", path)[0] == 404
    assert server.refused("DELETE", f"/v1/videos/{id}")[0] == 404


def test_a_video_outside_of_the_queue_is_not_sent(server, tmp_path):
    server.queue.add({"prompt": PROMPT, "settings": {"output": str(tmp_path / "own.mp4")}})
    with made(server.queue) as job:
        pass
    assert server.refused("GET", f"/v1/videos/{job.id}/content") == (400, "video_not_ready")
    assert server.ask("DELETE", f"/v1/videos/{job.id}")[0] == 200
    assert job.output.exists()


def test_a_body_that_is_too_long_is_refused_whether_it_says_so_or_not(server):
    form = {"Content_Type": "multipart/form-data; boundary=x"}
    assert server.refused("POST", "/v1/videos", None, Content_Length="9" * 9, **form)[0] == 413

    def pieces():
        yield b'--x\r\nContent-Disposition: form-data; name="input_reference"; filename="a"\r\n\r\n'
        for _ in range(40):
            yield b"a" * 10_000

    with suppress(BrokenPipeError, ConnectionResetError):
        status, code = server.refused("POST", "/v1/videos", pieces(), **form)
        assert (status, code) == (413, "request_too_large")
    assert server.queue.jobs() == []


def test_events_tell_progress_previews_and_the_end(server):
    video = server.client.videos.create(prompt=PROMPT)
    token = f"Authorization: Bearer {TOKEN}"
    path = f"GET /v1/videos/{video.id}/events HTTP/1.1"
    with server.connection(path, "Host: localhost", token, "", "") as line:
        events = line.makefile()
        assert "text/event-stream" in "".join(iter(events.readline, "\n"))
        assert _next(events)[0] == "progress"
        assert server.refused("GET", f"/v1/videos/{video.id}/events") == (503, "too_many_streams")
        with made(server.queue) as job:
            assert _next(events)[1]["status"] == "in_progress"
            (job.files / "preview.png").write_bytes(png())
            assert _next(events)[0] == "preview"
        name, last = _next(events)
        assert (name, last["status"]) == ("done", "completed")
    # a client that leaves in the middle frees its place
    server.client.videos.delete(video.id)
    video = server.client.videos.create(prompt=PROMPT)
    path = f"GET /v1/videos/{video.id}/events HTTP/1.1"
    for _ in range(2):
        deadline = time.monotonic() + 5
        while b"t2v_streams 0.0" not in server.ask("GET", "/metrics")[2]:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        with server.connection(path, "Host: localhost", token, "", "") as line:
            assert b"200 OK" in line.recv(1000)


def _next(events):
    """The name and data of the next event."""
    name = data = None
    for text in iter(events.readline, ""):
        if text.startswith("event: "):
            name = text.split()[1]
        elif text.startswith("data: "):
            data = json.loads(text[6:])
        elif text == "\n" and name:
            return name, data
    raise AssertionError("the stream ended")


def test_slow_clients_are_cut(server):
    token = f"Authorization: Bearer {TOKEN}"
    slow = [
        ("GET /v1/videos HTTP/1.1", "Host: loc"),
        ("",),
        (
            *("POST /v1/videos HTTP/1.1", "Host: localhost", token),
            *("Content-Type: application/json", "Content-Length: 50", "", '{"prompt"'),
        ),
    ]
    lines = [server.connection(*each) for each in slow]
    began = time.monotonic()
    for line in lines:
        with line, suppress(ConnectionResetError):
            assert line.recv(100) == b""
    assert time.monotonic() - began < 5
    assert server.ask("GET", "/v1/videos")[0] == 200
