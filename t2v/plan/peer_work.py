"""Sampling with another package's pipeline: what its networks take, traced from their configs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import torch
from diffusers import DiffusionPipeline

from t2v.config.sampling import SampleConfig
from t2v.families.generator import FamilyGenerator
from t2v.models.device import DTYPES
from t2v.models.folder import model_folder
from t2v.models.load import loading
from t2v.models.wan_vae import AutoencoderKLWan, pieces
from t2v.plan.figures import Estimate, PhaseTrace, Tiled
from t2v.plan.parts import Part
from t2v.plan.passes import OTHERS, PASSES, Asked, Pass
from t2v.plan.peers import described, latents_of, networks, peer_parts, usual
from t2v.plan.pieces import Piece, formula
from t2v.plan.sample_work import default_dtype
from t2v.plan.tiles import tiles_of
from t2v.plan.trace import Rates, traced
from t2v.training.engine.example import Size

FEW = 2  # blocks of each kind that are traced, and one more of each; all others cost the same
STREAMED = ("AutoencoderKLWan", "AutoencoderKLCogVideoX")  # compute a few frames at a time
DECODED: dict[Any, Piece] = {}  # one VAE is in many models, and in every way of holding one


def peer_estimate(config: SampleConfig, size: Size, rates: Rates) -> Estimate:
    """Bytes, FLOP and seconds of sampling with a pipeline of another package.

    Weights are counted on the meta device; the transformer and the VAE are traced as they stand in
    diffusers, two and three of their equal blocks for all; text encoders, and transformers that
    `PASSES` does not list, are estimated by `formula`.

    Raises:
        UserError: see `described`; the networks cannot be run at this size.
    """
    pipeline, dtype = described(model_folder(config.model)), DTYPES[config.dtype]
    parts = {part.name: part for part in peer_parts(pipeline, dtype)}
    asked, videos = usual(pipeline), config.num_videos_per_prompt * config.best_of
    steps = config.num_inference_steps or asked.num_inference_steps or 50
    scale = asked.guidance_scale if config.guidance_scale is None else config.guidance_scale
    row = PASSES.get(type(pipeline.transformer).__name__, OTHERS)
    guided = scale is None or scale > 1
    latents = latents_of(pipeline, size.frames, size.height, size.width)
    fps = config.fps or asked.fps or 24.0
    doubled = size.batch * (2 if guided and row.guided == "doubled" else 1)
    a_pass = Asked(
        config=pipeline.transformer.config,
        latents=latents,
        batch=doubled,
        rows=size.tokens,
        fps=fps,
        pictures=_picture_tokens(pipeline),
        by_token=bool(pipeline.config.get("expand_timesteps")),
        by_frame="DiffusionForcing" in type(pipeline).__name__,
    )
    what = f"model={config.model}"
    with loading(what):
        denoise = _denoise(pipeline.transformer, row, a_pass, rates, dtype)
        decode = _decode(pipeline, latents, size, rates, dtype)
        tiled = _tiled(pipeline, latents, size, rates, dtype)
    passes = 2 if guided and row.guided == "twice" else 1
    prompts = 2 if guided and row.guided != "embedded" else 1
    encoders = tuple(name for name in parts if name.startswith(("text_encoder", "image_encoder")))
    denoisers = tuple(name for name in parts if name.startswith("transformer"))
    others = tuple(name for name in parts if name not in (*encoders, *denoisers))
    text = _text(pipeline, encoders, parts, size.tokens * prompts, rates)
    twice = Piece(0, 0, 0).plus(passes, denoise)
    weights = sum(part.weights for part in parts.values())
    phases = (
        _phase("text", text, 1, encoders, weights),
        replace(_phase("denoise", twice, steps * videos, denoisers, weights), passes=passes),
        _phase("decode", decode, videos, others, weights),
    )
    return Estimate(
        size=size,
        phases=phases,
        parameters={name: part.parameters for name, part in parts.items()},
        weights=weights,
        gradients=0,
        optimizer=0,
        average=0,
        trains=False,
        latents=2 * prod(latents[1:]),
        absent=_absent(pipeline, row),
        parts=tuple(parts.values()),
        tiled=tiled,
    )


def _picture_tokens(pipeline: DiffusionPipeline) -> int:
    """The tokens of a picture: one a patch of the image encoder, and one for the whole."""
    encoder = getattr(pipeline, "image_encoder", None)
    if encoder is None:
        return 0
    return int((encoder.config.image_size // encoder.config.patch_size) ** 2 + 1)


def _phase(name: str, piece: Piece, times: int, parts: tuple[str, ...], held: int) -> PhaseTrace:
    figures = held, held + int(piece.rise), int(piece.flop), piece.seconds
    return PhaseTrace(
        name, times, *figures, parts, operations=piece.operations, roofline=piece.roofline
    )


def _absent(pipeline: DiffusionPipeline, row: Pass) -> tuple[str, ...]:
    name = type(pipeline.transformer).__name__
    absent = []
    if row is OTHERS:
        absent.append(f"a trace of {name}: its tokens and weights are counted by a formula")
    if "image" in FamilyGenerator(pipeline).takes:
        absent.append("the encoding of pictures and clips that are given to see")
    return tuple(absent)


def _run(rates: Rates, dtype: torch.dtype, build: Callable[[], Any]) -> Piece:
    """Trace what `build` gives, once it is built."""
    with traced(rates) as trace, default_dtype(dtype), torch.no_grad():
        run = build()
        held = trace.live
        with trace.phase() as usage:
            run()
        rise = usage.peak - held
        return Piece(usage.flop, usage.seconds, rise, usage.operations, usage.roofline)


def _denoise(transformer: Any, row: Pass, asked: Asked, rates: Rates, dtype: torch.dtype) -> Piece:
    """One pass of the transformer."""
    if row is OTHERS:
        return formula(transformer, _tokens(asked) * asked.batch, rates, dtype.itemsize)

    def traced_with(counts: dict[str, int]) -> Piece:
        def build() -> Callable[[], Any]:
            network = type(transformer).from_config({**asked.config, **counts}).eval()
            return lambda: network(**row.inputs(asked))

        return _run(rates, dtype, build)

    whole = {name: asked.config[name] for name in row.layers}
    few = {name: min(FEW, count) for name, count in whole.items()}
    piece = first = traced_with(few)
    for name, count in whole.items():
        if count > few[name]:
            more = traced_with({**few, name: few[name] + 1})
            piece = piece.plus(count - few[name], more.plus(-1, first))
    return piece


def _tokens(asked: Asked) -> int:
    patch, (_, _, t, h, w) = asked.config.get("patch_size", 1), asked.latents
    sides = (asked.config.get("patch_size_t") or 1, patch, patch)
    sides = sides if isinstance(patch, int) else tuple(patch)
    return t * h * w // prod(sides)


def _text(
    pipeline: DiffusionPipeline,
    encoders: tuple[str, ...],
    parts: dict[str, Part],
    tokens: int,
    rates: Rates,
) -> Piece:
    piece = Piece(0, 0, 0)
    for name in encoders:
        each = networks(pipeline)[name]
        piece = piece.plus(1, formula(each, tokens, rates, int(parts[name].wide)))
    return piece


def _decode(
    pipeline: DiffusionPipeline,
    latents: tuple[int, ...],
    size: Size,
    rates: Rates,
    dtype: torch.dtype,
) -> Piece:
    """The decoding of a video; one that is decoded whole is held once more in bytes."""
    piece = _decoded(pipeline, latents, rates, dtype)
    if hasattr(pipeline.vae, "decode_pieces"):
        return piece
    pixels = 3 * size.frames * size.height * size.width
    return replace(piece, rise=max(piece.rise, (dtype.itemsize + 2) * pixels))


def _decoded(
    pipeline: DiffusionPipeline, latents: tuple[int, ...], rates: Rates, dtype: torch.dtype
) -> Piece:
    """One run of the VAE; of those that stream a line over two lengths."""
    vae, length = pipeline.vae, latents[2]
    family = FamilyGenerator(pipeline).family
    settings = sorted((name, str(value)) for name, value in vae.config.items() if name[0] != "_")
    same = type(vae).__name__, tuple(settings), rates, dtype

    def traced_with(frames: int) -> Piece:
        shape = (*latents[:2], frames, *latents[3:])
        if (same, shape) not in DECODED:
            DECODED[same, shape] = trace_of(frames)
        return DECODED[same, shape]

    def trace_of(frames: int) -> Piece:
        def build() -> Callable[[], Any]:
            network = type(vae).from_config(vae.config).eval()

            def run() -> None:
                z = torch.zeros(*latents[:2], frames, *latents[3:])
                if hasattr(network, "decode_pieces"):
                    for _ in network.decode_pieces(z):
                        pass
                    return
                told = {} if family is None else family.decode(pipeline, z)
                network.decode(z, return_dict=False, **told)

            return run

        return _run(rates, dtype, build)

    at_once = 2  # frames may be taken in pairs
    if isinstance(vae, AutoencoderKLWan):
        at_once = pieces(length, *latents[3:])[0]
    few = at_once + 3 + (length + 1) % 2
    if type(vae).__name__ not in STREAMED or length <= few + at_once + 2:
        return traced_with(length)
    first, more = traced_with(few), traced_with(few + at_once)
    steps = (length - few) / at_once
    rise = first.rise + steps * max(0, more.rise - first.rise)
    return replace(first.onward(more, steps), rise=rise)


def _tiled(
    pipeline: DiffusionPipeline,
    latents: tuple[int, ...],
    size: Size,
    rates: Rates,
    dtype: torch.dtype,
) -> Tiled | None:
    tiles = tiles_of(pipeline.vae, latents, size.height // latents[3])
    if tiles is None:
        return None
    one = _decoded(pipeline, tiles.shape, rates, dtype)
    video = 3 * size.frames * size.height * size.width * dtype.itemsize
    all_ = Piece(0, 0, 0).plus(tiles.count, one)
    rise = tiles.rise(one.rise, video)
    return Tiled(rise, all_.seconds, all_.operations, all_.roofline)
