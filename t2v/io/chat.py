"""Answers of an OpenAI-compatible endpoint, over plain HTTP.

The `openai` package is not used: it reads answers of any length, and sends `OPENAI_ORG_ID`,
`OPENAI_PROJECT_ID` and facts about this machine to whatever host the address names.
"""

from __future__ import annotations

import base64
import html
import http.client
import json
import os
import re
import time
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

from t2v.errors import UserError

LONGEST_ANSWER = 1 << 20  # bytes
FIRST_WAIT = 1.0  # seconds
LONGEST_WAIT = 60.0
SECRET = 8  # characters: shorter keys ("EMPTY", "test") are no secret and occur in captions
HIDDEN = "[the key]"
TRANSIENT = {408, 409, 425, 429, 500, 502, 503, 504}  # worth a retry


class NoAnswer(Exception):
    """No answer to this message; there may be one to others, or the next time."""


class _Unreachable(Exception):
    """No connection to the address."""


class Settings(Protocol):
    """The settings of whoever asks: `CaptionConfig`, `PromptingConfig`."""

    @property
    def max_new_tokens(self) -> int:
        """Longest answer."""

    @property
    def timeout(self) -> float:
        """Seconds to wait for it."""

    @property
    def retries(self) -> int:
        """Retries of an endpoint that is busy, after 1, 2, 4, ... seconds."""

    @property
    def key_variable(self) -> str:
        """Environment variable with the key."""


def complete(
    address: str, content: str | list[dict[str, Any]], settings: Settings, setting: str
) -> str:
    """The answer of the model at `address` to one message.

    Args:
        address: `https://HOST/v1#MODEL`.
        content: of the message, as OpenAI's chat completions take it.
        setting: that names the address, such as `caption.authors`, for messages.

    Raises:
        NoAnswer: refused, timed out or malformed for this message, after `retries` retries.
        UserError: it cannot be reached, rejects the key or the model, or the environment variable
            holds no valid key.

    The key is in no result and no message, in whatever form the server repeats it.
    """
    key = key_in(settings.key_variable, setting)
    url, _, model = address.partition("#")
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": settings.max_new_tokens,
            "temperature": 0,
        }
    ).encode()
    answer = _post_until_answered(url.rstrip("/"), body, key, settings, setting)
    text = _text_in(answer, key)
    return redacted(text, key) if len(key) >= SECRET else text


def key_in(variable: str, setting: str) -> str:
    """The key in an environment variable, without white space around it; empty where it is unset.

    Raises:
        UserError: it cannot be sent in a header. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(
            f"The environment variable {variable} ({_group(setting)}.key_variable) holds no valid "
            "key: a key is one word of printable ASCII; this one contains a blank, a line break or "
            "another character. Set it to the key alone."
        )
    return key


def redacted(text: str, key: str) -> str:
    """The text without the key, whether plain or as a URL, JSON, HTML or Basic auth writes it."""
    if not key:
        return text
    in_json = json.dumps(key)[1:-1]
    basic = [base64.b64encode(each.encode()).decode() for each in (key, f":{key}", f"{key}:")]
    forms = [key, quote(key), quote(key, safe=""), in_json, in_json.replace("/", "\\/"), *basic]
    forms += [html.escape(key), *(each.rstrip("=") for each in basic)]
    longest_first = sorted({*forms}, key=len, reverse=True)
    pattern = "|".join(re.escape(each) for each in longest_first)
    return re.sub(pattern, HIDDEN, text, flags=re.IGNORECASE)


def _group(setting: str) -> str:
    return setting.partition(".")[0]


def _post_until_answered(
    url: str, body: bytes, key: str, settings: Settings, setting: str
) -> bytes:
    wait, problem, is_unusable = FIRST_WAIT, "", False
    for attempt in range(settings.retries + 1):
        retry_after, may_retry = None, True
        try:
            status, answer, retry_after = _post(url, body, key, settings)
        except _Unreachable as error:
            problem, is_unusable = redacted(str(error), key), True
        except (OSError, http.client.HTTPException) as error:  # it may fail for this message alone
            problem = redacted(f"{type(error).__name__}: {error}", key)
            is_unusable = False
        else:
            if status == 200:
                return answer
            problem = f"HTTP {status}: {_beginning(answer, key)}"
            is_unusable, may_retry = status in (401, 403, 404), status in TRANSIENT
        if not may_retry:
            break
        if attempt < settings.retries:
            time.sleep(min(wait if retry_after is None else retry_after, LONGEST_WAIT))
            wait *= 2
    if is_unusable:
        raise UserError(
            f"{setting}: {url} cannot be used ({problem}). Check the address, the model's name and "
            f"the key in the environment variable {settings.key_variable}, then run again: the "
            "answers so far are kept."
        )
    raise NoAnswer(problem)


def _post(url: str, body: bytes, key: str, settings: Settings) -> tuple[int, bytes, float | None]:
    """Status, body and the wait that the server asks for.

    Redirects are not followed: they would receive the key.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=settings.timeout)
    headers = {"Content-Type": "application/json"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.connect()
    except OSError as error:
        raise _Unreachable(f"{type(error).__name__}: {error}") from error
    try:
        connection.request("POST", f"{parts.path}/chat/completions", body, headers)
        response = connection.getresponse()
        retry_after = response.headers.get("Retry-After", "")
        return (
            response.status,
            response.read(LONGEST_ANSWER),
            float(retry_after) if retry_after.isdecimal() else None,
        )
    finally:
        connection.close()


def _beginning(answer: bytes, key: str) -> str:
    """The beginning of an answer; the key is removed first, so that no part of it is left."""
    return redacted(answer.decode(errors="replace"), key)[:200]


def _text_in(answer: bytes, key: str) -> str:
    try:
        text = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoAnswer(f"no chat completion: {_beginning(answer, key)}") from error
    if not isinstance(text, str):
        raise NoAnswer(f"a completion without text: {redacted(str(text), key)[:200]}")
    return text
