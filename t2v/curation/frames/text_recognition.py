"""RapidOCR, a second opinion on burned-in text: it reads the letters behind the strokes."""

from __future__ import annotations

from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np

from t2v.curation.frames.boxes import Box
from t2v.errors import UserError

STILLS = 3  # read per clip, at 0.13 s of one core each
CONFIRMS = 0.5  # confidence; even letters of scripts that it cannot read have 0.7 and more
ADDS = 0.75
LEAST = 4  # characters, in a line three times as wide as high: leaves give single characters
SIDE = 640  # pixels of the longer side after downscaling; upscaled stills take four times as long


def require_ocr() -> None:
    """Raise `UserError` where RapidOCR or the library that runs its models is not installed."""
    if missing := [name for name in ("rapidocr", "onnxruntime") if find_spec(name) is None]:
        raise UserError(
            f"overlay.ocr=rapidocr: {' and '.join(missing)} not installed. "
            'Run pip install "t2v[curate,ocr]", or leave it at overlay.ocr=none.'
        )


def chosen(areas: list[float]) -> list[int]:
    """The stills to read, given the area of text in each: the fullest, and an even spread."""
    spread = np.linspace(0, len(areas) - 1, min(len(areas), STILLS)).astype(int).tolist()
    fullest = int(np.argmax(areas))
    if not areas[fullest] or fullest in spread:
        return spread
    nearest = min(spread, key=lambda at: abs(at - fullest))
    return sorted(fullest if at == nearest else at for at in spread)


def read_lines(still: np.ndarray) -> list[tuple[Box, float]]:
    """Lines of text in a still, `h w c` uint8 RGB, as upright boxes, each with its confidence."""
    result = _reader()(np.ascontiguousarray(still[..., ::-1]), use_cls=False)
    if result.boxes is None:
        return []
    lines = []
    for corners, text, confidence in zip(result.boxes, result.txts, result.scores, strict=True):
        left, top = np.floor(corners.min(axis=0)).astype(int).tolist()
        right, bottom = np.ceil(corners.max(axis=0)).astype(int).tolist()
        box = Box(left, top, right - left, bottom - top)
        if len(text) >= LEAST and box.width >= 3 * box.height and confidence >= CONFIRMS:
            lines.append((box, float(confidence)))
    return lines


@lru_cache(maxsize=1)
def _reader() -> Any:
    """The reader with the models of its package, loaded once a process; it downloads nothing."""
    require_ocr()
    from rapidocr import RapidOCR

    threads = dict.fromkeys(("intra_op_num_threads", "inter_op_num_threads"), 1)
    return RapidOCR(
        params={
            "Global.log_level": "critical",
            "Global.text_score": CONFIRMS,
            "Det.limit_type": "max",
            "Det.limit_side_len": SIDE,
        }
        | {f"EngineConfig.onnxruntime.{name}": count for name, count in threads.items()}
    )
