"""The settings of how prompts are read, lengthened and rewritten."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from t2v.config.checks import at_least_one
from t2v.errors import UserError

Templates = Literal["pick", "all"]
LongPrompts = Literal["refuse", "windows", "compress"]


@dataclass(frozen=True, kw_only=True)
class PromptingConfig:
    """The ways of a prompt before it is embedded; by default it is taken as it stands."""

    # read (word:1.3), A AND B, A @0.5 B, [0-2s] A [2-4s] B and {a|b} in prompts; a backslash before
    # a sign leaves it as it is
    syntax: bool = False
    # of {a|b}: pick one by the seed of each video, or make a video of every one
    templates: Templates = "pick"
    # prompts of more tokens than fit: refuse, embed in windows, or keep the most distinct tokens
    long: LongPrompts = "refuse"
    keep: int | None = None  # with long=compress, tokens that are kept; null: as many as fit
    # who writes prompts anew, model:FOLDER_OR_HUB_ID or https://HOST/v1#MODEL; empty: nobody
    rewrite: str = ""
    # what the rewriter is told before the prompt
    instruction: str = (
        "Rewrite this prompt for a text-to-video model. Keep every thing, colour, number and "
        "action in it in its own words, add how it looks and moves, and answer with the prompt "
        "alone."
    )
    max_new_tokens: int = 128  # longest answer of the rewriter
    timeout: float = 60.0  # seconds to wait for an endpoint's answer
    retries: int = 4  # retries of an endpoint that is busy, after 1, 2, 4, ... seconds
    key_variable: str = "OPENAI_API_KEY"  # environment variable with the endpoint's key

    def __post_init__(self) -> None:
        at_least_one(self, "max_new_tokens")
        if self.keep is not None:
            at_least_one(self, "keep")
            if self.long != "compress":
                raise UserError(
                    f"prompting.keep={self.keep} prompting.long={self.long}: tokens are kept with "
                    "prompting.long=compress. Give it, or leave keep out."
                )
        if self.templates == "all" and not self.syntax:
            raise UserError(
                "prompting.templates=all: {a|b} is read with prompting.syntax=true. Give it too."
            )
        if self.rewrite:
            check_rewriter(self.rewrite)
        if not self.timeout > 0 or self.retries < 0:
            raise UserError(
                f"prompting.timeout={self.timeout} prompting.retries={self.retries}: the first "
                "must be more than 0, the second at least 0."
            )

    @property
    def reads(self) -> bool:
        """True where a prompt is not embedded as it stands."""
        return self.syntax or self.long != "refuse"

    @property
    def rewords(self) -> bool:
        """True where a prompt may become another one."""
        return self.syntax or bool(self.rewrite)

    def as_made(self) -> PromptingConfig:
        """The settings by which a prompt is embedded once it is chosen: those of a recipe."""
        return PromptingConfig(syntax=self.syntax, long=self.long, keep=self.keep)


def check_rewriter(place: str) -> None:
    """Raise `UserError` where a text names no model and no endpoint, or may hold a secret."""
    url, _, name = place.partition("#")
    if "://" in url:
        from t2v.config.captions import check_address  # few prompts are written anew

        check_address(url, "prompting.rewrite", "prompting.key_variable")
    is_endpoint = url.startswith(("http://", "https://")) and bool(name)
    if not (is_endpoint or (place.startswith("model:") and len(place) > len("model:"))):
        raise UserError(
            f"prompting.rewrite={place}: allowed are model:FOLDER_OR_HUB_ID and "
            "https://HOST/v1#MODEL."
        )
