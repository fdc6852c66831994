"""The motion that curation measured, as words of captions.

How much a clip moves and what its camera does become conditions that a prompt can ask for (Stable
Video Diffusion, arXiv 2311.15127, conditions on a number). Half of the captions have none of the
words, so the model knows prompts without them.
"""

from __future__ import annotations

from collections.abc import Iterable

# by the tags of `t2v.curation.frames.motion`, in the order in which captions tell them
WORDS = {
    "motion-low": "little motion",
    "motion-medium": "some motion",
    "motion-high": "much motion",
    "camera-still": "the camera stands still",
    "camera-shake": "the camera shakes",
    "pan-left": "the camera pans left",
    "pan-right": "the camera pans right",
    "tilt-up": "the camera tilts up",
    "tilt-down": "the camera tilts down",
    "zoom-in": "the camera zooms in",
    "zoom-out": "the camera zooms out",
    "roll": "the camera rolls",
}


def with_motion(texts: tuple[str, ...], tags: Iterable[str]) -> tuple[str, ...]:
    """The captions of a clip, and each of them with the words of the clip's tags of motion."""
    found = set(tags)
    words = ", ".join(words for tag, words in WORDS.items() if tag in found)
    return (*texts, *(f"{text}, {words}" for text in texts)) if words else texts
