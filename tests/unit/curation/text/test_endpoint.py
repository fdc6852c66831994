"""An OpenAI-compatible server of our own: what it is sent, when it is asked again, what stops."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
from PIL import Image

from t2v.config.captions import CaptionConfig
from t2v.curation.text.endpoint import ask
from t2v.errors import UserError
from t2v.io import chat
from t2v.io.chat import NoAnswer

FRAMES = [np.full((24, 32, 3), level, np.uint8) for level in (20, 200)]
CAPTION = {"choices": [{"message": {"content": " A cat. "}}]}


class Server(HTTPServer):
    """Gives the answers of `script` one after the other, the last for ever; keeps requests."""

    script: list[tuple[int, object]]

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.script, self.requests = [(200, CAPTION)], []
        self.address = f"http://127.0.0.1:{self.server_port}/v1#tiny"


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        server = self.server
        body = self.rfile.read(int(self.headers["Content-Length"]))
        server.requests.append((self.path, dict(self.headers), json.loads(body)))
        status, answer = server.script.pop(0) if len(server.script) > 1 else server.script[0]
        self.send_response(status)
        if status == 302:
            self.send_header("Location", f"http://127.0.0.1:{server.server_port}/elsewhere")
        self.end_headers()
        self.wfile.write(answer if isinstance(answer, bytes) else json.dumps(answer).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(chat, "FIRST_WAIT", 0.01)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_server_gets_model_prompt_key_and_the_frames_as_jpeg(server, monkeypatch):
    monkeypatch.setenv("MY_KEY", "secret")
    config = CaptionConfig(prompt="What is it?", max_new_tokens=7, key_variable="MY_KEY")
    assert ask(server.address, FRAMES, config) == " A cat. "
    [(path, headers, body)] = server.requests
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("tiny", 7, 0)
    text, *images = body["messages"][0]["content"]
    assert text == {"type": "text", "text": "What is it?"}
    for frame, image in zip(FRAMES, images, strict=True):
        kind, _, data = image["image_url"]["url"].partition(",")
        assert kind == "data:image/jpeg;base64"
        decoded = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))
        assert np.abs(decoded.astype(int) - frame).max() <= 2


def test_without_a_key_in_the_environment_none_is_sent(server):
    ask(server.address, FRAMES, CaptionConfig())
    assert "Authorization" not in server.requests[0][1]


def test_a_refusal_that_may_pass_is_asked_again(server):
    server.script = [(503, b"busy"), (429, b"slow down"), (200, CAPTION)]
    assert ask(server.address, FRAMES, CaptionConfig()) == " A cat. "
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("script", "asked", "message"),
    [
        ([(500, b"out of memory")], 3, "HTTP 500: out of memory"),
        ([(400, b"too many images")], 1, "HTTP 400: too many images"),
        ([(302, b"")], 1, "HTTP 302"),
        ([(200, b"<html>")], 1, "no chat completion: <html>"),
        ([(200, {"choices": []})], 1, "no chat completion"),
        ([(200, {"choices": [{"message": {"content": None}}]})], 1, "without text"),
    ],
)
def test_a_clip_without_answer_says_what_came_instead(server, script, asked, message):
    server.script = script
    with pytest.raises(NoAnswer, match=message):
        ask(server.address, FRAMES, CaptionConfig(retries=2))
    assert len(server.requests) == asked


def test_a_wrong_key_or_address_stops_with_what_to_do(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "very-secret")
    server.script = [(401, b"bad key")]
    with pytest.raises(UserError, match=r"HTTP 401.*OPENAI_API_KEY.*are kept") as caught:
        ask(server.address, FRAMES, CaptionConfig())
    assert "very-secret" not in str(caught.value)
    with pytest.raises(UserError, match=r"cannot be used \(ConnectionRefusedError"):
        ask("http://127.0.0.1:9/v1#x", FRAMES, CaptionConfig(retries=1))


def test_a_server_that_stays_silent_is_given_up_in_time_and_for_this_clip_alone():
    with HTTPServer(("127.0.0.1", 0), Handler) as silent:  # takes the connection, never answers
        address = f"http://127.0.0.1:{silent.server_port}/v1#x"
        with pytest.raises(NoAnswer, match="TimeoutError"):
            ask(address, FRAMES, CaptionConfig(timeout=0.2, retries=0))


KEY = "sk-Very/Secret+123"


@pytest.mark.parametrize("key", ["sk-one\nX-Other: two", "sk one", "sk-\u00e9", "sk\tone", "s\0k"])
def test_a_key_that_cannot_travel_is_refused_by_the_name_of_its_variable(server, monkeypatch, key):
    monkeypatch.setattr(chat.os, "environ", {"MY_KEY": key})
    with pytest.raises(UserError, match="MY_KEY") as caught:
        ask(server.address, FRAMES, CaptionConfig(key_variable="MY_KEY"))
    assert key not in str(caught.value)
    assert "sk" not in str(caught.value)
    assert server.requests == []


def test_a_line_break_at_the_end_of_a_key_is_not_part_of_it(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\n")
    assert ask(server.address, FRAMES, CaptionConfig()) == " A cat. "
    assert server.requests[0][1]["Authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "echo",
    [
        KEY,
        KEY.upper(),
        "sk-Very%2FSecret%2B123",
        "sk-Very/Secret%2B123",
        r"sk-Very\/Secret+123",
        base64.b64encode(f":{KEY}".encode()).decode(),
        base64.b64encode(KEY.encode()).decode(),
    ],
)
@pytest.mark.parametrize("status", [400, 401, 200])
def test_a_key_that_the_server_repeats_is_shown_nowhere(server, monkeypatch, echo, status):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    before = "headers: Authorization: Bearer "
    for answer in (f"{before}{echo}", f"{'x' * (190 - len(before))}{before}{echo} and more"):
        server.script = [(status, answer.encode())]
        with pytest.raises((UserError, NoAnswer)) as caught:
            ask(server.address, FRAMES, CaptionConfig(retries=0))
        assert "Authorization" in str(caught.value)
        assert echo[:8].lower() not in str(caught.value).lower()
    server.script = [(200, {"choices": [{"message": {"content": f"A cat. {echo}"}}]})]
    assert ask(server.address, FRAMES, CaptionConfig()) == "A cat. [the key]"


def test_a_word_that_stands_for_no_key_stays_in_captions(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "cat")
    assert ask(server.address, FRAMES, CaptionConfig()) == " A cat. "


@pytest.mark.parametrize(
    "author",
    [
        "https://me:hunter2@host/v1#x",
        "https://hunter2@host/v1#x",
        "https://me%3Ahunter2%40host/v1#x",
        "https://host/v1?api-key=hunter2#x",
        "https://host/v1%3Fapi-key=hunter2#x",
        "HTTPS://me:hunter2@host/v1#x",
        "https://me:hunter2@host/v1",
        "ftp://me:hunter2@host/v1#x",
        "host/v1?key=hunter2#x",
        "me:hunter2@host/v1#x",
    ],
)
def test_an_address_with_a_secret_is_refused_without_showing_it(author):
    with pytest.raises(UserError, match=r"caption\.authors") as caught:
        CaptionConfig(authors=("sidecar", author))
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize("author", ["http://host:99999/v1#x", "http://host:a/v1#x", "http:///v1#x"])
def test_an_address_without_host_or_port_is_refused(author):
    with pytest.raises(UserError, match=r"HOST:PORT"):
        CaptionConfig(authors=(author,))
    CaptionConfig(authors=("http://127.0.0.1:8000/v1#x", "http://[::1]:8000/v1#org/model"))
