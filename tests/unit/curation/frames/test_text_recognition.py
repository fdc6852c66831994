"""OCR confirms what strokes hint at and adds what they miss; without it, it is refused at once."""

from dataclasses import replace

import cv2
import numpy as np
import pytest

from t2v.config.curation import CurateConfig, OverlayConfig
from t2v.curation.frames import overlay as stage
from t2v.curation.frames import text_recognition as reading
from t2v.curation.frames.boxes import Box
from t2v.curation.frames.overlay import overlay
from t2v.curation.frames.text_recognition import chosen, read_lines
from t2v.curation.run import curate
from t2v.errors import UserError

LINE = Box(60, 300, 400, 30)


@pytest.fixture
def clip_of(scene, shot):
    """Makes a shot of a film whose stills have a line at the bottom, with an outline or without."""

    def make(outline=True, colour=(255, 255, 255), text="she said nothing at all"):
        given = shot(scene(3, 60, pan=3, size=(180, 320)))
        stills = given.stills.copy()
        for still in stills:
            for paint, thick in [((0, 0, 0), 5)] * outline + [(colour, 2)]:
                cv2.putText(still, text, (60, 330), cv2.FONT_HERSHEY_SIMPLEX, 0.9, paint, thick)
        return replace(given, stills=stills)

    return make


def heard(monkeypatch, *lines):
    asked = []
    monkeypatch.setattr(stage, "read_lines", lambda still: asked.append(still) or list(lines))
    return asked


def test_what_ocr_cannot_read_is_no_text(clip_of, monkeypatch):
    assert "text" in overlay(clip_of(), OverlayConfig()).tags
    asked = heard(monkeypatch)
    clip = overlay(clip_of(), OverlayConfig(ocr="rapidocr"))
    assert clip.scores["text"] == 0
    assert "text" not in clip.tags
    assert 1 <= len(asked) <= reading.STILLS


def test_what_ocr_is_sure_of_is_added_and_what_it_is_less_sure_of_only_confirms(
    clip_of, monkeypatch
):
    nothing, line = clip_of(text=""), clip_of()
    read = OverlayConfig(ocr="rapidocr")
    heard(monkeypatch, (LINE, 0.9))
    clip = overlay(nothing, read)
    assert "text" in clip.tags
    assert clip.extra["crop"][3] <= LINE.top
    heard(monkeypatch, (LINE, 0.6))
    assert "text" not in overlay(nothing, read).tags
    assert overlay(line, read) == overlay(line, OverlayConfig())


@pytest.mark.parametrize(
    ("areas", "stills"),
    [
        ([0], [0]),
        ([0, 0, 0, 0, 0], [0, 2, 4]),
        ([0, 0, 9, 0, 0], [0, 2, 4]),
        ([0, 1, 0, 9, 0, 0, 0, 0], [0, 3, 7]),
        ([0, 0, 0, 0, 0, 0, 9, 0], [0, 3, 6]),
    ],
)
def test_the_still_with_most_text_is_read_among_a_few(areas, stills):
    assert chosen(areas) == stills


def test_ocr_that_is_not_installed_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "find_spec", lambda name: None)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").write_bytes(b"")
    output = tmp_path / "out"
    config = CurateConfig(
        input=str(tmp_path / "in"), output=str(output), overlay=OverlayConfig(ocr="rapidocr")
    )
    with pytest.raises(UserError, match=r'pip install "t2v\[curate,ocr\]"'):
        curate(config)
    assert not output.exists()
    curate(replace(config, skip=("overlay",)))


@pytest.mark.filterwarnings("default")
def test_rapidocr_reads_yellow_letters_without_an_outline(clip_of):
    pytest.importorskip("rapidocr", reason="the extra `ocr` is not installed")
    pytest.importorskip("onnxruntime", reason="the extra `ocr` is not installed")
    given = clip_of(outline=False, colour=(255, 235, 60))
    [(box, sure)] = read_lines(given.stills[0])
    assert sure > reading.ADDS
    assert abs(box.left - 60) < 12 and 295 <= box.top < 320 and 330 <= box.top + box.height < 350
    assert read_lines(clip_of(text="").stills[0]) == []
    assert read_lines(np.zeros((90, 160, 3), np.uint8)) == []
    clip = overlay(given, OverlayConfig(ocr="rapidocr"))
    assert "text" in clip.tags
    assert clip.extra["crop"][3] < 320
