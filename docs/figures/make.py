"""Draw the pictures of README and docs from what the commands beside them wrote.

python docs/figures/make.py strip OUT.webp VIDEO.mp4 ...       videos playing side by side
python docs/figures/make.py beside OUT.webp PICTURE.png ...    pictures side by side
python docs/figures/make.py page OUT.webp PAGE.html            a page in headless Chromium
python docs/figures/make.py curve OUT.svg validations.jsonl    losses over the steps of a run
"""

from __future__ import annotations

import argparse
import json
import math
import re
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import rearrange
from PIL import Image

from t2v.io.video import read_video

COLUMNS, ZOOM = 4, 2  # of the strip; of small pictures
SMALL = 500  # pixels of width below which a picture is enlarged
CURVES = {  # figures of validations.jsonl
    "val_loss": ("held-out clips", "#2c7a64"),
    "val_train_loss": ("training clips", "#8a8a8a"),
    "val_base_loss": ("base prompts", "#c8653a"),
}


def strip(out: Path, files: Sequence[Path]) -> None:
    """Play videos of one size and length in a grid, in the order of their numbers."""
    files = sorted(files, key=lambda path: int(re.search(r"\d*$", path.stem)[0] or 0))
    videos = np.stack([read_video(path)[0] for path in files])
    grid = rearrange(videos, "(r k) t h w c -> t (r h) (k w) c", k=min(COLUMNS, len(videos)))
    first, *rest = [enlarged(Image.fromarray(frame)) for frame in grid]
    first.save(out, save_all=True, append_images=rest, duration=125, loop=0, quality=60)


def beside(out: Path, files: Sequence[Path]) -> None:
    """Put pictures of one height beside each other, with a gap."""
    pictures = [enlarged(Image.open(path).convert("RGB")) for path in files]
    gap = 8 * ZOOM
    width = sum(each.width for each in pictures) + gap * (len(pictures) - 1)
    whole, left = Image.new("RGB", (width, pictures[0].height), "white"), 0
    for each in pictures:
        whole.paste(each, (left, 0))
        left += each.width + gap
    whole.save(out, quality=80, method=6)


def page(out: Path, file: Path, top: int, width: int, height: int) -> None:
    """Take a picture of `height` pixels of a page, from `top` on, with the `chromium` in PATH."""
    with tempfile.TemporaryDirectory() as folder:
        shot = Path(folder, "page.png")
        options = ["--headless", "--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=3000"]
        size = f"--window-size={width},{top + height}"
        command = ["chromium", *options, size, f"--screenshot={shot}", file.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)
        picture = Image.open(shot).convert("RGB").crop((0, top, width, top + height))
    picture.save(out, quality=80, method=6)


def curve(out: Path, file: Path) -> None:
    """Draw the losses of a run's validations over its steps, from zero up."""
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    drawn = {name: each for name, each in CURVES.items() if name in rows[0]["figures"]}
    most = math.ceil(20 * max(row["figures"][name] for row in rows for name in drawn)) / 20
    last = max(row["step"] for row in rows)
    width, height, edge = 640, 280, 48

    def place(step: float, loss: float) -> str:
        x = edge + step / last * (width - 2 * edge)
        return f"{x:.1f},{height - edge - loss / most * (height - 2 * edge):.1f}"

    def text(at: str, words: str, anchor: str = "middle", fill: str = "#444") -> str:
        x, y = at.split(",")
        return f'<text x="{x}" y="{y}" fill="{fill}" text-anchor="{anchor}">{words}</text>'

    lines = [f'<rect width="{width}" height="{height}" fill="white"/>']
    for tick in range(5):
        step, loss = last * tick / 4, most * tick / 4
        lines.append(f'<path d="M{place(0, loss)} L{place(last, loss)}" stroke="#ddd"/>')
        lines.append(
            text(place(0, loss).replace(f"{edge}.0,", f"{edge - 6},"), f"{loss:.2f}", "end")
        )
        lines.append(text(place(step, -0.09 * most), f"{step:.0f}"))
    lines.append(text(f"{width / 2},{height - 8}", "step"))
    for number, (name, (label, colour)) in enumerate(drawn.items()):
        points = " ".join(place(row["step"], row["figures"][name]) for row in rows)
        lines.append(
            f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        lines.append(text(f"{width - edge},{edge + 16 * number}", label, "end", colour))
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    style = 'font-family="system-ui, sans-serif" font-size="12"'
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" {size} {style}>\n'
    out.write_text(svg + "\n".join(lines) + "\n</svg>\n")


def enlarged(image: Image.Image) -> Image.Image:
    """Return a small picture at twice its size, another as it is."""
    if image.width > SMALL:
        return image
    return image.resize((image.width * ZOOM, image.height * ZOOM), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["strip", "beside", "page", "curve"])
    parser.add_argument("out", type=Path)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--top", type=int, default=0, help="first pixel of a page")
    parser.add_argument("--width", type=int, default=1000, help="pixels of a page")
    parser.add_argument("--height", type=int, default=800, help="pixels of a page")
    args = parser.parse_args()
    if args.what == "strip":
        strip(args.out, args.files)
    elif args.what == "beside":
        beside(args.out, args.files)
    elif args.what == "page":
        page(args.out, args.files[0], args.top, args.width, args.height)
    else:
        curve(args.out, args.files[0])
