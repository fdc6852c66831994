"""The state of a training: learning, flat or overfitting; copies it makes, prompts it forgets."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

HELD_OUT, TRAINING, BASE = "held_out", "training", "base"
CHUNK = 64


@dataclass(frozen=True)
class Change:
    """The change of the mean of some losses, and the change that chance alone may cause."""

    before: float
    after: float
    noise: float  # two standard errors of the mean difference

    @property
    def fell(self) -> bool:
        return self.after - self.before < -self.noise

    @property
    def rose(self) -> bool:
        return self.after - self.before > self.noise

    def __str__(self) -> str:
        moved = self.after - self.before
        return f"{self.before:.4g} -> {self.after:.4g} ({moved:+.2g}, chance ±{self.noise:.2g})"


@dataclass(frozen=True)
class Trend:
    """One word, the sentence that explains it, and its figures by name."""

    word: str
    sentence: str
    figures: dict[str, float]


def paired_change(before: Tensor, after: Tensor) -> Change:
    """The change of a mean loss, by the differences clip by clip.

    Both were taken at the same clips, noise and times, so what these contribute cancels; what is
    left varies from clip to clip, and its mean over n clips by the standard error.

    Args:
        before, after: the loss of each clip, `n`; one clip alone gives no error.
    """
    difference = (after - before).double()
    count = len(difference)
    noise = 2 * difference.std().item() / math.sqrt(count) if count > 1 else math.inf
    return Change(before.double().mean().item(), after.double().mean().item(), noise)


def trend(history: Sequence[Mapping[str, Tensor]]) -> Trend:
    """Compare the last of some validations with the best one before it.

    learning: the held-out loss fell by more than chance. overfitting: it rose by more than chance
    while the loss on trained clips fell by more than chance. worsening: it rose, and the trained
    clips do not explain it. flat: it did neither, no more than by chance. Chance is two
    standard errors of the paired differences, that is 1 time in 20 by luck.

    Args:
        history: of each validation, oldest first and at least two, the losses clip by clip:
            `held_out`, `training`, and for a fine-tune perhaps `base`, which is what the untuned
            model could do. The first is from before any step.
    """
    *earlier, now = history
    best = min(earlier, key=lambda losses: losses[HELD_OUT].mean().item())
    held_out = paired_change(best[HELD_OUT], now[HELD_OUT])
    training = paired_change(best[TRAINING], now[TRAINING])
    if held_out.fell:
        word = "learning"
    elif held_out.rose:
        word = "overfitting" if training.fell else "worsening"
    else:
        word = "flat"
    parts = [f"{word}: held-out loss, best so far -> now, {held_out}; trained clips {training}"]
    figures = {"val_change": held_out.after - held_out.before, "val_chance": held_out.noise}
    if earlier[0] is not best:
        parts.append(f"since before any step {paired_change(earlier[0][HELD_OUT], now[HELD_OUT])}")
    if BASE in now:
        base = paired_change(earlier[0][BASE], now[BASE])
        found = "forgets" if base.rose else "forgets nothing measurable of"
        parts.append(f"{found} the base prompts, loss {base}")
        figures |= {"val_forgotten": base.after - base.before, "val_forgotten_chance": base.noise}
    return Trend(word, "; ".join(parts), figures)


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
