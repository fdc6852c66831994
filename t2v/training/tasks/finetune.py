"""Fine-tuning: a saved pipeline learns new footage, compared with what it was before."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from torch import Tensor, nn
from transformers import PreTrainedModel

from t2v.config.data import SIZES
from t2v.config.finetune import TOKENS, FinetuneConfig
from t2v.config.training import MOST_REFERENCES
from t2v.data.captions import Captions, add_known_words, all_captions
from t2v.data.dataset import Dataset, check_clips
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.families.load import load_generator
from t2v.io.model_card import plain
from t2v.io.prompts import read_prompts
from t2v.models.device import GIB, pick_device
from t2v.models.diffusion import objective_of
from t2v.models.folder import Base, model_folder, weights_hash
from t2v.models.hold import check_package
from t2v.models.learned import denoisers, fused
from t2v.pipelines.generator import Ability, Generator
from t2v.pipelines.t2v import T2VPipeline
from t2v.training.engine.loop import autocast
from t2v.training.engine.parallel import replaced
from t2v.training.engine.run import check_resumable, train
from t2v.training.engine.sharding import blocks
from t2v.training.engine.significance import BASE
from t2v.training.engine.task import Validation
from t2v.training.tasks.dit import DiTBatch, DiTTask
from t2v.training.tasks.dit_data import check_steps, load_data
from t2v.training.tasks.dit_parts import DiTData, DiTParts, read_text
from t2v.training.tasks.experts import check_trainable, learners
from t2v.training.tasks.packing import PackedBatch
from t2v.training.tuning import saving
from t2v.training.tuning.adapters import (
    add_adapter,
    add_text_lora,
    check_motion,
    check_peft,
    choose_trainable,
    held_in,
    hold_base,
    interpolated,
    lay_out,
)
from t2v.training.tuning.block_swap import BlockSwap
from t2v.training.tuning.context_tokens import add_context_tokens
from t2v.training.tuning.motion import of_one_clip
from t2v.training.tuning.prior_preservation import TIMES, Prior, sample_prior
from t2v.training.tuning.textual_inversion import add_words

logger = logging.getLogger(__name__)

SHEET_CAPTIONS, SHEET_BASE_PROMPTS = 6, 2
DEFAULTS = (*SIZES, "num_inference_steps", "guidance_scale", "max_sequence_length")
STAGED = ("boundary_ratio", "guidance_scale_2")  # of two transformers
TUNED = ("transformer", "text_encoder")
ADAPTERS = ("lora", "peft")  # what lies beside the weights while it learns, and in them when saved
LEARNS_BESIDE = (*ADAPTERS, *TOKENS)  # the base model, which stays as it was


def finetune(config: FinetuneConfig) -> Path:
    """`t2v finetune`: train the weights that `config.method` names; return the last checkpoint.

    That is a pipeline folder; one of an adapter, of new words or a soft prompt holds them alone and
    refers to the base model for the rest, unless `save=full`. After `method=lora` it holds
    `pytorch_lora_weights.safetensors`.

    Raises:
        UserError: see `build_finetune` and `t2v.training.engine.run.run`.
    """
    return train(build_finetune, config)


def build_finetune(config: FinetuneConfig) -> FinetuneTask:
    """The task of `config`: the base model and the clips loaded, words and adapter added.

    Raises:
        UserError: the model is another package's, the method does not fit it, a new word is in no
            caption, or see `load_data`.
    """
    check_package("base_dtype", config.base_dtype)
    folder = model_folder(config.model)
    generator = load_base(config.model, folder)
    pipeline, weights = generator.pipeline, weights_hash(folder)
    _check_base(config, pipeline)
    frames, config = config.clips.num_frames, of_one_clip(config, pipeline)
    prompts = _base_prompts(config)
    sampled = _sampled(config, generator, weights, prompts)  # before the model is changed
    tokenizer = add_words(*read_text(config, pipeline), config)
    if config.tasks.gives_known:
        take_known(pipeline, config)
    add_context_tokens(pipeline, config, frames)
    for transformer in denoisers(pipeline).values():
        lay_out(transformer, config)
    for transformer in learners(pipeline, config.experts).values():
        add_adapter(transformer, config)
    add_text_lora(pipeline.text_encoder, config)
    if config.peft is not None:
        check_peft(pipeline.transformer, config.peft)
    for transformer in denoisers(pipeline).values():
        hold_base(transformer, config)
    if held_in(config) != torch.float32 and not config.learns_text():
        pipeline.text_encoder.to(held_in(config))
    objective, shift = objective_of(pipeline.scheduler)
    defaults = {name: pipeline.config[name] for name in DEFAULTS}
    own = [defaults[name] for name in ("num_frames", "height", "width")]
    if pipeline.transformer_2 is not None:
        defaults |= {name: pipeline.config[name] for name in STAGED}
    defaults["trained"] = pipeline.config.get("trained") or [own]
    parts = DiTParts(
        transformer=pipeline.transformer,
        text_encoder=pipeline.text_encoder,
        vae=pipeline.vae,
        tokenizer=tokenizer,
        scheduler=pipeline.scheduler,
        objective=objective,
        shift=shift if config.shift is None else config.shift,
        defaults=defaults,
        image_encoder=pipeline.image_encoder,
        image_processor=pipeline.image_processor,
        transformer_2=pipeline.transformer_2,
    )
    data = load_data(config, parts, {name: pipeline.config[name] for name in SIZES})
    prior = None
    if sampled is not None:
        length = pipeline.config.max_sequence_length
        prior = Prior(prompts, sampled, tokenizer, length, config.seed)
    _check_concepts(config, data.clips.rows)
    add_known_words(tokenizer, all_captions(data.clips.rows))
    if config.method == "lora" and config.learns_text():
        logger.warning("What the text encoder learns is not in the LoRA file: sample the folder.")
    keeps_base = config.interpolate < 1 and config.method not in ADAPTERS
    base = {name: _copied(getattr(parts, name)) for name in TUNED} if keeps_base else None
    task = FinetuneTask(config, parts, data, prior, base)
    task.tuned_from = saving.reference(config.model, weights, config.interpolate), folder
    task.sources["model"] = weights
    note_quantized(task)
    if config.peft is not None:
        task.sources["peft"] = sha256(Path(config.peft).read_bytes()).hexdigest()[:16]
    return task


class FinetuneTask(DiTTask):
    """The transformer's task on parts that a pipeline folder holds, some of which learn.

    Objective, scheduler, sizes and token limit are the folder's. The model that is validated and
    saved is the tuned one, or one between the base and the tuned one by `config.interpolate`.

    Args:
        parts: frozen, with new words and adapter added.
        prior: videos of the base model, to train and validate on.
        base: transformer and text encoder of the base model, to interpolate from.

    Raises:
        UserError: nothing would learn.
    """

    config: FinetuneConfig
    tuned_from: tuple[Base, Path]  # the base model, and its folder; of a task that saves

    def __init__(
        self,
        config: FinetuneConfig,
        parts: DiTParts,
        data: DiTData,
        prior: Prior | None = None,
        base: Mapping[str, nn.Module] | None = None,
    ) -> None:
        super().__init__(config, parts, data, _sheet_prompts(data.clips, prior))
        self.prior, self.base = prior, base
        self.experts = self.experts._replace(which=config.experts)
        choose_trainable(self.model, config)

    def prepare(self) -> None:
        super().prepare()
        if count := self.config.swap_blocks:
            waiting = [b for each in denoisers(self.model).values() for b in blocks(each)[-count:]]
            self.swap = BlockSwap(waiting, pick_device(self.config.device))
            logger.info(
                "swap_blocks=%d: %.2f GiB wait in the CPU's memory", count, self.swap.bytes() / GIB
            )

    def captions_seen(self) -> Iterator[Captions]:
        yield from super().captions_seen()
        if self.prior:
            yield self.prior.captions

    def released(self, text_encoder: PreTrainedModel) -> PreTrainedModel | None:
        """Nothing where it is the base model's; off the device where it is read otherwise."""
        return text_encoder.to("cpu") if self.config.text_encoder.changes() else None

    def read(self, step: int, rank: int = 0, world_size: int = 1) -> DiTBatch | PackedBatch:
        """New footage, or in `base_ratio` of the steps what the base model made."""
        ratio = self.config.base_ratio
        if self.prior is None or not self.prior.is_turn(step, ratio):
            return super().read(step, rank, world_size)
        batch = self.prior.batch(self.config.batch_size, step, rank, world_size)
        latents, tokens, lengths = batch
        return DiTBatch(latents, tokens, lengths, text=self._text(tokens, lengths))

    def validate(self) -> Validation:
        """As `DiTTask` does, of what is saved."""
        with self._as_saved():
            return super().validate()

    def drawing(self) -> AbstractContextManager[Any]:
        """Autocast beside a base in bf16, whose other weights are in float32."""
        return autocast(self.config) if held_in(self.config) != torch.float32 else nullcontext()

    def losses(self) -> dict[str, Tensor]:
        """Besides those of the clips, the loss of every base prompt that is never repeated."""
        if self.prior is None:
            return super().losses()
        (latents, tokens, lengths), times = self.prior.held_out()
        batch = DiTBatch(latents.to(pick_device(self.config.device)), tokens, lengths)
        generator = keyed_generator(self.config.seed, "prior validation")
        noise = torch.randn(batch.latents.shape, generator=generator)
        with autocast(self.config):
            losses = self._losses(batch, noise, times).cpu()
        return super().losses() | {BASE: reduce(losses, "(n t) -> n", "mean", t=TIMES)}

    def save(self, folder: Path) -> None:
        """Write a pipeline folder, or what was learned and where the rest is."""
        base, place = self.tuned_from
        if self.config.method in LEARNS_BESIDE:
            learns_words = self.config.concept or self.config.soft_prompt is not None
            table = self.model["text_encoder"].get_input_embeddings() if learns_words else None
            is_lora = self.config.method == "lora"
            has_tokens = self.config.method in ("embedding", "memory", "motion")
            given = self._pipeline(), base, place, table
            saving.save_learned(folder, *given, is_lora=is_lora, has_tokens=has_tokens)
            saving.save_text_encoder(folder, given[0], self.config.text_encoder)
            if self.config.save == "full":
                saving.make_whole(folder)
        else:
            with self._as_saved():
                self._pipeline().save_pretrained(folder)
            if "text_encoder" not in self.model and self.text_encoder is None:
                saving.add_part(folder, place, "text_encoder")
        made = f"{plain(self.config.model)}, fine-tuned by `t2v finetune` (`{self.config.method}`)"
        self._write_card(folder, f"{made}; `training/` has the settings.")

    @contextmanager
    def _as_saved(self) -> Iterator[None]:
        """Inside, the model is what is saved: adapter added into the weights, interpolated.

        Beside a base in bf16 or fewer bits the adapter stays as it is, for rounding would lose it.
        """
        share = self.config.interpolate
        if self.config.method in ADAPTERS:
            with ExitStack() as stack:
                if held_in(self.config) == torch.float32 and not self.config.quantizes():
                    adapted = [*learners(self.model, self.config.experts).values()]
                    if self.config.train_text_encoder:
                        adapted.append(self.model["text_encoder"])
                    for network in adapted:
                        stack.enter_context(fused(network, share))
                yield
            return
        trained = dict(self.model.items())
        if self.base is not None:
            for name, part in trained.items():
                self.model[name] = interpolated(self.base[name], part, share)
        try:
            yield
        finally:
            for name, part in trained.items():
                self.model[name] = part


