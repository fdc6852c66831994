"""Parts and data that stand for those a training loads: of their sizes, with random weights."""

from __future__ import annotations

import math
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers.configuration_utils import FrozenDict
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint
from transformers.modeling_outputs import BaseModelOutput

from t2v.config.finetune import FinetuneConfig
from t2v.config.text import TextEncoderConfig
from t2v.config.training import TrainDiTConfig
from t2v.data.text_cache import Texts
from t2v.errors import UserError
from t2v.models.code_head import is_causal
from t2v.models.context_tokens import take_tokens
from t2v.models.diffusion import Objective
from t2v.models.folder import model_folder
from t2v.models.hold import is_plain
from t2v.models.learned import denoisers
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.vae_folder import find_vae
from t2v.plan.ladder import QUANTIZATIONS
from t2v.plan.shapes import (
    has_part,
    saved,
    untrained,
    untrained_image_encoder,
    untrained_text_encoder,
)
from t2v.training.engine.example import Size
from t2v.training.tasks.dit_parts import DiTParts, check_match, saved_defaults
from t2v.training.tasks.experts import check_trainable, learners
from t2v.training.tuning.adapters import add_adapter, add_text_lora, check_motion, lay_out
from t2v.training.tuning.motion import motion_tokens

# in a pipeline folder, that a step or a sample depends on
SAVED = ("max_sequence_length", "boundary_ratio", "num_inference_steps", "guidance_scale")
NOTHING: Any = None  # what no step uses


class NoClips:
    """Stands for clips that are not read: a plan takes its batches from `example_batch`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.train_count = 0
        self.sizes: dict[str, Any] = {}
        self.sources: dict[str, str] = {}

    def longest(self) -> list[tuple[int, ...]]:
        """No size, for what is planned is not saved."""
        return []


class Embedded(Texts):
    """Stands for captions that were embedded before the first step: zeros."""

    def __init__(self, width: int) -> None:
        self.width = width

    def read(self, tokens: Tensor, lengths: Tensor, rows: int) -> Tensor:
        return torch.zeros(len(tokens), rows, self.width)


class AbsentTextEncoder(nn.Module):
    """Stands for a text encoder that is not there: embeddings of its width, for nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(hidden_size=width)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        shape = *input_ids.shape, self.config.hidden_size
        return BaseModelOutput(last_hidden_state=torch.zeros(shape, device=input_ids.device))


class AbsentVAE(nn.Module):
    """Stands for a VAE that is not there: the sizes of one of 4 x 8 x 8."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        strides = {"scale_factor_temporal": 4, "scale_factor_spatial": 8}
        self.config = FrozenDict(latent_channels=channels, **strides)


def dit_parts(config: TrainDiTConfig, size: Size, absent: list[str]) -> DiTParts:
    """The parts of `t2v train`; `absent` gets a line for each that is not there.

    Raises:
        UserError: they do not fit each other, or `size` does not fit the VAE.
    """
    vae = _vae(Path(config.vae), predicted_channels(config.model), size, absent)
    text_encoder = _text_encoder(Path(config.text), config.model.text_dim, absent, config)
    check_match(config, vae, text_encoder)
    transformer = T2VTransformer3DModel(**asdict(config.model))
    return DiTParts(
        transformer=transformer,
        text_encoder=text_encoder,
        vae=vae,
        tokenizer=NOTHING,
        scheduler=NOTHING,
        objective=config.objective,
        shift=config.shift,
        defaults=saved_defaults(config),
    )


def predicted_channels(config: Any) -> int:
    """The channels of the latents that a transformer of these settings makes."""
    channels: int = config.in_channels if config.codebook_size else config.out_channels
    return channels


def _objective(transformer: T2VTransformer3DModel) -> Objective:
    """One whose steps cost as much as the saved transformer's; those of latents cost the same."""
    if not transformer.config.codebook_size:
        return "flow"
    return "autoregressive" if is_causal(transformer) else "masked"


def finetune_parts(
    config: FinetuneConfig, size: Size, absent: list[str], layers: int | None = None
) -> DiTParts:
    """The parts of `t2v finetune` with their adapter; of new words, the table they are added to.

    Args:
        layers: of its transformers; None: all.

    Raises:
        UserError: see `model_folder`, `add_adapter` and `dit_parts`.
    """
    folder = model_folder(config.model)
    index = saved(folder, "model_index.json")
    transformer, second = untrained(folder / "transformer", layers), None
    if has_part(index, "transformer_2"):
        second = untrained(folder / "transformer_2", layers)
    check_trainable(config.model, config.method, config.experts, has_second=second is not None)
    check_motion(transformer, config)
    both = {"transformer": transformer, "transformer_2": second}
    image_encoder = None
    if has_part(index, "image_encoder"):
        image_encoder = untrained_image_encoder(folder / "image_encoder").requires_grad_(False)
    vae = _vae(folder, predicted_channels(transformer.config), size, absent)
    text_encoder = _text_encoder(folder, transformer.config.text_dim, absent, config)
    with torch.device("meta"):  # peft moves what it adds elsewhere, and a trace has no elsewhere
        for each in denoisers(both).values():
            lay_out(each, config)
        if config.method == "memory":
            take_tokens(transformer, config.memory_tokens, 0)
        elif config.method == "motion":
            stride = vae.config.scale_factor_temporal
            take_tokens(transformer, 0, *motion_tokens(config, size.frames, stride, 1))
        elif config.embedding is not None:
            take_tokens(transformer, 0, len(config.embedding.split()))  # about as many
        for each in learners(both, config.experts).values():
            add_adapter(each, config)
        if not isinstance(text_encoder, AbsentTextEncoder):
            add_text_lora(text_encoder, config)
    for each in (*denoisers(both).values(), text_encoder):
        _lay_out(each, transformer.device)
    if config.interpolate < 1:
        absent.append(f"the base model: interpolate={config.interpolate} may keep it too")
    return DiTParts(
        transformer=transformer,
        text_encoder=text_encoder,
        vae=vae,
        tokenizer=NOTHING,
        scheduler=NOTHING,
        objective=_objective(transformer),
        shift=1.0,
        defaults={name: index[name] for name in SAVED if name in index},
        image_encoder=image_encoder,
        transformer_2=second,
    )


