"""Train the rows of a table at equal cost, and print how each differs from the first.

python docs/figures/trained_rows.py layouts DATA FOLDER SECONDS SEEDS [WORD ...]
    the embedded model learned on with each layout of attention
python docs/figures/trained_rows.py masked DATA FOLDER SECONDS SEEDS [NAME ...]
    a new model of the embedded one's size, with and without masked steps
python docs/figures/trained_rows.py table FOLDER
    the loss of each row, and its difference to the first row of the folder

DATA is a folder of `t2v world`. Every row gets SECONDS of processor time of one thread for its
steps, so a cheaper step is taken more often; a row that FOLDER has is not made again. Losses are
of the same held-out clips at the same noise and times for all, in the average of the weights.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from t2v.config.load import load_config
from t2v.config.training import TrainDiTConfig
from t2v.training.engine.initialize import start_from
from t2v.training.engine.loop import fit, start_state
from t2v.training.engine.significance import HELD_OUT, paired_change
from t2v.training.tasks.dit import DiTTask, build_dit

PILOT = 4  # steps that tell what one costs, after the first two
LAYOUTS = (
    "full", "[full,window:-1x2x2,window:-1x2x2,window:-1x2x2]", "window:-1x2x2", "factorized",
    "factorized_heads", "axial", "strided", "fixed", "roll", "message", "swap",
)  # fmt: skip
MASKED = {
    "whole": (),
    "route .5": ("masking.ratio=0.5",),
    "drop .5": ("masking.ratio=0.5", "masking.form=drop"),
}


def tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def layouts(
    data: str, folder: str, seconds: str, seeds: str, words: Sequence[str] = LAYOUTS
) -> None:
    """Train a row for each word and seed."""
    for seed in range(int(seeds)):
        for word in words:
            settings = (f"model.attention={word}", f"seed={seed}")
            row("configs/train/layouts.yaml", data, Path(folder), word, float(seconds), settings)


def masked(
    data: str, folder: str, seconds: str, seeds: str, names: Sequence[str] = tuple(MASKED)
) -> None:
    """Train a row for each kind of masking and seed."""
    for seed in range(int(seeds)):
        for name in names:
            given = ("start_from=null", *MASKED[name], f"seed={seed}")
            row("configs/train/layouts.yaml", data, Path(folder), name, float(seconds), given)


def row(
    file: str, data: str, folder: Path, name: str, seconds: float, settings: Sequence[str]
) -> None:
    """Train one row, and keep its losses, steps and pipeline."""
    config: TrainDiTConfig = load_config(
        TrainDiTConfig,
        Path(file),
        [f"data={data}", f"output={folder}/run", "batch_size=24", *settings],
    )
    kept = folder / f"{name}-{config.seed}.json"
    if kept.exists():
        return
    step_seconds = pilot(replace(config, steps=PILOT + 2))
    config = replace(config, steps=round(seconds / step_seconds))
    task = built(config)
    state, begun = start_state(task, config), time.process_time()
    for _ in fit(task, config, state):
        pass
    spent = time.process_time() - begun
    with state.worker.averaged(state.ema):
        if not config.seed:
            task.save(folder / f"{name}-model")
        losses = judged(task)
    about = {"name": name, "seed": config.seed, "steps": config.steps, "seconds": spent}
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text(json.dumps(about | {"losses": losses.tolist()}))
    tell(f"{name} seed {config.seed}: {config.steps} steps, {spent:.0f} s, {losses.mean():.4f}")


def built(config: TrainDiTConfig) -> DiTTask:
    task = build_dit(config)
    if config.start_from:
        start_from(Path(config.start_from), task)
    task.prepare()
    return task


def pilot(config: TrainDiTConfig) -> float:
    """Processor seconds of a step."""
    task = built(config)
    times = [time.process_time() for _ in fit(task, config, start_state(task, config))]
    return (times[-1] - times[1]) / PILOT


@torch.no_grad()
def judged(task: DiTTask) -> Tensor:
    """The losses of the held-out clips, at the noise and times of seed 0 whatever the run's."""
    task.config = replace(task.config, seed=0)
    task.model.eval()
    return task.losses()[HELD_OUT]


def table(folder: str) -> None:
    """Print the mean over seeds of each row, beside the first, clip by clip."""
    rows: dict[str, list[dict]] = {}
    for path in sorted(Path(folder).glob("*.json"), key=lambda path: path.stat().st_mtime):
        about = json.loads(path.read_text())
        rows.setdefault(about["name"], []).append(about)
    means = {
        name: torch.tensor([each["losses"] for each in found]).mean(0)
        for name, found in rows.items()
    }
    first = next(iter(means.values()))
    for name, losses in means.items():
        change = paired_change(first, losses)
        by_seed = " ".join(f"{torch.tensor(each['losses']).mean():.4f}" for each in rows[name])
        steps = " ".join(str(each["steps"]) for each in rows[name])
        share = 100 * (change.after / change.before - 1)
        noise = 100 * change.noise / change.before
        tell(
            f"{name:50} {change.after:.4f} {share:+.1f} % (chance ±{noise:.1f} %), "
            f"seeds {by_seed}, steps {steps}"
        )


if __name__ == "__main__":
    torch.set_num_threads(1)
    what = {"layouts": layouts, "masked": masked, "table": table}[sys.argv[1]]
    what(*sys.argv[2:6], *([sys.argv[6:]] if sys.argv[6:] else []))