def note_quantized(task: FinetuneTask) -> None:
    """Note in the task's sources in how few bits its base is, with which the weights were learned.

    Only there is it no setting that a resumed run may change.
    """
    if task.config.quantizes():
        task.sources["quantized base"] = task.config.base_dtype


def _check_base(config: FinetuneConfig, pipeline: T2VPipeline) -> None:
    """Raise `UserError` where a model cannot be tuned so, before minutes of its films."""
    transformer = pipeline.transformer
    if transformer.config.distilled_steps:
        raise UserError(
            f"model={config.model} is a student of few steps, which tuning would teach to take "
            "many again. Tune its teacher, and teach a new student: t2v distill."
        )
    has_second = pipeline.transformer_2 is not None
    check_trainable(config.model, config.method, config.experts, has_second=has_second)
    check_motion(transformer, config)
    if config.base_prompts is None:
        return
    if transformer.config.conditioning == "channels":
        raise UserError(
            f"base_prompts={config.base_prompts} is sampled from text alone, and "
            f"model={config.model} makes videos of pictures. Leave base_prompts out."
        )
    with torch.device("meta"):
        shapes = type(transformer).from_config(transformer.config)
    lay_out(shapes, config)
    check_steps(config, shapes, pipeline.vae)


def take_known(pipeline: T2VPipeline, config: FinetuneConfig) -> None:
    """Let a model learn to take known frames, one that makes video from text alone too.

    Raises:
        UserError: it takes them in another form, or has two transformers.
    """
    transformer = pipeline.transformer
    if pipeline.transformer_2 is not None:
        raise UserError(
            f"tasks={asdict(config.tasks)}: {config.model} has two transformers, which learn from "
            "the frames they were made for alone. Leave tasks out."
        )
    if transformer.config.conditioning == "channels":
        raise UserError(
            f"tasks={asdict(config.tasks)} gives known frames as tokens, and {config.model} takes "
            "them as channels. Leave tasks out, or tune a model of conditioning=tokens or none."
        )
    known = transformer.config.get("references", 0)
    references = max(known, MOST_REFERENCES) if config.tasks.references else known
    transformer.take_known(picture_tokens=config.tasks.gives_pictures, references=references)


