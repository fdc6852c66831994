"""What a command does, built from its settings alone: real tensors, or none within a trace."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from math import prod
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from diffusers import AutoencoderKLWan
from diffusers.models.attention_dispatch import attention_backend
from einops import rearrange
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForTextEncoding
from transformers.modeling_outputs import BaseModelOutput

from t2v.config import (
    FinetuneConfig,
    SampleConfig,
    TrainConfig,
    TrainDiTConfig,
    TrainVAEConfig,
    TransformerConfig,
)
from t2v.data.clips import read_rows
from t2v.data.dataset import is_world
from t2v.data.texts import Texts
from t2v.errors import UserError
from t2v.models.folder import model_folder
from t2v.models.guidance import Guidance, Step
from t2v.models.load import loading
from t2v.models.placement import pick_device
from t2v.models.request import count_frames, latent_shape
from t2v.models.transformer import T2VTransformer3DModel
from t2v.models.vae import AutoencoderKLT2V
from t2v.pipeline import T2VPipeline
from t2v.sampling.load import pick_dtype
from t2v.training.checkpoint import newest_checkpoint
from t2v.training.dit import DiTBatch, DiTTask
from t2v.training.loop import TrainState, start_state
from t2v.training.trainable import add_lora, add_peft, choose_trainable
from t2v.training.vae import VAEBatch, VAETask

VAES = {each.__name__: each for each in (AutoencoderKLT2V, AutoencoderKLWan)}
SAVED_FILES = "model_index.json", "transformer/config.json"
ENCODE, UPDATE = "encode a clip", "update"
Target = SampleConfig | TrainDiTConfig | TrainVAEConfig | FinetuneConfig


@dataclass(frozen=True)
class Size:
    """What one step works on."""

    batch: int
    frames: int
    height: int
    width: int
    tokens: int = 0  # of text


@dataclass(frozen=True)
class Stage:
    """A part of the work and how often it is done in all."""

    name: str
    run: Callable[[], Any]
    times: int


@dataclass
class Work:
    """The parts of a model and the stages it goes through, in their order."""

    parts: dict[str, nn.Module]
    stages: list[Stage]
    latents: int  # bytes of one clip's latents in half precision
    state: TrainState | None = None
    absent: list[str] = field(default_factory=list)  # what could not be counted, and why

    def trained(self) -> int:
        """Bytes of the parameters that learn, and so of their gradients."""
        return sum(p.nbytes for p in self._parameters() if p.requires_grad) if self.state else 0

    def weights(self) -> int:
        """Bytes of all parameters."""
        return sum(p.nbytes for p in self._parameters())

    def optimizer(self) -> int:
        """Bytes of the optimizer's state, once a step has made it."""
        tensors = self.state.optimizer.state_tensors().values() if self.state else ()
        return sum(each.nbytes for each in tensors)

    def average(self) -> int:
        """Bytes of the averaged weights."""
        tensors = self.state.ema.tensors().values() if self.state else ()
        return sum(each.nbytes for each in tensors)

    def _parameters(self) -> Iterator[Tensor]:
        for part in self.parts.values():
            yield from part.parameters()


def build(target: Target, size: Size) -> Work:
    """The work of a command at `size`; weights are random, which costs the same as trained ones.

    Raises:
        UserError: a folder that is needed is not there, or `size` does not fit the model.
    """
    with pick_device(target.device):  # parts are made there: what has no content cannot be moved
        if isinstance(target, TrainDiTConfig):
            return _train(_PlannedDiT(target, size), target)
        if isinstance(target, FinetuneConfig):
            return _train(_PlannedFinetune(target, size), target)
        if isinstance(target, TrainVAEConfig):
            return _train(_PlannedVAE(target, size), target)
        return _sample(target, size)


