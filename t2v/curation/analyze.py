"""One pass over one source: probe, scenes, and the stages that measure each shot's frames."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from t2v.config.curation import CurateConfig
from t2v.curation.copies.prints import fingerprint
from t2v.curation.frames.scenes import CUT_SIZE, SceneFinder
from t2v.curation.frames.thumbnails import Thumbnailer, downscaled
from t2v.curation.journal import Analysis
from t2v.curation.shot import MOTION_RATE, Shot
from t2v.curation.sources import Source
from t2v.curation.stages import load_stages
from t2v.errors import UserError
from t2v.footage.containers import Unreadable, require_file
from t2v.footage.frames import Probe, iter_pictures, probe
from t2v.footage.picture import Picture
from t2v.io.files import KEY, file_sha256, sha256
from t2v.io.manifest import Clip

STILL_SIDE = 640  # the longer side of a still
STILL_EVERY = 1.0  # seconds
DETAIL_SIDE = 256
SLACK = 1e-3  # seconds: timestamps are rounded to the ticks of their container
FAILED = "failed"  # in `dropped`: no stage saw the clip, it could not be read


def analyze(source: Source, config: CurateConfig) -> Analysis:
    """Run every `shot` stage over the shots of a source; a source that fails is a clip too.

    The film is decoded once. Each clip's `extra` has its `id`, a hash of the file's bytes, the span
    and the crop; `shown`, the width and height of the whole picture; and the `probe` facts.
    """
    blank = Clip(
        path=source.path, source=source.source, license=source.license, caption=source.caption
    )
    if source.caption:
        blank = replace(blank, captions=(source.caption,))
    clock = _Clock()
    try:
        with clock.of("probe"):
            require_file(Path(source.path))  # a pipe would wait for ever
            blank = replace(blank, sha256=_sha256(Path(source.path)))
            facts = probe(source.path)
    except Unreadable as error:
        return _single(_failed(blank, error), clock)
    except UserError as error:  # it vanished, or may not be read
        return _single(blank.drop(FAILED, str(error)), clock)
    blank = _described(blank, facts)
    if "probe" not in config.skip and (reason := _refusal(facts, config)):
        return _single(blank.drop("probe", reason), clock)
    return _Pass(blank, facts, config, clock).run()


class _Clock:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start


def _single(clip: Clip, clock: _Clock) -> Analysis:
    return Analysis([_identified(clip)], seconds=clock.seconds)


def _failed(clip: Clip, error: Unreadable) -> Clip:
    return clip.drop(FAILED, f"{error.fault}: {error.detail}" if error.detail else error.fault)


def _sha256(path: Path) -> str:
    try:
        return file_sha256(path)
    except OSError as error:
        raise UserError(f"cannot be read: {error.strerror}") from error


def _described(clip: Clip, probed: Probe) -> Clip:
    facts = {
        "container": probed.container.split(",")[0],
        "codec": probed.codec,
        "bit_depth": probed.bit_depth,
        "rotation": probed.rotation,
        "mirrored": probed.mirrored,
        "sample_aspect": str(probed.sample_aspect),
        "full_range": probed.full_range,
        "hdr": probed.hdr,
        "vfr": probed.vfr,
        "interlaced": probed.interlaced,
        "clock_jumps": probed.clock_jumps,
    }
    names = {"hdr": "hdr", "vfr": "vfr", "interlaced": "interlaced", "clock_jumps": "timestamps"}
    return replace(
        clip,
        end=round(probed.duration, 6),
        fps=round(probed.fps, 4) or None,
        width=probed.width,
        height=probed.height,
        num_frames=probed.num_frames or None,
        tags=(*clip.tags, *(tag for name, tag in names.items() if facts[name])),
        extra=clip.extra | {"probe": facts, "shown": [probed.width, probed.height]},
    )


def _refusal(probed: Probe, config: CurateConfig) -> str:
    if min(probed.width, probed.height) < config.probe.min_side:
        return f"{probed.width}x{probed.height}: the shorter side has under {config.probe.min_side}"
    if probed.num_frames < config.probe.min_frames:
        return f"{probed.num_frames} frame, at least {config.probe.min_frames}"
    if probed.hdr and config.probe.hdr == "drop":
        return f"HDR ({probed.hdr}) looks washed out when it is read as ordinary footage"
    if probed.interlaced and config.probe.interlaced == "drop":
        return "interlaced: its frames show two moments, and probe.interlaced=drop"
    return ""


def clip_id(clip: Clip) -> str:
    """Return a hash of the file's bytes, the span and the crop of a clip."""
    facts = [clip.sha256 or clip.path, clip.start, clip.end, clip.extra.get("crop")]
    return sha256(repr(facts))[:KEY]