def _copied(part: nn.Module) -> nn.Module:
    """The part with weights of its own on the CPU: a device may have no room for a second one."""
    weights = part.named_parameters()
    return replaced(part, {name: p.detach().to("cpu", copy=True) for name, p in weights})


def _sheet_prompts(clips: Dataset, prior: Prior | None) -> tuple[str, ...]:
    """Captions held out, then base prompts."""
    held_out = dict.fromkeys(row["caption"] for row in clips.rows[clips.train_count :])
    base = prior.prompts if prior else []
    return (*list(held_out)[:SHEET_CAPTIONS], *base[-SHEET_BASE_PROMPTS:])


def _check_concepts(config: FinetuneConfig, rows: Sequence[dict[str, Any]]) -> None:
    captions = all_captions(rows)
    for concept in config.concept:
        if not any(concept in caption.split() for caption in captions):
            raise UserError(
                f"concept={concept!r} is in no caption of {config.data}, so nothing "
                f'would teach it. Write it into captions as a word: "a {concept} on a table".'
            )


def load_base(model: str, folder: Path) -> Generator:
    """The generator that is tuned, in float32, frozen.

    Raises:
        UserError: it is damaged, or not made of the parts that are tuned.
    """
    needs: tuple[Ability, ...] = ("is_trainable",)
    where, dtype = torch.device("cpu"), torch.float32
    generator = load_generator(model, folder, where, dtype, "t2v finetune", needs)
    pipeline: Any = generator.pipeline
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.requires_grad_(False)
    return generator


def _base_prompts(config: FinetuneConfig) -> list[str]:
    """The different prompts of `base_prompts`: at least one to train on, and one to validate on."""
    if config.base_prompts is None:
        return []
    return list(dict.fromkeys(read_prompts(Path(config.base_prompts), "base_prompts", least=2)))


def _sampled(
    config: FinetuneConfig, generator: Generator, weights: str, prompts: list[str]
) -> Tensor | None:
    if not prompts:
        return None
    check_resumable(config, {"model": weights})
    check_clips(config.data, config.held_out, config.clips)
    pipeline, device = generator.pipeline, pick_device(config.device)
    if device.type == "cuda":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    sampled = sample_prior(generator, weights, prompts, config.seed, Path(config.output))
    pipeline.remove_all_hooks()
    pipeline.to("cpu")
    return sampled
