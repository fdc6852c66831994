"""The overlay stage: black bars, burned-in text and logos, cropped away where possible."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import cv2
import numpy as np

from t2v.config.curation import OverlayConfig
from t2v.curation.frames.boxes import Box, area, described, intersection, without
from t2v.curation.frames.lettering import text_lines
from t2v.curation.frames.text_recognition import ADDS, chosen, read_lines
from t2v.curation.shot import Shot, scored
from t2v.curation.stages import Score, Stage
from t2v.io.manifest import Clip

MOST = 5  # stills that are compared for logos
FLAT = 3.0  # of 255: encoder noise in a black bar
EDGE = 4  # rows next to a bar in which the picture must begin
ABRUPT = 0.15  # the least share of a bar's length with an abrupt edge
READ = 8  # stills that are searched for text: subtitles come and go


def overlay(shot: Shot, config: OverlayConfig) -> Clip:
    """Return the clip cropped to exclude overlays where enough is left, else dropped or tagged.

    The crop is `extra["crop"]`: left, top, width, height in pixels as shown; `width` and `height`
    become those of the crop. Scores: `bars` and `text`, the share of the picture they take.
    Tags: `letterbox`, `text`, `logo`.
    """
    clip, stills = shot.clip, shot.stills
    greys = np.stack([cv2.cvtColor(each, cv2.COLOR_RGB2GRAY) for each in stills])
    shown = greys[np.linspace(0, len(greys) - 1, min(len(greys), MOST)).astype(int)]
    read = np.linspace(0, len(greys) - 1, min(len(greys), READ)).astype(int).tolist()
    lines = [
        text_lines(greys[at], [greys[by] for by in (at - 1, at + 1) if 0 <= by < len(greys)])
        for at in read
    ]
    if config.ocr == "rapidocr":
        lines = _confirmed(stills[read], lines)
    whole = Box(0, 0, stills.shape[2], stills.shape[1])
    inner = bars(stills)
    share = 1 - inner.width * inner.height / (whole.width * whole.height)
    texts = sorted({line for each in lines for line in each})
    marks = _marks(shown, inner)
    covered = max(map(area, lines)) / (whole.width * whole.height)
    clip = scored(clip, bars=share, text=covered)
    found = [
        ("letterbox", config.letterbox, share > 0, inner, f"bars take {share:.0%} of the picture"),
        *(
            (name, wish, bool(boxes), without(inner, boxes), f"{name} at {described(boxes)}")
            for name, wish, boxes in (("text", config.text, texts), ("logo", config.logo, marks))
            if name == "logo" or covered > config.max_text
        ),
    ]
    kept = whole
    for name, wish, is_there, rest, reason in found:
        if not is_there:
            continue
        clip = scored(clip, name)
        kept_by = intersection(kept, rest)
        enough = kept_by.width * kept_by.height >= config.min_left * inner.width * inner.height
        if wish == "crop" and enough:
            kept = kept_by
        elif wish != "tag":
            return clip.drop("overlay", f"{reason}, and cropping leaves too little")
    return clip if kept == whole else _cropped(clip, kept, whole)


STAGE = Stage(
    "shot",
    overlay,
    {
        "bars": Score("share of the picture covered by black bars; cropped"),
        "text": Score("share of the picture; more is cropped, or dropped", at_most="max_text"),
    },
)


def _confirmed(stills: np.ndarray, lines: list[list[Box]]) -> list[list[Box]]:
    """The lines of each still after OCR of some stills, the one with most text among them.

    Where OCR reads nothing at all, the strokes were no letters; lines that it reads with high
    confidence are added.
    """
    found = {at: read_lines(stills[at]) for at in chosen([area(each) for each in lines])}
    if not any(found.values()):
        return [[] for _ in lines]
    return [
        each + [box for box, confidence in found.get(at, []) if confidence >= ADDS]
        for at, each in enumerate(lines)
    ]


def _cropped(clip: Clip, kept: Box, whole: Box) -> Clip:
    """The clip with its crop in source pixels: one still pixel tighter, with even sides."""
    assert clip.width and clip.height
    across, down = clip.width / whole.width, clip.height / whole.height
    left, right = kept.left * across, (kept.left + kept.width) * across
    top, bottom = kept.top * down, (kept.top + kept.height) * down
    edges = [
        int(np.ceil(left + (kept.left > 0))),
        int(np.ceil(top + (kept.top > 0))),
        int(right - (kept.left + kept.width < whole.width)),
        int(bottom - (kept.top + kept.height < whole.height)),
    ]
    width, height = (edges[2] - edges[0]) // 2 * 2, (edges[3] - edges[1]) // 2 * 2
    crop = [edges[0], edges[1], width, height]
    return replace(clip, width=width, height=height, extra=clip.extra | {"crop": crop})


def bars(stills: np.ndarray) -> Box:
    """The picture within black bars; the whole picture where there are none or all is dark.

    A row or column belongs to a bar when less than 2 % of it is ever brighter than 24 of 255, or,
    in a dark film, than a quarter of its bright level. A bar is uniformly black and has an abrupt
    edge: the dark part of a night scene that fades into light is none.
    """
    light = stills[0].copy()
    for each in stills[1:]:
        cv2.max(light, each, light)
    light = cv2.max(cv2.max(light[..., 0], light[..., 1]), light[..., 2])  # h w
    height, width = light.shape
    whole = Box(0, 0, width, height)
    limit = float(np.clip(np.quantile(light[::4, ::4], 0.95) / 4, FLAT, 24))
    is_lit = light > limit
    top, bottom = _within(light, is_lit.mean(1), limit)
    left, right = _within(light.T, is_lit.mean(0), limit)
    if top == bottom or left == right:
        return whole
    box = Box(left, top, right - left, bottom - top)
    thin = box.width > 0.98 * width and box.height > 0.98 * height
    return whole if thin else box


def _within(light: np.ndarray, lit: np.ndarray, limit: float) -> tuple[int, int]:
    """The first row of picture and the one after the last; `lit` is the lit share of each row."""
    found = np.flatnonzero(lit > 0.02)
    if not len(found):
        return 0, 0
    first, end = int(found[0]), int(found[-1]) + 1
    if not _is_bar(light[:first], light[first:end], limit):
        first = 0
    if not _is_bar(light[end:][::-1], light[first:end][::-1], limit):
        end = len(lit)
    return first, end


def _is_bar(bar: np.ndarray, picture: np.ndarray, limit: float) -> bool:
    """Return whether it is uniformly black, with an abrupt edge to the picture."""
    if not bar.size:
        return False
    step = picture[:EDGE].max(0).astype(np.int16) - bar[-2 * EDGE :].min(0)
    # by rows: an encoder smears the picture's edge into the last rows of a bar
    low, high = np.quantile(bar[::3, ::3], (0.02, 0.98), axis=1)
    is_flat = np.median(high - low) <= limit / 3
    return bool(is_flat and (step > limit / 2).mean() > ABRUPT)


def _marks(greys: np.ndarray, inner: Box) -> list[Box]:
    """The logos within bars; the corner of a bar is no logo."""
    edge = 2 if (inner.width, inner.height) != greys.shape[:0:-1] else 0
    left, top = inner.left + edge, inner.top + edge
    within = greys[:, top : top + inner.height - 2 * edge, left : left + inner.width - 2 * edge]
    found = logos(within) if min(within.shape[1:]) >= 30 else []
    return [box._replace(left=box.left + left, top=box.top + top) for box in found]


def logos(greys: np.ndarray) -> list[Box]:
    """Marks with sharp edges in the corners of stills, `n h w` uint8, that stay while the rest
    moves."""
    if len(greys) < 3 or np.median(greys[:, ::4, ::4].std(axis=0)) < 8:
        return []  # in a static scene a logo cannot be told from the rest
    height, width = greys.shape[1:]
    rows, columns = height // 4, width // 3
    found = []
    for top, left in product((0, height - rows), (0, width - columns)):
        corner = np.sort(greys[:, top : top + rows, left : left + columns], axis=0)
        edges = np.abs(cv2.Laplacian(corner[len(corner) // 2], cv2.CV_16S)) > 40
        mask = (edges & (corner.std(axis=0, dtype=np.float32) < 5)).view(np.uint8)
        mask = cv2.morphologyEx(mask, cv2.MORPH_CLOSE, np.ones((9, 9), np.uint8))
        for box in cv2.connectedComponentsWithStats(mask, connectivity=8)[2][1:, :4].tolist():
            if min(box[2:]) >= height // 30:
                found.append(Box(left + box[0], top + box[1], *box[2:]))
    return found
