"""The outcome of a review: clips as they were decided, their manifest, and its data card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from t2v.curation.report import tables
from t2v.curation.review.journal import Verdict
from t2v.io.files import file_sha256, write_text
from t2v.io.manifest import Clip, write_manifest
from t2v.io.model_card import DATA_CARD, table

BY_HAND = "review"  # what drops a clip, and who writes a caption
LONGEST = 5000  # characters of a caption, as curation has it


@dataclass(frozen=True)
class Written:
    """A manifest that a review wrote.

    Args:
        path: of the manifest.
        card: of its data card.
        kept: clips of it that training uses, as far as the review knows.
        dropped: all others.
        without_caption: of those kept; training leaves them out.
        count: the lines of the journal that were taken into account.
    """

    path: Path
    card: Path
    kept: int
    dropped: int
    without_caption: int
    count: int


def decided(clip: Clip, verdict: Verdict | None, captions: tuple[str, ...]) -> Clip:
    """The clip as it was decided.

    A clip dropped by hand is dropped by `review`; one kept is dropped by nothing. What a stage of
    curation had decided is kept in `extra["review"]`. Scores of a caption that was replaced go.

    Args:
        verdict: None: as it came.
        captions: that replace the clip's own; none: as they came.
    """
    if not verdict and not captions:
        return clip
    about: dict[str, object] = {"verdict": verdict} if verdict else {}
    if captions:
        about["captions"] = list(clip.texts())
        clip = _captioned(clip, captions)
    if verdict == "keep" and clip.dropped:
        about |= {"dropped": clip.dropped, "reason": clip.reason}
        clip = replace(clip, dropped="", reason="")
    elif verdict == "drop" and not clip.dropped:
        clip = clip.drop(BY_HAND, "dropped by hand")
    return replace(clip, extra=clip.extra | {BY_HAND: about})


def _captioned(clip: Clip, captions: tuple[str, ...]) -> Clip:
    scores = {name: each for name, each in clip.scores.items() if not name.startswith("caption_")}
    extra = clip.extra | {"caption_author": BY_HAND}
    if isinstance(before := extra.get("candidates"), list):
        extra["candidates"] = [*before, *({"author": BY_HAND, "text": each} for each in captions)]
    return replace(clip, caption=captions[0], captions=captions, scores=scores, extra=extra)


def write_reviewed(
    manifest: Path, before: Sequence[Clip], clips: Sequence[Clip], path: Path, count: int
) -> Written:
    """Write the clips as they were decided to `path`, and a data card beside it.

    Args:
        manifest: the one that was reviewed, or the media folder.
        before: its clips as they came.
        count: the lines of the journal by which they were decided.
    """
    write_manifest(path, clips)
    kept = [clip for clip in clips if not clip.dropped]
    card = path.with_suffix(".md")
    write_text(card, _card(manifest, before, clips, kept))
    return Written(
        path=path,
        card=card,
        kept=len(kept),
        dropped=len(clips) - len(kept),
        without_caption=sum(not clip.texts() for clip in kept),
        count=count,
    )


def _card(
    manifest: Path, before: Sequence[Clip], clips: Sequence[Clip], kept: Sequence[Clip]
) -> str:
    pairs = list(zip(before, clips, strict=True))
    touched = sum(was != now for was, now in pairs)
    lost = sum(not was.dropped and bool(now.dropped) for was, now in pairs)
    saved = sum(bool(was.dropped) and not now.dropped for was, now in pairs)
    captioned = sum(was.texts() != now.texts() for was, now in pairs)
    minutes = sum(map(tables.seconds_of, kept)) / 60
    lines = [
        "# Data",
        "",
        f"{len(kept)} clips, {minutes:.1f} minutes, kept of {len(clips)} "
        f"after a review by hand: {touched} clips were decided on, {lost} dropped, {saved} brought "
        f"back, {captioned} captioned anew.",
        "",
        *table(
            ("source", "licence", "files", "clips kept", "minutes kept"),
            [
                (row["source"], row["license"], row["files"], row["kept"], row["seconds"] / 60)
                for row in tables.rights(kept)
            ],
        ),
    ]
    if manifest.is_file():
        lines += [f"Before the review: `{manifest.name}`, SHA-256 {file_sha256(manifest)}.", ""]
    earlier = manifest.with_name(DATA_CARD)
    if earlier.is_file():
        text = earlier.read_text(encoding="utf-8", errors="replace").strip()
        lines += [f"## Before the review\n\n{text.removeprefix('# Data').strip()}"]
    return "\n".join(lines).rstrip() + "\n"
