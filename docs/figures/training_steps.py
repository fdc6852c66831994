"""Measure training steps that leave tokens out, beside whole ones: CPU time and memory.

python docs/figures/training_steps.py masked            the embedded model's size, 1,296 tokens
python docs/figures/training_steps.py masked --tiny     the same with 80 tokens, 16 clips at once

One thread; all kinds in turn in each round, every other round backwards; CPU time of the process,
which other programs do not count in. Each line: the median, the ratio to a whole step with its
95 % interval over the rounds, and the peak of the resident memory above what was held before.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict

import torch

from t2v.bench.pairs import verdict
from t2v.bench.stopwatch import peak_memory
from t2v.config.models import TransformerConfig
from t2v.config.training import MaskingConfig
from t2v.data.rng import keyed_generator
from t2v.models.diffusion import diffusion_loss
from t2v.models.routing import Route
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.tasks.masking import Masking

ROUNDS = 9
CPU = torch.device("cpu")
Run = Callable[[], None]


def main(what: str, tiny: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    transformer = T2VTransformer3DModel(**asdict(TransformerConfig()))
    transformer.initialize(keyed_generator(0, "weights"))
    table({"masked": masked}[what](transformer, tiny))


def masked(transformer: T2VTransformer3DModel, tiny: bool) -> dict[str, Run]:
    """A whole step, and steps without a share of the tokens, in both forms."""
    shape = (16, 16, 5, 8, 8) if tiny else (1, 16, 9, 24, 24)
    generator = torch.Generator().manual_seed(0)
    clips, noise = torch.randn(2, *shape, generator=generator)
    text, t = torch.randn(shape[0], 64, 192, generator=generator), torch.full((shape[0],), 0.5)

    def step(masking: Masking) -> None:
        kept = masking.kept(shape, None, 0, 0)
        route: Route | None = masking.route(kept, shape, 0)
        weight = None if kept is None else masking.weight(kept, shape, None)

        def predict(noisy: torch.Tensor, times: torch.Tensor) -> torch.Tensor:
            return transformer(noisy, times, text, route=route, return_dict=False)[0]

        diffusion_loss("flow", predict, clips, noise, t, weight).mean().backward()
        transformer.zero_grad()

    def of(config: MaskingConfig) -> Run:
        masking = Masking(config, 0, 1, transformer)
        return lambda: step(masking)

    runs = {"whole": of(MaskingConfig())}
    for form in ("route", "drop"):
        for ratio in (0.25, 0.5, 0.75):
            runs[f"{form} {ratio}"] = of(MaskingConfig(ratio=ratio, form=form, until=1.0))
    return runs


def table(runs: dict[str, Run]) -> None:
    """Print a line a run; the first one is what the others are compared with."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    peaks = {}
    for name, run in runs.items():
        run()
        peaks[name] = peak_memory(run, CPU)
    for number in range(ROUNDS):
        for name in list(runs)[:: 1 if number % 2 == 0 else -1]:
            start = time.process_time()
            runs[name]()
            seconds[name].append(time.process_time() - start)
    first = next(iter(runs))
    for name, times in seconds.items():
        found = verdict(times, seconds[first], seconds[first])
        sys.stdout.write(
            f"{name:<20} {statistics.median(times):6.2f} s  {found.ratio:.2f} times as fast "
            f"[{found.low:.2f}, {found.high:.2f}]  {peaks[name] or 0:,.0f} MiB\n"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=["masked"])
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    main(given.what, given.tiny)