def planned_size(target: Target, asked: dict[str, int | None], tokens: int | None) -> Size:
    """The size of a step: what is `asked`, else what the model or the data were saved with.

    Raises:
        UserError: neither says.
    """
    if isinstance(target, SampleConfig):
        known = _saved(model_folder(target.model), "model_index.json")
        fps = target.fps or known["fps"]
        given = target.num_frames, target.duration, fps, known["num_frames"]
        known |= {"num_frames": count_frames(*given)}
        known |= {side: getattr(target, side) or known[side] for side in ("height", "width")}
        batch = 1
    else:
        known, batch = {}, target.batch_size
        if isinstance(target, FinetuneConfig):
            known = _saved(model_folder(target.model), "model_index.json")
        clips = {"num_frames": target.clips.num_frames, "height": target.clips.resolution}
        clips["width"] = clips["height"]
        if is_world(target.data):
            clips = {name: read_rows(target.data)[0][name] for name in asked}
        known |= {name: value for name, value in clips.items() if value}
    sizes: dict[str, Any] = {name: value or known.get(name) for name, value in asked.items()}
    if missing := [name for name, value in sizes.items() if not value]:
        raise UserError(
            f"{', '.join(missing)}: neither given nor known from the data. "
            f"Add {' '.join(f'{name}=NUMBER' for name in missing)}."
        )
    longest = 0
    if not isinstance(target, TrainVAEConfig):
        longest = known.get("max_sequence_length", getattr(target, "max_sequence_length", 512))
    return Size(
        batch, sizes["num_frames"], sizes["height"], sizes["width"], min(tokens or longest, longest)
    )


def _train(task: _PlannedDiT | _PlannedVAE, config: TrainConfig) -> Work:
    state = start_state(task, config)
    trained = [p for p in task.model.parameters() if p.requires_grad]

    def backward() -> None:
        # around both passes: checkpointing runs the attention again in the second
        with attention_backend(getattr(config, "attention", "native")):
            (task.fixed_loss() / config.accumulate).backward()

    def update() -> None:
        nn.utils.clip_grad_norm_(trained, config.optim.clip_norm)
        state.optimizer.step(1.0)
        state.ema.update(0)

    stages = [Stage("forward and backward", backward, config.steps)]
    if config.accumulate > 1:
        more = config.steps * (config.accumulate - 1)
        stages.append(Stage("with gradients held", backward, more))
    stages.append(Stage(UPDATE, update, config.steps))
    parts = dict(task.parts)
    if isinstance(task, _PlannedVAE) and task.model is not task.vae:
        parts["discriminator"] = task.model.get_submodule("discriminator")
    if isinstance(task, _PlannedDiT) and task.vae is not None:
        parts["vae"] = task.vae
        stages.insert(0, Stage(ENCODE, task.encode, 0))
    return Work(parts, stages, task.latents(), state, task.absent)


class _PlannedVAE(VAETask):
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
        video = black(self.size, self.config.device)
        self.vae.check_video(video)
        batch = VAEBatch(video, torch.zeros_like(video[:, :1]), self.config.steps)
        return self.loss(batch, torch.Generator().manual_seed(0))[0]


class _Embedded(Texts):
    """Captions that were embedded before the first step: zeros."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def read(self, tokens: Tensor, lengths: Tensor, rows: int) -> Tensor:
        return torch.zeros(len(tokens), rows, self.dim)


class _PlannedDiT(DiTTask):
    """`DiTTask` without its data: latents of zeros, captions of equal length."""

    def __init__(self, config: TrainDiTConfig, size: Size) -> None:
        self.config, self.size = config, size
        self.absent: list[str] = []
        self.vae = self._vae()
        text_encoder: nn.Module = _Embeddings(config.model.text_dim)
        folder = Path(config.text) / "text_encoder"
        if (folder / "config.json").is_file():
            text_encoder = _text_encoder(folder)
        else:
            self.absent.append(f"the text encoder: {folder} is not there")
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
                return _diffusers_part(place).requires_grad_(False)
        self.absent.append(f"the VAE: {folder} holds none; 4 x 8 x 8 is assumed")
        return None

    def fixed_loss(self) -> Tensor:
        size, device = self.size, self.config.device
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
        device = torch.device(self.config.device)
        with torch.no_grad(), torch.autocast(device.type, dtype, enabled=bf16):
            self.vae.encode(black(replace(self.size, batch=1), device))

    def _latent_shape(self) -> tuple[int, ...]:
        size, vae, channels = self.size, self.vae, self.config.model.in_channels
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


class _PlannedFinetune(_PlannedDiT):
    """`FinetuneTask` without its data; new words are too few to count."""

    def __init__(self, config: FinetuneConfig, size: Size) -> None:
        folder = model_folder(config.model)
        index, built = (_saved(folder, each) for each in SAVED_FILES)
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
            cache_text=config.cache_text and not config.concept,
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


class _Embeddings(nn.Module):
    """Stands for a text encoder that is not there: text embeddings of its width, for nothing."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> BaseModelOutput:
        shape = *input_ids.shape, self.width
        return BaseModelOutput(last_hidden_state=torch.zeros(shape, device=input_ids.device))


