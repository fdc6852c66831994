"""The worker of a queue: takes jobs in their order, and keeps models ready between them."""

from __future__ import annotations

import logging
import multiprocessing
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from t2v.config.places import brought
from t2v.config.queue import QueueRunConfig
from t2v.config.sampling import SampleConfig
from t2v.config.story import stored_story
from t2v.errors import UserError, shortened
from t2v.io.text_files import one_line
from t2v.models.device import GIB, OutOfMemory, pick_device
from t2v.queue.claims import claimed, end, is_cancelled
from t2v.queue.disk import is_full, on_one_disk
from t2v.queue.folder import Queue
from t2v.queue.job import Job, State, check_settings
from t2v.queue.progress import PreviewTime, Progress
from t2v.sampling import run
from t2v.sampling.engine import Engine
from t2v.sampling.results import spelled

logger = logging.getLogger(__name__)

Fit = Callable[[SampleConfig, int], SampleConfig]
LONGEST = 4000  # characters of a message
POLL = 0.2  # seconds between two looks at a queue where nothing waits


class Worker:
    """Makes the videos of a queue's jobs, one after the other.

    Args:
        queue: more workers may be at work on it.
        fit: settings with `offload=auto` replaced as the free memory and some bytes more allow;
            None: every model is held whole.

    Raises:
        UserError: the device is not there.
    """

    def __init__(self, queue: Queue, config: QueueRunConfig, fit: Fit | None = None) -> None:
        self.queue, self.store, self.config, self.fit = queue, queue.store, config, fit
        pick_device(config.device)
        memory = None if config.memory is None else int(config.memory * GIB)
        self.engine = Engine(run.load, config.models, memory)
        self.previews = PreviewTime(config.previews)
        self.is_stopped = False
        self._held: dict[SampleConfig, SampleConfig] = {}  # settings, and as the memory allows

    def stop(self) -> None:
        """Have the worker end at the next step; its job is put back, with the latents kept."""
        self.is_stopped = True

    def is_stopping(self) -> bool:
        """True where it is to end, or the process that started it has ended."""
        parent = multiprocessing.parent_process()
        return self.is_stopped or (parent is not None and not parent.is_alive())

    def work(self) -> Iterator[Job]:
        """Yield each job as it ends, until the worker is stopped or, without `wait`, none waits."""
        while not self.is_stopping():
            with claimed(self.store) as job:
                has_ended = job is not None and self._run(job)
            ended = None
            if job is not None and has_ended:
                with suppress(UserError):  # it may be cleared by now
                    ended = self.queue.job(job.id)
            if ended is not None:
                yield ended
            elif job is None and not self.config.wait:
                return
            elif job is None:
                time.sleep(POLL)

    def _run(self, job: Job) -> bool:
        """Make the video of a job and end it, whatever happens; false where a stop left it."""
        logger.info("job %s: %s", job.id[:8], one_line(job.prompt[:80]))
        progress = Progress(
            self.store,
            job,
            self.config.device,
            self.config.keep_seconds,
            self.previews,
            self.is_stopping,
        )
        state: State = "failed"
        message, paths = "", list[Path]()
        try:
            with _logged(job.files / "log.txt"):
                paths = self._make(job, progress)
            state = "done"
        except KeyboardInterrupt:
            if not is_cancelled(self.store, job):
                self.is_stopped = True
                return False
            state = "cancelled"
        except Exception as error:
            if is_full(error) and on_one_disk(job.output.parent, self.store.folder):
                raise UserError(  # each of the others would fail too
                    f"{self.store.folder}: no space is left on the disk. Make room, and start the "
                    f"worker again: job {job.id[:8]} waits, and goes on from what was kept of it."
                ) from error
            message = self._failure(job, error)
        result: dict[str, Any] = {"message": message, "paths": [str(path) for path in paths]}
        result |= {"seconds": round(progress.seconds, 2), "time": time.time()}
        end(self.store, job, state, result)
        if state != "failed":  # which may be tried again, and then goes on
            self.store.drop_work(job.id)
        if state == "cancelled":
            self.store.drop_parts(job.id)
        told = f": {one_line(message)}" if message else ""
        logger.info("job %s: %s%s", job.id[:8], state, told)
        return True

    def _failure(self, job: Job, error: Exception) -> str:
        """The message of a job that failed."""
        told = shortened(error, LONGEST)
        if isinstance(error, UserError):
            return told
        self.engine.clear()  # whatever state it is in
        return f"{type(error).__name__}: {told} (a bug; {job.files / 'log.txt'} has more)"

    def _make(self, job: Job, progress: Progress) -> list[Path]:
        if job.problem:
            raise UserError(job.problem)
        try:
            return self._sample(job, progress)
        except OutOfMemory as error:
            if len(self.engine) < 2:
                raise
            logger.warning("%s The other models leave the memory, and it goes on.", error)
        self.engine.clear()
        return self._sample(job, progress)

    def _sample(self, job: Job, progress: Progress) -> list[Path]:
        config = check_settings(job.settings)
        own: dict[str, Any] = {"output": spelled(job.output)}
        if config.device == "auto":
            own["device"] = self.config.device
        is_recipe = "weights" in job.values  # which fetches nothing
        with brought(replace(config, **own), reads=not is_recipe):
            return self._made(job, config, own, progress)

    def _made(
        self, job: Job, config: SampleConfig, own: dict[str, Any], progress: Progress
    ) -> list[Path]:
        load = self.engine.load
        source, values = self.store.path("running", job.name), job.values
        overrides = [f"{name}={value}" for name, value in own.items()]
        if "story" not in values:
            if "weights" in values:
                return [run.repeat_recipe(values, source, overrides, load, progress)]
            return run.sample(self._as_held(replace(config, **own)), [job.prompt], load, progress)
        from t2v.sampling import story  # few jobs are one

        if "weights" in values:
            return [story.repeat_recipe(values, source, overrides, load, progress.window)]
        scenes, held = stored_story(values["story"], str(source)), replace(config, **own)
        return [story.make_film(scenes, self._as_held(held), load, follow=progress.window)]

    def _as_held(self, config: SampleConfig) -> SampleConfig:
        """The settings with the way of holding the model that a process of its own would choose."""
        if config.offload != "auto" or self.fit is None:
            return config
        asked = replace(config, seed=0, output=None, negative_prompt="")
        if asked not in self._held:
            self._held[asked] = self.fit(config, self.engine.nbytes)
        own = {name: getattr(config, name) for name in ("seed", "output", "negative_prompt")}
        return replace(self._held[asked], **own)


class _JobLog(logging.FileHandler):
    """The log of a job, without which it goes on: the disk may be full."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            super().emit(record)

    def handleError(self, record: logging.LogRecord) -> None:
        """Say nothing: the job says what is wrong with the disk."""


@contextmanager
def _logged(path: Path) -> Iterator[None]:
    """Write the log of the package into a file too, with the traceback of a bug."""
    handler = _JobLog(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log = logging.getLogger("t2v")
    log.addHandler(handler)
    try:
        yield
    except UserError:
        raise
    except Exception:
        log.error("%s", traceback.format_exc())
        raise
    finally:
        log.removeHandler(handler)
        handler.close()
