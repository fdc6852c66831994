"""The caption stage: authors propose captions, defective ones are refused, one is chosen."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from t2v.config.captions import CaptionConfig
from t2v.curation.stages import Score, Stage
from t2v.curation.text.clean import defects, unrepeated
from t2v.curation.text.endpoint import ask
from t2v.curation.text.parts import merge_parts
from t2v.curation.text.selection import (
    MISMATCH,
    NAMES,
    Candidate,
    agreement,
    choose,
    completeness,
    merged,
    without_names,
)
from t2v.curation.text.style import style_of
from t2v.curation.text.subtitles import AUTHOR as SUBTITLES
from t2v.curation.text.subtitles import subtitles
from t2v.curation.text.timeline import timeline
from t2v.errors import UserError
from t2v.footage.containers import Unreadable
from t2v.footage.frames import iter_frames
from t2v.io.chat import NoAnswer
from t2v.io.manifest import Clip
from t2v.io.text_files import read_text
from t2v.io.words import words

LONGEST = 5000  # characters of a caption
LONGEST_SIDECAR = 2**20  # bytes of an x.txt beside x.mp4
NO_ANSWER = "no answer"  # the beginning of the verdict on an author that failed
PART = "a part of the merged caption"
UNANSWERED = "unanswered"  # in `extra`: the authors to ask again


class Stills:
    """The frames of a clip for models, decoded when the first model needs them."""

    def __init__(self, clip: Clip, count: int, max_side: int) -> None:
        self.clip, self.count, self.max_side = clip, count, max_side
        self.times: list[float] = []
        self._frames: list[np.ndarray] = []

    @property
    def frames(self) -> list[np.ndarray]:
        """Each `h w c` uint8 RGB, evenly spread from the first to the last."""
        if not self._frames:
            shown = list(_spread(self.clip, self.count, self.max_side))
            self.times = [time for time, _ in shown]
            self._frames = [frame for _, frame in shown]
        return self._frames

    def with_count(self, count: int | None) -> Stills:
        """These stills, or others of the clip, as many as a model is made for."""
        return self if count in (None, self.count) else Stills(self.clip, count, self.max_side)


def caption(clip: Clip, config: CaptionConfig) -> Clip:
    """Return the clip with the best caption of its authors, or dropped where none can be used.

    The row keeps every candidate with its author, and the reason if it was refused, in
    `candidates`, the chosen one's author in `caption_author`, and in `unanswered` the authors that
    gave no answer and may the next time. `captions` are the caption and the other usable ones of
    the same author. With `config.window`, `scenes` are the spans of a long clip that differ, with
    their captions. Scores: `caption_words`, `caption_tokens` with a tokenizer, and
    `caption_match` with a scorer or else `caption_agreement` with several candidates, with
    `config.style` `caption_style`, and with several authors `caption_entities`, the share of all
    entities they name that the caption does.

    Raises:
        UserError: a model or endpoint cannot be used.
    """
    try:
        return _captioned(clip, config)
    except Unreadable as error:
        return clip.drop("caption", f"its pictures cannot be read again: {error.fault}")


STAGE = Stage(
    "clip",
    caption,
    {
        "caption_words": Score("words in the caption"),
        "caption_tokens": Score("tokens in the caption", at_most="max_tokens"),
        "caption_match": Score("cosine of caption and pictures", at_least="min_match"),
        "caption_agreement": Score("words shared with other authors' captions, F1"),
        "caption_style": Score("distance from the style of users' prompts, in deviations"),
        "caption_entities": Score("things and places of all candidates that the caption names"),
    },
)


def _captioned(clip: Clip, config: CaptionConfig) -> Clip:
    stills = Stills(clip, config.frames, config.max_side)
    found = [each for name in config.authors for each in _candidates(name, clip, stills, config)]
    if config.parts:
        found = _of_parts(clip, config) + found  # the first of equals is taken
    checked = [_checked(each, config) for each in without_names(found)]
    candidates, kind = _scored(checked, stills, config)
    row = _row(candidates)
    row |= _scenes(clip, config, row.get(UNANSWERED, []))
    clip = replace(clip, extra=clip.extra | row)
    chosen = choose(candidates, config.style_within)
    if chosen is None:
        return replace(clip, caption="", captions=()).drop("caption", _reason(candidates, config))
    alike = [
        each.text
        for each in candidates
        if each.author == chosen.author and each is not chosen and not each.verdict
    ]
    text = chosen.text
    if config.merge:
        text = _merged(chosen, candidates, config)
    scores = clip.scores | _counts(text, config)
    if kind:
        scores[kind] = round(chosen.score or 0.0, 4)
    if chosen.style is not None:
        scores["caption_style"] = _style(text, config)
    if (named := completeness(text, candidates)) is not None:
        scores["caption_entities"] = round(named, 4)
    return replace(
        clip,
        caption=text,
        captions=tuple(dict.fromkeys([text, *alike])),
        scores=scores,
        extra=clip.extra | {"caption_author": chosen.author},
    )


def _row(candidates: list[Candidate]) -> dict[str, Any]:
    """The part of a manifest's row that is about all candidates."""
    silent = [each.author for each in candidates if each.verdict.startswith(NO_ANSWER)]
    row: dict[str, Any] = {"candidates": [each.row() for each in candidates]}
    return row | ({UNANSWERED: silent} if silent else {})


