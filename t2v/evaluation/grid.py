"""`t2v sample --grid`: a page on which one chooses a checkpoint of a LoRA and its strength."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.evaluation.intervals import Interval, summary
from t2v.evaluation.report.page import write_page
from t2v.io.files import EMBEDDED_MODELS, read_lines
from t2v.pipelines.generator import Generator
from t2v.sampling.loras import exchange_loras
from t2v.sampling.results import read_frames, read_recipe

Load = Callable[[SampleConfig, Sequence[str]], tuple[Generator, str]]
Sample = Callable[[SampleConfig, Sequence[str], Load], list[Path]]

PLAIN = "no LoRA"
CHECKPOINT = re.compile(r"checkpoint-(\d+)")
VALIDATIONS = "validations.jsonl"  # of a training, the losses of each held-out clip
HELD_OUT = (
    "mean over the held-out clips of its training, at the step of the checkpoint; intervals are of "
    "the clips"
)
SCORE = "mean cosine of prompt and frames by {name}, mean over the prompts"
ANY = re.compile(r"[*?[]")


@dataclass
class Loaded:
    """The model of a grid, loaded once; between cells its LoRAs alone are exchanged."""

    load: Load
    made: list[tuple[Generator, str]] = field(default_factory=list)

    def __call__(self, config: SampleConfig, prompts: Sequence[str]) -> tuple[Generator, str]:
        """The generator with the LoRA of one cell, and the hash of its weights."""
        is_held = config.offload not in ("auto", "none") or config.quantize != "none"
        if not self.made or is_held:
            # weights in pieces or in fewer bits take no other LoRA, and a preset may ask for other
            # embeddings
            self.made = []
            self.made.append(self.load(config, prompts))
        else:
            exchange_loras(self.made[0][0].pipeline, config)
        return self.made[0]


def grid(config: SampleConfig, prompts: Sequence[str], sample: Sample, load: Load) -> Path:
    """Sample each prompt without a LoRA and with each at each scale; returns the page, `X.html`.

    Every video is that of its own `t2v sample`, in the folder `X`, so the same command goes on
    where one was stopped. Beside the videos, which play in step, stand the held-out losses of each
    checkpoint, and with a scorer the score of each cell.

    Args:
        sample, load: of `t2v.sampling.run`.

    Raises:
        UserError: no LoRA is named, or see `sample`; nothing was made.
    """
    output = Path(config.output or "grid.mp4")
    folder, page = output.with_suffix(""), output.with_suffix(".html")
    if (
        page.exists()
        and not config.overwrite
        and "t2v sample --grid" not in page.read_text()[:4000]
    ):
        raise UserError(f"{page}: is another file. Choose another output, or give overwrite=true.")
    loras, loaded = expanded(config.lora), Loaded(load)
    one = replace(config, grid=False, lora=(), lora_scale=(1.0,), lora_part=(), lora_fit="strict")
    one = replace(one, lora_preset=None, scorer=config.scorer if config.best_of > 1 else None)
    folder.mkdir(parents=True, exist_ok=True)
    videos: dict[str, Tensor] = {}
    for name, cell in cells(config, one, loras):
        file = f"{name.replace(' ', '-')}{output.suffix}"
        paths = sample(replace(cell, output=str(folder / file)), prompts, loaded)
        videos[name] = torch.stack([torch.from_numpy(read_frames(path).copy()) for path in paths])
    settings = read_recipe(paths[0])["settings"]
    write_page(
        page,
        _report(config, prompts, loras, videos, settings),
        {"grid": videos},
        settings["fps"],
        most=len(next(iter(videos.values()))),
    )
    return page.resolve()


def expanded(patterns: Sequence[str]) -> list[str]:
    """The LoRAs that names and patterns such as `runs/x/checkpoint-*` stand for, in order.

    Raises:
        UserError: there is none, or a pattern matches nothing.
    """
    if not patterns:
        raise UserError("--grid: no LoRA is named. Give lora=runs/x/checkpoint-*, or lora=[A, B].")
    found: list[str] = []
    for pattern in patterns:
        matches = [pattern]
        if ANY.search(pattern):
            start = Path(Path(pattern).anchor)
            rest = pattern.removeprefix(start.anchor)
            matches = sorted(str(each) for each in start.glob(rest))
        if not matches:
            raise UserError(f"lora={pattern}: matches no file and no folder.")
        found += [each for each in matches if each not in found]
    return found


def cells(
    config: SampleConfig, plain: SampleConfig, loras: Sequence[str]
) -> Iterator[tuple[str, SampleConfig]]:
    """The name and the settings of each cell: the model alone, then each LoRA at each scale."""
    yield PLAIN, plain
    names = labels(loras)
    for lora in loras:
        for scale in config.lora_scale:
            part, fit = config.lora_part, config.lora_fit
            one = replace(plain, lora=(lora,), lora_scale=(scale,), lora_part=part, lora_fit=fit)
            yield f"{names[lora]} at {scale:g}", replace(one, lora_preset=config.lora_preset)


def labels(loras: Sequence[str]) -> dict[str, str]:
    """A short name of each LoRA: its own, with its folder's where two are named alike."""
    own = {lora: Path(lora).name.removesuffix(".safetensors") for lora in loras}
    names = list(own.values())
    return {
        lora: f"{Path(lora).resolve().parent.name}-{name}" if names.count(name) > 1 else name
        for lora, name in own.items()
    }


