"""The task of distillation: a student learns from the films of its teacher."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import reduce
from torch import Tensor, nn

from t2v.config.distill import DistillConfig
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.evaluation.metrics.reconstruction import psnr
from t2v.io.video import contact_sheet
from t2v.models.conditions import Conditions
from t2v.models.device import pick_device, ready
from t2v.models.diffusion import NUM_TRAIN_TIMESTEPS
from t2v.models.inputs import latent_shape
from t2v.models.schedule import set_timesteps
from t2v.pipelines.generator import Request
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.training.engine.example import Size
from t2v.training.engine.loop import autocast
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.significance import HELD_OUT, TRAINING
from t2v.training.engine.task import SHEET_FRAMES, ParameterGroup, Validation
from t2v.training.tasks.distill_films import FilmBatch, Films
from t2v.training.tuning.saving import save_student

SHEET_FILMS = 3
PROBED_FILMS, PROBED_FRAMES = 4, 2  # of what tells how much each channel changes pixels
VARIED = 3  # one film in so many is compared with one of another noise
PROBE = 0.3  # the change of a channel, in its standard deviations


class DistillTask:
    """Go from noise to the teacher's film, from where the student's own steps have led.

    One network serves each number N of steps in `student_steps`. A batch is at step j of N: the
    network takes j steps of its own from the noise, without gradients, and the error is that of
    the film it is heading for. So later steps learn to mend what the first ones of this very
    student miss. Progressive distillation (arXiv 2202.00512) halves the steps again and again;
    here the teacher's whole run is the target at once, as in knowledge distillation of samplers
    (arXiv 2101.02388), and guidance is in it (arXiv 2210.03142).

    The mean square alone pays for the mean of what may follow from a noise, so films of a prompt
    become alike. A second term asks that in each channel a film is as far from the student's film
    of another noise as the teacher's is; it is 0 where both have one distribution, as in the
    energy distance (arXiv 1705.10743). Both hold for films it knows; of other prompts they still
    vary less. `config.noise_scale` is for those: a student that learned from smaller noise takes
    noise of the usual size for a larger one, and goes farther from the mean.

    Args:
        pipeline: of the student, frozen parts included.
        films: what the teacher made.
        asked: the teacher's steps and guidance.
    """

    leaves_unused = False
    taught_by: Any  # the reference to the teacher, and its folder

    def __init__(
        self, config: DistillConfig, pipeline: T2VPipeline, films: Films, asked: Request
    ) -> None:
        self.config, self.pipeline, self.films, self.asked = config, pipeline, films, asked
        self.attention: str | None = config.attention
        pipeline.transformer.requires_grad_(True)
        self.model: nn.Module = nn.ModuleDict({"transformer": pipeline.transformer})
        self.parts = {"transformer": pipeline.transformer}
        self.sources = {"films": films.name}
        self.weights = torch.ones(1)

    @cached_property
    def times(self) -> dict[int, list[float]]:
        """The times of a run, from 1 to 0, for each number of steps, fewest first."""
        return {n: _times(self.pipeline, n) for n in sorted(self.config.student_steps)}

    def prepare(self) -> None:
        """Find how much each channel of the latents changes pixels."""
        device = pick_device(self.config.device)
        ready(self.pipeline.transformer)  # a sample would do it, and a resumed run has drawn none
        self.pipeline.vae.to(device)
        if share := self.config.pixel_weight:
            energy = self._pixel_energy(device)
            self.weights = share * energy / energy.mean() + 1 - share

    def parameter_groups(self) -> list[ParameterGroup]:
        return split_parameters(
            dict(self.model.named_parameters()),
            self.config.optim,
            is_matrix=lambda name: ".blocks." in name and name.endswith(".weight"),
        )

    def sample_bytes(self) -> int:
        """Noise, film, the student's own place and its prediction; the output of each block."""
        config = self.pipeline.transformer.config
        largest = max(torch.Size(shape).numel() for shape in self.films.shapes.values())
        tokens = largest / config.in_channels / torch.Size(config.patch_size).numel()
        width = config.num_attention_heads * config.attention_head_dim
        return int(4 * 4 * largest + 2 * tokens * width * config.num_layers)

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> FilmBatch:
        """The batch that `read` gives, on the device."""
        return self.place(self.read(step, rank, world_size))

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> FilmBatch:
        """Films of one size, with their noise and text."""
        return self.films.batch(step, rank, world_size)

    def place(self, batch: FilmBatch) -> FilmBatch:
        return batch.on(pick_device(self.config.device))

    def example_batch(self, size: Size) -> FilmBatch:
        """Films of zeros, and text of zeros.

        Raises:
            UserError: see `latent_shape`.
        """
        device, pipeline = pick_device(self.config.device), self.pipeline
        sides = size.frames, size.height, size.width
        shape = latent_shape(pipeline.transformer, pipeline.vae, size.batch, *sides)
        rows = size.batch, self.films.max_length, pipeline.transformer.config.text_dim
        zeros = torch.zeros(shape, device=device)
        return FilmBatch(zeros, zeros, torch.zeros(rows, device=device))

    def loss(
        self, batch: FilmBatch, generator: torch.Generator
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The weighted squared error of the film that one step is heading for, and its variety."""
        steps, done = self.place_in_run(generator)
        film = self._heading(batch.noise / self.config.noise_scale, batch.text, steps, done)
        error = reduce((film - batch.latents).square(), "b c t h w -> c", "mean")
        loss = (error * self.weights.to(error)).mean()
        metrics = {"mse": error.mean().detach()}
        if weight := self.config.variety_weight:
            few = slice(0, -(-len(film) // VARIED))
            noise = torch.randn(film[few].shape, generator=generator).to(film)
            with torch.no_grad():
                other = self._heading(noise, batch.text[few], steps, done)
            missing = _spread(film[few], other) - _spread(batch.latents[few], other)
            loss = loss + weight * missing.square().mean()
            metrics["variety"] = missing.detach().mean()
        return loss, metrics

    @torch.no_grad()
    def validate(self) -> Validation:
        """PSNR in dB to the teacher's films at the same noise, by number of steps; the losses are
        squared errors of latents at the default number. Under each film of the teacher on the
        sheet lie those of the student, fewest steps first."""
        own = T2VGenerator(self.pipeline)
        found: dict[int, list[Tensor]] = {n: [] for n in self.times}
        errors, rows = [], list[np.ndarray]()
        for indices in self.films.held_out():
            batch, frames = self.films.read(indices), self.films.films[indices[0]].sizes[0]
            wanted = own.decode(batch.latents, frames)
            made = {n: self._made(own, batch, indices, n) for n in self.times}
            errors.append(_error(made[self.config.num_inference_steps], batch.latents))
            films = {n: own.decode(each, frames) for n, each in made.items()}
            for n, each in films.items():
                found[n].append(psnr(torch.from_numpy(each), torch.from_numpy(wanted)))
            for i in range(min(SHEET_FILMS - len(rows) // (1 + len(films)), len(wanted))):
                rows += [wanted[i], *(each[i] for each in films.values())]
        figures = {f"val_psnr_{n}": torch.cat(each).mean().item() for n, each in found.items()}
        trained = []
        for indices in self.films.trained(self.config.held_out):
            batch = self.films.read(indices)
            made_of = self._made(own, batch, indices, self.config.num_inference_steps)
            trained.append(_error(made_of, batch.latents))
        losses = {HELD_OUT: torch.cat(errors), TRAINING: torch.cat(trained)}
        return Validation(figures, contact_sheet(rows, columns=SHEET_FRAMES), losses)

    def save(self, folder: Path) -> None:
        """Write a pipeline folder: all of it, or the student and where its teacher is."""
        base, place = self.taught_by
        if self.config.save == "full":
            self.pipeline.save_pretrained(folder)
        else:
            save_student(folder, self.pipeline, base, place)

    def place_in_run(self, generator: torch.Generator) -> tuple[int, int]:
        """A number of steps, and how many of them are done."""
        counts = list(self.times)
        later = [(n, j) for n in counts for j in range(1, n)]
        draws = torch.rand(2, generator=generator)
        if not later or draws[0] < self.config.first_step:
            return counts[0], 0  # the first step of any number begins at the same time
        # each number of steps as often as the others, and each step of it
        rows = [n for n in counts if n > 1]
        n = rows[min(int(draws[1] * len(rows)), len(rows) - 1)]
        return n, 1 + int(torch.randint(n - 1, (), generator=generator))

    def _heading(self, noise: Tensor, text: Tensor, steps: int, done: int) -> Tensor:
        """The film that the student is heading for, `done` steps of its own from the noise."""
        times, x = self.times[steps], noise
        with autocast(self.config):
            for now, following in pairwise(times[: done + 1]):
                with torch.no_grad():
                    x = x + (following - now) * self._velocity(x, now, text)
            return x - times[done] * self._velocity(x, times[done], text)

    def _velocity(self, x: Tensor, time: float, text: Tensor) -> Tensor:
        at = torch.full((len(x),), NUM_TRAIN_TIMESTEPS * time, device=x.device)
        return self.model["transformer"](x, at, text, return_dict=False)[0].float()

    def _made(
        self, own: T2VGenerator, batch: FilmBatch, indices: Sequence[int], steps: int
    ) -> Tensor:
        """The student's films of the same noise in `steps`, on the CPU."""
        frames, height, width = self.films.films[indices[0]].sizes
        request = replace(
            self.asked,
            num_frames=frames,
            height=height,
            width=width,
            num_inference_steps=steps,
            guidance_scale=1.0,
        )
        text = batch.text.to(ready(self.pipeline.transformer), self.pipeline.transformer.dtype)
        seeds = [self.films.films[i].seed for i in indices]
        self.pipeline.set_progress_bar_config(disable=True)
        return own.generate((Conditions(text=text), None), request, seeds).cpu()

    @torch.no_grad()
    def _pixel_energy(self, device: torch.device) -> Tensor:
        """The mean square that pixels change by for that of each channel of latents, `c`."""
        indices = next(self.films.trained(PROBED_FILMS))
        latents = self.films.read(indices).latents[:, :, :PROBED_FRAMES].to(device)
        pipeline, before = self.pipeline, self.pipeline.decode_latents(latents)
        found = []
        for channel in range(latents.shape[1]):
            generator = keyed_generator(self.config.seed, "pixels", channel)
            change = PROBE * torch.randn(latents[:, channel].shape, generator=generator)
            moved = latents.clone()
            moved[:, channel] += change.to(device)
            pixels = pipeline.decode_latents(moved) - before
            found.append(pixels.square().mean().cpu() / change.square().mean())
        return torch.stack(found)


def _times(pipeline: T2VPipeline, steps: int) -> list[float]:
    """The times of a run of so many steps, from 1 to 0."""
    set_timesteps(pipeline.scheduler, steps, 0)
    return pipeline.scheduler.sigmas.tolist()


def _spread(films: Tensor, others: Tensor) -> Tensor:
    """The root mean square difference of films in each channel, `c`, a mean over them."""
    square = reduce((films - others).square(), "b c t h w -> b c", "mean")
    return square.clamp(min=1e-12).sqrt().mean(0)  # the root of 0 has no gradient


def _error(made: Tensor, wanted: Tensor) -> Tensor:
    return reduce((made - wanted).square(), "b ... -> b", "mean")


def check_teacher(model: str, transformer: Any, *, has_second: bool) -> None:
    """Raise `UserError` where a transformer does not make videos of text alone, in many steps."""
    given = f"model={model}"
    if has_second or transformer.config.conditioning == "channels":
        kind = "two transformers" if has_second else "a given picture"
        raise UserError(
            f"{given} makes videos with {kind}, and t2v distill teaches one transformer to make "
            "them of text. Give such a model."
        )
    if transformer.config.distilled_steps:
        raise UserError(f"{given} is a student already. Give its teacher.")
