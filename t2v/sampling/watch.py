"""Progress of one video: its latest latents, the time left, and preview images."""

from __future__ import annotations

import logging
import sys
import time
from pathlib import Path

from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.io.video import contact_sheet, save_image
from t2v.pipelines.generator import Generator, Start, Step

logger = logging.getLogger(__name__)

SECONDS_BETWEEN_LINES = 10


class Watch:
    """Follows the generation of a video.

    Keeps the latest latents and the number of steps they have behind them; logs the time left
    where no terminal shows a bar; writes a preview every `preview_every` steps.
    """

    def __init__(self, generator: Generator, config: SampleConfig, start: Start | None) -> None:
        self.generator, self.config = generator, config
        self.latents: Tensor | None = None if start is None else start.latents
        self.step = self._first = 0 if start is None else start.step
        self._started = self._logged = time.monotonic()

    def __call__(self, step: Step) -> None:
        self.latents, self.step = step.latents, step.number
        self._log_time_left()
        every = self.config.preview_every
        if every and self.step % every == 0:
            self._preview(step.heading())

    @property
    def has_new_steps(self) -> bool:
        return self.step > self._first

    def _log_time_left(self) -> None:
        now, total = time.monotonic(), self.config.num_inference_steps
        if sys.stderr.isatty() or total is None or now - self._logged < SECONDS_BETWEEN_LINES:
            return
        rate = (self.step - self._first) / (now - self._started)
        left = (total - self.step) / rate
        logger.info("step %d/%d, %.2f steps/s, %.0f s left", self.step, total, rate, left)
        self._logged = now

    def _preview(self, latents: Tensor) -> None:
        try:
            frames = self.generator.decode(latents, self.config.num_frames)
        except UserError as error:  # decoding the end will fail too, and the latents stay
            logger.warning("no preview: %s", error)
            return
        caption = f"step {self.step}/{self.config.num_inference_steps}"
        save_image(preview_path(self.config), contact_sheet([frames[0]], [caption]))


def preview_path(config: SampleConfig) -> Path:
    """The file of a video's preview while it is made."""
    assert config.output is not None
    return Path(config.output).with_suffix(".preview.png")
