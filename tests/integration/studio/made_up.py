"""Finished videos of a queue that no model made, and waiting for what a page comes to."""

import json
import os
import secrets
import time

import numpy as np

from t2v.io.video import write_video

FPS, FRAMES = 8, 16


def until(page, expression, seconds=20):
    """Wait until JavaScript is true on a page, whose policy forbids playwright's own way."""
    end = time.monotonic() + seconds
    while not page.evaluate(expression):
        assert time.monotonic() < end, f"{expression} is not true on {page.url}"
        page.wait_for_timeout(30)


def finished(queue, prompt, age=0.0, size=(32, 48), frames=FRAMES, fps=FPS, **settings):
    """A finished video of a queue, `age` seconds old, from black to white; returns its id."""
    id = secrets.token_hex(16)
    height, width = size
    shades = np.linspace(0, 255, frames).astype(np.uint8)
    film = np.broadcast_to(shades[:, None, None, None], (frames, height, width, 3))
    output = queue.folder / "videos" / f"{id}.mp4"
    values = {"prompt": prompt, "settings": {"seed": 1, **settings}}
    made = {"width": width, "height": height, "num_frames": frames, "fps": float(fps)}
    recipe = {**values, "settings": {**values["settings"], **made, "output": str(output)}}
    write_video(output, np.ascontiguousarray(film), fps, recipe)
    output.with_suffix(".json").write_text(json.dumps(recipe))
    (queue.store.files / id).mkdir()
    path = queue.store.path("done", f"{10**12 + int(1e6 * age):016d}-{id}.json")
    path.write_text(json.dumps(values))
    created = time.time() - age
    os.utime(path, (created, created))
    return f"video_{id}"
