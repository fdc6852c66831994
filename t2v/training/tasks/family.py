"""Fine-tuning of another package's pipelines, family by family."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from t2v.config.data import SIZES
from t2v.config.finetune import FinetuneConfig
from t2v.data.curriculum import BatchItems
from t2v.data.dataset import check_clips
from t2v.errors import UserError
from t2v.families.load import GENERATORS, load_generator
from t2v.models.convert import CONVERTIBLE
from t2v.models.device import pick_device
from t2v.models.folder import model_folder, read_index, weights_hash
from t2v.models.hold import check_package
from t2v.pipelines.generator import Generator, sample_videos
from t2v.pipelines.visuals import VisualInputs
from t2v.training.engine.run import train
from t2v.training.tasks.cogvideox import cogvideox_parts
from t2v.training.tasks.dit import DiTBatch
from t2v.training.tasks.dit_data import load_data
from t2v.training.tasks.dit_parts import DiTParts
from t2v.training.tasks.finetune import FinetuneTask, build_finetune, note_quantized
from t2v.training.tasks.ltx import ltx_parts, shift_of
from t2v.training.tuning.adapters import add_adapter, held_in, hold_base
from t2v.training.tuning.saving import reference

# by the class of a pipeline: the parts of a training in the form of ours, at a frame rate
FAMILIES: dict[str, Callable[[Any, float], DiTParts]] = {
    "LTXPipeline": ltx_parts,
    "CogVideoXPipeline": cogvideox_parts,
}


def finetune_any(config: FinetuneConfig) -> Path:
    """`t2v finetune`: tune a model of ours, or of a family of other packages that can be.

    Raises:
        UserError: see `build_any` and `t2v.training.engine.run.run`.
    """
    return train(build_any, config)


def build_any(config: FinetuneConfig) -> FinetuneTask:
    """The task of `config`, by the class of the pipeline that it names.

    Raises:
        UserError: it is not trained, or see `build_finetune` and `build_family`.
    """
    folder = model_folder(config.model)
    name = str(read_index(folder).get("_class_name"))
    if name in FAMILIES:
        return build_family(config, folder, name)
    if name not in GENERATORS:
        others = "a T2VPipeline, " + " and ".join(f"a LoRA of {each}" for each in FAMILIES)
        advice = f"It trains {others}."
        if name in CONVERTIBLE:
            advice = f"Make a T2VPipeline of it: t2v convert {config.model} DST."
        raise UserError(f"model={config.model}: t2v finetune does not train a {name}. {advice}")
    return build_finetune(config)


def build_family(config: FinetuneConfig, folder: Path, name: str) -> FinetuneTask:
    """The task of another package's pipeline, of the class `name`, with its data loaded.

    Raises:
        UserError: something is asked that it does not do, or see `add_adapter` and `load_data`.
    """
    _check(config, name)
    check_package("base_dtype", config.base_dtype)
    check_clips(config.data, config.held_out, config.clips)
    where = torch.device("cpu")
    generator: Any = load_generator(config.model, folder, where, torch.float32, "t2v finetune")
    pipeline, saved = generator.pipeline, generator.defaults
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(False)
    add_adapter(pipeline.transformer, config)
    hold_base(pipeline.transformer, config)
    pipeline.text_encoder.to(held_in(config))
    parts = FAMILIES[name](pipeline, config.clips.fps or saved.fps)
    if config.shift is not None and parts.objective != "flow":
        raise UserError(
            f"shift={config.shift:g}: a {name} of {parts.objective}-prediction has no times of a "
            "flow to shift. Leave it out."
        )
    data = load_data(config, parts, {name: getattr(saved, name) for name in SIZES})
    if parts.objective == "flow":
        shift = config.shift or shift_of(pipeline, data.clips.largest()[0].numel())
        parts = parts._replace(shift=shift)
    task = FamilyTask(config, parts, data)
    weights = weights_hash(folder)
    task.generator = generator
    task.tuned_from = reference(config.model, weights, config.interpolate), folder
    task.sources["model"] = weights
    note_quantized(task)
    return task


def _check(config: FinetuneConfig, name: str) -> None:
    wrong = {
        f"method={config.method}": config.method != "lora",
        "tasks": config.tasks.gives_known,
        "base_prompts": config.base_prompts is not None,
        "attention_layout": bool(config.attention_layout),
        "text_encoder": config.text_encoder.changes(),
        "learned_tokens": bool(config.learned_tokens),
        "train_text_encoder": config.train_text_encoder,
        "cache_text=false": not config.cache_text,
        f"experts={config.experts}": config.experts != "both",
    }
    if given := [setting for setting, is_given in wrong.items() if is_given]:
        raise UserError(
            f"{' '.join(given)}: a {name} learns from clips and their captions, with method=lora. "
            "Leave it out."
        )


class FamilyTask(FinetuneTask):
    """The fine-tuning task on networks that are called as ours are; samples are the pipeline's own.

    Its text encoder waits on the CPU between the sheets, whose prompts the call embeds itself.
    """

    generator: Generator
    leaves_unused = True  # as far as is known of another package's networks

    def embed_sheet(self) -> None:
        """Leave it to the call."""

    def released(self, text_encoder: PreTrainedModel) -> None:
        """Nothing of ours; the pipeline's own goes to the CPU."""
        text_encoder.to("cpu")

    def _batch(self, items: BatchItems, tokens: Tensor, lengths: Tensor) -> DiTBatch:
        """Latents that fill whole tokens: the first is repeated in front, as CogVideoX 1.5 was
        trained, and not at the end of the sheet's own."""
        batch = super()._batch(items, tokens, lengths)
        latents = batch.latents
        missing = -latents.shape[2] % self.model["transformer"].config.patch_size[0]
        padded = torch.cat([latents[:, :, :1].expand(-1, -1, missing, -1, -1), latents], dim=2)
        return batch._replace(latents=padded)

    def _pipeline(self, *, drawing: bool = False) -> Any:
        return self.generator.pipeline

    def _drawn(self, pictures: Mapping[str, VisualInputs] | None) -> tuple[Tensor, np.ndarray]:
        pipeline, device = self.generator.pipeline, pick_device(self.config.device)
        pipeline.to(device)
        request = self.sheet.request(replace(self.generator.defaults, fps=self.data.sizes["fps"]))
        seeds, latents, frames = [self.config.seed] * len(self.prompts), [], []
        with self.drawing():
            videos = list(sample_videos(self.generator, self.prompts, seeds, request))
        for video in videos:
            latents.append(video)
            frames.append(self.generator.decode(video, request.num_frames))
        if self.texts is not None:
            pipeline.text_encoder.to("cpu")
        pipeline.vae.to("cpu")
        return torch.cat(latents), np.concatenate(frames)
