"""The settings of captions, topics, balance and the report of a curation."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from t2v.config.checks import at_least_one
from t2v.errors import UserError

AXES = ("topic", "source", "duration")


@dataclass(frozen=True, kw_only=True)
class CaptionConfig:
    """The authors of captions, and the rule that picks one.

    `authors`, the most trusted first: `sidecar` (x.txt beside x.mp4, one caption a line), `table`
    (the caption of the input's table), `subtitles` (x.srt, x.vtt and tracks of the film, in the
    clip's time), `folder`, `filename`, `model:FOLDER_OR_HUB_ID` (of transformers) and
    `https://HOST/v1#MODEL` (an OpenAI-compatible endpoint).
    """

    # who writes captions, the most trusted first: sidecar, table, subtitles, folder, filename,
    # model:FOLDER_OR_HUB_ID, https://HOST/v1#MODEL
    authors: tuple[str, ...] = ("sidecar", "table", "filename")
    rule: str = "{name}"  # caption made by filename and folder; {name} is the name in words
    prompt: str = "Describe this video in one paragraph."  # instruction to models that take one
    frames: int = 4  # frames a model is shown
    max_side: int = 512  # pixels of the longer side of those frames
    max_new_tokens: int = 128  # longest answer of a model
    device: str = "auto"  # of models: auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    timeout: float = 60.0  # seconds to wait for an endpoint's answer
    retries: int = 4  # retries of an endpoint that is busy, after 1, 2, 4, ... seconds
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the endpoint's key
    # what picks the caption: a CLIP-like model, or a folder of `t2v scorer`; empty: agreement of
    # authors picks
    scorer: str = ""
    min_match: float = -1.0  # with a scorer, least cosine of caption and frames
    # seconds; also tell clips that are longer in scenes, with their times, by windows of this
    # length that the first model or endpoint of `authors` sees; 0: do not
    window: float = 0.0
    # also caption the middle frame and so many parts of a clip one by one, by the first model or
    # endpoint of `authors`, and merge what they tell into one candidate; 0: do not
    parts: int = 0
    # who merges them, model:FOLDER_OR_HUB_ID of a text model or https://HOST/v1#MODEL; empty: a
    # rule, which adds sentences that tell more of the same things
    writer: str = ""
    # file of users' prompts, one a line: of the captions that can be used the one is chosen whose
    # length, form and words are most like theirs; empty: `scorer` or agreement chooses
    style: str = ""
    # with `style`, choose only among captions whose score, of the scorer or of agreement, is at
    # most so much below the best one; null: among all
    style_within: float | None = None
    merge: bool = False  # add to the caption what another candidate says beyond it
    tokenizer: str = ""  # pipeline or tokenizer (folder, Hub id) that counts tokens; empty: none
    max_tokens: int | None = None  # longest caption that is used, in tokens

    def __post_init__(self) -> None:
        at_least_one(self, "frames", "max_side", "max_new_tokens")
        if not self.authors:
            raise UserError(
                "caption.authors=[]: no author is left. Name one, or skip captions: skip=[caption]."
            )
        for author in self.authors:
            _check_author(author)
        if self.max_tokens is not None:
            at_least_one(self, "max_tokens")
            if not self.tokenizer:
                raise UserError(
                    f"caption.max_tokens={self.max_tokens} needs the tokenizer to count with: "
                    "caption.tokenizer=t2v-tiny, or a pipeline folder."
                )
        if "{name}" not in self.rule:
            raise UserError(
                f"caption.rule={self.rule}: it must contain {{name}}, as in 'a video of {{name}}'."
            )
        if self.parts < 0 or self.parts == 1 or (self.parts and not self.viewer()):
            raise UserError(
                f"caption.parts={self.parts}: 2 or more (0: none), and with it caption.authors "
                "must name who sees the parts: model:FOLDER or https://HOST/v1#MODEL."
            )
        if self.writer:
            _check_writer(self.writer, self.parts)
        if self.style_within is not None and not (self.style and self.style_within >= 0):
            raise UserError(
                f"caption.style_within={self.style_within:g} caption.style={self.style}: a "
                "difference of scores, 0 or more, and with it a file of prompts. Give "
                "caption.style=FILE, or leave it out."
            )
        if self.window < 0 or (self.window and not self.viewer()):
            raise UserError(
                f"caption.window={self.window}: seconds, 0 or more, and with it caption.authors "
                "must name who sees the windows: model:FOLDER or https://HOST/v1#MODEL."
            )
        if self.timeout <= 0 or self.retries < 0:
            raise UserError(
                f"caption.timeout={self.timeout} caption.retries={self.retries}: "
                "the first must be more than 0, the second at least 0."
            )

    def captioners(self) -> list[str]:
        """The captioning models among the authors: folders and hub ids."""
        prefix = "model:"
        return [each.removeprefix(prefix) for each in self.authors if each.startswith(prefix)]

    def viewer(self) -> str:
        """The first author that sees the pictures, a model or an endpoint; empty: none does."""
        seeing = (each for each in self.authors if each.startswith(("model:", "http")))
        return next(seeing, "")

    def models(self) -> list[str]:
        """The models named: folders and hub ids."""
        writer = self.writer.removeprefix("model:") if self.writer.startswith("model:") else ""
        return [*self.captioners(), *filter(None, (self.scorer, self.tokenizer, writer))]

    def uses_device(self) -> bool:
        """Return whether a model runs on `device`: a scorer, or an author that is one."""
        return bool(self.scorer or self.captioners())


def _check_author(author: str) -> None:
    plain = author in ("sidecar", "table", "subtitles", "folder", "filename")
    model = author.startswith("model:") and len(author) > len("model:")
    url, _, name = author.partition("#")
    endpoint = url.startswith(("http://", "https://")) and name
    if "://" in url:
        check_address(url, "caption.authors", "caption.key_variable")
    if not (plain or model or endpoint):
        raise UserError(
            f"caption.authors: {_without_secrets(author)!r} is not an author. Allowed: sidecar, "
            "table, subtitles, folder, filename, model:FOLDER_OR_HUB_ID, https://HOST/v1#MODEL."
        )


def _check_writer(writer: str, parts: int) -> None:
    url, _, name = writer.partition("#")
    if "://" in url:
        check_address(url, "caption.writer", "caption.key_variable")
    is_endpoint = url.startswith(("http://", "https://")) and bool(name)
    if not (is_endpoint or (writer.startswith("model:") and len(writer) > len("model:"))):
        raise UserError(
            f"caption.writer={_without_secrets(writer)}: allowed are model:FOLDER_OR_HUB_ID and "
            "https://HOST/v1#MODEL."
        )
    if not parts:
        raise UserError(
            f"caption.writer={writer} caption.parts=0: it merges captions of parts. "
            "Give caption.parts=4, or leave the writer out."
        )


def _without_secrets(author: str) -> str:
    return re.sub(r"\?.*", "?...", re.sub(r".*@", "...@", author, flags=re.S), flags=re.S)


def check_address(url: str, setting: str, key_setting: str) -> None:
    """Refuse an address that may hold a secret, without showing it: it would be stored, in
    `config.yaml`, in manifests, reports and recipes.

    Args:
        setting: that names it.
        key_setting: that names the environment variable for a key.

    Raises:
        UserError: it has more than a scheme, a host, a port and a path.
    """
    what = ""
    try:
        parts = urlsplit(url)
        if "@" in unquote(parts.netloc):
            what = "a user or password before the host"
        elif "?" in unquote(url):
            what = "a query (?...)"
        elif not parts.hostname or not url.isprintable() or " " in url or parts.port == 0:
            what = "no host, no port from 1 to 65535, or a blank"
    except ValueError:
        what = "no valid host, or no port from 1 to 65535"
    if what:
        raise UserError(
            f"{setting}: an address has {what}. Allowed: https://HOST:PORT/v1#MODEL; "
            f"the key goes into the environment variable that {key_setting} names."
        )


@dataclass(frozen=True, kw_only=True)
class TopicsConfig:
    """Clusters of captions."""

    count: int | None = None  # number of topics; null: as many as `apart` leaves
    max_count: int = 30  # most topics, without `count`
    apart: float = 0.93  # least mean cosine distance of two topics; planted ones have .97
    encoder: str = ""  # text encoder of transformers; empty: TF-IDF
    # what checks clips against topics: a CLIP-like model, or a folder of `t2v scorer`; empty:
    # captions alone
    scorer: str = ""
    min_match: float = -1.0  # drop clips that fit their topic less
    # file of what users ask for, one prompt a line: the report tells which of its topics the clips
    # lack; empty: none
    prompts: str = ""
    device: str = "auto"  # of models: auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    seed: int = 0  # of the clustering

    def __post_init__(self) -> None:
        at_least_one(self, "max_count")
        if not 0 < self.apart < 2:
            raise UserError(f"topics.apart={self.apart}: a cosine distance, above 0 and below 2.")
        if self.count is not None:
            at_least_one(self, "count")

    def models(self) -> list[str]:
        """The models named: folders and hub ids."""
        return [*filter(None, (self.encoder, self.scorer))]


@dataclass(frozen=True, kw_only=True)
class BalanceConfig:
    """The share of clips that stays, spread as evenly as possible over the groups of `by`."""

    keep: float = 1.0  # share of the clips to keep; 1: all, and only entropies are reported
    by: tuple[str, ...] = AXES  # what to balance: topic, source, duration
    durations: tuple[float, ...] = (2.0, 4.0, 8.0)  # seconds that separate the groups of duration

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise UserError(f"balance.keep={self.keep}: a share of the clips, above 0 and up to 1.")
        if not self.by or set(self.by) - set(AXES):
            raise UserError(f"balance.by={list(self.by)}: some of {', '.join(AXES)}.")
        if list(self.durations) != sorted(set(self.durations)):
            raise UserError(
                f"balance.durations={list(self.durations)}: seconds, from short to long."
            )


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """The page about a curation."""

    pictures: int = 24  # pictures of kept clips, and as many for each reason of dropping

    def __post_init__(self) -> None:
        at_least_one(self, "pictures")