def _sample(config: SampleConfig, size: Size) -> Work:
    folder, device = model_folder(config.model), pick_device(config.device)
    index = _saved(folder, "model_index.json")
    dtype = pick_dtype(config.dtype, device)
    with _default_dtype(dtype):
        transformer = _diffusers_part(folder / "transformer")
        if not isinstance(transformer, T2VTransformer3DModel):
            raise UserError(f"model={config.model}: t2v plan sample takes T2VPipeline folders.")
        parts = {
            "text_encoder": _text_encoder(folder / "text_encoder"),
            "transformer": transformer,
            "vae": _diffusers_part(folder / "vae"),
        }
    pipeline = T2VPipeline(tokenizer=None, scheduler=None, **parts)
    guidance = Guidance(transformer)
    scale = index["guidance_scale"] if config.guidance_scale is None else config.guidance_scale
    steps = config.num_inference_steps or index["num_inference_steps"]
    rows = index["max_sequence_length"], transformer.config.text_dim
    shape = latent_shape(
        transformer, pipeline.vae, size.batch, size.frames, size.height, size.width
    )
    held: dict[str, Tensor] = {}

    def text() -> None:
        tokens = torch.zeros(1, size.tokens, dtype=torch.long, device=device)
        for _ in range(2 if scale > 1 else 1):
            parts["text_encoder"](input_ids=tokens, attention_mask=torch.ones_like(tokens))
        held["latents"] = torch.zeros(shape, device=device)
        for name in ("positive", "negative"):
            held[name] = torch.zeros(size.batch, *rows, device=device, dtype=dtype)

    def denoise() -> None:
        step = Step(torch.zeros((), device=device), 0, steps, None)
        texts = held["positive"], held["negative"] if scale > 1 else None
        held["latents"] = held["latents"] + guidance(held["latents"], *texts, scale, step)

    def decode() -> None:
        video = pipeline.decode_latents(held["latents"], size.frames)
        frames = pipeline.video_processor.postprocess_video(video, output_type="pt")
        (frames * 255).round().to(torch.uint8)

    videos = config.num_videos_per_prompt
    named = [("text", text, 1), ("first denoise", denoise, videos)]  # it prepares the text
    if steps > 1:
        named.append(("denoise", denoise, (steps - 1) * videos))
    named.append(("decode", decode, videos))
    stages = [Stage(name, torch.no_grad()(run), times) for name, run, times in named]
    return Work(parts, stages, 2 * prod(shape[1:]))


def black(size: Size, device: str | torch.device) -> Tensor:
    """Clips `b c t h w` in the memory order that read ones have."""
    shape = size.batch, size.frames, size.height, size.width, 3
    return rearrange(torch.zeros(shape, device=device), "b t h w c -> b c t h w")


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _saved(folder: Path, name: str) -> dict[str, Any]:
    with loading(f"{folder / name}"):
        return json.loads((folder / name).read_text())


def _diffusers_part(folder: Path) -> Any:
    classes = {**VAES, "T2VTransformer3DModel": T2VTransformer3DModel}
    config = _saved(folder, "config.json")
    if (name := config.get("_class_name")) not in classes:
        raise UserError(f"{folder} is a {name}; known are {', '.join(classes)}.")
    with loading(str(folder)):
        return classes[name].from_config(config)


def _text_encoder(folder: Path) -> Any:
    with loading(str(folder)):
        return AutoModelForTextEncoding.from_config(AutoConfig.from_pretrained(folder))
