"""The work of a command, built from its settings alone: real tensors, or none within a trace."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, cast

import torch
from einops import rearrange
from torch import Tensor, nn

from t2v.config.finetune import FinetuneConfig
from t2v.config.sampling import SampleConfig
from t2v.config.training import TrainConfig, TrainDiTConfig, TrainVAEConfig
from t2v.families.load import generator_class
from t2v.models.conditions import Conditions
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.models.guidance import Groups, Guidance, SchedulerStep
from t2v.models.inputs import latent_shape
from t2v.models.upscaler import check_scale
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.shapes import (
    Target,
    has_part,
    saved,
    untrained,
    untrained_image_encoder,
    untrained_text_encoder,
)
from t2v.plan.stand_ins import NOTHING, Embedded, NoClips, dit_parts, finetune_parts
from t2v.training.engine.example import Size, black
from t2v.training.engine.loop import TrainState, start_state
from t2v.training.engine.parallel import kernel
from t2v.training.engine.task import Task
from t2v.training.tasks.beside import FramesBeside
from t2v.training.tasks.dit import DiTTask
from t2v.training.tasks.dit_parts import DiTData, DiTParts
from t2v.training.tasks.finetune import FinetuneTask
from t2v.training.tasks.vae import VAEParts, VAETask, fresh_parts

ENCODE, UPDATE = "encode a clip", "update"


@dataclass(frozen=True)
class Phase:
    """A part of the work and how often it is done in all."""

    name: str
    run: Callable[[], Any]
    times: int


@dataclass
class Workload:
    """The parts of a model and the phases it goes through, in their order."""

    parts: dict[str, nn.Module]
    phases: list[Phase]
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


def build(target: Target, size: Size) -> Workload:
    """The work of a command at `size`; weights are random, which costs the same as trained ones.

    Raises:
        UserError: a folder that is needed is not there, or `size` does not fit the model.
    """
    with pick_device(target.device):  # parts are made there: what has no content cannot be moved
        return WORKLOADS[type(target)](target, size)


def _train_dit(config: TrainDiTConfig, size: Size) -> Workload:
    absent: list[str] = []
    parts = dit_parts(config, size, absent)
    return _train_transformer(DiTTask(config, parts, _no_data()), parts, size, absent)


def _finetune(config: FinetuneConfig, size: Size) -> Workload:
    absent: list[str] = []
    parts = finetune_parts(config, size, absent)
    task = FinetuneTask(config, parts, _no_data())
    if task.beside is not None:
        task.beside = _ZerosBeside(parts)
    return _train_transformer(task, parts, size, absent)


def _train_vae(config: TrainVAEConfig, size: Size) -> Workload:
    absent: list[str] = []
    if config.perceptual is not None:
        absent.append(f"the network of features: perceptual={config.perceptual}")
    parts = fresh_parts(config)
    task = VAETask(config, parts, cast(Any, NoClips()))
    return _train(task, config, _modules(parts), size, absent)


def _no_data() -> DiTData:
    return DiTData(cast(Any, NoClips()), NOTHING)


def _modules(parts: DiTParts | VAEParts) -> dict[str, nn.Module]:
    return {name: each for name, each in parts._asdict().items() if isinstance(each, nn.Module)}


def _train_transformer(task: DiTTask, parts: DiTParts, size: Size, absent: list[str]) -> Workload:
    config = task.config
    if task.caches_text():
        task.texts = Embedded(parts.transformer.config.text_dim)
    work = _train(task, config, _modules(parts), size, absent)
    shape = latent_shape(parts.transformer, parts.vae, 1, size.frames, size.height, size.width)
    work.latents = 2 * prod(shape)

    def encode() -> None:
        """One clip through the VAE, as the latent cache is made."""
        device, bf16 = pick_device(config.device), config.precision == "bf16"
        with torch.no_grad(), torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            parts.vae.encode(black(replace(size, batch=1), device))

    if hasattr(parts.vae, "encode"):
        work.phases.insert(0, Phase(ENCODE, encode, 0))
    return work


def _train(
    task: Task, config: TrainConfig, parts: dict[str, nn.Module], size: Size, absent: list[str]
) -> Workload:
    state = start_state(task, config)
    trained = [p for p in task.model.parameters() if p.requires_grad]

    def backward() -> None:
        with kernel(task):
            generator = torch.Generator().manual_seed(0)
            (task.loss(task.example_batch(size), generator)[0] / config.accumulate).backward()

    def update() -> None:
        nn.utils.clip_grad_norm_(trained, config.optim.clip_norm)
        state.optimizer.step(1.0)
        state.ema.update(0)

    phases = [Phase("forward and backward", backward, config.steps)]
    if config.accumulate > 1:
        more = config.steps * (config.accumulate - 1)
        phases.append(Phase("with gradients held", backward, more))
    phases.append(Phase(UPDATE, update, config.steps))
    if config.parallel == "fsdp":
        absent.append("parallel=fsdp, which splits the weights: all is in one process here")
    return Workload(parts, phases, 0, state, absent)


def _sample(config: SampleConfig, size: Size) -> Workload:
    folder, device = model_folder(config.model), pick_device(config.device)
    generator_class(config.model, folder, "t2v plan sample", needs=("is_trainable",))
    index = saved(folder, "model_index.json")
    dtype = pick_dtype(config.dtype, device)
    with _default_dtype(dtype):
        transformer = untrained(folder / "transformer")
        parts = {
            "text_encoder": untrained_text_encoder(folder / "text_encoder"),
            "transformer": transformer,
            "vae": untrained(folder / "vae"),
            **_optional(folder, index),
        }
    pipeline = T2VPipeline(tokenizer=None, scheduler=None, **parts)
    upscale = check_scale(config.upscale, pipeline.upscaler, "upscale")
    guidance = Guidance(transformer)
    scale = index["guidance_scale"] if config.guidance_scale is None else config.guidance_scale
    steps = config.num_inference_steps or index["num_inference_steps"]
    rows = index["max_sequence_length"], transformer.config.text_dim
    shape = latent_shape(
        transformer, pipeline.vae, size.batch, size.frames, size.height, size.width
    )
    held: dict[str, Any] = {}
    groups = Groups()

    def text() -> None:
        tokens = torch.zeros(1, size.tokens, dtype=torch.long, device=device)
        for _ in range(2 if scale > 1 else 1):
            parts["text_encoder"](input_ids=tokens, attention_mask=torch.ones_like(tokens))
        held["latents"] = torch.zeros(shape, device=device)
        for name in ("positive", "negative"):
            zeros = torch.zeros(size.batch, *rows, device=device, dtype=dtype)
            held[name] = Conditions(text=zeros)

    def pictures() -> None:
        with _default_dtype(dtype):
            given = _given_beside(pipeline, shape, device)
        for name in ("positive", "negative"):
            held[name] = replace(held[name], **given)

    def denoise() -> None:
        step = SchedulerStep(torch.zeros((), device=device), 0, steps, None)
        texts = held["positive"], held["negative"] if scale > 1 else None
        held["latents"] = held["latents"] + guidance(held["latents"], *texts, scale, step, groups)

    def decode() -> None:
        groups.clear()
        video = pipeline.decode_latents(held["latents"], size.frames, upscale)
        frames = pipeline.video_processor.postprocess_video(video, output_type="pt")
        (frames * 255).round().to(torch.uint8)

    videos = config.num_videos_per_prompt * config.best_of
    named = [("text", text, 1)]
    if transformer.config.conditioning == "channels":
        named.append(("pictures", pictures, 1))
    named.append(("first denoise", denoise, videos))  # it prepares the text
    if steps > 1:
        named.append(("denoise", denoise, (steps - 1) * videos))
    named.append(("decode" if upscale == 1 else "decode, enlarge", decode, videos))
    phases = [Phase(name, torch.no_grad()(run), times) for name, run, times in named]
    return Workload(parts, phases, 2 * prod(shape[1:]))


def _optional(folder: Path, index: dict[str, Any]) -> dict[str, nn.Module]:
    """The parts that only some pipelines have."""
    builders = {
        "transformer_2": untrained,
        "image_encoder": untrained_image_encoder,
        "upscaler": untrained,
    }
    return {name: build(folder / name) for name, build in builders.items() if has_part(index, name)}


class _ZerosBeside(FramesBeside):
    """Stands for the pictures of clips: the same passes through the networks, for zeros."""

    @torch.no_grad()
    def __call__(self, latents: Tensor) -> dict[str, Tensor]:
        vae = self.parts.vae
        for video in latents.split(1):
            vae.decode((video if self.two else video[:, :, :1]).to(vae.dtype))
        return _given_beside(self.parts, tuple(latents.shape), latents.device)


def _given_beside(parts: Any, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
    """The conditions that `encode_beside` makes of pictures, as zeros."""
    config, vae = parts.transformer.config, parts.vae
    frames = (shape[2] - 1) * vae.config.scale_factor_temporal + 1
    sides = [side * vae.config.scale_factor_spatial for side in shape[3:]]
    vae.encode(torch.zeros(1, 3, frames, *sides, device=device, dtype=vae.dtype))
    beside = config.in_channels - shape[1]
    given = {"channels": torch.zeros(shape[0], beside, *shape[2:], device=device)}
    if config.image_dim is not None:
        side = parts.image_encoder.config.image_size
        count = 1 if config.pos_embed_seq_len is None else 2
        pixels = torch.zeros(count, 3, side, side, device=device)
        tokens = parts.image_encoder(pixels).last_hidden_state
        image = rearrange(tokens, "k m d -> 1 (k m) d")
        given["image"] = image.expand(shape[0], -1, -1)
    return given


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


WORKLOADS: dict[type, Callable[[Any, Size], Workload]] = {
    SampleConfig: _sample,
    TrainDiTConfig: _train_dit,
    FinetuneConfig: _finetune,
    TrainVAEConfig: _train_vae,
}
