"""The one exception a user should ever see."""


class UserError(ValueError):
    """A mistake the user can mend: says what was given, what is allowed and what to do.

    The command line prints it as one message and exits with 2; no traceback.
    """
