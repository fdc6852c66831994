"""The tasks of training without their data."""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from t2v.config.finetune import FinetuneConfig
from t2v.config.models import TransformerConfig
from t2v.config.training import TrainConfig, TrainDiTConfig, TrainVAEConfig
from t2v.data.text_cache import Texts
from t2v.errors import UserError
from t2v.io.checkpoint import newest_checkpoint
from t2v.models.device import pick_device
from t2v.models.folder import model_folder
from t2v.models.inputs import latent_shape
from t2v.models.transformer import T2VTransformer3DModel
from t2v.plan.shapes import Size, black, saved, untrained, untrained_text_encoder
from t2v.training.tasks.dit import DiTBatch, DiTTask, check_match
from t2v.training.tasks.vae import VAEBatch, VAETask
from t2v.training.tuning.adapters import add_lora, add_peft, choose_trainable

SAVED_FILES = "model_index.json", "transformer/config.json"


class PlannedVAE(VAETask):
    """`VAETask` without its data: black clips."""

    def __init__(self, config: TrainVAEConfig, size: Size) -> None:
        self.config, self.size = config, size
        self.absent: list[str] = []
        if config.perceptual is not None:
            self.absent.append(f"the network of features: perceptual={config.perceptual}")
        self.build()

    def latents(self) -> int:
        return 0  # none is kept

    def fixed_loss(self) -> Tensor:
        video = black(self.size, pick_device(self.config.device))
        self.vae.check_video(video)
        batch = VAEBatch(video, torch.zeros_like(video[:, :1]), self.config.steps)
        return self.loss(batch, torch.Generator().manual_seed(0))[0]


class _Embedded(Texts):
    """Captions that were embedded before the first step: zeros."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def read(self, tokens: Tensor, lengths: Tensor, rows: int) -> Tensor:
        return torch.zeros(len(tokens), rows, self.dim)


class PlannedDiT(DiTTask):
    """`DiTTask` without its data: latents of zeros, captions of equal length."""

    def __init__(self, config: TrainDiTConfig, size: Size) -> None:
        self.config, self.size = config, size
        self.absent: list[str] = []
        self.vae = self._vae()
        folder = Path(config.text) / "text_encoder"
        if (folder / "config.json").is_file():
            text_encoder = untrained_text_encoder(folder)
            check_match(config, self.vae, text_encoder)
        else:
            self.absent.append(f"the text encoder: {folder} is not there")
            text_encoder = _Embeddings(config.model.text_dim)
            check_match(config, self.vae, None)
        transformer = T2VTransformer3DModel(**asdict(config.model))
        self.model = nn.ModuleDict({"transformer": transformer, "text_encoder": text_encoder})
        text_encoder.requires_grad_(config.train_text_encoder)
        if config.cache_text and not config.train_text_encoder:
            self.texts = _Embedded(config.model.text_dim)
        self.parts = dict(self.model.items())

    def _vae(self) -> Any:
        folder = Path(self.config.vae)
        newest = newest_checkpoint(folder)
        for place in (folder, folder / "vae", *([newest / "vae"] if newest else [])):
            if (place / "config.json").is_file():
                return untrained(place).requires_grad_(False)
        self.absent.append(f"the VAE: {folder} holds none; 4 x 8 x 8 is assumed")
        return None

    def fixed_loss(self) -> Tensor:
        size, device = self.size, pick_device(self.config.device)
        latents = torch.zeros(self._latent_shape(), device=device)
        tokens = torch.zeros(size.batch, size.tokens, dtype=torch.long, device=device)
        lengths = torch.full((size.batch,), size.tokens, device=device)
        batch = DiTBatch(latents, tokens, lengths)
        return self.loss(batch, torch.Generator().manual_seed(0))[0]

    def latents(self) -> int:
        return 2 * prod(self._latent_shape()[1:])

    def encode(self) -> None:
        """One clip through the VAE, as the latent cache is made."""
        dtype, bf16 = torch.bfloat16, self.config.precision == "bf16"
        device = pick_device(self.config.device)
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=bf16):
            self.vae.encode(black(replace(self.size, batch=1), device))

    def _latent_shape(self) -> tuple[int, ...]:
        size, vae, channels = self.size, self.vae, self.config.model.out_channels
        sides = size.frames, size.height, size.width
        if vae is not None:
            return latent_shape(self.model["transformer"], vae, size.batch, *sides)
        frames, height, width = sides
        _, tile_h, tile_w = (step * 8 for step in self.config.model.patch_size)
        if (frames - 1) % 4 or height % tile_h or width % tile_w:
            raise UserError(
                f"num_frames={frames} height={height} width={width}: a VAE of 4 x 8 x 8 and this "
                f"transformer take 4k+1 frames and multiples of {tile_h} x {tile_w} pixels."
            )
        return size.batch, channels, 1 + (frames - 1) // 4, height // 8, width // 8


class PlannedFinetune(PlannedDiT):
    """`FinetuneTask` without its data; of new words the table they are added to is counted."""

    def __init__(self, config: FinetuneConfig, size: Size) -> None:
        folder = model_folder(config.model)
        index, built = (saved(folder, each) for each in SAVED_FILES)
        training = TrainDiTConfig(
            **{each.name: getattr(config, each.name) for each in fields(TrainConfig)},
            model=TransformerConfig(
                **{each.name: built[each.name] for each in fields(TransformerConfig)}
            ),
            data=config.data,
            vae=str(folder),
            text=str(folder),
            attention=config.attention,
            train_text_encoder=config.train_text_encoder,
            cache_text=config.cache_text and not config.concept and config.soft_prompt is None,
            max_sequence_length=index["max_sequence_length"],
        )
        super().__init__(training, size)
        # peft moves new layers to the model's device; they are there, and fakes cannot move
        with patch.object(nn.Module, "to", lambda module, *_, **__: module):
            if config.method == "lora":
                add_lora(self.model["transformer"], config.lora, config.seed)
            if config.peft is not None:
                add_peft(self.model["transformer"], config.peft, config.seed)
        choose_trainable(self.model, config)
        if config.interpolate < 1:
            self.absent.append(f"the base model: interpolate={config.interpolate} may keep it too")


class _Embeddings(nn.Module):
    """Stands for a text encoder that is not there: text embeddings of its width, for nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        shape = *input_ids.shape, self.width
        return BaseModelOutput(last_hidden_state=torch.zeros(shape, device=input_ids.device))
