"""Examples for a prompt out of a collection of clips, by their captions.

A retrieved picture beside the text tells a model what the text leaves open (VIMI,
arXiv 2407.06304).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t2v.errors import UserError
from t2v.footage.frames import iter_frames
from t2v.footage.still import read_picture
from t2v.io.manifest import IMAGE_SUFFIXES, Clip, read_manifest

if TYPE_CHECKING:
    from PIL import Image


class CaptionIndex:
    """The captions of clips, found by BM25 (Robertson and Zaragoza 2009) with its usual constants.

    Args:
        captions: one text a clip.

    Raises:
        UserError: bm25s is not installed.
    """

    def __init__(self, captions: Sequence[str]) -> None:
        try:
            import bm25s
        except ImportError as error:
            raise UserError(
                "Captions are searched with bm25s, which is not installed: pip install "
                '"t2v[train]".'
            ) from error
        self.split: Any = lambda text: bm25s.tokenize(
            text, stopwords="en", return_ids=False, show_progress=False
        )
        self.index = bm25s.BM25()
        self.index.index(self.split(list(captions)), show_progress=False)

    def nearest(self, text: str, count: int, excluded: Collection[int] = ()) -> list[int]:
        """The clips whose captions are nearest to a text, best first; at most `count`, and none
        that shares no word with it."""
        (words,) = self.split([text])
        scores: np.ndarray = self.index.get_scores(words) if words else np.zeros(0)
        order = np.argsort(-scores, kind="stable")
        return [int(n) for n in order if scores[n] > 0 and int(n) not in excluded][:count]


def retrieved(prompt: str, data: str | Path, count: int = 1) -> list[Image.Image]:
    """The first frames of the clips whose captions are nearest to a prompt, best first.

    Args:
        data: a manifest, or a folder of media with captions.

    Raises:
        UserError: no caption shares a word with the prompt; or see `read_manifest`.
    """
    from PIL import Image

    clips = [clip for clip in read_manifest(data) if clip.texts() and not clip.dropped]
    found = CaptionIndex([" ".join(clip.texts()) for clip in clips]).nearest(prompt, count)
    if not found:
        raise UserError(
            f"{data}: none of its {len(clips)} captions shares a word with {prompt[:60]!r}. Name "
            "another collection, or give reference_images yourself."
        )
    return [Image.fromarray(_first_frame(clips[number])) for number in found]


def _first_frame(clip: Clip) -> np.ndarray:
    if clip.is_rendered:
        from safetensors import safe_open

        with safe_open(clip.path, "np") as file:
            frame: np.ndarray = file.get_slice("video")[clip.extra["index"]][0]
        return frame
    if Path(clip.path).suffix.lower() in IMAGE_SUFFIXES:
        return read_picture(clip.path)
    _, frame = next(iter_frames(clip.path, clip.start, clip.end))
    return frame
