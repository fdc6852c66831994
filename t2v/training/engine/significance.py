"""The state of a training: learning, flat or overfitting; copies it makes, prompts it forgets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import torch
from torch import Tensor

HELD_OUT, TRAINING, BASE = "held_out", "training", "base"
CHUNK = 64
FEWEST = 4  # clips that a verdict may rest on: of 2 and 3, Student's t is 12.7 and 4.3 wide
SURE = 0.95


@dataclass(frozen=True)
class Change:
    """The change of the mean of some losses, and the change that chance alone may cause."""

    before: float
    after: float
    noise: float  # half of the 95 % interval of the mean difference; infinite for too few clips

    @property
    def is_known(self) -> bool:
        return math.isfinite(self.noise)

    @property
    def fell(self) -> bool:
        return self.after - self.before < -self.noise

    @property
    def rose(self) -> bool:
        return self.after - self.before > self.noise

    def __str__(self) -> str:
        moved = f"{self.after - self.before:+.2g}"
        chance = f", chance ±{self.noise:.2g}" if self.is_known else ""
        return f"{self.before:.4g} -> {self.after:.4g} ({moved}{chance})"


@dataclass(frozen=True)
class Trend:
    """One word, the sentence that explains it, and its figures by name."""

    word: str
    sentence: str
    figures: dict[str, float]


def student(freedom: int, share: float = SURE) -> float:
    """Return how many standard errors hold a share of Student's distribution, on both sides.

    Its expansion by the normal distribution (Abramowitz and Stegun 1964, 26.7.5), within 0.5 % for
    3 degrees of freedom and 95 %; torch has no such quantile.

    Args:
        freedom: degrees of freedom, at least 3.
    """
    z = NormalDist().inv_cdf((1 + share) / 2)
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return sum(term / freedom**power for power, term in enumerate(terms))


def paired_change(before: Tensor, after: Tensor) -> Change:
    """The change of a mean loss, by the differences clip by clip.

    Both were taken at the same clips, noise and times, so what these contribute cancels; what is
    left varies from clip to clip. Its mean over n clips has a 95 % interval by Student's t, wider
    for few clips, whose spread is not well known either.

    Args:
        before, after: the loss of each clip, `n`; fewer than `FEWEST` give no interval.
    """
    difference = (after - before).double()
    count, noise = len(difference), math.inf
    if count >= FEWEST:
        noise = student(count - 1) * difference.std().item() / math.sqrt(count)
    return Change(before.double().mean().item(), after.double().mean().item(), noise)


def trend(history: Sequence[Mapping[str, Tensor]]) -> Trend:
    """Compare the last of some validations with the best one before it.

    learning: the held-out loss fell by more than chance. overfitting: it rose by more than chance
    while the loss on trained clips fell by more than chance. worsening: it rose, and the trained
    clips do not explain it. flat: it did neither, no more than by chance. Chance is the 95 %
    interval of the paired differences, left 1 time in 20 by luck. Of fewer than `FEWEST` held-out
    clips nothing is said: too few clips to tell.

    Args:
        history: of each validation, oldest first and at least two, the losses clip by clip:
            `held_out`, `training`, and for a fine-tune perhaps `base`, which is what the untuned
            model could do. The first is from before any step.
    """
    *earlier, now = history
    best = min(earlier, key=lambda losses: losses[HELD_OUT].mean().item())
    held_out = paired_change(best[HELD_OUT], now[HELD_OUT])
    training = paired_change(best[TRAINING], now[TRAINING])
    word = _word(held_out, training)
    parts = [f"{word}: held-out loss, best so far -> now, {held_out}; trained clips {training}"]
    if not held_out.is_known:
        parts.append(f"a verdict takes held_out={FEWEST} or more, here {len(now[HELD_OUT])}")
    figures = _figures("val_change", "val_chance", held_out)
    if earlier[0] is not best:
        parts.append(f"since before any step {paired_change(earlier[0][HELD_OUT], now[HELD_OUT])}")
    if BASE in now:
        base = paired_change(earlier[0][BASE], now[BASE])
        parts.append(f"{_forgetting(base)} the base prompts, loss {base}")
        figures |= _figures("val_forgotten", "val_forgotten_chance", base)
    return Trend(word, "; ".join(parts), figures)


def _word(held_out: Change, training: Change) -> str:
    if not held_out.is_known:
        return "too few clips to tell"
    if held_out.fell:
        return "learning"
    if held_out.rose:
        return "overfitting" if training.fell else "worsening"
    return "flat"


def _forgetting(base: Change) -> str:
    if not base.is_known:
        return "too few to tell whether it forgets"
    return "forgets" if base.rose else "forgets nothing measurable of"


def _figures(change: str, chance: str, of: Change) -> dict[str, float]:
    """The figures of a change by name; chance only where it is known, for JSON has no infinity."""
    return {change: of.after - of.before} | ({chance: of.noise} if of.is_known else {})


def nearest(latents: Tensor, training: Tensor) -> Tensor:
    """Return the distance of each of `latents` to the nearest of `training`: root mean square, `n`.

    Args:
        latents, training: `n c t h w` and `m c t h w` of one shape, normalised.
    """
    ours, theirs = latents.flatten(1).float(), training.flatten(1).float()
    found = [torch.cdist(chunk, theirs).min(dim=1).values for chunk in ours.split(CHUNK)]
    return torch.cat(found) / math.sqrt(ours.shape[1])


def memorised(samples: Tensor, held_out: Tensor) -> dict[str, float]:
    """Return the share of samples that are copies, by distances to the nearest training clip.

    A sample of a model that copies nothing is as far from the training clips as a new clip is: it
    lies nearer than every one of n new clips once in n + 1 times.

    Returns:
        `val_nearest` and `val_nearest_held_out`, the medians, and `val_memorised`, the share of
        samples that lie nearer than every held-out clip.
    """
    return {
        "val_nearest": samples.median().item(),
        "val_nearest_held_out": held_out.median().item(),
        "val_memorised": (samples < held_out.min()).float().mean().item(),
    }


def copies(
    samples: Tensor, trained: Iterable[Tensor], held_out: Iterable[Tensor]
) -> dict[str, float]:
    """Return the distances of samples and held-out clips to training clips of their shape.

    Nothing where there are none of that shape.

    Args:
        samples: latents `n c t h w`.
        trained, held_out: batches of latents.
    """
    shape, distances = samples.shape[1:], []
    unseen = [each for each in held_out if each.shape[1:] == shape]
    for batch in trained if unseen else ():
        if batch.shape[1:] == shape:
            distances.append(nearest(torch.cat([samples, *unseen]), batch))
    if not distances:
        return {}
    distance = torch.stack(distances).min(dim=0).values
    return memorised(distance[: len(samples)], distance[len(samples) :])