def _identified(clip: Clip) -> Clip:
    return replace(clip, extra=clip.extra | {"id": clip_id(clip)})


class _Pass:
    """The single decoding of a source; frames wait here until their shot is complete."""

    def __init__(self, blank: Clip, probed: Probe, config: CurateConfig, clock: _Clock) -> None:
        self.blank, self.probed, self.config, self.clock = blank, probed, config, clock
        self.stages = {n: s for n, s in load_stages("shot").items() if n not in config.skip}
        cv2.setNumThreads(1)
        self.finder = SceneFinder(config.scenes, splits_only="scenes" in config.skip)
        self.thumbnailer = Thumbnailer()
        short = config.scenes.short_side / min(probed.width, probed.height)
        self.grey_size = round(probed.height * short), round(probed.width * short)
        large = min(1.0, STILL_SIDE / max(probed.width, probed.height))
        self.still_size = round(probed.height * large), round(probed.width * large)
        self.first = 0  # the number of the first frame still held
        self.times: list[float] = []
        self.resized: set[int] = set()  # the numbers of frames stored at another size
        self.thumbnails: list[np.ndarray] = []
        self.shown: Picture | None = None  # on screen until the next frame comes
        self.ticks = 0  # how many eighths of a second are sampled
        self.grey: dict[int, np.ndarray] = {}  # by ticks
        self.stills: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by frame number
        self.found = Analysis([])

    def run(self) -> Analysis:
        damage = None
        weave = self.config.probe.interlaced == "deinterlace"
        pictures = iter_pictures(Path(self.blank.path), deinterlace=weave)
        while True:
            try:
                with self.clock.of("decode"):
                    time, picture = next(pictures)
                    self._keep(time, picture)
            except StopIteration:
                break
            except Unreadable as error:
                damage = error
                break
            with self.clock.of("scenes"):
                middle = partial(self.thumbnailer.middle, picture, DETAIL_SIDE)
                spans = self.finder.push(time, self.thumbnails[-1], middle)
            for span in spans:
                self._finish(*span)
        self._end(damage)
        self.found.seconds = self.clock.seconds
        return self.found

    def _keep(self, time: float, picture: Picture) -> None:
        """Keep the thumbnails of a frame that the stages need."""
        self._tick(time - SLACK)
        number = self.first + len(self.times)
        self.times.append(time)
        if picture.is_resized:
            self.resized.add(number)
        self.shown = picture
        self.thumbnails.append(self.thumbnailer.bgr(picture, CUT_SIZE))
        last = max(self.stills, default=None)
        if last is None or time - self.times[last - self.first] >= STILL_EVERY:
            still = downscaled(picture.rgb(is_exact=False), self.still_size)
            self.stills[number] = still, self.thumbnailer.middle(picture, DETAIL_SIDE)

    def _tick(self, until: float) -> None:
        """Sample the screen at every 1 / 8 s before `until`."""
        grey = None
        while self.shown is not None and self.ticks / MOTION_RATE < until:
            grey = self.thumbnailer.grey(self.shown, self.grey_size) if grey is None else grey
            self.grey[self.ticks] = grey
            self.ticks += 1

    def _end(self, damage: Unreadable | None) -> None:
        """Finish the last shots; one in which decoding stopped is recorded as failed."""
        if self.times:
            self._tick(self.times[-1] + SLACK)
        with self.clock.of("scenes"):
            spans = self.finder.finish() if self.times else []
        for span in spans[:-1] if damage else spans:
            self._finish(*span)
        if damage:
            self.found.clips = [replace(c, tags=(*c.tags, "damaged")) for c in self.found.clips]
            start = self.times[spans[-1][0] - self.first] if spans else 0.0
            rest = replace(self.blank, start=round(start, 6), num_frames=None)
            end = max(self.probed.duration, start + 1e-3)
            self.found.clips.append(_identified(_failed(replace(rest, end=round(end, 6)), damage)))
        elif not self.found.clips:
            nothing = (
                "nothing but transitions and plain pictures" if self.times else "no frame decodes"
            )
            self.found.clips.append(_identified(self.blank.drop("scenes", nothing)))

    def _finish(self, start: int, end: int) -> None:
        """Run the stages over one shot, record it and release its frames."""
        low, high = start - self.first, end - self.first
        last = self.times[high] if high < len(self.times) else self.times[-1] + self._step()
        clip = replace(
            self.blank,
            start=round(self.times[low], 6),
            end=round(last, 6),
            num_frames=high - low,
        )
        if not self.resized.isdisjoint(range(start, end)):
            clip = replace(clip, tags=(*clip.tags, "resized"))
        shot = self._shot(clip, start, end)
        least = self.config.scenes.min_seconds
        if last - self.times[low] < least - 1e-6:
            clip = clip.drop("scenes", f"{last - self.times[low]:.2f} s long, at least {least:g}")
        for name, stage in self.stages.items():
            if not clip.dropped:
                with self.clock.of(name):
                    clip = stage.run(replace(shot, clip=clip), getattr(self.config, name))
        self._record(_identified(clip), shot)
        self._release(end)

    def _shot(self, clip: Clip, start: int, end: int) -> Shot:
        low, high = start - self.first, end - self.first
        until = self.times[high] if high < len(self.times) else math.inf
        grey = [
            each
            for tick, each in self.grey.items()
            if self.times[low] <= tick / MOTION_RATE + SLACK < until
        ]
        stills = [still for number, still in self.stills.items() if start <= number < end]
        first = self.thumbnails[low]  # all there is of a shot between two stills, too short to keep
        light = cv2.cvtColor(first, cv2.COLOR_BGR2GRAY)
        stills = stills or [(cv2.cvtColor(first, cv2.COLOR_BGR2RGB), light)]
        return Shot(
            clip=clip,
            grey=np.stack(grey or [cv2.resize(light, self.grey_size[::-1])]),
            stills=np.stack([still for still, _ in stills]),
            details=np.stack([detail for _, detail in stills]),
        )

    def _record(self, clip: Clip, shot: Shot) -> None:
        name = clip.extra["id"]
        self.found.clips.append(clip)
        if not clip.dropped:
            with self.clock.of("dedup"):
                self.found.prints[name] = fingerprint(shot.grey, clip)
        strip = shot.stills[np.linspace(0, len(shot.stills) - 1, 3).astype(int)]
        height = 96
        width = max(1, round(strip.shape[2] * height / strip.shape[1]))
        parts = [cv2.resize(each, (width, height), interpolation=cv2.INTER_AREA) for each in strip]
        picture = cv2.cvtColor(np.concatenate(parts, axis=1), cv2.COLOR_RGB2BGR)
        self.found.thumbs[name] = cv2.imencode(".jpg", picture)[1].tobytes()

    def _step(self) -> float:
        return self.times[-1] - self.times[-2] if len(self.times) > 1 else 1 / self.probed.fps

    def _release(self, end: int) -> None:
        count = end - self.first
        del self.times[:count], self.thumbnails[:count]
        self.first = end
        if self.times:
            gone = [tick for tick in self.grey if tick / MOTION_RATE + SLACK < self.times[0]]
            for tick in gone:
                del self.grey[tick]
        self.resized = {number for number in self.resized if number >= end}
        self.stills = {number: still for number, still in self.stills.items() if number >= end}
