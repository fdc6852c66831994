"""`t2v curate` with captions from files, a table and names: topics, balance, the page, the card."""

import json
import threading
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pytest

from t2v.cli import main
from t2v.config.curation import CurateConfig
from t2v.curation.report.page import score_meanings
from t2v.io.manifest import read_manifest
from t2v.io.video import write_video

CAPTIONS = (
    "A red <b>ball</b> rolls over the grass.",
    "A red ball jumps on the grass. A red ball jumps on the grass.",
    "The scene then cuts to a kitchen.",
)


@pytest.fixture
def footage(tmp_path, scene):
    folder = tmp_path / "in"
    folder.mkdir()
    for number, caption in enumerate(CAPTIONS):
        film = np.ascontiguousarray(scene(number + 1, 30, pan=number + 1))
        write_video(folder / f"clip {number}.mp4", film, 24)
        (folder / f"clip {number}.txt").write_text(caption)
    table = "file,caption,source,licence\nclip 0.mp4,a rolling ball,an archive,CC0-1.0\n"
    (folder / "about.csv").write_text(table)
    return folder


def test_footage_becomes_captioned_clips_with_topics_a_page_and_a_card(footage, tmp_path, capsys):
    output = tmp_path / "out"
    settings = ["caption.authors=[sidecar,table]", "topics.count=2", "balance.keep=0.5"]
    loose = ["scenes.min_seconds=0.5", "quality.min_sharpness=0", "skip=[dedup]", "workers=1"]
    (tmp_path / "prompts.txt").write_text("a red ball on grass\na chef chops onions\n")
    asked = f"topics.prompts={tmp_path / 'prompts.txt'}"
    words = ["curate", str(footage), "-o", str(output), *settings, *loose, asked]
    assert main(words) == 0
    assert "0 of 2 topics of 2 prompts are rarer in the clips" in capsys.readouterr().err
    clips = read_manifest(output)
    assert [clip.caption for clip in clips] == [
        "A red <b>ball</b> rolls over the grass.",
        "A red ball jumps on the grass.",
        "",
    ]
    assert [row["author"] for row in clips[0].extra["candidates"]] == ["sidecar", "table"]
    assert clips[2].dropped == "caption"
    assert clips[2].reason == "no caption (sidecar: scene transition; table: nothing)"
    assert sorted(clip.dropped for clip in clips[:2]) == ["", "balance"]
    assert all(clip.extra["topic"] for clip in clips[:2])
    page = (output / "report.html").read_text()
    assert "1 of 3 clips kept" in page and "<b>ball</b>" not in page
    assert page.count("data:image/jpeg;base64,") == 3
    explained = score_meanings(CurateConfig(input="in", output="out"))
    assert {name for clip in clips for name in clip.scores} <= set(explained)
    stats = json.loads((output / "stats.json").read_text())
    assert [row["dropped"] for row in stats["stages"][-3:]] == [1, 0, 1]
    assert stats["details"]["object"] == 1 and stats["details"]["camera"] == 0
    assert clips[0].scores["caption_entities"] == 0.6667  # its markup hides the ball
    shown = {row["examples"][0]: row["clips"] for row in stats["demand"]["topics"]}
    assert shown == {"a chef chops onions": 0, "a red ball on grass": 1}
    assert "What users ask for" in page and "a chef chops onions" in page
    assert "| stage | clips in | dropped | out |" in (output / "DATA.md").read_text()
    first = (output / "manifest.jsonl").read_bytes()
    assert main(words) == 0
    assert (output / "manifest.jsonl").read_bytes() == first


