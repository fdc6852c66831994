"""Training the video transformer on cached latents and their captions."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_dispatch import attention_backend
from diffusers.training_utils import free_memory
from einops import rearrange
from torch import Tensor, nn
from transformers import PreTrainedModel

from t2v.config.codes import CODES
from t2v.config.training import DiffusionConfig, TrainDiTConfig
from t2v.data.captions import Captions, add_known_words, all_captions
from t2v.data.curriculum import BatchItems, first_items
from t2v.data.dataset import cache_folder
from t2v.data.rng import keyed_generator
from t2v.data.text_cache import FOLDER, Texts
from t2v.io.manifest import NEEDS_GIVEN
from t2v.io.model_card import write_model_card
from t2v.io.video import contact_sheet
from t2v.models.conditions import Conditions
from t2v.models.device import pick_device, ready, sent
from t2v.models.diffusion import diffusion_loss
from t2v.models.inputs import latent_shape
from t2v.models.latents import normalize_latents
from t2v.models.learned import denoisers
from t2v.models.text import encode_tokens, pad_text
from t2v.pipelines.t2v import T2VPipeline
from t2v.pipelines.visuals import VisualInputs
from t2v.training.engine.example import Size
from t2v.training.engine.loop import autocast
from t2v.training.engine.run import train
from t2v.training.engine.significance import BASE, HELD_OUT, TRAINING, copies
from t2v.training.engine.task import SHEET_FRAMES, ParameterGroup, Validation
from t2v.training.tasks.beside import FramesBeside
from t2v.training.tasks.codes import code_loss, code_step, generator_of
from t2v.training.tasks.dit_data import load_data
from t2v.training.tasks.dit_parts import (
    DiTBatch,
    DiTData,
    DiTParts,
    fresh_parts,
    latents_shape,
    merged_sizes,
    parameter_groups,
)
from t2v.training.tasks.experts import Experts
from t2v.training.tasks.known import GivenChoice, frame_times
from t2v.training.tasks.masking import Masking
from t2v.training.tasks.packing import PackedBatch, packed_losses
from t2v.training.tasks.references import References
from t2v.training.tasks.sheet import Sheet

VALIDATION_BINS = 4
VALIDATION_BATCH = 64
NEAREST_CLIPS = 4096
NAMES = {HELD_OUT: "val_loss", TRAINING: "val_train_loss", BASE: "val_base_loss"}


def train_dit(config: TrainDiTConfig) -> Path:
    """`t2v train`: train on a folder of clips; returns the last checkpoint, a pipeline folder.

    Raises:
        UserError: see `build_dit` and `run`.
    """
    return train(build_dit, config)


def build_dit(config: TrainDiTConfig) -> DiTTask:
    """The task of `config`, with its parts and its data loaded.

    Raises:
        UserError: see `pick_device`, `fresh_parts` and `load_data`.
    """
    parts = fresh_parts(config)
    data = load_data(config, parts)
    if config.train_text_encoder:
        add_known_words(parts.tokenizer, all_captions(data.clips.rows))
    return DiTTask(config, parts, data, config.prompts)


class DiTTask:
    """Predict the objective's target from noisy latents and text; the text encoder may learn too.

    Args:
        config: what training and fine-tuning share; objective, sizes and token limit are `parts`'.
        parts: the VAE on its device.
        prompts: of the samples that every validation shows.
    """

    texts: Texts | None = None  # without it every batch is embedded again
    text_encoder: PreTrainedModel | None = None  # what is kept of one that was released

    def __init__(
        self,
        config: DiffusionConfig,
        parts: DiTParts,
        data: DiTData,
        prompts: Sequence[str] = (),
    ) -> None:
        self.config, self.prompts = config, tuple(prompts)
        self.attention: str | None = config.attention
        self.vae, self.tokenizer, self.scheduler = parts.vae, parts.tokenizer, parts.scheduler
        self.objective, self.shift = parts.objective, parts.shift
        self.schedule = parts.schedule
        reads_beside = parts.transformer.config.conditioning == "channels"
        self.beside = FramesBeside(parts._replace(text_encoder=None)) if reads_beside else None
        self.image_parts = {
            name: getattr(parts, name) for name in ("image_encoder", "image_processor")
        }
        self.data, self.captions = data
        shows = config.tasks.references
        self.references = References(self.data, parts.vae.config) if shows else None
        self.needs_given = torch.tensor([bool(row.get(NEEDS_GIVEN)) for row in self.data.rows])
        self.sources = dict(self.data.sources)
        trained = [*(parts.defaults.get("trained") or []), *self.data.longest()]
        self.defaults = self.data.sizes | parts.defaults | {"trained": merged_sizes(trained)}
        self.sheet = Sheet(config, prompts, self.data.sizes)
        self.max_length: int = parts.defaults["max_sequence_length"]
        assert parts.text_encoder is not None
        networks = {**denoisers(parts), "text_encoder": parts.text_encoder}
        self.model = nn.ModuleDict(networks)
        self.experts = Experts(parts.defaults.get("boundary_ratio"))
        self.parts = dict(self.model.items())
        parts.text_encoder.requires_grad_(config.train_text_encoder)
        self.masking = Masking(config.masking, config.seed, config.steps, parts.transformer)
        sizes = parts.transformer.config.patch_size, parts.vae.config.scale_factor_temporal
        shares = config.known_dropout, config.known_noise
        self.choose_given = GivenChoice(config.tasks, *sizes, *shares)

    def prepare(self) -> None:
        """Embed all that is to be cached; what is no longer needed then leaves the device."""
        self.sheet.check(self.model["transformer"], self.vae)
        for transformer in denoisers(self.model).values():
            ready(transformer)  # a sample would do it, and a resumed run has drawn none
        device = pick_device(self.config.device)
        if self.caches_text():
            folder = cache_folder(self.config.data, self.config.clips) / FOLDER
            encoder: Any = self.model["text_encoder"].to(device)
            texts = Texts(encoder, folder, self.config.precision)
            for captions in self.captions_seen():
                texts.add(captions, encoder)
            self.embed_sheet()
            self.texts, self.text_encoder = texts, self.released(encoder)
            del self.model["text_encoder"], encoder
            self.parts = dict(self.model.items())
        if self.beside is None and not self.config.tasks.gives_pictures:
            self.vae.to("cpu")  # the next one to need it is a sheet
        free_memory()

    def embed_sheet(self) -> None:
        """Embed the prompts of the sheet, so that no drawing needs a text encoder."""
        self.sheet.embed(generator_of(self.objective)(self._pipeline()))

    def captions_seen(self) -> Iterator[Captions]:
        """All captions that batches and validations read."""
        yield self.captions

    def released(self, text_encoder: PreTrainedModel) -> PreTrainedModel | None:
        """The text encoder off the device, or None; every caption went through it."""
        return text_encoder.to("cpu")

    def caches_text(self) -> bool:
        """Return whether captions are embedded once: with a frozen text encoder, if asked."""
        if "text_encoder" not in self.model:
            return False  # they are
        encoder = self.model["text_encoder"]
        return self.config.cache_text and not any(p.requires_grad for p in encoder.parameters())

    def parameter_groups(self) -> list[ParameterGroup]:
        return parameter_groups(self.model, self.config)

    def sample_bytes(self) -> int:
        """Latents, noise, their mixture and the prediction; and the output of each block."""
        latents, transformer = self.data.largest(), self.model["transformer"].config
        tokens = latents[0].numel() // math.prod(transformer.patch_size)
        width = transformer.num_attention_heads * transformer.attention_head_dim
        return 4 * 4 * latents.numel() + 2 * tokens * width * transformer.num_layers

    @property
    def leaves_unused(self) -> bool:
        return self.experts.boundary is not None  # a step is of one of the two

    def batch(self, step: int, rank: int = 0, world_size: int = 1) -> Any:
        """The batch that `read` gives, on the device."""
        return self.place(self.read(step, rank, world_size))

    def place(self, batch: Any) -> Any:
        return batch.on(pick_device(self.config.device))

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> DiTBatch | PackedBatch:
        """Clips in the epoch's order, each with one of its captions or, at times, with none, and
        with what its task gives."""
        if self.config.pack:
            parts = enumerate(self.data.train.mixed(step, rank, world_size))
            return PackedBatch(tuple(self._read(each, step, rank, n) for n, each in parts))
        return self._read(self.data.train.batch(step, rank, world_size), step, rank)

    def _read(self, items: BatchItems, step: int, rank: int, *part: int) -> DiTBatch:
        config = self.config
        generator = keyed_generator(config.seed, step, rank, *part, "captions")
        choice = torch.rand(2, len(items.indices), generator=generator)
        dropped = choice[1] < config.caption_dropout
        clips, given, goes_on, referring = self.data.clips(items), None, None, None
        if not self.choose_given.is_text_alone:
            starts = self.captions.scene_starts[clips]
            starts = starts.where(starts < items.num_frames, 0)
            generator = keyed_generator(config.seed, step, rank, *part, "tasks")
            given = self.choose_given(
                latents_shape(self.data, items), starts, self.needs_given[clips], generator
            )
            if given is not None:
                goes_on = torch.tensor([task == "prefix" for task in given.tasks]) & (starts > 0)
                if self.references is not None:
                    given, referring = self.references.added(given, items, generator)
        texts = self.captions.pick(clips, choice[0], dropped, goes_on, referring)
        batch = self._batch(items, *self.masking.words(*texts, step, rank))
        known = None if given is None else given.mask
        kept = self.masking.kept(batch.latents.shape, known, step, rank)
        return batch._replace(given=given, kept=kept)

    def example_batch(self, size: Size) -> DiTBatch:
        """Latents of zeros, and captions of `size.tokens` tokens each.

        Raises:
            UserError: see `latent_shape`.
        """
        device, sides = pick_device(self.config.device), (size.frames, size.height, size.width)
        shape = latent_shape(self.model["transformer"], self.vae, size.batch, *sides)
        tokens = torch.zeros(size.batch, size.tokens, dtype=torch.long, device=device)
        lengths = torch.full((size.batch,), size.tokens, device=device)
        # a time a token takes more memory than one a clip
        given = self.choose_given.example(shape)
        return DiTBatch(torch.zeros(shape, device=device), tokens, lengths, given)

    def masked_example(self, size: Size) -> DiTBatch:
        """The batch of `example_batch` as steps see it that leave tokens out."""
        batch = self.example_batch(size)
        known = int(batch.given is not None and batch.latents.shape[2] > 1)
        kept = self.masking.example(batch.latents.shape, known)
        return batch._replace(kept=None if kept is None else kept.to(batch.latents.device))

    def loss(self, batch: Any, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        if isinstance(batch, PackedBatch):
            with autocast(self.config):
                return packed_losses(self, batch, generator).mean(), {}
        t = self.experts.times(self.objective, len(batch.latents), self.shift, generator)
        noise = torch.randn(batch.latents.shape, generator=generator)
        with autocast(self.config):
            if self.objective in CODES:
                return code_step(self, batch, noise, t)
            return self._losses(batch, noise, t).mean(), {}

    @torch.no_grad()
    def validate(self) -> Validation:
        """The means of `losses`, the held-out one in each quarter of the time too; whether samples
        of `prompts` are copies of training clips; and a sheet of them."""
        losses = self.losses()
        held_out = losses[HELD_OUT]
        quarter = (self._times(len(held_out)) * VALIDATION_BINS).long()
        figures = {NAMES[name]: each.mean().item() for name, each in losses.items()}
        figures |= {
            f"val_loss_{part}": held_out[quarter == part].mean().item()
            for part in range(VALIDATION_BINS)
            if (quarter == part).any()
        }
        pictures = None
        if self.beside is not None:
            shown = ((self.data.clips(each), self._latents(each)) for each in self.data.held_out)
            pictures = self.beside.of_prompts(shown, self.data.rows, self.prompts)
        latents, frames = self._drawn(pictures)
        sheet = contact_sheet(frames, columns=SHEET_FRAMES)
        trained = first_items(self.data.training(VALIDATION_BATCH), NEAREST_CLIPS)
        near = (map(self._latents, each) for each in (trained, self.data.held_out))
        return Validation(figures | copies(latents, *near), sheet, losses)

    def losses(self) -> dict[str, Tensor]:
        """The loss of every held-out clip, and of as many that are trained on, at fixed noise."""
        held_out = self.data.held_out
        count = sum(len(each.indices) for each in held_out)
        at_once = min(VALIDATION_BATCH, self.config.batch_size)  # which is known to fit
        trained = list(first_items(self.data.training(at_once), count))
        return {HELD_OUT: self._fixed_losses(held_out), TRAINING: self._fixed_losses(trained)}

    def _fixed_losses(self, batches: Sequence[BatchItems]) -> Tensor:
        sizes = [len(each.indices) for each in batches]
        times = self._times(sum(sizes)).split(sizes)
        generator, losses = keyed_generator(self.config.seed, "validation noise"), []
        for items, t in zip(batches, times, strict=True):
            batch = self.place(self._batch(items, *self.captions.first(self.data.clips(items))))
            noise = torch.randn(batch.latents.shape, generator=generator)
            with autocast(self.config):
                losses.append(self._losses(batch, noise, t).cpu())
        return torch.cat(losses)

    def _times(self, count: int) -> Tensor:
        order = torch.randperm(count, generator=keyed_generator(self.config.seed, "validation"))
        return (order + 0.5) / count

    def _drawn(self, pictures: Mapping[str, VisualInputs] | None) -> tuple[Tensor, np.ndarray]:
        """The samples of the sheet; the VAE goes back to where it was."""
        before = self.vae.device
        self.vae.to(pick_device(self.config.device))
        pipeline = self._pipeline(drawing=True)
        generator = generator_of(self.objective)(pipeline)
        drawn = self.sheet.draw(generator, pictures, self.drawing)
        self.vae.to(before)
        return drawn

    def drawing(self) -> AbstractContextManager[Any]:
        """The precision in which samples are drawn: that of the weights."""
        return nullcontext()

    def save(self, folder: Path) -> None:
        """Write a pipeline folder with its model card."""
        self._pipeline().save_pretrained(folder)
        self._write_card(folder, "Trained by `t2v train`; `training/` has the settings.")

    def _write_card(self, folder: Path, made: str) -> None:
        write_model_card(folder, made, self.config.data, self.data.rows, self.data.train_count)

    def _batch(self, items: BatchItems, tokens: Tensor, lengths: Tensor) -> DiTBatch:
        latents = normalize_latents(self.data.read(items).float(), self.vae.config)
        return DiTBatch(latents, tokens, lengths, text=self._text(tokens, lengths))

    def _text(self, tokens: Tensor, lengths: Tensor) -> Tensor | None:
        """The embedded captions, where there is no text encoder any more."""
        return self.texts.read(tokens, lengths, self.max_length) if self.texts else None

    def _latents(self, items: BatchItems) -> Tensor:
        latents = self.data.read(items).to(pick_device(self.config.device)).float()
        return normalize_latents(latents, self.vae.config)

    def prepared(
        self, batch: DiTBatch, noise: Tensor, t: Tensor
    ) -> tuple[Conditions, Tensor | None, Tensor]:
        """The conditions of a batch, the weights of its latents (None: equal), and its times."""
        conditions, given, weight = self._conditions(batch), batch.given, None
        if self.beside is not None:
            conditions = replace(conditions, **self.beside(batch.latents))
        if given is not None:
            about = conditions, batch.latents, given, noise, self.vae
            conditions = self.choose_given.added_to(*about)
            t = frame_times(t, given, self.shift)
            unknown = given.mask <= 1 - rearrange(t, "b ... -> b 1 (...) 1 1")  # held till then
            weight = sent(unknown.float(), batch.latents.device)
        if batch.kept is not None:
            weight = self.masking.weight(batch.kept, batch.latents.shape, weight)
        return conditions, weight, t

    def _losses(self, batch: DiTBatch, noise: Tensor, t: Tensor) -> Tensor:
        if self.objective in CODES:
            return code_loss(self, batch, noise, t)
        shape, noise = batch.latents.shape, sent(noise, batch.latents.device)
        conditions, weight, t = self.prepared(batch, noise, t)
        beside = conditions.pictures
        route = self.masking.route(batch.kept, shape, 0 if beside is None else beside.shape[2])

        def predict(noisy: Tensor, timestep: Tensor) -> Tensor:
            return self.experts.predict(self.model, noisy, timestep, conditions, t, route)

        with attention_backend(self.config.attention):
            given_noise = batch.latents, noise, sent(t, batch.latents.device)
            return diffusion_loss(self.objective, predict, *given_noise, weight, self.schedule)

    def _conditions(self, batch: DiTBatch) -> Conditions:
        """Return the conditions of the transformer: the batch's captions, embedded."""
        device, rows = batch.latents.device, self.max_length
        text = batch.text
        if text is None and self.texts:
            text = sent(self.texts.read(batch.tokens, batch.lengths, rows), device)
        elif text is None:
            tokens, lengths = sent(batch.tokens, device), sent(batch.lengths, device)
            text = pad_text(encode_tokens(self.model["text_encoder"], tokens, lengths), rows)
        return Conditions(text=text)

    def _pipeline(self, *, drawing: bool = False) -> T2VPipeline:
        """The pipeline as it is saved; to draw, without a text encoder that was released."""
        text_encoder = None if drawing else self.text_encoder
        if "text_encoder" in self.model:
            text_encoder = self.model["text_encoder"]
        return generator_of(self.objective).pipeline_class(
            tokenizer=self.tokenizer,
            text_encoder=text_encoder,
            **denoisers(self.model),
            vae=self.vae,
            scheduler=self.scheduler,
            **self.image_parts,
            **self.defaults,
        )
