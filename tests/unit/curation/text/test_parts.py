"""Captions of the middle frame and of parts become one, by a rule or by a text model."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from t2v.config.captions import CaptionConfig
from t2v.curation.text.caption import PART, UNANSWERED, caption
from t2v.errors import UserError
from t2v.io.manifest import Clip
from t2v.io.video import write_video

SAID = ["A dog on grass.", "A dog.", "A dog stands. The dog leaps over a fence.", "A dog sleeps."]


class Script(BaseHTTPRequestHandler):
    """Answers with `server.viewer` in turn if it is shown pictures, else `server.written`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        content = body["messages"][0]["content"]
        shown = isinstance(content, list) and len(content) > 1
        if not shown:
            self.server.asked = str(content)
        said = self.server.viewer.pop(0) if shown else self.server.written
        self.send_response(400 if said is None else 200)
        self.end_headers()
        self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Script)
    server.viewer, server.written, server.asked = ["A dog jumps.", *SAID], "", ""
    threading.Thread(target=server.serve_forever, daemon=True).start()
    server.address = f"http://127.0.0.1:{server.server_port}/v1#tiny"
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def clip(tmp_path):
    write_video(tmp_path / "dog.mp4", np.full((24, 32, 48, 3), 90, np.uint8), 8)
    facts = {"end": 3.0, "fps": 8.0, "num_frames": 24, "width": 48, "height": 32}
    return Clip(path=str(tmp_path / "dog.mp4"), **facts)


def merged_of(clip):
    texts = {row["author"].partition(" @ ")[2]: row for row in clip.extra["candidates"]}
    return texts["all parts"]["text"], texts


def test_without_a_writer_sentences_that_add_to_the_middle_are_put_behind_it(clip, endpoint):
    config = CaptionConfig(authors=(endpoint.address,), parts=3, retries=0)
    done = caption(clip, config)
    text, rows = merged_of(done)
    assert done.caption == text and "A dog jumps." in rows[""]["text"]
    assert text == "A dog on grass. A dog stands. The dog leaps over a fence. A dog sleeps."
    assert rows["the middle"]["verdict"] == rows["part 3"]["verdict"] == PART


def test_a_writer_is_believed_where_it_keeps_the_words_of_the_middle(clip, endpoint):
    endpoint.written = "A dog leaps over a fence on grass, then it sleeps."
    config = CaptionConfig(authors=(endpoint.address,), parts=3, writer=endpoint.address, retries=0)
    assert merged_of(caption(clip, config))[0] == endpoint.written
    assert all(text in endpoint.asked.replace("\\n", "\n") for text in SAID)
    endpoint.viewer, endpoint.written = ["A dog jumps.", *SAID], "A cat sleeps."
    assert merged_of(caption(clip, config))[0].startswith("A dog on grass. A dog stands.")


def test_a_part_without_an_answer_is_asked_again(clip, endpoint):
    endpoint.viewer[3] = None
    config = CaptionConfig(authors=(endpoint.address,), parts=3, retries=0)
    assert caption(clip, config).extra[UNANSWERED]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parts": 1, "authors": ("model:x",)}, "caption.parts=1: 2 or more"),
        ({"parts": 3}, "must name who sees the parts"),
        ({"writer": "model:x"}, "Give caption.parts=4"),
        ({"writer": "x", "parts": 3, "authors": ("model:x",)}, "caption.writer=x: allowed are"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        CaptionConfig(**settings)
