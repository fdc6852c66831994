"""The progress of a job while its video is made: told, previewed, and kept."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from t2v.queue.claims import is_cancelled
from t2v.queue.job import Job
from t2v.queue.store import Store, tell, told
from t2v.sampling.generate import keep_steps
from t2v.sampling.recipe import Recipe
from t2v.sampling.watch import Watch

logger = logging.getLogger(__name__)

SECONDS_BETWEEN = 0.2  # two files of progress

Stage = Literal["loading", "denoising", "decoding"]


class PreviewTime:
    """The time that previews took, and may take: a share of all.

    Args:
        share: of the time of a job, from 0 to 1.
    """

    def __init__(self, share: float) -> None:
        self.share, self.last = share, 0.0

    def allows(self, spent: float, seconds: float) -> bool:
        """True where one more preview, as long as the last one, stays within the share."""
        return self.share > 0 and spent + self.last <= self.share * seconds


class Progress:
    """Follows a video: writes `progress.json` and `preview.png`, keeps latents, ends it if asked.

    Args:
        keep_seconds: between two times that latents are kept.
        is_stopping: true when the worker is to end.
    """

    def __init__(
        self,
        store: Store,
        job: Job,
        device: str,
        keep_seconds: float,
        previews: PreviewTime,
        is_stopping: Callable[[], bool],
    ) -> None:
        self.store, self.job, self.device, self.keep_seconds = store, job, device, keep_seconds
        self.previews, self.is_stopping = previews, is_stopping
        self.began = self.kept = time.monotonic()
        self.told, self.spent = 0.0, 0.0
        self.values: dict[str, Any] = {"stage": "loading", "step": 0, "steps": None, "share": 0.0}
        if "output" in (before := told(job.files / "progress.json")):
            self.values["output"] = before["output"]  # what it left there is still its own
        self._tell()

    @property
    def seconds(self) -> float:
        """The seconds since the job was taken."""
        return time.monotonic() - self.began

    def __call__(self, recipe: Recipe, watch: Watch | None) -> None:
        if watch is not None:
            self._keep(recipe, watch)
            self._preview(watch)
        self._update(recipe, watch)
        self._check()

    def window(self, path: Path, done: int, total: int) -> None:
        """Tell of the windows of a story that are made."""
        about = {"stage": "denoising", "step": done, "steps": total, "share": done / total}
        self.values = {**about, "sample": 1, "samples": 1, "left": None, "output": str(path)}
        self._tell()
        self._check()

    def _check(self) -> None:
        if is_cancelled(self.store, self.job) or self.is_stopping():
            raise KeyboardInterrupt

    def _keep(self, recipe: Recipe, watch: Watch) -> None:
        if not watch.can_resume or time.monotonic() - self.kept < self.keep_seconds:
            return
        assert watch.latents is not None
        if watch.latents.isfinite().all():  # else the end of the job says what is wrong
            keep_steps(watch, recipe)
        self.kept = time.monotonic()

    def _preview(self, watch: Watch) -> None:
        is_last = watch.step == watch.config.num_inference_steps
        if is_last or not watch.generator.gives_latents:
            return
        if not self.previews.allows(self.spent, self.seconds):
            return
        started = time.monotonic()
        watch.preview(self.job.files / "preview.png")
        self.previews.last = time.monotonic() - started
        self.spent += self.previews.last

    def _update(self, recipe: Recipe, watch: Watch | None) -> None:
        stage: Stage = "decoding" if watch is None else "denoising"
        steps = recipe.settings.num_inference_steps or 1
        samples, scored = 1, 0
        if recipe.choice is not None:
            samples, scored = recipe.choice.best_of, len(recipe.choice.scores)
        step = steps if watch is None else watch.step
        is_new = stage != self.values["stage"]
        self.values = {
            "stage": stage,
            "step": step,
            "steps": steps,
            "sample": min(scored + 1, samples),
            "samples": samples,
            "share": min(1.0, (scored + step / steps) / samples),
            "left": None if watch is None else watch.seconds_left,
            "output": str(recipe.path),
        }
        if is_new or time.monotonic() - self.told >= SECONDS_BETWEEN:
            self._tell()

    def _tell(self) -> None:
        own = {"pid": os.getpid(), "host": socket.gethostname(), "device": self.device}
        own |= {"seconds": round(self.seconds, 2), "time": time.time()}
        with suppress(OSError):  # the disk may be full, and the video not yet
            tell(self.job.files / "progress.json", self.values | own)
        self.told = time.monotonic()
