"""Training on captioned clips in memory, and the test that follows."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any, TypeVar

from t2v.config.captioner import CaptionerConfig
from t2v.config.scorer import ScorerConfig
from t2v.distributed import rank
from t2v.evaluation.captioned import Captioned, read_captioned
from t2v.io.files import write_text
from t2v.outputs import output_folder
from t2v.training.engine.initialize import check_start
from t2v.training.engine.run import train
from t2v.training.engine.task import Task

Config = TypeVar("Config", ScorerConfig, CaptionerConfig)


def train_on_captioned(
    config: Config,
    task_of: Callable[[Config, Captioned], Task],
    tested: Callable[[Config, Path, Captioned], dict[str, Any]],
    parts: Sequence[str],
) -> dict[str, Any]:
    """Train on the captioned clips of `config.data` and test; the report.

    It is also in `report.json` in the output. Of several processes the first one tests, and the
    report of the others is empty.

    Args:
        task_of: the task of settings and clips.
        tested: the report of the last checkpoint on clips it has not learned from: those of
            `config.test`, or the last of the data.
        parts: names of the task's.

    Raises:
        UserError: see `read_captioned`, `task_of` and `t2v.training.engine.run.run`.
    """
    with nullcontext(config) if rank() else output_folder(config) as config:
        check_start(config, dict.fromkeys(parts))
        data = read_captioned(config.data, config.count)
        test = data[-config.held_out :]
        if config.test:
            test = read_captioned(config.test, config.count)
        checkpoint = train(lambda config: task_of(config, data), config)
        if rank():
            return {}
        report = {"test": config.test or config.data} | tested(config, checkpoint, test)
        write_text(Path(config.output) / "report.json", json.dumps(report, indent=1))
        return report
