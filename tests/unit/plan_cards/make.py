"""Makes the traced part of every card anew: python tests/unit/plan_cards/make.py [NAME ...]."""

import json
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from t2v.config.sampling import SampleConfig
from t2v.plan.models import CARDS
from t2v.plan.peer_work import peer_estimate
from t2v.plan.sizes import planned_size
from t2v.plan.trace import UNKNOWN


def traced(card: dict[str, Any]) -> dict[str, Any]:
    """What a trace of the model's config files gives at its usual size, in bf16."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in card["files"].items():
            path = Path(folder) / name
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content))
        target = SampleConfig(model=folder, dtype="bf16", upscale=1)
        size = planned_size(target, dict.fromkeys(("num_frames", "height", "width")), None)
        estimate = asdict(peer_estimate(target, size, UNKNOWN))
    for each in (*estimate["phases"], estimate["tiled"] or {}):
        each["seconds"] = 0  # it is found by the roofline, for any device
    rounded: dict[str, Any] = json.loads(
        json.dumps(estimate), parse_float=lambda x: round(float(x))
    )
    return rounded


if __name__ == "__main__":
    for name in sys.argv[1:] or sorted(path.stem for path in CARDS.glob("*.json")):
        path = CARDS / f"{name}.json"
        card = json.loads(path.read_text())
        path.write_text(json.dumps(card | {"traced": traced(card)}) + "\n")
        sys.stdout.write(f"{name}\n")
        sys.stdout.flush()
