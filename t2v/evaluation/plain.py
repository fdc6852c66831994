"""The videos of suites that give nothing but prompts: a model's, by several seeds, a teacher's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from t2v.config.evaluation import EvalConfig
from t2v.data.cache import weights_digest
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.rows import CHANCE, MODEL, OTHER_SEED, REAL, TEACHER
from t2v.evaluation.samples import (
    cache_keys,
    load_model,
    parts_of,
    request_of,
    rows_of,
    sample_suite,
    sampling_workers,
)
from t2v.evaluation.suites import Suite
from t2v.evaluation.types import Taught, Videos
from t2v.evaluation.visuals import Made
from t2v.io.files import digest
from t2v.io.workers import Pool
from t2v.pipelines.generator import Generator
from t2v.world.grammar import Scene

NEXT_SEEDS = 1_000_000  # from the seeds of one video of each prompt to those of the next


@dataclass(frozen=True)
class Maker:
    """A model that makes the videos of a suite, each of them once.

    Args:
        config: settings that are this model's.
        weights: hashes of its networks.
        workers: of `sampling_workers`; None: the videos are sampled here.
    """

    generator: Generator
    config: EvalConfig
    weights: tuple[str, ...]
    workers: Pool | None = None

    def make(self, prompts: tuple[str, ...], draw: int = 0) -> tuple[list[str], Tensor]:
        """Return keys and videos `n t h w c` of the prompts, by the seeds of one draw."""
        config = replace(self.config, seed=self.config.seed + draw * NEXT_SEEDS)
        keys = cache_keys(self.generator, prompts, config, weights=self.weights)
        sampled = sample_suite(self.generator, prompts, keys, config, workers=self.workers)
        return keys, sampled

    def draws(self, prompts: tuple[str, ...], count: int) -> Tensor | None:
        """Return the videos of draws 1 to `count - 1`, `k n t h w c`; None: there are none."""
        others = [self.make(prompts, draw)[1] for draw in range(1, count)]
        return torch.stack(others) if others else None

    @property
    def name(self) -> str:
        """Its weights, steps and guidance in words, wherever its folder is."""
        request = request_of(self.generator, self.config)
        settings = [(request.num_inference_steps, "steps"), (request.guidance_scale, "guidance")]
        said = [f"{word} {value:g}" for value, word in settings if value is not None]
        return ", ".join([f"teacher {digest(*self.weights)[:8]}", *said])

    def told(self) -> dict[str, Any]:
        """Return what the protocol says of it."""
        request = request_of(self.generator, self.config)
        return {
            "model": self.config.model,
            "weights": digest(*self.weights)[:8],
            "steps": request.num_inference_steps,
            "guidance": request.guidance_scale,
        }


def check_plain(suites: Sequence[Suite], config: EvalConfig) -> None:
    """Raise UserError where a teacher or seeds are named and no suite is of prompts alone."""
    given = [f"teacher={config.teacher}"] if config.teacher else []
    given += [f"seeds={config.seeds}"] if config.seeds > 1 else []
    if given and not any(suite.kind == "plain" for suite in suites):
        raise UserError(
            f"{given[0]}: is for suites of prompts alone, and suites={list(config.suites)} names "
            "none. Add world, or leave it out."
        )


def rows_beside(suite: Suite, config: EvalConfig) -> int:
    """Return how many more videos of each prompt seeds and a teacher bring into memory."""
    if suite.kind != "plain":
        return 0
    of_seeds = 3 if suite.scenes else 1  # real clips of the caption, and of others
    return of_seeds * (config.seeds - 1) + (max(2, config.seeds) if config.teacher else 0)


def load_teacher(config: EvalConfig, generator: Generator) -> Generator | None:
    """Load the generator of `config.teacher`; None: no teacher is named.

    Args:
        generator: the model that is measured.

    Raises:
        UserError: it cannot be loaded, or makes something else of the same seed.
    """
    if config.teacher is None:
        return None
    asked = _of_teacher(config, generator)
    teacher = load_model(asked, "t2v eval")
    kinds = [type(each.pipeline).__name__ for each in (generator, teacher)]
    shapes = [
        each.latent_shape(request_of(each, own)) if each.gives_latents else None
        for each, own in ((generator, config), (teacher, asked))
    ]
    if kinds[0] != kinds[1] or shapes[0] != shapes[1]:
        ours, theirs = (
            f"a {kind}" + (f" of latents {list(shape)}" if shape else "")
            for kind, shape in zip(kinds, shapes, strict=True)
        )
        raise UserError(
            f"teacher={config.teacher}: is {theirs}, and model={config.model} {ours}: a seed does "
            "not give them the same noise. Name a teacher with the same latents."
        )
    return teacher


def _of_teacher(config: EvalConfig, generator: Generator) -> EvalConfig:
    """The settings with which a teacher samples: its own steps, guidance and numbers."""
    assert config.teacher is not None
    own = request_of(generator, config)
    return replace(
        config,
        model=config.teacher,
        num_frames=own.num_frames,
        height=own.height,
        width=own.width,
        num_inference_steps=None,
        guidance_scale=None,
        quantize="none",
    )


@contextmanager
def teaching(
    config: EvalConfig, generator: Generator, teacher: Generator | None
) -> Iterator[Maker | None]:
    """Give the maker of a teacher's videos, with workers as the settings ask; None: no teacher."""
    if teacher is None:
        yield None
        return
    asked = _of_teacher(config, generator)
    parts = parts_of(teacher, request_of(teacher, asked).upscale)
    weights = tuple(weights_digest(part) for part in parts.values())
    with sampling_workers(asked, teacher, weights) as workers:
        yield Maker(teacher, asked, weights, workers)


