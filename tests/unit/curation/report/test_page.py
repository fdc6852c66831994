"""The page adds up, shows what it should, and takes nothing the footage says for markup."""

import re
import shutil
import subprocess
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from t2v.config.curation import CurateConfig
from t2v.config.load import save_config
from t2v.curation.report.page import duration, histograms, write_report
from t2v.curation.report.tables import funnel, reasons, rights, shared_captions
from t2v.io.manifest import Clip

EVIL = """<script>alert("x")</script>'"><img src=x onerror=alert(1)>&amp; {{ 7*7 }} \u202egpj"""
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def footage(folder: Path) -> tuple[list[Clip], dict]:
    """Five clips: two kept, a copy of the first, a still one, and one that is unreadable."""
    shared = {
        "source": "an | archive",
        "license": "CC0-1.0",
        "width": 64,
        "height": 48,
        "fps": 25.0,
    }
    ids = [f"{i:032x}" for i in range(5)]
    candidates = [{"author": "sidecar", "text": EVIL, "score": 0.5}]
    candidates += [{"author": EVIL, "text": "cut to: a bar", "verdict": "scene transition"}]
    extra = {"candidates": candidates, "caption_author": "sidecar", "topic": EVIL}
    extra |= {"topic_judge": "caption"}
    first = Clip(path=f"/in/{EVIL.replace('/', '')}.mp4", end=2.0, caption=EVIL, tags=(EVIL,),
                 scores={"motion": 1.0}, extra={"id": ids[0], **extra}, **shared)  # fmt: skip
    second = Clip(path="/in/b.mp4", end=4.0, scores={"motion": 3.0}, extra={"id": ids[1]}, **shared)
    copy = Clip(path="/in/copy.mp4", end=2.0, scores={"motion": 1.1}, **shared,
                extra={"id": ids[2], "duplicate_of": ids[0]})  # fmt: skip
    still = Clip(path="/in/still.mp4", end=1.0, scores={"motion": 0.0}, extra={"id": ids[3]})
    broken = Clip(path="/in/broken.mp4", extra={"id": "../../etc/passwd"})
    (folder / "thumbs").mkdir(parents=True)
    for number, name in enumerate(ids[:4]):
        Image.fromarray(np.full((24, 96, 3), 60 * number, np.uint8)).save(
            folder / "thumbs" / f"{name}.jpg"
        )
    clips = [
        first,
        second,
        copy.drop("dedup", f"shows what {EVIL} shows, 0.00-2.00 s (correlation 0.97)"),
        still.drop("motion", "0.01 is under 0.3"),
        broken.drop("failed", EVIL),
    ]
    stages = [
        {"stage": "motion", "in": 4, "dropped": 1, "out": 3, "seconds": 0.5},
        {"stage": "dedup", "in": 3, "dropped": 1, "out": 2, "seconds": 0.0},
    ]
    stats = {"files": 5, "clips": 5, "kept": 2, "dropped": 2, "failed": 1, "decode_seconds": 1.5}
    return clips, stats | {"stages": stages, "unanswered": ""}


@pytest.fixture
def page(tmp_path) -> Path:
    config = CurateConfig(input="in", output=str(tmp_path))
    clips, stats = footage(tmp_path)
    save_config(config, tmp_path / "config.yaml")
    return write_report(tmp_path, clips, stats, config)


