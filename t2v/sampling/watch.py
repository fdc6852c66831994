"""The steps of a video that is made: the latest latents, the time left, previews, who follows."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.video import contact_sheet, save_image
from t2v.pipelines.generator import Generator, Start, Step
from t2v.sampling.recipe import Recipe
from t2v.sampling.results import Passing

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10

# Told of a video after each of its steps, with their watch, and with None before each piece of it
# is decoded. A KeyboardInterrupt that it raises ends the video as Ctrl-C does.
Follow = Callable[[Recipe, "Watch | None"], None]


class Watch:
    """Follows the generation of a video.

    Keeps the latest latents and the number of steps they have behind them; logs the time left
    where no terminal shows a bar; writes a preview every `preview_every` steps.

    Args:
        follow: called after each step, when all of this is done.
    """

    def __init__(
        self,
        generator: Generator,
        config: SampleConfig,
        start: Start | None,
        follow: Callable[[Watch], None] | None = None,
    ) -> None:
        self.generator, self.config, self.follow = generator, config, follow
        self.latents: Tensor | None = None if start is None else start.latents
        self.state = {} if start is None else start.state
        self.step = self._first = 0 if start is None else start.step
        self._started = self._logged = time.monotonic()
        self._last: Step | None = None

    def __call__(self, step: Step) -> None:
        self.latents, self.step, self.state = step.latents, step.number, step.state
        self._last = step
        self._log_time_left()
        every = self.config.preview_every
        if every and self.step % every == 0:
            self.preview(preview_path(self.config))
        if self.follow is not None:
            self.follow(self)

    @property
    def has_new_steps(self) -> bool:
        return self.step > self._first

    @property
    def can_resume(self) -> bool:
        """True where the video can go on from its latents: a cache is not kept with them."""
        return self.generator.can_resume and self.config.cache == "none"

    @property
    def seconds_left(self) -> float | None:
        """The seconds that the steps still to be done will take; None where it is not known."""
        total = self.config.num_inference_steps
        if total is None or not self.has_new_steps:
            return None
        return (total - self.step) / self._rate()

    def _rate(self) -> float:
        return (self.step - self._first) / (time.monotonic() - self._started)

    def preview(self, path: Path) -> None:
        """Write a contact sheet of what the last step was heading for; a warning if it fails."""
        assert self._last is not None
        try:
            count = self.config.num_frames
            pieces = self.generator.decode_pieces(self._last.heading(), count)
            shown = Passing(pieces, count).shown()
        except UserError as error:  # decoding the end will fail too, and the latents stay
            logger.warning("no preview: %s", error)
            return
        caption = f"step {self.step}/{self.config.num_inference_steps}"
        save_image(path, contact_sheet([shown.frames], [caption]))

    def _log_time_left(self) -> None:
        now, total = time.monotonic(), self.config.num_inference_steps
        if sys.stderr.isatty() or total is None or now - self._logged < SECONDS_BETWEEN_LINES:
            return
        rate, left = self._rate(), self.seconds_left
        logger.info("step %d/%d, %.2f steps/s, %.0f s left", self.step, total, rate, left)
        self._logged = now


def preview_path(config: SampleConfig) -> Path:
    """The file of a video's preview while it is made."""
    assert config.output is not None
    return Path(config.output).with_suffix(".preview.png")