def hold_base(network: Any, dtype: torch.dtype, every: bool = False) -> None:
    """Hold frozen weights in `dtype` as training does, without casting what has no content.

    Args:
        every: all weights, whatever layer they are of.
    """
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    held: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}  # tied weights stay one
    for place, module in network.named_modules():
        if every or (isinstance(module, nn.Linear | nn.Conv3d) and not kept & {*place.split(".")}):
            for name, weight in list(module.named_parameters(recurse=False)):
                if (weight.is_floating_point() and not weight.requires_grad) or every:
                    if id(weight) not in held:
                        zeros = torch.zeros_like(weight, dtype=dtype)
                        held[id(weight)] = weight, nn.Parameter(zeros, requires_grad=False)
                    setattr(module, name, held[id(weight)][1])


class Rounded(nn.Linear):
    """Stands for a linear layer in fewer bits: its bytes, and a whole matrix while it computes.

    Args:
        size: bytes of a weight.
        dtype: of the whole matrix.
        keeps: the backward pass has kept the whole matrix; else it is made anew.
    """

    def __init__(self, layer: nn.Linear, size: float, dtype: torch.dtype, keeps: bool) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False, device="meta")
        count = math.ceil(size * layer.weight.numel())
        held = torch.zeros(count, dtype=torch.uint8, device=layer.weight.device)
        self.weight, self.bias = nn.Parameter(held, requires_grad=False), layer.bias
        self.weight.numbers = layer.weight.numel()
        self.dtype, self.keeps = dtype, keeps

    def forward(self, x: Tensor) -> Tensor:
        """The product with a matrix of zeros."""
        return self._product(x) if self.keeps else checkpoint(self._product, x, use_reentrant=False)

    def _product(self, x: Tensor) -> Tensor:
        shape = self.out_features, self.in_features
        whole = torch.zeros(shape, dtype=self.dtype, device=self.weight.device)
        return F.linear(x, whole, self.bias)


def quantize_base(network: Any, kind: str, dtype: torch.dtype) -> None:
    """Hold the linear layers that training quantizes as `kind`, without content."""
    (size,) = [each.bytes for each in QUANTIZATIONS if each.name == kind]
    for name, layer in list(network.named_modules()):
        if is_plain(layer, name):
            network.set_submodule(name, Rounded(layer, size, dtype, keeps=kind != "nf4"))


def _lay_out(model: nn.Module, device: torch.device) -> None:
    """Put zeros on `device` in the place of what lies on the meta device."""
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.device.type == "meta":
                zeros = torch.zeros_like(parameter, device=device)
                setattr(module, name, nn.Parameter(zeros, parameter.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.device.type == "meta":
                setattr(module, name, torch.zeros_like(buffer, device=device))


def _vae(folder: Path, channels: int, size: Size, absent: list[str]) -> Any:
    place = find_vae(folder)
    if place is not None:
        return untrained(place).requires_grad_(False)
    absent.append(f"the VAE: {folder} holds none; 4 x 8 x 8 is assumed")
    if (size.frames - 1) % 4:
        raise UserError(f"num_frames={size.frames}: a VAE of 4 x 8 x 8 takes 4k+1 frames.")
    return AbsentVAE(channels)


def _text_encoder(
    folder: Path, width: int, absent: list[str], config: TrainDiTConfig | FinetuneConfig
) -> Any:
    folder = folder / "text_encoder"
    if (folder / "config.json").is_file():
        return _read(untrained_text_encoder(folder), config.text_encoder)
    absent.append(f"the text encoder: {folder} is not there")
    return AbsentTextEncoder(width)


def _read(encoder: Any, config: TextEncoderConfig) -> Any:
    """The text encoder as training would read it, without weights."""
    if not config.changes():
        return encoder
    from t2v.models.text_reading import pair_of, read_as  # most are read as they stand

    _, encoder = read_as((NOTHING, encoder), replace(config, second=None))
    if config.second is None:
        return encoder
    second = untrained_text_encoder(Path(config.second) / "text_encoder")
    return pair_of(encoder, second, encoder.config.vocab_size)
