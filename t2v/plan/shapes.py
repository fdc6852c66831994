"""Parts built from their saved settings, without their weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    AutoConfig,
    AutoModelForTextEncoding,
    CLIPVisionConfig,
    CLIPVisionModel,
)

from t2v.config.distill import DistillConfig
from t2v.config.finetune import FinetuneConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import TrainDiTConfig, TrainVAEConfig
from t2v.errors import UserError
from t2v.io.text_files import read_json
from t2v.models.load import know_text_encoder, loading
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.upscaler import VideoUpscaler
from t2v.models.vae_folder import VAES
from t2v.pipelines.generator import FLOAT_FRAMES
from t2v.pipelines.latent_videos import LatentVideos

Target = SampleConfig | TrainDiTConfig | TrainVAEConfig | FinetuneConfig | DistillConfig


def saved(folder: Path, name: str) -> dict[str, Any]:
    with loading(f"{folder / name}"):
        return read_json(folder / name)


def has_part(index: dict[str, Any], name: str) -> bool:
    """Return whether a `model_index.json` names a part, which only some pipelines have."""
    return (index.get(name) or [None])[0] is not None


def untrained(folder: Path, layers: int | None = None) -> Any:
    """A network of a folder, without its weights, and of so many layers if they are given."""
    others = (T2VTransformer3DModel, VideoUpscaler)
    classes = {**VAES, **{each.__name__: each for each in others}}
    config = saved(folder, "config.json")
    if (name := config.get("_class_name")) not in classes:
        raise UserError(f"{folder} is a {name}; known are {', '.join(classes)}.")
    with loading(str(folder)):
        return classes[name].from_config(config | ({"num_layers": layers} if layers else {}))


def untrained_image_encoder(folder: Path) -> CLIPVisionModel:
    """The image encoder of a folder, without its weights."""
    with loading(str(folder)):
        return CLIPVisionModel(CLIPVisionConfig.from_pretrained(folder))


def untrained_text_encoder(folder: Path) -> Any:
    know_text_encoder(folder)
    with loading(str(folder)):
        # a config names the format of its file, and commands load in their own
        config, dtype = AutoConfig.from_pretrained(folder), torch.get_default_dtype()
        return AutoModelForTextEncoding.from_config(config, dtype=dtype)


def decode_pieces(pipeline: LatentVideos, latents: Tensor, frames: int, upscale: int) -> None:
    """Decode a video and round it, piece by piece, as on its way to a file."""
    for piece in pipeline.decode_pieces(latents, frames, upscale):
        for some in piece.split(FLOAT_FRAMES, dim=2):
            pixels = pipeline.video_processor.postprocess_video(some, output_type="pt")
            (pixels * 255).round().to(torch.uint8)
