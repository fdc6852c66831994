"""Subtitles become captions of the shots in whose time they are said, whatever is in the files."""

import io
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from t2v.config.captions import CaptionConfig
from t2v.curation.run import _key
from t2v.curation.text.caption import caption
from t2v.curation.text.subtitles import said, subtitles
from t2v.footage.subtitles import Cue, read_cues, read_tracks
from t2v.io.manifest import Clip
from t2v.io.video import write_video

SRT = """1
00:00:00,000 --> 00:00:02,000
<i>A brown dog</i> runs &amp; barks. {\\an8}It is wet.

2
00:00:02,100 --> 00:00:03,900
[door slams]
- A cat sits down.

3
00:00:09,000 --> 00:00:08,000
backwards

4
00:00:xx,000 --> 00:00:05,000
no time at all
"""
VTT = """WEBVTT

NOTE not said

STYLE
::cue { color: red }

00:00.000 --> 00:01.900 align:start
<v Bob>A <c.red>dog</c><00:00:01.000> runs

00:02.000 --> 00:03.900
A dog runs
A cat sits down.
"""


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Path:
    """Four seconds of grey, 32 x 48."""
    path = tmp_path_factory.mktemp("films") / "a [film].mp4"
    write_video(path, np.full((32, 32, 48, 3), 90, np.uint8), 8)
    return path


@pytest.fixture
def clip(film, tmp_path) -> Clip:
    path = tmp_path / film.name
    path.write_bytes(film.read_bytes())
    return Clip(path=str(path), start=0.0, end=2.0, width=48, height=32)


def beside(clip: Clip, suffix: str, text: str | bytes) -> None:
    data = text if isinstance(text, bytes) else text.encode()
    Path(clip.path).with_suffix(suffix).write_bytes(data)


def heard(clip: Clip) -> list[tuple[str, str, str]]:
    return [(each.author, each.text, each.verdict) for each in subtitles(clip)]


def test_tags_sounds_rolling_lines_and_broken_times_go():
    assert [(c.start, round(c.end, 3), c.text) for c in read_cues(SRT, ".srt")] == [
        (0, 2, "A brown dog runs & barks. It is wet."),
        (2.1, 3.9, "A cat sits down."),
    ]
    assert not any("time" in cue.text for cue in read_cues(SRT, ".srt"))
    assert [cue.text for cue in read_cues(VTT, ".vtt")] == ["A dog runs", "A cat sits down."]


def test_every_sentence_belongs_to_the_one_shot_that_holds_its_middle():
    cues = [Cue(0, 8, "One two three. Four five."), Cue(8, 9, "Six")]
    shots = [(0, 3), (3, 7), (7, 20)]
    assert [said(cues, *shot) for shot in shots] == ["One two three.", "Four five.", "Six"]
    edges = np.random.default_rng(0).uniform(0, 9, 20).tolist()
    cuts = [0, *sorted(edges), 9]
    parts = [said(cues, *shot) for shot in pairwise(cuts)]
    assert " ".join(filter(None, parts)) == "One two three. Four five. Six"


def test_files_beside_a_film_speak_in_the_clips_time_only(clip):
    beside(clip, ".srt", SRT)
    beside(clip, ".de.vtt", b"\xef\xbb\xbf" + VTT.replace("dog", "süßer Hund").encode())
    assert heard(clip) == [
        ("subtitles @ a [film].de.vtt", "A süßer Hund runs", ""),
        ("subtitles @ a [film].srt", "A brown dog runs & barks. It is wet.", ""),
    ]
    done = caption(clip, CaptionConfig(authors=("subtitles", "filename")))
    assert done.extra["caption_author"].startswith("subtitles @ ") and not done.dropped


def test_an_edited_file_is_read_again(clip):
    beside(clip, ".srt", SRT)
    first = heard(clip)
    beside(clip, ".srt", SRT.replace("brown", "black and white"))
    assert "black and white dog" in heard(clip)[0][1] and heard(clip) != first


def test_the_journal_does_not_answer_for_an_edited_file(clip):
    def key(*authors: str) -> str:
        return _key(clip, CaptionConfig(authors=authors), {})

    beside(clip, ".srt", SRT)
    before, other = key("subtitles"), key("table")
    assert key("subtitles") == before
    beside(clip, ".srt", SRT.replace("brown", "black"))
    assert key("subtitles") != before and key("table") == other


@pytest.mark.parametrize(
    ("data", "verdict"),
    [
        (b"", ""),
        (b"1\n00:00:00,000 --> 00:00:02,000\nna\xefve", "cannot be read as text"),
        (b"\0\1\2" * 50, "holds zero bytes"),
        (b"just some words\n" * 50, ""),
        (b"1\n00:00:00,000 --> 99999:00:00,000\n" + b"long " * 9000, ""),
        (("1\n00:00:00,000 --> 00:00:02,000\n" + "\u202e<b>\U0001f600</b>\n").encode(), ""),
    ],
)
@pytest.mark.parametrize("suffix", [".srt", ".vtt"])
def test_hostile_files_are_told_of_or_silent(clip, data, verdict, suffix):
    beside(clip, suffix, data)
    found = heard(clip)
    assert all(verdict in each[2] for each in found) and (bool(found) or not verdict)
    done = caption(clip, CaptionConfig(authors=("subtitles", "filename")))
    assert verdict in done.reason if verdict else done.caption


def test_a_file_that_is_too_long_is_not_read(clip, monkeypatch):
    monkeypatch.setattr("t2v.curation.text.subtitles.LONGEST_FILE", 20)
    beside(clip, ".srt", SRT)
    assert "at most 20 are read" in heard(clip)[0][2]


def with_track(film: Path, path: Path, srt: str) -> None:
    """Write a film again with a track of subtitles, in German."""
    with (
        av.open(str(film)) as given,
        av.open(io.BytesIO(srt.encode()), format="srt") as text,
        av.open(str(path), "w") as made,
    ):
        video = made.add_stream_from_template(given.streams.video[0])
        track = made.add_stream_from_template(text.streams.subtitles[0])
        track.metadata["language"] = "ger"
        for packets, stream in ((given.demux(video=0), video), (text.demux(), track)):
            for packet in packets:
                if packet.dts is not None or packet.pts is not None:
                    packet.stream = stream
                    made.mux(packet)


def test_tracks_inside_a_film_speak_too(film, tmp_path):
    path = tmp_path / "y.mkv"
    with_track(film, path, SRT)
    [track] = read_tracks(path, 0.0, 2.0)
    assert track.name == "track 1 ger" and not track.fault
    clip = Clip(path=str(path), start=2.0, end=4.0)
    assert heard(clip) == [("subtitles @ track 1 ger", "A cat sits down.", "")]


def test_a_film_without_subtitles_says_nothing_and_a_broken_one_why(clip):
    assert heard(clip) == []
    Path(clip.path).write_bytes(b"no film")
    assert heard(clip) == [("subtitles @ tracks", "", "not a video")]
