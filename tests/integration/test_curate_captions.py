"""`t2v curate` with captions from files, a table and names: topics, balance, the page, the card."""

import json

import numpy as np
import pytest

from t2v.cli import main
from t2v.manifest import read_manifest
from t2v.video import write_video

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
    words = ["curate", str(footage), "-o", str(output), *settings, *loose]
    assert main(words) == 0
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
    stats = json.loads((output / "stats.json").read_text())
    assert [row["dropped"] for row in stats["stages"][-3:]] == [1, 0, 1]
    assert "| stage | clips in | dropped | out |" in (output / "DATA.md").read_text()
    first = (output / "manifest.jsonl").read_bytes()
    assert main(words) == 0
    assert (output / "manifest.jsonl").read_bytes() == first
