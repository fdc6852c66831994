"""The parts and data of a transformer's training, and their loading for `t2v train`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKLWan, SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from t2v.config.codes import CODES
from t2v.config.training import DiffusionConfig, TrainDiTConfig
from t2v.data.captions import Captions
from t2v.data.curriculum import BatchItems
from t2v.data.dataset import Dataset
from t2v.data.rng import keyed_generator
from t2v.errors import UserError
from t2v.io.manifest import read_manifest
from t2v.models.conditions import input_channels
from t2v.models.device import sent
from t2v.models.diffusion import Objective, build_scheduler
from t2v.models.latents import latent_channels
from t2v.models.load import load_text
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.vae import AutoencoderKLT2V
from t2v.models.vae_folder import load_vae
from t2v.training.engine.optim import split_parameters
from t2v.training.engine.sharding import shapes_alone
from t2v.training.engine.task import ParameterGroup
from t2v.training.tasks.known import Given

TextParts = tuple[PreTrainedTokenizerBase, PreTrainedModel]


class DiTParts(NamedTuple):
    """The parts of a pipeline, and what it is saved to make by default."""

    transformer: T2VTransformer3DModel
    text_encoder: PreTrainedModel | None  # None: whoever has the others needs it no more
    vae: AutoencoderKLT2V | AutoencoderKLWan
    tokenizer: PreTrainedTokenizerBase
    scheduler: SchedulerMixin
    objective: Objective
    shift: float  # of the times of a flow
    defaults: dict[str, Any]  # keywords of `T2VPipeline`; sizes it lacks are those of the data
    image_encoder: PreTrainedModel | None = None  # of a transformer that reads pictures
    image_processor: Any = None
    transformer_2: T2VTransformer3DModel | None = None  # for times below `boundary_ratio`
    schedule: Any = (
        None  # scheduler whose noise v and epsilon are trained with; None: `t2v train`'s
    )


class DiTData(NamedTuple):
    """Clips as latents, and their captions as tokens."""

    clips: Dataset
    captions: Captions


class DiTBatch(NamedTuple):
    """Clean latents and the tokens of one caption each."""

    latents: Tensor  # b c t h w, normalised
    tokens: Tensor  # b m, on the CPU
    lengths: Tensor  # b, tokens before the padding
    given: Given | None = None  # besides the captions
    text: Tensor | None = None  # b m d, the captions embedded, where that is done once
    kept: Tensor | None = None  # b k, the video tokens that a masked step keeps; None: all

    def on(self, device: torch.device) -> DiTBatch:
        """The batch with its latents, embeddings and kept tokens on `device`."""
        text = None if self.text is None else sent(self.text, device)
        kept = None if self.kept is None else sent(self.kept, device)
        return self._replace(latents=sent(self.latents, device), text=text, kept=kept)


def fresh_parts(config: TrainDiTConfig) -> DiTParts:
    """The saved VAE and text encoder that `config` names, an untrained transformer, and the
    scheduler of the objective.

    Raises:
        UserError: see `load_vae`, `load_text`, `read_as` and `check_match`.
    """
    vae = load_vae(config.vae)
    tokenizer, text_encoder = as_read(config, load_text(config.text))
    check_match(config, vae, text_encoder)
    text_encoder.float()
    with shapes_alone(config):
        transformer = T2VTransformer3DModel(**asdict(config.model))
    if not next(transformer.parameters()).is_meta:
        transformer.initialize(keyed_generator(config.seed, "weights"))
    if config.objective in CODES:
        from t2v.models.code_schedulers import code_scheduler  # most models have no codes

        transformer.code_head.take_table(vae)
        scheduler = code_scheduler(config.objective, config.model.codebook_size)
    else:
        scheduler = build_scheduler(config.objective, config.shift)
    return DiTParts(
        transformer=transformer,
        text_encoder=text_encoder,
        vae=vae,
        tokenizer=tokenizer,
        scheduler=scheduler,
        objective=config.objective,
        shift=config.shift,
        defaults=saved_defaults(config),
    )


def as_read(config: DiffusionConfig, text: TextParts) -> TextParts:
    """A tokenizer and its text encoder, read as `config.text_encoder` says; a whitening is fitted
    to the captions of `config.data`.

    Raises:
        UserError: see `t2v.models.text_reading.read_as`.
    """
    if not config.text_encoder.changes():
        return text
    from t2v.models.text_reading import read_as  # most are read as they stand

    captions = None
    if config.text_encoder.whiten:
        clips = [clip for clip in read_manifest(config.data) if not clip.dropped]
        captions = [caption for clip in clips for caption in clip.texts()]
    return read_as(text, config.text_encoder, captions)


def saved_defaults(config: TrainDiTConfig) -> dict[str, Any]:
    """The defaults of `config` that the pipeline is saved with."""
    names = "num_inference_steps", "guidance_scale", "max_sequence_length"
    return {name: getattr(config, name) for name in names}


def parameter_groups(model: nn.Module, config: DiffusionConfig) -> list[ParameterGroup]:
    """The parameters of transformers and a text encoder by the optimizer that steps them."""
    named = dict(model.named_parameters())
    text = {name: p for name, p in named.items() if name.startswith("text_encoder.")}
    learning = {name: p for name, p in text.items() if p.requires_grad}
    groups = split_parameters(
        {name: p for name, p in named.items() if name not in text},
        config.optim,
        # tables, embedders and the first and last projection are not hidden matrices
        is_matrix=lambda name: ".blocks." in name and name.endswith(".weight"),
    )
    if learning:
        groups.append(ParameterGroup(learning, "adamw", config.text_lr))
    return groups


def latents_shape(data: Dataset, items: BatchItems) -> tuple[int, ...]:
    """The shape `b c t h w` of the latents of a batch."""
    c, _, h, w = data.tensors[int(items.indices[0])].shape
    return len(items.indices), c, (items.num_frames - 1) // data.temporal + 1, h, w


def merged_sizes(sizes: Iterable[Sequence[int]]) -> list[list[int]]:
    """The most frames of every size, of (frames, height, width) each, in the order of sizes."""
    longest: dict[tuple[int, ...], int] = {}
    for frames, *size in sizes:
        longest[tuple(size)] = max(frames, longest.get(tuple(size), 0))
    return [[frames, *size] for size, frames in longest.items()]


def read_text(config: DiffusionConfig, pipeline: Any) -> TextParts:
    """Return the text encoder of a saved pipeline, and in it, read as `config.text_encoder` says.

    Raises:
        UserError: the transformer does not take embeddings as wide, or see `as_read`.
    """
    tokenizer, encoder = as_read(config, (pipeline.tokenizer, pipeline.text_encoder))
    width, taken = encoder.config.hidden_size, pipeline.transformer.config.text_dim
    if width != taken:
        raise UserError(
            f"text_encoder.width={config.text_encoder.width} text_encoder.second="
            f"{config.text_encoder.second}: the embeddings are {width} wide, and the model that is "
            f"tuned takes {taken}. Leave them out, or train one that takes these: t2v train "
            f"model.text_dim={width}."
        )
    pipeline.register_modules(tokenizer=tokenizer, text_encoder=encoder)
    return tokenizer, encoder


def check_match(
    config: TrainDiTConfig,
    vae: AutoencoderKLT2V | AutoencoderKLWan,
    text_encoder: PreTrainedModel,
) -> None:
    """Check that the transformer fits the latents and the text embeddings.

    Raises:
        UserError: it is too wide or too narrow for one of them, or takes known frames as channels.
    """
    if config.model.conditioning == "channels":
        raise UserError(
            "model.conditioning=channels: t2v train gives known frames as tokens. Set "
            "model.conditioning=tokens, or none for text alone."
        )
    channels = latent_channels(vae)
    inputs = input_channels(channels, config.model.conditioning)
    width = text_encoder.config.hidden_size
    allowed = {
        "in_channels": (channels, inputs, "vae"),
        "out_channels": (channels, None if config.model.codebook_size else (channels,), "vae"),
        "text_dim": (width, (width,), "text"),
    }
    for name, (width, widths, part) in allowed.items():
        if widths is not None and getattr(config.model, name) not in widths:
            raise UserError(
                f"model.{name}={getattr(config.model, name)}, but {part}={getattr(config, part)} "
                f"is {width} wide. Set model.{name}={' or '.join(map(str, widths))}, or name "
                f"another {part}."
            )
