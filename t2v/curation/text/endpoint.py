"""Captions from an OpenAI-compatible endpoint, over plain HTTP."""

from __future__ import annotations

import base64
import html
import http.client
import io
import json
import os
import re
import time
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlsplit

import numpy as np
from PIL import Image

from t2v.config.captions import CaptionConfig
from t2v.errors import UserError

LONGEST_ANSWER = 1 << 20  # bytes
FIRST_WAIT = 1.0  # seconds
LONGEST_WAIT = 60.0
SECRET = 8  # characters: a shorter key ("EMPTY", "test") hides nothing, and captions say such words
HIDDEN = "[the key]"
PASSING = {408, 409, 425, 429, 500, 502, 503, 504}  # may go better the next time


class NoAnswer(Exception):
    """An author gave no caption for this clip; for others, or the next time, it may."""


class _Unreachable(Exception):
    """Nobody is at the address."""


def ask(address: str, frames: Sequence[np.ndarray], config: CaptionConfig) -> str:
    """What the model at `address` says of the frames.

    Args:
        address: `https://HOST/v1#MODEL`.
        frames: each `h w c` uint8 RGB; they travel as JPEG.

    Raises:
        NoAnswer: refused, silent or unintelligible for this clip, after `config.retries` retries.
        UserError: it cannot be reached, knows neither the key nor the model, or the environment
            variable holds no key.

    The key is in nothing that this gives back or raises, however the server repeats it.
    """
    key = key_in(config.key_variable)
    url, _, model = address.partition("#")
    content: list[dict[str, Any]] = [{"type": "text", "text": config.prompt}]
    content += [{"type": "image_url", "image_url": {"url": data_uri(frame)}} for frame in frames]
    body = json.dumps(
        {
            "model": model,
            "messages": [{"role": "user", "content": content}],
            "max_tokens": config.max_new_tokens,
            "temperature": 0,
        }
    ).encode()
    caption = _caption_in(_post_until_answered(url.rstrip("/"), body, key, config), key)
    return redacted(caption, key) if len(key) >= SECRET else caption


def key_in(variable: str) -> str:
    """The key in an environment variable, without the blanks around it; empty where there is none.

    Raises:
        UserError: it cannot travel in a header. The message does not show it.
    """
    key = os.environ.get(variable, "").strip()
    if not all("!" <= letter <= "~" for letter in key):
        raise UserError(
            f"The environment variable {variable} (caption.key_variable) holds no key: a key is "
            "one word of printable ASCII, and there is a blank, a line break or another character "
            "within. Set it to the key alone."
        )
    return key


def redacted(text: str, key: str) -> str:
    """The text without the key, whether plain or as a URL, JSON, HTML or Basic auth writes it."""
    if not key:
        return text
    in_json = json.dumps(key)[1:-1]
    basic = [base64.b64encode(each.encode()).decode() for each in (key, f":{key}", f"{key}:")]
    ways = [key, quote(key), quote(key, safe=""), in_json, in_json.replace("/", "\\/"), *basic]
    ways += [html.escape(key), *(each.rstrip("=") for each in basic)]
    longest_first = sorted({*ways}, key=len, reverse=True)
    pattern = "|".join(re.escape(each) for each in longest_first)
    return re.sub(pattern, HIDDEN, text, flags=re.IGNORECASE)


def data_uri(frame: np.ndarray, quality: int = 85) -> str:
    """A frame, `h w c` uint8 RGB, as a JPEG that stands in the text itself."""
    file = io.BytesIO()
    Image.fromarray(frame).save(file, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()


def _post_until_answered(url: str, body: bytes, key: str, config: CaptionConfig) -> bytes:
    wait, said, useless = FIRST_WAIT, "", False
    for attempt in range(config.retries + 1):
        asked_wait, passes = None, True
        try:
            status, answer, asked_wait = _post(url, body, key, config)
        except _Unreachable as error:
            said, useless = redacted(str(error), key), True
        except (OSError, http.client.HTTPException) as error:  # it may stumble over this clip alone
            said, useless = redacted(f"{type(error).__name__}: {error}", key), False
        else:
            if status == 200:
                return answer
            said = f"HTTP {status}: {_beginning(answer, key)}"
            useless, passes = status in (401, 403, 404), status in PASSING
        if not passes:
            break
        if attempt < config.retries:
            time.sleep(min(wait if asked_wait is None else asked_wait, LONGEST_WAIT))
            wait *= 2
    if useless:
        raise UserError(
            f"caption.authors: {url} cannot be used ({said}). Check the address, the model's name "
            f"and the key in the environment variable {config.key_variable}, then run again: "
            "the captions made so far are kept."
        )
    raise NoAnswer(said)


def _post(
    url: str, body: bytes, key: str, config: CaptionConfig
) -> tuple[int, bytes, float | None]:
    """Status, body and the wait the server asks for.

    Redirects are not followed: the key would travel along.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=config.timeout)
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
        asked = response.headers.get("Retry-After", "")
        return (
            response.status,
            response.read(LONGEST_ANSWER),
            float(asked) if asked.isdecimal() else None,
        )
    finally:
        connection.close()


def _beginning(answer: bytes, key: str) -> str:
    """What an answer begins with; the key goes first, so that none of it is left at the end."""
    return redacted(answer.decode(errors="replace"), key)[:200]


def _caption_in(answer: bytes, key: str) -> str:
    try:
        caption = json.loads(answer)["choices"][0]["message"]["content"]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise NoAnswer(f"no chat completion: {_beginning(answer, key)}") from error
    if not isinstance(caption, str):
        raise NoAnswer(f"a completion without text: {redacted(str(caption), key)[:200]}")
    return caption