class Flaky(BaseHTTPRequestHandler):
    """Answers 500 `server.failures` times, then captions, each after `server.seconds`."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        time.sleep(self.server.seconds)
        status = 500 if self.server.asked <= self.server.failures else 200
        self.send_response(status)
        self.end_headers()
        answer = {"choices": [{"message": {"content": "A meadow in the wind."}}]}
        with suppress(BrokenPipeError):  # who asked has been ended
            self.wfile.write(json.dumps(answer).encode() if status == 200 else b"<b>overloaded</b>")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with HTTPServer(("127.0.0.1", 0), Flaky) as server:
        server.asked = server.failures = server.seconds = 0
        server.address = f"http://127.0.0.1:{server.server_port}/v1#tiny"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_an_endpoint_that_failed_is_asked_again_and_only_for_what_it_did_not_answer(
    footage, tmp_path, endpoint, capsys, monkeypatch
):
    endpoint.failures = 2
    authors = f"caption.authors=[{endpoint.address},table]"
    loose = ["scenes.min_seconds=0.5", "quality.min_sharpness=0", "skip=[dedup]", "workers=1"]
    words = ["curate", str(footage), authors, "caption.retries=0", *loose, "-o"]
    broken, whole = tmp_path / "bro ken", tmp_path / "whole"
    assert main([*words, str(broken)]) == 0
    told = capsys.readouterr().err
    clips = read_manifest(broken)
    assert [clip.caption for clip in clips] == ["a rolling ball", "", "A meadow in the wind."]
    assert [clip.extra.get("unanswered") for clip in clips] == [[endpoint.address]] * 2 + [None]
    silent = f"{endpoint.address}: no answer: HTTP 500: <b>overloaded</b>"
    assert (clips[1].dropped, clips[1].reason) == (
        "caption",
        f"no caption ({silent}; table: nothing)",
    )
    assert f"{endpoint.address}: no answer for 2 (1 of 3 clips dropped" in told
    assert f"t2v curate --config '{broken}/config.yaml'" in told
    page = (broken / "report.html").read_text()
    assert "no answer for 2" in page and "<b>overloaded</b>" not in page
    assert main(["curate", "--config", str(broken / "config.yaml")]) == 0
    assert endpoint.asked == 5
    assert main([*words, str(whole)]) == 0
    assert endpoint.asked == 8
    same = [(folder / "manifest.jsonl").read_bytes() for folder in (broken, whole)]
    assert same[0] == same[1] and b"unanswered" not in same[0]
    monkeypatch.setattr("t2v.curation.run.RULES", 1e9)  # captions are judged by rules too
    assert main([*words, str(whole)]) == 0
    assert endpoint.asked == 11


def test_what_took_too_long_is_done_again_with_more_time(footage, tmp_path, endpoint):
    words = ["curate", str(footage), "-o", str(tmp_path / "out"), "scenes.min_seconds=0.5"]
    words += ["quality.min_sharpness=0", "skip=[dedup]", "workers=1"]
    words += [f"caption.authors=[{endpoint.address},sidecar]"]
    assert main([*words, "seconds_per_file=0.01"]) == 0
    clips = read_manifest(tmp_path / "out")
    assert {(clip.dropped, clip.reason) for clip in clips} == {
        ("failed", "took longer than 0.01 s")
    }
    assert main([*words, "skip=[dedup,caption]"]) == 0
    endpoint.seconds = 0.5
    assert main([*words, "seconds_per_file=0.1"]) == 0
    clips = read_manifest(tmp_path / "out")
    assert {(clip.dropped, clip.reason) for clip in clips} == {
        ("caption", "no answer: took longer than 0.1 s")
    }
    endpoint.seconds = 0
    assert main(words) == 0
    clips = read_manifest(tmp_path / "out")
    assert {clip.caption for clip in clips} == {"A meadow in the wind."}


def test_rights_go_from_the_table_by_the_manifest_into_the_card_of_a_fine_tuned_model(
    footage, tmp_path, pipe, capsys
):
    output = tmp_path / "out"
    words = ["curate", str(footage), "-o", str(output), "files=cut", "workers=1"]
    loose = ["scenes.min_seconds=0.5", "quality.min_sharpness=0", "skip=[dedup,topics,balance]"]
    assert main([*words, *loose, "caption.authors=[filename]"]) == 0
    pipe.register_to_config(num_frames=5, height=16, width=32)
    pipe.save_pretrained(tmp_path / "base")
    tune = ["finetune", f"model={tmp_path}/base", f"data={output}/manifest.jsonl", "steps=1"]
    sizes = ["batch_size=2", "held_out=1", "lora.rank=1", f"output={tmp_path}/tuned"]
    assert main([*tune, *sizes]) == 0, capsys.readouterr().err
    card = (tmp_path / "tuned/checkpoint-000001/README.md").read_text()
    assert "| an archive | CC0-1.0 | 1 | 0 |" in card
    assert "| unknown | unknown | 1 | 1 |" in card
    assert "3 clips, 0.1 minutes, kept of 3 from 3 files" in card
