"""Output folders: held by one run at a time, and nothing in them that the user put there lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from t2v.config.captioner import CaptionerConfig
from t2v.config.curation import CurateConfig
from t2v.config.data import EncodeConfig
from t2v.config.distill import DistillConfig
from t2v.config.evaluation import CompareConfig, EvalConfig, FootageEvalConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.scorer import ScorerConfig
from t2v.config.text import TrainTextConfig
from t2v.config.training import TrainDiTConfig, TrainUpscalerConfig, TrainVAEConfig
from t2v.config.world import WorldClipsConfig, WorldOracleConfig, WorldTextConfig
from t2v.config.written import wrote_config
from t2v.errors import UserError
from t2v.io.files import folder_locked

Config = TypeVar("Config")
CONFIG = "config.yaml"
FAILED = "failed.json"  # of a training: when it failed and why, until it goes on
_TRAINING = ("metrics.jsonl", "validations.jsonl", "sheets", "tensorboard")


@dataclass(frozen=True)
class Output:
    """A command, and what it writes in its folder under names that others may use too."""

    command: str
    names: tuple[str, ...]


OUTPUTS: dict[type, Output] = {
    TrainVAEConfig: Output("t2v train-vae", _TRAINING),
    TrainDiTConfig: Output("t2v train", _TRAINING),
    TrainUpscalerConfig: Output("t2v train-upscaler", _TRAINING),
    FinetuneConfig: Output("t2v finetune", _TRAINING),
    DistillConfig: Output("t2v distill", _TRAINING),
    ScorerConfig: Output("t2v scorer", (*_TRAINING, "report.json")),
    CaptionerConfig: Output("t2v train-captioner", (*_TRAINING, "report.json")),
    EncodeConfig: Output(
        "t2v encode", ("manifest.jsonl", "report.json", "report.txt", "sheet.png")
    ),
    EvalConfig: Output("t2v eval", ("eval.json", "eval.md", "page.html")),
    FootageEvalConfig: Output("t2v eval footage", ("likeness.json", "likeness.md", "likeness.png")),
    CompareConfig: Output(
        "t2v eval compare", ("compare.json", "compare.md", "page.html", "vote.html", "ballot.json")
    ),
    WorldClipsConfig: Output("t2v world", ("manifest.jsonl", "clips-00000.safetensors")),
    WorldTextConfig: Output("t2v world text", ("tokenizer", "text_encoder")),
    TrainTextConfig: Output("t2v train-text", ("tokenizer", "text_encoder")),
    WorldOracleConfig: Output(
        "t2v world oracle", ("config.json", "diffusion_pytorch_model.safetensors")
    ),
    CurateConfig: Output(
        "t2v curate",
        ("manifest.jsonl", "stats.json", "report.html", "DATA.md", "shards", "stories.jsonl"),
    ),
}


@contextmanager
def output_folder(config: Config) -> Iterator[Config]:
    """Hold `config.output` alone, and give the settings as they are kept: without `overwrite`.

    A folder whose `config.yaml` the same command wrote is gone on with. Elsewhere nothing that the
    command would replace may lie there, unless `overwrite=true`.

    Raises:
        UserError: another run is at work there, or files of others would be replaced; both named.
    """
    about, given = OUTPUTS[type(config)], _Given(config)
    with folder_locked(given.folder, about.command):
        if not (given.overwrite or _goes_on(given.folder, type(config))):
            _refuse_to_replace(given.folder, about)
        yield given.kept


class _Given:
    def __init__(self, config: Any) -> None:
        self.folder, self.overwrite = Path(config.output), config.overwrite
        self.kept = replace(config, overwrite=False)  # said once, for this run alone


def _goes_on(folder: Path, schema: type) -> bool:
    own = (folder / CONFIG, *folder.glob(f"checkpoint-*/training/{CONFIG}"))
    return any(wrote_config(path, schema) for path in own)


def _refuse_to_replace(folder: Path, about: Output) -> None:
    if found := [name for name in (CONFIG, *about.names) if (folder / name).exists()]:
        raise UserError(
            f"output={folder} holds {', '.join(found)}, which `{about.command}` did not write "
            "there and would replace. Choose another output, move them away, or say "
            "overwrite=true."
        )