class Elements(HTMLParser):
    """Every element and its attributes, and the words between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def test_nothing_the_footage_says_becomes_an_element_or_an_attribute(page):
    read = Elements(page.read_text())
    tags = [tag for tag, _ in read.found]
    assert "script" not in tags
    assert not [key for _, attrs in read.found for key in attrs if key.startswith("on")]
    pictures = [attrs["src"] for tag, attrs in read.found if tag == "img"]
    assert pictures and all(each.startswith("data:image/jpeg;base64,") for each in pictures)
    links = [attrs["href"] for tag, attrs in read.found if tag == "a"]
    ids = {attrs["id"] for _, attrs in read.found if "id" in attrs}
    assert all(link.startswith("#") and link[1:] in ids for link in links)
    assert '<script>alert("x")</script>' in read.text
    assert "{{ 7*7 }}" in read.text and "\u202e" not in page.read_text()
    assert not re.search(r"https?://", page.read_text())
    assert "passwd" not in page.read_text()


def test_the_funnel_adds_up_to_the_input(tmp_path):
    clips, stats = footage(tmp_path)
    rows = funnel(stats)
    assert [row["stage"] for row in rows] == ["read", "motion", "dedup"]
    assert rows[0]["in"] == len(clips) == sum(row["dropped"] for row in rows) + rows[-1]["out"]
    assert all(a["out"] == b["in"] for a, b in pairwise(rows))
    assert (rows[1]["passed"], rows[1]["rate"], rows[2]["rate"]) == (0.75, 8.0, None)
    assert sum(count for _, _, count in reasons(clips)) == 3
    assert ("motion", "… is under …", 1) in reasons(clips)


def test_histograms_count_every_clip_that_has_the_score(tmp_path):
    clips, _ = footage(tmp_path)
    seconds, motion = histograms(clips)
    assert (seconds["name"], seconds["count"], motion["count"]) == ("seconds", 4, 4)
    assert (motion["low"], motion["high"], motion["median"]) == (0.0, 3.0, 1.05)
    told = [re.findall(r"(\d+) kept, (\d+) dropped", bar["title"])[0] for bar in motion["bars"]]
    assert [sum(map(int, column)) for column in zip(*told, strict=True)] == [2, 2]
    [alike] = histograms([Clip(path="/x", scores={"s": 2.0})] * 3)
    assert len(alike["bars"]) == 1


def test_duplicates_stand_beside_what_stays(page):
    section = page.read_text().split('<h2 id="duplicates">')[1].split("</section>")[0]
    assert section.count("<article") == 2
    assert section.index("copy.mp4") < section.index("0.00 to 2.00 s", section.index("<article", 9))


def test_clips_that_share_the_caption_of_their_file_are_counted(tmp_path):
    clips, _ = footage(tmp_path)
    assert shared_captions(clips) == 0
    parts = [Clip(path="/x", start=i, end=i + 1.0, caption="both") for i in range(2)]
    assert shared_captions([*clips, *parts, parts[0].drop("motion", "still")]) == 2


def test_rights_are_counted_by_source_and_licence(tmp_path, page):
    clips, _ = footage(tmp_path / "again")
    assert rights(clips) == [
        {"source": "an | archive", "license": "CC0-1.0", "files": 3, "clips": 3, "kept": 2,
         "seconds": 6.0},
        {"source": "unknown", "license": "unknown", "files": 2, "clips": 2, "kept": 0,
         "seconds": 0.0},
    ]  # fmt: skip
    card = (page.parent / "DATA.md").read_text()
    assert "2 clips, 0.1 minutes, kept of 5 from 5 files" in card
    assert r"| an \| archive | CC0-1.0 | 3 | 2 | 0.1 |" in card
    assert "<script" not in card.replace(r"\<script", "")


@pytest.mark.skipif(CHROMIUM is None, reason="needs Debian's chromium")
def test_a_browser_opens_it_without_a_complaint(page, tmp_path):
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic",
        "--no-first-run", "--disable-background-networking", "--disable-component-update",
        "--disable-sync", "--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}",
        "--virtual-time-budget=2000", "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    assert "2 of 5 clips kept" in done.stdout
    assert "<script" not in done.stdout
    assert "CONSOLE" not in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(9.04, "9.04 seconds"), (119, "119 seconds"), (150, "2.5 minutes"), (7200, "2 hours")],
)
def test_durations_have_a_unit_that_reads_well(seconds, words):
    assert duration(seconds) == words
