"""The figures of docs/trace.md: copies found among many clips, and the time of a search.

    python docs/figures/trace.py [--films FOLDER] [--clips 10000] [--search 10000 30000 100000]

Films of four seconds lie among `--clips` simulated ones: a camera over a field whose amplitudes
fall as those of natural pictures do (Field, 1987), with a thing that moves. `t2v trace` looks for
each kind of copy of each film. Without `--films` the films are simulated too, at 320x180. Then
pairs of copies are searched for among as many simulated summaries as each `--search` says, with
copies of clips planted among them. What is there in `--work` is kept.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import cv2
import numpy as np
from safetensors.numpy import save_file

from t2v.curation.copies.candidates import candidates
from t2v.curation.copies.summaries import Summaries
from t2v.curation.shares import wilson
from t2v.errors import UserError
from t2v.footage.frames import iter_frames, probe
from t2v.io.manifest import MANIFEST, VIDEO_SUFFIXES
from t2v.io.video import write_video

FIELD, SHARED, SHARD = 512, 25, 500  # side of a field in pixels; clips over one, and in a file
SECONDS, RATE, SIZE, FILMS = 4, 24, (320, 180), 12  # of simulated films, and how many there are
SPANS, LINES = 3, 180  # of a given film, at most
BASE, PLANTED, MIXED, TURNED = 10_000, 200, 4, 0.6  # see `more`
Film = np.ndarray  # t h w, or t h w c, uint8
COPIES: dict[str, Callable[[Film], Film]] = {
    "coded again, JPEG quality 20": lambda film: np.stack([_jpeg(each) for each in film]),
    "half the size": lambda film: film[:, ::2, ::2],
    "cropped by a tenth": lambda film: _within(film, 0.05, 0.05, 0.05, 0.05),
    "cropped at one side by 9 %": lambda film: _within(film, 0.09, 0, 0, 0),
    "trimmed at both ends by 28 %": lambda film: film[len(film) * 14 // 100 : -len(film) // 7],
    "mirrored": lambda film: film[:, :, ::-1],
    "brighter": lambda film: np.clip(film * 1.2 + 10.0, 0, 255).astype(np.uint8),
    "half the rate": lambda film: film[::2],
}
SPEEDS = 0.5, 0.8, 1.04, 1.25, 2.0


def _jpeg(picture: np.ndarray) -> np.ndarray:
    coded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def _within(film: Film, left: float, top: float, right: float, bottom: float) -> Film:
    height, width = film.shape[1:3]
    rows = slice(round(top * height), round((1 - bottom) * height))
    return film[:, rows, round(left * width) : round((1 - right) * width)]


def simulated(count: int, seed: int, size: tuple[int, int], rate: int) -> Iterator[Film]:
    """Films of `SECONDS`, `t h w` uint8, `SHARED` of them over one field."""
    draw = np.random.default_rng(seed)
    for number in range(count):
        if number % SHARED == 0:
            ground = _field(draw)
        yield _filmed(ground, draw, size, rate)


def _field(draw: np.random.Generator) -> np.ndarray:
    """A picture whose amplitudes fall as 1 / frequency, of mean 0 and deviation 1."""
    across, down = np.fft.rfftfreq(FIELD)[None], np.fft.fftfreq(FIELD)[:, None]
    waves = np.fft.rfft2(draw.standard_normal((FIELD, FIELD)))
    found = np.fft.irfft2(waves / np.maximum(np.hypot(across, down), 1 / 128), (FIELD, FIELD))
    return np.float32((found - found.mean()) / found.std())


def _filmed(
    ground: np.ndarray, draw: np.random.Generator, size: tuple[int, int], rate: int
) -> Film:
    """A film of a camera over a field, many brighter at the top, with a disc that moves."""
    (width, height), count = size, SECONDS * rate
    scale = 32 / width * draw.uniform(0.7, 2)
    shake = np.cumsum(draw.normal(size=(count, 2)) * 1.2 / rate, 0)
    at = draw.uniform(100, FIELD - 200, 2) + draw.normal(size=2) * 1.5 * np.c_[: SECONDS : 1 / rate]
    disc = draw.uniform(0.2, 0.8, 2) + draw.normal(size=2) * 0.2 * np.c_[: SECONDS : 1 / rate]
    level, contrast = draw.uniform(90, 160), draw.uniform(25, 60)
    sky = contrast * draw.normal(0.45, 0.45) * np.linspace(1, -1, height, dtype=np.float32)[:, None]
    light = float(level + draw.choice([-1, 1]) * 2 * contrast)
    film = np.empty((count, height, width), np.float32)
    for picture, corner, place in zip(film, at + shake, disc * size, strict=True):
        matrix = np.c_[scale * np.eye(2), corner].astype(np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        seen = cv2.warpAffine(ground, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT)
        picture[:] = level + contrast * seen + sky
        x, y = place.round().astype(int).tolist()
        cv2.circle(picture, (x, y), max(1, height // 8), light, -1)
    film += draw.standard_normal(film.shape, np.float32)
    return film.clip(0, 255).astype(np.uint8)


def given_films(folder: Path) -> Iterator[tuple[Film, float]]:
    """Up to `SPANS` spans of `SECONDS` of each film of a folder, `t h w c`, and their rate."""
    for path in sorted(each for each in folder.iterdir() if each.suffix in VIDEO_SUFFIXES):
        facts = probe(str(path))
        scale = min(1, LINES / facts.height)
        size = int(facts.height * scale) // 4 * 4, int(facts.width * scale) // 4 * 4
        for number in range(min(SPANS, int(facts.duration // SECONDS))):
            start = number * SECONDS
            shown = iter_frames(path, start, start + SECONDS, size=size)
            yield np.stack([frame for _, frame in shown]), facts.fps


def write_collection(folder: Path, films: Path | None, count: int) -> None:
    """Write films and simulated clips as one manifest, and the copies of films beside them."""
    if (folder / MANIFEST).exists():
        return
    for name in ("clips", "copies"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    made = ((_coloured(each), RATE) for each in simulated(FILMS, 1, SIZE, RATE))
    rows: list[dict[str, object]] = []
    for number, (film, rate) in enumerate(given_films(films) if films else made):
        rows.append({"path": f"clips/film-{number:02}.mp4"})
        write_video(folder / f"clips/film-{number:02}.mp4", film, rate)
        rates = {f"{speed} times as fast": rate * speed for speed in SPEEDS}
        rates |= dict.fromkeys(COPIES, rate) | {"half the rate": rate / 2}
        for kind, fps in rates.items():
            copy = COPIES[kind](film) if kind in COPIES else film
            even = copy[:, : copy.shape[1] // 2 * 2, : copy.shape[2] // 2 * 2]
            write_video(folder / f"copies/{number:02} {kind}.mp4", np.ascontiguousarray(even), fps)
    clips = simulated(count, 0, (32, 18), 8)
    for first in range(0, count, SHARD):
        some = [_coloured(next(clips)) for _ in range(first, min(first + SHARD, count))]
        save_file({"video": np.stack(some)}, folder / f"clips/{first:06}.safetensors")
        name = f"clips/{first:06}.safetensors"
        rows += [{"path": name, "index": number, "fps": 8.0} for number in range(len(some))]
    (folder / MANIFEST).write_text("".join(json.dumps(row) + "\n" for row in rows))


def _coloured(film: Film) -> Film:
    return np.repeat(film[..., None], 3, -1)


def traced(video: Path, folder: Path) -> tuple[list[dict[str, object]], float, float]:
    """The matches that `t2v trace` writes, and its seconds, of wall time and of processor."""
    out = folder / "found.json"
    words = [sys.executable, "-m", "t2v", "trace", str(video), f"in={folder / MANIFEST}"]
    before, start = _processor(), time.perf_counter()
    subprocess.run([*words, f"json={out}", "workers=1"], check=True, stdout=subprocess.DEVNULL)
    wall, used = time.perf_counter() - start, _processor() - before
    matches: list[dict[str, object]] = json.loads(out.read_text())["matches"]
    return matches, wall, used


def _processor() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def report_copies(folder: Path) -> None:
    """Index the collection, look for all copies at once and for one of each kind alone."""
    copies = sorted((folder / "copies").glob("*.mp4"))
    _, wall, used = traced(copies[0], folder)
    _say(f"the first query, which makes the index: {wall:.1f} s, {used:.1f} s of processor")
    found, unrelated, least = defaultdict(set), [], defaultdict(lambda: 1.0)
    for match in traced(folder / "copies", folder)[0]:
        number, kind = Path(str(match["video"])).stem.split(" ", 1)
        alike = 1 - float(str(match["distance"]))
        if Path(str(match["clip"])).stem == f"film-{number}":
            found[kind].add(number)
            least[kind] = min(least[kind], alike)
        else:
            unrelated.append((alike, number, Path(str(match["clip"])).stem))
    films = len({each.stem[:2] for each in copies})
    _say("| copy | found | least correlation | query, s | of processor, s |\n" + "| --- " * 5 + "|")
    for path in (each for each in copies if each.name.startswith("00 ")):
        kind = path.stem[3:]
        matches, wall, used = traced(path, folder)
        assert bool(matches) == ("00" in found[kind])
        row = f"{len(found[kind])} of {films}", f"{least[kind]:.2f}", f"{wall:.1f}", f"{used:.1f}"
        _say(f"| {' | '.join((kind, *row))} |")
    low, high = wilson(films, films)
    _say(f"{films} of {films}: 95 % interval {low:.3f} to {high:.3f}")
    _say(f"matches with another clip: {len(unrelated)} {sorted(unrelated)[-9:]}")


def more(base: Summaries, count: int, draw: np.random.Generator) -> Summaries:
    """Summaries of `count` clips that are none of `base`, distributed as these are.

    Layouts are drawn from a normal distribution with the covariance of those of `base`, which
    holds what one crop tells of another; those of a clip are alike by `TURNED`. Changes are sums of
    those of `MIXED` clips.
    """
    length = int(base.lengths[0])
    views = np.bincount(base.owners)[draw.integers(len(base), size=count)]
    owners = np.repeat(np.arange(count), views)
    flat = base.layouts.reshape(len(base.layouts), -1)
    values, axes = np.linalg.eigh(flat.T @ flat / len(flat))
    shape = (axes * np.sqrt(np.maximum(values, 0))).T.astype(np.float32)
    own = draw.standard_normal((count, len(shape)), np.float32)
    layouts = np.empty((len(owners), *base.layouts.shape[1:]), np.float32)
    for at in range(0, len(owners), SHARD * SHARED):
        some = slice(at, at + SHARD * SHARED)
        mixed = draw.standard_normal((len(owners[some]), len(shape)), np.float32)
        mixed = TURNED**0.5 * own[owners[some]] + (1 - TURNED) ** 0.5 * mixed
        drawn = (mixed @ shape).reshape(-1, *layouts.shape[1:])
        layouts[some] = drawn / np.linalg.norm(drawn, axis=2, keepdims=True)
    theirs = base.changes.reshape(len(base), length, -1)
    changes = np.empty((count, *theirs.shape[1:]), np.float16)
    for at in range(0, count, SHARD * SHARED):
        some = changes[at : at + SHARD * SHARED]
        chosen = draw.integers(len(base), size=(len(some), MIXED))
        weights = draw.standard_normal((len(some), MIXED), np.float32) / MIXED**0.5
        some[:] = np.einsum("nk,nktd->ntd", weights, theirs[chosen].astype(np.float32))
    flat = changes.reshape(-1, changes.shape[-1])
    lengths, static = np.full(count, length), np.zeros(count, bool)
    return Summaries(layouts, owners, flat, lengths, static)


def report_search(sizes: Sequence[int]) -> None:
    """The time of a search for pairs among ever more summaries, and the planted ones it finds."""
    base = list(simulated(BASE, 0, (32, 18), 8))
    kinds = (
        lambda clip: clip[:, :, ::-1],
        lambda clip: clip[5:],
        lambda clip: np.stack([cv2.resize(each[1:-1, 2:-2], (32, 18)) for each in clip]),
    )
    copies = Summaries.of(make(clip) for make in kinds for clip in base[:PLANTED])
    whole = Summaries.of(base)
    moving = whole.taken(np.nonzero(~whole.static)[0])
    _say(
        "| clips | s of processor | us a clip | planted, found | pairs told |\n"
        + "| --- " * 5
        + "|"
    )
    for size in sizes:
        first = whole.taken(np.arange(min(size, BASE)))
        rest = [more(moving, size - BASE, np.random.default_rng(2))] if size > BASE else []
        among = Summaries.joined([first, *rest, copies])
        start = time.process_time()
        told = {(a, b) for a, b, _ in candidates(among, None, 0.6)}
        used = time.process_time() - start
        planted = [(n % PLANTED, size + n) for n in range(len(copies))]
        right = f"{sum(pair in told for pair in planted)} of {len(planted)}"
        row = f"{size:,}", f"{used:.1f}", f"{1e6 * used / size:.0f}", right, f"{len(told):,}"
        _say(f"| {' | '.join(row)} |")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        _say(f"peak memory {peak:.1f} GB")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--films", type=Path)
    parser.add_argument("--clips", type=int, default=10_000)
    parser.add_argument("--search", type=int, nargs="*", default=[10_000, 30_000, 100_000])
    parser.add_argument("--work", type=Path, default=Path("runs/trace"))
    given = parser.parse_args()
    if given.clips:
        write_collection(given.work, given.films, given.clips)
        report_copies(given.work)
    report_search(given.search)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(str(error))
