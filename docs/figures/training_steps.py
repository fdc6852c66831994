"""Measure training steps that leave tokens out or are packed, beside plain ones.

python docs/figures/training_steps.py masked            the embedded model's size, 1,296 tokens
python docs/figures/training_steps.py masked --tiny     the same with 80 tokens, 16 clips at once
python docs/figures/training_steps.py learned           forward passes of learned tokens, of 2,880
python docs/figures/training_steps.py learned --tiny    likewise, of 80
python docs/figures/training_steps.py scorer            steps of a scorer that leave tokens out
python docs/figures/training_steps.py packed            clips of 4 shapes at once, or shape by shape
python docs/figures/training_steps.py unpadded          512 places of text, 30 of them taken
python docs/figures/training_steps.py unpadded --tiny   64 places of text, 10 of them taken

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
from t2v.config.scorer import TowersConfig
from t2v.config.training import MaskingConfig
from t2v.data.rng import keyed_generator
from t2v.models.diffusion import diffusion_loss
from t2v.models.packing import predict_packed
from t2v.models.routing import Route
from t2v.models.transformer import T2VTransformer3DModel
from t2v.nets.scorer import FRAMES, SIDE, TOKENS, ScorerTowers
from t2v.training.tasks.masking import Masking

ROUNDS = 9
CPU = torch.device("cpu")
Run = Callable[[], None]


def main(what: str, tiny: bool) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    transformer = T2VTransformer3DModel(**asdict(TransformerConfig()))
    transformer.initialize(keyed_generator(0, "weights"))
    table(KINDS[what](transformer, tiny))


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


def learned(transformer: T2VTransformer3DModel, tiny: bool) -> dict[str, Run]:
    """Forward passes of all tokens, and with 8 and 32 learned ones in two of five blocks."""
    given = _inputs(1, (5, 8, 8) if tiny else (5, 48, 48), 64, 64)

    def of(count: int) -> Run:
        model = transformer
        if count:
            model = T2VTransformer3DModel(**asdict(TransformerConfig(learned_tokens=count)))
            model.initialize(keyed_generator(0, "weights"))
        return torch.no_grad()(lambda: model(**given))

    return {f"{count} learned" if count else "all tokens": of(count) for count in (0, 8, 32)}


def scorer(_: T2VTransformer3DModel, tiny: bool) -> dict[str, Run]:
    """Forward and backward of a scorer's video tower on 8 clips, or 2, with shares of its tokens
    left out."""
    torch.manual_seed(0)
    towers = ScorerTowers(**asdict(TowersConfig()), text_dim=192)
    generator = torch.Generator().manual_seed(0)
    clips = torch.rand(2 if tiny else 8, 3, FRAMES, SIDE, SIDE, generator=generator)

    def of(share: float) -> Run:
        kept = max(1, round(TOKENS * (1 - share)))
        keep = torch.rand(len(clips), TOKENS, generator=generator).argsort(1)[:, :kept]

        def step() -> None:
            towers.embed_video(clips, keep if share else None).square().sum().backward()
            towers.zero_grad()

        return step

    return {f"masked={share:g}": of(share) for share in (0, 0.3, 0.5, 0.75, 0.9)}


def packed(transformer: T2VTransformer3DModel, tiny: bool) -> dict[str, Run]:
    """The same clips shape by shape, as buckets have them, and as one sequence."""
    shapes = [(5, 8, 8), (3, 8, 8), (5, 6, 10), (1, 8, 8)]
    count = 1 if tiny else 4
    batches = [_inputs(count, shape, 64, 64) for shape in shapes]

    def buckets() -> None:
        for given in batches:
            (transformer(**given).sample.square().mean() / len(batches)).backward()
        transformer.zero_grad()

    def pack() -> None:
        found = predict_packed(transformer, batches)
        (sum(each.square().mean() for each in found) / len(found)).backward()
        transformer.zero_grad()

    return {"shape by shape": buckets, "packed": pack}


def unpadded(transformer: T2VTransformer3DModel, tiny: bool) -> dict[str, Run]:
    """Text with a mask over its padding, and without its padding."""
    given = _inputs(8, (5, 8, 8), 64, 10) if tiny else _inputs(2, (5, 24, 24), 512, 30)

    def padded() -> None:
        transformer(**given).sample.square().mean().backward()
        transformer.zero_grad()

    def own() -> None:
        predict_packed(transformer, [given])[0].square().mean().backward()
        transformer.zero_grad()

    return {"masked padding": padded, "no padding": own}


def _inputs(count: int, shape: tuple[int, ...], places: int, taken: int) -> dict[str, torch.Tensor]:
    """A batch of noise with texts of `taken` of `places` tokens, with a mask where not all are."""
    generator = torch.Generator().manual_seed(0)
    text = torch.randn(count, places, 192, generator=generator)
    mask = torch.arange(places).expand(count, -1) < taken
    given = {"timestep": torch.full((count,), 500.0)}
    given["hidden_states"] = torch.randn(count, 16, *shape, generator=generator)
    given["encoder_hidden_states"] = text * mask.unsqueeze(-1)
    return given | ({"encoder_attention_mask": mask} if taken < places else {})


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


KINDS = {
    "masked": masked,
    "learned": learned,
    "scorer": scorer,
    "packed": packed,
    "unpadded": unpadded,
}

if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=KINDS)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    main(given.what, given.tiny)
