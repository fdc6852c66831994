"""Kept clips as files: copied where that is exact, else encoded; and WebDataset shards."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from t2v.config.curation import CurateConfig
from t2v.curation.analyze import FAILED
from t2v.errors import UserError
from t2v.footage.containers import Unreadable, opened, video_stream
from t2v.footage.frames import iter_frames, probe
from t2v.io import engine
from t2v.io.addresses import remove
from t2v.io.files import complete, file_sha256, remove_partials
from t2v.io.manifest import Clip
from t2v.io.workers import Failure

CLIPS, SHARDS = "clips", "shards"
PER_SHARD = 1000
COPIED = ("h264", "hevc", "av1", "vp9")  # codecs that an mp4 may hold
TICKS = 90_000  # a second
# one thread: the same bytes on any machine
X264 = {"crf": "16", "preset": "veryfast", "bf": "0", "threads": "1"}


def write_files(clips: Sequence[Clip], config: CurateConfig, folder: Path) -> list[Clip]:
    """Return the clips, the kept ones with files of their own where `config.files` asks for them.

    The file becomes the clip's path; the footage it was cut from is in `extra["cut_from"]`.
    Existing files are not written again.

    Raises:
        UserError: the disk is full.
    """
    if config.files == "none":
        return list(clips)
    (folder / CLIPS).mkdir(exist_ok=True)
    remove_partials(folder / CLIPS)
    result = list(clips)
    kept = [number for number, clip in enumerate(clips) if not clip.dropped]
    deinterlace = config.probe.interlaced == "deinterlace"
    function = partial(_with_file, folder=folder, deinterlace=deinterlace)
    items = [clips[number] for number in kept]
    for at, done in engine.run("write", "clips", function, items, config):
        clip = clips[kept[at]]
        if isinstance(done, Failure):
            done = clip.drop(FAILED, f"its file cannot be written: {done.reason}")
        result[kept[at]] = done
    if config.files == "shards":
        (folder / SHARDS).mkdir(exist_ok=True)
        _write_shards([clip for clip in result if not clip.dropped], folder)
    return result


def _with_file(clip: Clip, folder: Path, deinterlace: bool) -> Clip:
    path = (folder / CLIPS / f"{clip.extra['id']}.mp4").absolute()
    if not path.is_file():
        try:
            with _whole(path) as unfinished:
                if not _copied(clip, unfinished, deinterlace):
                    _encoded(clip, unfinished, deinterlace)
        except Unreadable as error:
            return clip.drop(FAILED, f"its file cannot be written: {error.fault}")
    origin = {"path": clip.path, "start": clip.start, "end": clip.end, "sha256": clip.sha256}
    about = {name: clip.extra[name] for name in ("crop", "probe") if name in clip.extra}
    extra = {name: value for name, value in clip.extra.items() if name not in about}
    probed = probe(path)
    return replace(
        clip,
        path=str(path),
        start=0.0,
        end=None if clip.end is None else round(clip.end - clip.start, 6),
        width=probed.width,  # even
        height=probed.height,
        sha256=file_sha256(path),
        extra=extra | {"cut_from": origin | about},
    )


@contextmanager
def _whole(path: Path) -> Iterator[Path]:
    """A temporary path that becomes `path` when the whole file is on disk."""
    try:
        with complete(path) as unfinished:
            yield unfinished
    except OSError as error:
        if error.filename in (None, str(path)):
            what = f"{path}: cannot be written ({error.strerror}). Make room there"
        else:
            what = f"{error.filename}: cannot be read any more ({error.strerror}). Put it back"
        raise UserError(
            f"{what}, then run the same command again: finished clips are kept."
        ) from error


def _copied(clip: Clip, path: Path, deinterlace: bool) -> bool:
    """Copy the packets and return True where that gives the exact frames.

    It does from a key frame on, if no frame depends on a later packet, and if nothing has to be
    turned, cropped, stretched or repaired.
    """
    probed = probe(clip.path)
    turned = probed.rotation or probed.mirrored or probed.sample_aspect != 1 or "crop" in clip.extra
    repaired = not probed.is_clocked or "resized" in clip.tags
    repaired |= probed.interlaced and deinterlace
    if turned or repaired or probed.codec not in COPIED:
        return False
    with opened(Path(clip.path)) as source:
        stream = video_stream(Path(clip.path), source)
        packets = list(_span(source, stream, clip))
        first = min((each.pts for each in packets), default=None)
        if not packets or not packets[0].is_keyframe or packets[0].pts != first:
            return False
        if len(packets) != clip.num_frames:
            return False
        shown = float((first - (stream.start_time or 0)) * stream.time_base)
        if abs(shown - clip.start) > 1e-3:
            return False
        with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as file:
            target = file.add_stream_from_template(stream)
            for packet in packets:
                packet.pts -= first
                packet.dts = None if packet.dts is None else packet.dts - first
                packet.stream = target
                file.mux(packet)
    return True


def _span(source: Any, stream: Any, clip: Clip) -> Iterator[Any]:
    """The packets shown in the clip's span, in storage order."""
    zero = stream.start_time or 0
    low = clip.start - 1e-4
    high = float("inf") if clip.end is None else clip.end - 1e-4
    if clip.start > 0:
        source.seek(zero + int(clip.start / stream.time_base), stream=stream)
    after = 0
    for packet in source.demux(stream):
        if packet.pts is None or not packet.size or packet.is_discard:
            continue
        time = float((packet.pts - zero) * stream.time_base)
        after = after + 1 if time >= high else 0
        if after > 32:  # frames are stored at most 16 places out of order
            return
        if low <= time < high:
            yield packet


