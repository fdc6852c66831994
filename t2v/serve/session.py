"""A browser's session: a cookie in place of the token, which pictures and events cannot bring."""

from __future__ import annotations

import hmac

COOKIE = "t2v_session"
LOGIN = "/login"  # where a browser gives the token for the cookie


def session_of(token: str) -> str:
    """The cookie of a token: it shows that its bearer has given the token, and does not tell it."""
    return hmac.digest(token.encode(), b"t2v session", "sha256").hex()
