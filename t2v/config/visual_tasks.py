"""The names of what a transformer of ours is given to see, by its config."""

from __future__ import annotations


def taken(
    conditioning: str, picture_tokens: bool, references: int = 0, *, is_student: bool = False
) -> frozenset[str]:
    """The pictures and clips that a model takes.

    Any model edits but those of channels, which always begin with what is given, and students,
    which begin with noise alone.

    Args:
        conditioning: of its transformer: none, tokens or channels.
        picture_tokens: it takes pictures at any place.
        references: pictures of its subjects that it takes.
        is_student: of `t2v distill`.
    """
    if is_student:
        return frozenset()
    if conditioning == "channels":
        return frozenset({"image", "last_image", "video", "conditions"})
    found = {"video", "strength"}
    if conditioning == "tokens":
        found |= {"image", "mask"}
    if picture_tokens:
        found |= {"last_image", "conditions"}
    if references:
        found |= {"reference_images"}
    return frozenset(found)
