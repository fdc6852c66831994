"""The scenes of a long clip: captions of windows along it, joined where they say the same."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from t2v.io.words import content_words

CLOSE = 2  # frames between two windows from which the end of a scene is not searched further


def timeline(
    caption_of: Callable[[int, int], str], num_frames: int, window: int
) -> list[dict[str, Any]]:
    """Return the scenes of a clip, `start` and `end` (frames, the end exclusive) and `caption`.

    Dense captions with their times, as Vid2Seq (arXiv 2302.14115) and ViTT (arXiv 2011.11760) have
    them, by any captioner of short clips. Windows lie half a window apart. Neighbours say the same
    where the content words of one hold those of the other; between two that do not, windows halve
    the distance until it is `CLOSE` frames, and a scene ends in its middle. What lasts less than
    half a window is a window over two scenes, and is shared out between them. The scenes cover all
    frames.

    Args:
        caption_of: tells what the frames from the first to the second (exclusive) show; empty where
            it cannot, and then the window counts as its neighbour.
        num_frames: of the clip.
        window: frames; of a clip that has no more, there is one scene.
    """
    half, last = window // 2, num_frames - (window - window // 2)
    if last <= half:
        text = caption_of(0, num_frames)
        return [{"start": 0, "end": num_frames, "caption": text}] if text else []
    told: dict[int, str] = {}

    def at(middle: int) -> str:
        if middle not in told:
            told[middle] = caption_of(middle - half, middle - half + window)
        return told[middle]

    middles = [*range(half, last, max(1, half)), last]
    for middle in middles:
        at(middle)
    for before, after in pairwise(middles):
        _search(at, before, after)
    found: list[dict[str, Any]] = []
    for middle in sorted(each for each, text in told.items() if text):
        if found and _same(found[-1]["caption"], told[middle]):
            found[-1]["last"] = middle
            found[-1]["caption"] = max(found[-1]["caption"], told[middle], key=_length)
        else:
            found.append({"first": middle, "last": middle, "caption": told[middle]})
    return _spans(found, num_frames, half)


def _search(at: Callable[[int], str], before: int, after: int) -> None:
    """Ask for the windows between two, where what is told changes."""
    if after - before <= CLOSE or _same(at(before), at(after)):
        return
    middle = (before + after) // 2
    at(middle)
    _search(at, before, middle)
    _search(at, middle, after)


def _spans(found: list[dict[str, Any]], num_frames: int, half: int) -> list[dict[str, Any]]:
    """The scenes from the first and the last middle of each, without those that are too short."""
    scenes: list[dict[str, Any]] = []
    for number, each in enumerate(found):
        start = scenes[-1]["end"] if scenes else 0
        following = found[number + 1]["first"] if number + 1 < len(found) else None
        end = num_frames if following is None else (each["last"] + following + 1) // 2
        scenes.append({"start": start, "end": end, "caption": each["caption"]})
    while short := [n for n, each in enumerate(scenes) if each["end"] - each["start"] < half]:
        number = min(short, key=lambda n: scenes[n]["end"] - scenes[n]["start"])
        if len(scenes) == 1:
            break
        gone = scenes.pop(number)
        before, after = scenes[:number], scenes[number:]
        middle = (gone["start"] + gone["end"]) // 2
        if before:
            before[-1]["end"] = middle if after else gone["end"]
        if after:
            after[0]["start"] = middle if before else gone["start"]
        if before and after and _same(before[-1]["caption"], after[0]["caption"]):
            first, second = before[-1], scenes.pop(number)
            first["end"] = second["end"]
            first["caption"] = max(first["caption"], second["caption"], key=_length)
    return scenes


def _same(one: str, other: str) -> bool:
    a, b = content_words(one), content_words(other)
    return a <= b or b <= a


def _length(text: str) -> int:
    return len(content_words(text))