def _of_parts(clip: Clip, config: CaptionConfig) -> list[Candidate]:
    """The captions of the middle frame and of each part of a clip, merged, and refused alone."""
    author, (start, end) = config.viewer(), (clip.start, clip.end)
    if end is None or not clip.fps:
        return []
    middle, length = (start + end) / 2, (end - start) / config.parts
    spans = [(middle, min(end, middle + 1 / clip.fps))]
    spans += [(start + n * length, start + (n + 1) * length) for n in range(config.parts)]
    found = []
    for number, (first, last) in enumerate(spans):
        part = replace(clip, start=first, end=last)
        stills = Stills(part, 1 if number == 0 else config.frames, config.max_side)
        name = f"{author} @ {'the middle' if number == 0 else f'part {number}'}"
        said = [_checked(each, config) for each in _candidates(author, part, stills, config)]
        found += [replace(each, author=name) for each in said]
    usable = [each for each in found if not each.verdict]
    silent = [each for each in found if each.verdict.startswith(NO_ANSWER)]
    if silent:  # the author is asked again
        return [*found, replace(silent[0], author=author)]
    alone = [replace(each, verdict=each.verdict or PART) for each in found]
    if len(usable) < 2:
        return alone
    coarse, *fine = (each.text for each in usable)
    text = merge_parts(coarse, fine, config)
    return [*alone, Candidate(author=f"{author} @ all parts", text=text)]


def _scenes(clip: Clip, config: CaptionConfig, silent: list[str]) -> dict[str, Any]:
    """The scenes of a clip that is longer than a window, where there are several.

    Where a window gets no answer there are none, and their author joins the silent ones.
    """
    if not (config.window and clip.fps and clip.num_frames):
        return {}
    viewer, rate, window = config.viewer(), clip.fps, max(2, round(config.window * clip.fps))
    if clip.num_frames <= window:
        return {}

    def caption_of(first: int, last: int) -> str:
        start, end = (clip.start + each / rate for each in (first, last))
        part = replace(clip, start=start, end=end, num_frames=last - first)
        stills = Stills(part, config.frames, config.max_side)
        found = _candidates(viewer, part, stills, config)
        if any(each.verdict.startswith(NO_ANSWER) for each in found):
            raise NoAnswer(viewer)
        scored, _ = _scored([_checked(each, config) for each in found], stills, config)
        chosen = choose(scored, config.style_within)
        return chosen.text if chosen else ""

    try:
        found = timeline(caption_of, clip.num_frames, window)
    except NoAnswer:
        return {UNANSWERED: list(dict.fromkeys([*silent, viewer]))}
    return {"scenes": found} if len(found) > 1 else {}


