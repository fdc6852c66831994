"""The one exception a user should ever see."""


class UserError(ValueError):
    """A mistake the user can mend: says what was given, what is allowed and what to do.

    The command line prints it as one message and exits with 2; no traceback.
    """


def shortened(text: object, most: int = 120) -> str:
    """`text` as a message shows it: where it is longer than `most` characters, its ends."""
    whole = str(text)
    if len(whole) <= most:
        return whole
    return f"{whole[: most // 2]}...{whole[-most // 4 :]} ({len(whole):,} characters)"