def held_out(lora: str) -> dict[str, dict[str, Any]]:
    """The held-out losses of a checkpoint as cells of a table; none of what is no checkpoint."""
    path = Path(lora)
    step = CHECKPOINT.fullmatch(path.name)
    losses = path.parent / VALIDATIONS
    if step is None or not losses.is_file():
        return {}
    lines = list(read_lines(losses, "step", "losses"))
    for line in lines:
        if line["step"] == int(step[1]):
            return {
                name: _cell(torch.tensor(values), "lower", HELD_OUT)
                for name, values in line["losses"].items()
            }
    names = list(lines[0]["losses"]) if lines else ["loss"]  # in the columns of the others
    cell = {"text": f"not validated at step {int(step[1])}", "better": "lower", "method": HELD_OUT}
    return {name: cell for name in names}


def _cell(values: Tensor, better: str, method: str) -> dict[str, Any]:
    interval: Interval = summary(values, torch.Generator().manual_seed(0))
    return asdict(interval) | {"better": better, "method": method}


def _report(
    config: SampleConfig,
    prompts: Sequence[str],
    loras: Sequence[str],
    videos: dict[str, Tensor],
    settings: dict[str, Any],
) -> dict[str, Any]:
    """The contents of the page, in the form of an evaluation's."""
    names = labels(loras)
    shown = [prompt for prompt in prompts for _ in range(config.num_videos_per_prompt)]
    listed: list[dict[str, Any]] = [
        {"prompt": prompt, "topic": "", "values": {}, "marks": []} for prompt in shown
    ]
    tables: dict[str, Any] = {
        "held-out loss": {names[lora]: losses for lora in loras if (losses := held_out(lora))}
    }
    if config.scorer is not None or config.model in EMBEDDED_MODELS:
        tables["score"] = _scores(config, shown, videos, listed)
    given = ("model", "seed", "num_frames", "height", "width", "num_inference_steps")
    protocol = {"title": "t2v sample --grid"} | {name: settings[name] for name in given}
    suite = {"prompts": len(listed), "warnings": [], "tables": tables, "videos": listed}
    return {
        "protocol": protocol | {"guidance_scale": settings["guidance_scale"]},
        "suites": {"grid": suite | {"ranking": None, "worst_topics": []}},
    }


def _scores(
    config: SampleConfig,
    prompts: Sequence[str],
    videos: dict[str, Tensor],
    listed: list[dict[str, Any]],
) -> dict[str, dict[str, Any]]:
    """The score of each cell as a table, and of each video in its row of `listed`."""
    from t2v.sampling.best_of import load_score, scorer_of  # networks that a page may not need

    name, score = load_score(scorer_of(config))
    rows = {}
    for cell, films in videos.items():
        values = [score(*each) for each in zip(prompts, films.numpy(), strict=True)]
        for row, value in zip(listed, values, strict=True):
            row["values"][cell] = value
        rows[cell] = {"score": _cell(torch.tensor(values), "higher", SCORE.format(name=name))}
    return rows