def tidy(text: str) -> str:
    """The text on one line, without characters that cannot be printed."""
    return " ".join("".join(c for c in text if c.isprintable() or c.isspace()).split())


def _spread(clip: Clip, count: int, max_side: int) -> list[tuple[float, np.ndarray]]:
    width, height = clip.width, clip.height
    if clip.end is None or width is None or height is None:
        raise UserError(f"{clip.path}: its end and size are unknown; it must be probed first.")
    crop = clip.extra.get("crop")
    if crop:
        width, height = crop[2], crop[3]
    zoom = min(1.0, max_side / max(width, height))
    size = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    rate = count / (clip.end - clip.start)
    shown = iter_frames(
        clip.path, clip.start, clip.end, fps=rate, size=size, crop=tuple(crop) if crop else None
    )
    return [(round(time - clip.start, 2), frame) for time, frame in shown][:count]


def _candidates(name: str, clip: Clip, stills: Stills, config: CaptionConfig) -> list[Candidate]:
    """The captions of one author; a model or endpoint without an answer gives an empty one."""
    if name == SUBTITLES:
        return subtitles(clip)
    if name in _PLAIN:
        try:
            texts = _PLAIN[name](clip, config)
        except UserError as error:  # a file that is no text fails this clip, not the curation
            return [Candidate(author=name, text="", verdict=tidy(str(error)))]
        return [Candidate(author=name, text=text) for text in texts]
    try:
        if name.startswith("model:"):
            return _ask_model(name, stills, config)
        return [Candidate(author=name, text=ask(name, stills.frames, config))]
    except NoAnswer as error:
        return [Candidate(author=name, text="", verdict=f"{NO_ANSWER}: {tidy(str(error))}")]


def _ask_model(name: str, stills: Stills, config: CaptionConfig) -> list[Candidate]:
    from t2v.nets.captioner import captioner

    model = captioner(name.removeprefix("model:"), _device(config))
    stills = stills.with_count(model.num_frames)
    frames = stills.frames
    try:
        texts = model.describe(frames, config.prompt, config.max_new_tokens)
    except (RuntimeError, ValueError, IndexError) as error:  # out of memory, text too long, ...
        raise NoAnswer(f"{type(error).__name__}: {error}") from error
    if len(texts) == 1:
        return [Candidate(author=name, text=texts[0])]
    return [
        Candidate(author=f"{name} @ {time:g} s", text=text)
        for time, text in zip(stills.times, texts, strict=True)
    ]


def _sidecar(clip: Clip, config: CaptionConfig) -> list[str]:
    path = Path(clip.path).with_suffix(".txt")
    return read_text(path, most=LONGEST_SIDECAR).splitlines() if path.exists() else []


def _table(clip: Clip, config: CaptionConfig) -> list[str]:
    return list(clip.texts())  # as the input's table gave them


def _filename(clip: Clip, config: CaptionConfig) -> list[str]:
    return _caption_of_name(Path(clip.path).stem, config)


def _folder(clip: Clip, config: CaptionConfig) -> list[str]:
    return _caption_of_name(Path(clip.path).parent.name, config)


_PLAIN: dict[str, Callable[[Clip, CaptionConfig], list[str]]] = {
    "sidecar": _sidecar,
    "table": _table,
    "filename": _filename,
    "folder": _folder,
}


def _caption_of_name(name: str, config: CaptionConfig) -> list[str]:
    plain = " ".join(re.sub(r"[\W_]+|(?<=[a-z])(?=[A-Z])", " ", name).split())
    return [config.rule.replace("{name}", plain)] if re.search(r"[^\W\d]", plain) else []


