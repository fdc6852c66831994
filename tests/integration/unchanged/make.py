"""Makes the films and the records of this folder, where they are to be made anew.

    cd CHECKOUT && PYTHONPATH=.:TESTS/integration python -m unchanged.make films|CASE...

TESTS is the folder of these tests. The records are of commit 85fb36c, with `commands.py` as it
came into git, since `world text`, `world oracle` and `eval footage` had other names there. Those
that learn from rendered clips were made again when a clip of 9 frames became the beginning of one
of 17 (it was the whole motion, hurried), with nothing else changed; those that start from the
embedded model when its second edition came. The films lie in git too, since an encoder of another
version would make other files of them.
"""

import json
import sys
import tempfile
from pathlib import Path

import av
import numpy as np
from unchanged.commands import CASES, need, working_in
from unchanged.compare import HERE, arithmetic

FOLDER = Path(__file__).parent / "footage"
HEIGHT, WIDTH, FRAMES, RATE = 64, 96, 40, 16
COLOURS = {"red": (200, 40, 40), "blue": (40, 60, 200), "green": (40, 180, 60)}


def film(seed: int, colour: str, pan: float, speed: float) -> np.ndarray:
    """A textured place under a camera that pans, and a ball that crosses it, `t h w c` uint8."""
    random = np.random.default_rng(seed)
    down, across = np.mgrid[:HEIGHT, : WIDTH + round(pan * FRAMES)]
    waves = random.uniform(-0.6, 0.6, (24, 2, 1, 1))  # of all directions and some 10 pixels on
    place = np.cos(waves[:, 0] * down + waves[:, 1] * across + random.uniform(0, 7, (24, 1, 1)))
    place = 120 + 10 * np.einsum("n h w, n c -> h w c", place, random.normal(size=(24, 3)))
    down, across = np.mgrid[:HEIGHT, :WIDTH]
    frames = []
    for step in range(FRAMES):
        left = round(pan * step)
        frame = place[:, left : left + WIDTH].copy()
        x = (10 + speed * step) % WIDTH
        frame[(down - HEIGHT / 2) ** 2 + (across - x) ** 2 < 12**2] = COLOURS[colour]
        frames.append(frame.clip(0, 255).astype(np.uint8))
    return np.stack(frames)


def write(name: str, frames: np.ndarray, caption: str = "", crf: int = 30) -> None:
    """An mp4 and, beside it, its caption."""
    with av.open(FOLDER / f"{name}.mp4", "w") as file:
        options = {"crf": str(crf), "threads": "1", "x264-params": "mbtree=0"}
        stream = file.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width, stream.pix_fmt = HEIGHT, WIDTH, "yuv420p"
        for array in frames:
            file.mux(stream.encode(av.VideoFrame.from_ndarray(array, format="rgb24")))
        file.mux(stream.encode())
    if caption:
        (FOLDER / f"{name}.txt").write_text(f"{caption}\n")


def films() -> None:
    """Six films to learn from, and five that a curation has something to say of."""
    FOLDER.mkdir(exist_ok=True)
    for seed, (colour, pan) in enumerate((c, p) for c in COLOURS for p in (1, 2)):
        caption = f"a {colour} ball rolls left over the sea\nthe {colour} ball"
        write(f"film-{seed}", film(seed, colour, pan, 2 + seed / 2), caption)
    write(
        "cut", np.concatenate([film(6, "red", 1, 3), film(7, "blue", 2, 2) // 3]), "a cut in a film"
    )
    write("copy", film(0, "red", 1, 2)[:, :, ::-1], crf=40)
    wide = film(9, "green", 1, 3)
    wide[:, :8] = wide[:, -8:] = 0
    write("wide", wide, "a green ball between black bars")
    write("still", np.repeat(film(8, "blue", 1, 2)[:1], FRAMES, axis=0), "a ball at rest")
    whole = (FOLDER / "film-0.mp4").read_bytes()
    (FOLDER / "broken.mp4").write_bytes(whole[: len(whole) // 3])
    (FOLDER / "about.csv").write_text("file,source,license\nfilm-1.mp4,t2v,Apache-2.0\n")


def records(cases: list[str]) -> None:
    """What the commands of some cases give."""
    with tempfile.TemporaryDirectory() as folder, working_in(Path(folder)):
        for case in cases:
            record = {"arithmetic": arithmetic(), "gives": need(case)}
            (HERE / f"{case}.json").write_text(json.dumps(record, indent=0) + "\n")


if __name__ == "__main__":
    if sys.argv[1:] == ["films"]:
        films()
    else:
        records(sys.argv[1:] or list(CASES))
