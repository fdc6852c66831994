"""Scenes of long clips: a captioner that sees one window at a time tells where each act begins."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest
import torch
from PIL import Image

from t2v.config.captions import CaptionConfig
from t2v.curation.text.caption import UNANSWERED
from t2v.curation.text.caption import caption as captioned
from t2v.curation.text.timeline import timeline
from t2v.errors import UserError
from t2v.io.manifest import Clip
from t2v.io.video import write_video
from t2v.world.grammar import caption
from t2v.world.story import even_starts, random_story

WINDOW = 16


def acts_of(count, seed):
    """The first frames and the captions of a story of the world."""
    generator = torch.Generator().manual_seed(seed)
    story = random_story(generator, even_starts(count))
    return story.starts, [caption(scene, generator) for scene in story.scenes]


def teller(starts, captions, num_frames, muddled=0):
    """Tells of a window the act that has most of its frames; within `muddled` frames of even
    shares, something else."""
    ends = (*starts[1:], num_frames)

    def tell(first, last):
        tell.asked += 1
        shares = [max(0, min(last, e) - max(first, s)) for s, e in zip(starts, ends, strict=True)]
        ranked = sorted(range(len(shares)), key=lambda n: -shares[n])
        if len(ranked) > 1 and shares[ranked[0]] - shares[ranked[1]] < muddled:
            return "a blurred picture of everything"
        return captions[ranked[0]]

    tell.asked = 0
    return tell


@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.parametrize("muddled", [0, 4])
def test_boundaries_of_acts_are_found_within_four_frames_and_captions_exactly(count, muddled):
    for seed in range(20):
        starts, captions = acts_of(count, seed)
        num_frames = starts[-1] + 17
        tell = teller(starts, captions, num_frames, muddled)
        scenes = timeline(tell, num_frames, WINDOW)
        assert [each["caption"] for each in scenes] == captions
        assert all(
            abs(each["start"] - start) <= 4 for each, start in zip(scenes, starts, strict=True)
        )
        ends = [each["end"] for each in scenes]
        assert [each["start"] for each in scenes] == [0, *ends[:-1]] and ends[-1] == num_frames
        assert tell.asked <= 2 * num_frames / WINDOW + 8 * (count - 1) * (1 + bool(muddled))


def test_neighbours_that_tell_more_or_less_of_one_scene_are_joined():
    texts = iter(["a red ball", "the red ball on grass", "", "a red ball", "red ball on grass"])
    scenes = timeline(lambda first, last: next(texts, "a red ball"), 40, WINDOW)
    assert scenes == [{"start": 0, "end": 40, "caption": "the red ball on grass"}]


def test_a_short_clip_is_one_scene_and_a_silent_captioner_tells_none():
    assert timeline(lambda a, b: f"a cat {a} {b}", 16, WINDOW) == [
        {"start": 0, "end": 16, "caption": "a cat 0 16"}
    ]
    assert timeline(lambda a, b: "", 16, WINDOW) == timeline(lambda a, b: "", 64, WINDOW) == []


class Looker(BaseHTTPRequestHandler):
    """Tells the colour of most of the pictures that it is sent, as often as `server.answers`."""

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.answers -= 1
        self.send_response(200 if self.server.answers >= 0 else 400)
        self.end_headers()
        means = []
        for part in body["messages"][0]["content"][1:]:
            data = base64.b64decode(part["image_url"]["url"].partition(",")[2])
            means.append(np.asarray(Image.open(io.BytesIO(data))).reshape(-1, 3).mean(0).argmax())
        said = f"A wall that is {('red', 'green', 'blue')[np.bincount(means).argmax()]}."
        self.wfile.write(json.dumps({"choices": [{"message": {"content": said}}]}).encode())

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint():
    server = HTTPServer(("127.0.0.1", 0), Looker)
    server.answers = 1000
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def clip(tmp_path):
    """Frames 5 to 65 of a film: red, from frame 21 green, from frame 42 blue."""
    frames = np.zeros((65, 32, 48, 3), np.uint8)
    for number, start in enumerate((0, 26, 47)):
        frames[start:, ..., :] = np.eye(3, dtype=np.uint8)[number] * 200
    write_video(tmp_path / "film.mp4", frames, 20)
    facts = {"start": 0.25, "end": 3.25, "fps": 20.0, "num_frames": 60, "width": 48, "height": 32}
    return Clip(path=str(tmp_path / "film.mp4"), **facts)


def test_a_captioner_that_sees_windows_of_a_film_tells_its_scenes_in_its_row(clip, endpoint):
    author = f"http://127.0.0.1:{endpoint.server_port}/v1#looker"
    config = CaptionConfig(authors=(author,), frames=8, window=0.8, retries=0)
    scenes = captioned(clip, config).extra["scenes"]
    assert [each["caption"] for each in scenes] == [
        f"A wall that is {colour}." for colour in ("red", "green", "blue")
    ]
    assert all(
        abs(each["start"] - start) <= 4 for each, start in zip(scenes, (0, 21, 42), strict=True)
    )
    assert scenes[-1]["end"] == 60
    endpoint.answers = 4  # the clip's own caption, and three of its windows
    silent = captioned(clip, config)
    assert silent.extra[UNANSWERED] == [author] and "scenes" not in silent.extra


def test_windows_without_anyone_who_sees_them_are_refused():
    with pytest.raises(UserError, match=r"caption.window=2.0: .* must name who sees the windows"):
        CaptionConfig(window=2.0)
