"""The names of what a transformer of ours is given to see, by its config."""

from __future__ import annotations


def taken(conditioning: str, picture_tokens: bool, references: int = 0) -> frozenset[str]:
    """The pictures and clips that a model takes.

    Any model edits but those of channels, which always begin with what is given.

    Args:
        conditioning: of its transformer: none, tokens or channels.
        picture_tokens: it takes pictures at any place.
        references: pictures of its subjects that it takes.
    """
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
