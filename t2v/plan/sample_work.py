"""The work of `t2v sample` with a pipeline of ours: real tensors, or none within a trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from t2v.config.sampling import SampleConfig
from t2v.families.load import generator_class, set_layout
from t2v.models.conditions import Conditions
from t2v.models.device import pick_device, pick_dtype
from t2v.models.folder import model_folder
from t2v.models.guidance import Groups, Guidance, SchedulerStep
from t2v.models.inputs import latent_shape
from t2v.models.upscaler import check_scale
from t2v.pipelines.t2v import T2VPipeline
from t2v.plan.code_work import code_step, code_steps
from t2v.plan.shapes import (
    decode_pieces,
    has_part,
    saved,
    untrained,
    untrained_image_encoder,
    untrained_text_encoder,
)
from t2v.plan.tiles import tiles_of
from t2v.plan.work import Phase, TiledDecode, Workload
from t2v.training.engine.example import Size


def sample_work(config: SampleConfig, size: Size, layers: int | None = None) -> Workload:
    """The networks of a pipeline of ours, and the phases of one video.

    Args:
        layers: of its transformers; None: all.
    """
    folder, device = model_folder(config.model), pick_device(config.device)
    generator_class(config.model, folder, "t2v plan sample", needs=("is_trainable",))
    index = saved(folder, "model_index.json")
    dtype = pick_dtype(config.dtype, device)
    with default_dtype(dtype):
        transformer = untrained(folder / "transformer", layers)
        parts = {
            "text_encoder": untrained_text_encoder(folder / "text_encoder"),
            "transformer": transformer,
            "vae": untrained(folder / "vae"),
            **_optional(folder, index, layers),
        }
    pipeline = T2VPipeline(tokenizer=None, scheduler=None, **parts)
    set_layout(pipeline, config.attention_layout)
    upscale = check_scale(config.upscale, pipeline.upscaler, "upscale")
    guidance = Guidance(transformer)
    scale = index["guidance_scale"] if config.guidance_scale is None else config.guidance_scale
    steps = config.num_inference_steps or index["num_inference_steps"]
    rows = index["max_sequence_length"], transformer.config.text_dim
    shape = latent_shape(
        transformer, pipeline.vae, size.batch, size.frames, size.height, size.width
    )
    if transformer.config.codebook_size:
        steps = code_steps(transformer, shape, steps)
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
        with default_dtype(dtype):
            given = given_beside(pipeline, shape, device)
        for name in ("positive", "negative"):
            held[name] = replace(held[name], **given)

    def denoise() -> None:
        step = SchedulerStep(torch.zeros((), device=device), 0, steps, None)
        texts = held["positive"], held["negative"] if scale > 1 else None
        predict = partial(guidance, held["latents"], *texts, scale, step, groups)
        if transformer.config.codebook_size:
            code_step(transformer, held, scale, predict)
        else:
            held["latents"] = held["latents"] + predict()

    def decode() -> None:
        groups.clear()
        held.pop("run", None)
        decode_pieces(pipeline, held["latents"], size.frames, upscale)

    videos = config.num_videos_per_prompt * config.best_of
    phases = [Phase("text", text, 1, ("text_encoder",))]
    if transformer.config.conditioning == "channels":
        phases.append(Phase("pictures", pictures, 1, _named(parts, "image_encoder", "vae")))
    denoisers = _named(parts, "transformer", "transformer_2")
    again = Phase("denoise", denoise, (steps - 1) * videos, denoisers, 2 if scale > 1 else 1)
    phases.append(replace(again, name="first denoise", times=videos))  # it prepares the text
    phases += [again] if steps > 1 else []
    name = "decode" if upscale == 1 else "decode, enlarge"
    phases.append(Phase(name, decode, videos, _named(parts, "vae", "upscaler")))
    phases = [replace(each, run=torch.no_grad()(each.run)) for each in phases]
    work = Workload(parts, phases, 2 * prod(shape[1:]))
    if upscale == 1:
        work.tile = tiled_decode(parts["vae"], shape, size, dtype)
    return work


def _named(parts: dict[str, nn.Module], *names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name in parts)


def tiled_decode(
    vae: Any, latents: tuple[int, ...], size: Size, dtype: torch.dtype
) -> TiledDecode | None:
    """The decoding of one tile of latents `b c t h w`; None where a video is no larger."""
    tiles = tiles_of(vae, latents, size.height // latents[3])
    if tiles is None:
        return None
    device = next(vae.parameters()).device

    @torch.no_grad()
    def decode() -> None:
        vae.decode(torch.zeros(tiles.shape, device=device, dtype=dtype), return_dict=False)

    video = 3 * size.frames * size.height * size.width * dtype.itemsize
    return TiledDecode(decode, tiles, video)


def _optional(folder: Path, index: dict[str, Any], layers: int | None) -> dict[str, nn.Module]:
    """The parts that only some pipelines have."""
    builders: dict[str, Any] = {
        "transformer_2": partial(untrained, layers=layers),
        "image_encoder": untrained_image_encoder,
        "upscaler": untrained,
    }
    return {name: build(folder / name) for name, build in builders.items() if has_part(index, name)}


def given_beside(parts: Any, shape: tuple[int, ...], device: torch.device) -> dict[str, Tensor]:
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
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
