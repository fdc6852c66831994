"""`t2v bench attention`: the cost of each layout of attention over the number of tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from statistics import linear_regression, median
from typing import Any

import torch
from torch import Tensor, nn

from t2v.bench.pairs import rounds, spread, verdict
from t2v.bench.report import measured, print_table
from t2v.bench.stopwatch import Run, count_flop, peak_memory, product_probe
from t2v.config.bench import BenchAttentionConfig
from t2v.models.attention.layouts import stack
from t2v.models.block import T2VTransformerBlock
from t2v.models.device import DTYPES, pick_device
from t2v.models.kernels.choice import processor
from t2v.models.layers import RotaryEmbedding

HEAD = 64
COLUMNS = (
    *("layout", "tokens", "ms_median", "ms_min", "ms_max", "gflop", "peak_mib"),
    *("by_full", "interval", "verdict"),
)


def bench(config: BenchAttentionConfig) -> dict[str, Any]:
    """Measure the self-attention of a layer for each layout and size, print tables, and return
    their figures.

    A layer is measured with its projections, and with what the layout computes of the sizes; of one
    that takes turns, the mean of its turns. In every round all layouts and a matrix product run
    once; `by_full` is how many times faster than full attention, the median of the rounds' own
    ratios with a 95 % interval, and "noisy" where the product moved by more than 15 %. The exponent
    is the slope of log time over log tokens: over all sizes, and between the last two, where what
    is linear counts least.

    Raises:
        UserError: the device is not there, a layout is none, or `config.json` is a file of
            something else.
    """
    return measured(lambda: _measure(config), config.json, config.overwrite)


def _measure(config: BenchAttentionConfig) -> dict[str, Any]:
    device, dtype = pick_device(config.device), DTYPES[config.dtype]
    words = list(dict.fromkeys(["full", *config.layouts]))
    for word in words:
        stack(word, 1, config.dim // HEAD)  # a mistake is named before minutes of measuring
    rows = [row for grid in config.grids for row in _rows(config, grid, words, device, dtype)]
    report = {
        "config": asdict(config),
        "torch": torch.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "layouts": rows,
        "exponents": [_exponents(word, rows) for word in words],
    }
    _print(report)
    return report


def _rows(
    config: BenchAttentionConfig,
    grid: str,
    words: Sequence[str],
    device: torch.device,
    dtype: torch.dtype,
) -> list[dict[str, Any]]:
    """One row a layout, at one size."""
    t, h, w = map(int, grid.split("x"))
    layers = {word: Layer(word, config, (t, h, w), device, dtype) for word in words}
    probe = product_probe(device, dtype)
    runs: dict[str, Run] = {word: layer.run for word, layer in layers.items()}
    peaks = {word: peak_memory(run, device) for word, run in runs.items()}
    times = rounds({**runs, "probe": probe.run}, device, config.repeats)
    rows = []
    for word, layer in layers.items():
        milliseconds = sorted(1e3 * each / layer.turns for each in times[word])
        per_layer = [each / layer.turns for each in times[word]]
        result = verdict(per_layer, times["full"], times["probe"])
        rows.append(
            {
                "layout": word,
                "grid": grid,
                "tokens": t * h * w,
                "ms_median": median(milliseconds),
                "ms_min": milliseconds[0],
                "ms_max": milliseconds[-1],
                "gflop": _flop(word, config, (t, h, w), dtype) / 1e9,
                "peak_mib": peaks[word],
                "by_full": result.ratio,
                "low": result.low,
                "high": result.high,
                "verdict": "" if word == "full" else result.told,
                "probe_spread": spread(times["probe"]),
            }
        )
    return rows


class Layer:
    """The self-attention of the blocks of one layout, one for each of its turns."""

    def __init__(
        self,
        word: str,
        config: BenchAttentionConfig,
        grid: tuple[int, int, int],
        device: torch.device,
        dtype: torch.dtype,
    ) -> None:
        heads, count = config.dim // HEAD, math.prod(grid)
        (first,) = stack(word, 1, heads)
        self.turns, self.backward = first.layout.turns, config.backward
        self.grid = dict(zip("thw", grid, strict=True))
        self.blocks = [
            _block(each, config.dim, heads).to(device, dtype)
            for each in stack(word, self.turns, heads)
        ]
        self.rope = RotaryEmbedding(HEAD, (1, 1, 1), max(1024, *grid), 10000.0).to(device)
        random = torch.Generator().manual_seed(1)
        self.x = torch.randn(1, count, config.dim, generator=random).to(device, dtype)
        self.video = torch.empty(1, 0, *grid, device=device)
        self.gate = torch.ones(1, 1, config.dim, device=device)

    def run(self) -> Tensor:
        """The output of each turn, added up; with `backward` the gradients too."""
        with torch.set_grad_enabled(self.backward):
            x = self.x.detach().requires_grad_(self.backward)
            rotations = self.rope(self.video)
            for block in self.blocks:
                chosen = block.chosen
                layout = chosen.layout
                view = layout.view(rotations, self.grid, chosen.options, chosen.turn)
                x = layout.attend(block, x, x, self.gate, view)
            if self.backward:
                x.float().square().mean().backward()
                for block in self.blocks:
                    block.zero_grad(set_to_none=True)
        return x


@torch.no_grad()
def _block(chosen: Any, dim: int, heads: int) -> Any:
    block = T2VTransformerBlock(
        dim, heads, dim, chosen=chosen, qk_norm="rms_norm", cross_attn_norm=False, eps=1e-6
    )
    random = torch.Generator().manual_seed(0)
    for weight in block.parameters():
        if weight.ndim > 1:
            nn.init.normal_(weight, std=dim**-0.5, generator=random)
    return block


def _flop(
    word: str, config: BenchAttentionConfig, grid: tuple[int, int, int], dtype: torch.dtype
) -> float:
    """FLOP of one layer, counted without computing."""
    layer = Layer(word, config, grid, torch.device("cpu"), dtype)
    meta = torch.device("meta")
    layer.blocks = [block.to(meta) for block in layer.blocks]
    layer.rope, layer.x = layer.rope.to(meta), layer.x.to(meta)
    layer.video, layer.gate = layer.video.to(meta), layer.gate.to(meta)
    return count_flop(layer.run) / layer.turns


def _exponents(word: str, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The slopes of log time and log FLOP over log tokens; None of a single size."""
    own = sorted((row for row in rows if row["layout"] == word), key=lambda row: row["tokens"])
    slope = partial(_slope, own)
    return {
        "layout": word,
        "time": slope("ms_median", len(own)),
        "time_last": slope("ms_median", 2),
        "flop": slope("gflop", len(own)),
        "flop_last": slope("gflop", 2),
    }


def _slope(rows: Sequence[dict[str, Any]], name: str, last: int) -> float | None:
    if len({row["tokens"] for row in rows}) < 2:
        return None
    points = rows[-last:]
    tokens = [math.log(row["tokens"]) for row in points]
    return linear_regression(tokens, [math.log(row[name]) for row in points]).slope


def _print(report: dict[str, Any]) -> None:
    config = report["config"]
    print(
        f"{report['processor']}, {report['threads']} threads, on {report['device']}; torch "
        f"{report['torch']}; one layer of width {config['dim']}, {config['dtype']}"
        f"{', with gradients' if config['backward'] else ''}\n"
    )
    rows = [row | {"interval": f"{row['low']:.2f}-{row['high']:.2f}"} for row in report["layouts"]]
    print_table(rows, COLUMNS, wide=("layout",))
    print("\nexponent: the slope of log time, and of log FLOP, over log tokens")
    columns = ("layout", "time", "time_last", "flop", "flop_last")
    print_table(report["exponents"], columns, wide=("layout",))
