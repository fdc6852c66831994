"""A browser's session: a cookie in place of the token, which pictures and events cannot bring."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Any

LOGIN = "/login"  # where a browser gives the token for the cookie


def cookie_of(scope: Mapping[str, Any]) -> str:
    """The name of the cookie: browsers send those of one port to all others of a host."""
    server = scope.get("server") or (None, None)
    return f"t2v_session_{server[1]}"


def session_of(token: str) -> str:
    """The cookie of a token: it shows that its bearer has given the token, and does not tell it."""
    return hmac.digest(token.encode(), b"t2v session", "sha256").hex()