def _encoded(clip: Clip, path: Path, deinterlace: bool) -> None:
    """Write the clip as H.264, each frame at its own time."""
    crop = clip.extra.get("crop")
    frames = iter_frames(
        clip.path,
        clip.start,
        clip.end,
        crop=tuple(crop) if crop else None,
        deinterlace=deinterlace,
    )
    with av.open(path, "w", format="mp4", options={"movflags": "+faststart"}) as file:
        rate = Fraction(clip.fps or 25).limit_denominator(1001)
        stream = file.add_stream("libx264", rate=rate, options=X264)
        context, tick = stream.codec_context, Fraction(1, TICKS)
        stream.time_base = context.time_base = tick
        context.colorspace = context.color_primaries = context.color_trc = 1
        begin = None
        for time, array in frames:
            begin = time if begin is None else begin
            even = array[: array.shape[0] // 2 * 2, : array.shape[1] // 2 * 2]
            if stream.width != even.shape[1]:
                stream.height, stream.width, stream.pix_fmt = *even.shape[:2], "yuv420p"
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(even), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
            frame.pts, frame.time_base = round((time - begin) * TICKS), tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode())


def _write_shards(clips: Sequence[Clip], folder: Path) -> None:
    """Write tar files of `ID.mp4`, `ID.txt` (the caption) and `ID.json`, in WebDataset's format.

    Surplus shards of an earlier run that kept more clips are removed.
    """
    for old in (folder / SHARDS).glob("[0-9]" * 6 + ".tar"):
        if int(old.stem) * PER_SHARD >= len(clips):
            remove(old)
    for number in range(0, len(clips), PER_SHARD):
        path = folder / SHARDS / f"{number // PER_SHARD:06d}.tar"
        with _whole(path) as unfinished, tarfile.open(unfinished, "w") as tar:
            for clip in clips[number : number + PER_SHARD]:
                name = clip.extra["id"]
                row = {"caption": clip.caption, "captions": clip.captions, "scores": clip.scores}
                row |= {"tags": clip.tags, "source": clip.source, "license": clip.license}
                _add(tar, f"{name}.mp4", Path(clip.path).read_bytes())
                _add(tar, f"{name}.txt", clip.caption.encode(errors="replace"))
                _add(tar, f"{name}.json", json.dumps(row, sort_keys=True).encode())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)  # without owner and time: equal clips give equal shards
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))