def _checked(candidate: Candidate, config: CaptionConfig) -> Candidate:
    """The candidate tidied and without loops, with the verdict of the rules and limits."""
    if candidate.verdict:
        return candidate
    text = tidy(candidate.text)
    if len(text) > LONGEST:
        verdict = f"{len(text)} characters are no caption ({LONGEST} at most)"
        return replace(candidate, text=text[:LONGEST], verdict=verdict)
    text = unrepeated(text)
    found = defects(text)
    verdict = ", ".join(found) if words(text) else "says nothing"
    if config.max_tokens and not verdict:
        count = _counts(text, config)["caption_tokens"]
        if count > config.max_tokens:
            verdict = f"{count:g} tokens, {config.max_tokens} fit"
    return replace(candidate, text=text, verdict=verdict)


def _scored(
    candidates: list[Candidate], stills: Stills, config: CaptionConfig
) -> tuple[list[Candidate], str]:
    """The candidates, the usable ones with a score, and the name of that score."""
    if config.style:
        candidates = [
            each if each.verdict else replace(each, style=_style(each.text, config))
            for each in candidates
        ]
    usable = [each for each in candidates if not each.verdict]
    if config.scorer and usable:
        from t2v.nets.matcher import matcher

        texts = [each.text for each in usable]
        scorer = matcher(config.scorer, _device(config))
        scores = scorer.match(stills.with_count(scorer.num_frames).frames, texts)
        kind = "caption_match"
    elif sum(each.author not in NAMES for each in usable) > 1:
        scores, kind = agreement(usable), "caption_agreement"
    else:
        return candidates, ""
    by_candidate = iter(round(score, 4) for score in scores)
    scored = [
        each if each.verdict else replace(each, score=next(by_candidate)) for each in candidates
    ]
    if config.scorer:
        scored = [_refused_below(each, config.min_match) for each in scored]
    return scored, kind


def _refused_below(candidate: Candidate, least: float) -> Candidate:
    if candidate.score is None or candidate.score >= least:
        return candidate
    return replace(candidate, verdict=f"{MISMATCH} {candidate.score} < {least}")


def _merged(chosen: Candidate, candidates: list[Candidate], config: CaptionConfig) -> str:
    others = [each for each in candidates if each is not chosen and not each.verdict]
    text = merged(chosen.text, [each.text for each in others])
    whole = _checked(replace(chosen, text=text), config)
    return chosen.text if whole.verdict else whole.text


def _reason(candidates: list[Candidate], config: CaptionConfig) -> str:
    verdicts = [f"{each.author}: {each.verdict}" for each in candidates]
    silent = [
        name
        for name in config.authors
        if not any(each.author.partition(" @ ")[0] == name for each in candidates)
    ]
    verdicts += [f"{name}: nothing" for name in silent]
    return f"no caption ({'; '.join(verdicts)})"


def _style(text: str, config: CaptionConfig) -> float:
    return round(style_of(config.style).distance(text), 4)


def _counts(text: str, config: CaptionConfig) -> dict[str, float]:
    counts: dict[str, float] = {"caption_words": len(words(text))}
    if config.tokenizer:
        from t2v.models.text import count_tokens

        counts["caption_tokens"] = count_tokens(tokenizer(config.tokenizer), text)
    return counts


@lru_cache(maxsize=1)
def tokenizer(name: str) -> Any:
    """Load the tokenizer of a pipeline (folder, Hub id or the embedded one), or a tokenizer alone.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    from t2v.models.folder import EMBEDDED, embedded_model
    from t2v.models.load import loading

    folder = embedded_model() if name == EMBEDDED else Path(name)
    inside = (folder / "tokenizer").is_dir()
    with loading(f"caption.tokenizer={name}"):
        return AutoTokenizer.from_pretrained(folder / "tokenizer" if inside else name)


def _device(config: CaptionConfig) -> str:
    from t2v.models.device import pick_device

    return str(pick_device(config.device))