def make_plain(suite: Suite, maker: Maker, teacher: Maker | None) -> Made:
    """Make the videos of a suite that gives nothing but prompts, and those beside them.

    Args:
        teacher: whose videos stand beside; None: no teacher's.
    """
    config = maker.config
    keys, sampled = maker.make(suite.prompts)
    rows = rows_of(suite, sampled, maker.generator, config.seed, upscale=config.upscale)
    if config.seeds > 1:
        rows |= _with_draws(suite, rows, maker.draws(suite.prompts, config.seeds), config)
    if teacher is not None:
        # one other seed at least: the figures of chance
        draws = teacher.draws(suite.prompts, max(2, config.seeds))
        assert draws is not None
        taught = Taught(teacher.name, teacher.make(suite.prompts)[1], draws)
        model = replace(rows[MODEL], taught=taught)
        beside = model.showing(taught.video)
        if config.seeds > 1:
            beside = replace(beside, draws=draws)
        rows |= {MODEL: model, TEACHER: beside, OTHER_SEED: model.showing(draws[0])}
    shown = [name for name in (MODEL, TEACHER, REAL) if name in rows]
    return Made(rows, keys, {name: rows[name].video for name in shown})


def _with_draws(
    suite: Suite, rows: dict[str, Videos], draws: Tensor | None, config: EvalConfig
) -> dict[str, Videos]:
    """The rows of variety: the model's, real clips of the same captions, and of other captions."""
    found = {MODEL: replace(rows[MODEL], draws=draws)}
    if REAL in rows:
        real = rows[REAL].video
        others = [
            _other_clips(suite, config.seed + draw * NEXT_SEEDS, real)
            for draw in range(1, config.seeds)
        ]
        found[REAL] = replace(rows[REAL], draws=torch.stack(others))
        others = [real.roll(1 + draw, 0) for draw in range(1, config.seeds)]
        found[CHANCE] = replace(rows[CHANCE], draws=torch.stack(others))
    return found


def _other_clips(suite: Suite, seed: int, like: Tensor) -> Tensor:
    """Other clips of the same captions, `n t h w c`: what these leave open is drawn again."""
    assert suite.scenes is not None
    scenes = []
    for index, scene in enumerate(suite.scenes):
        assert isinstance(scene, Scene)
        generator = keyed_generator(seed, index, "variety")
        offset, backdrop = (2 * torch.rand(2, generator=generator) - 1).tolist()
        scenes.append(replace(scene, offset=offset, backdrop=backdrop))
    rendered = replace(suite, scenes=tuple(scenes)).real(*like.shape[1:4])
    assert rendered is not None
    return rendered[0]
