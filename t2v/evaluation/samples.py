"""The model, and its videos of a suite, sampled once and kept; beside them the real clips."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import ModelMixin
from einops import rearrange
from torch import Tensor, nn

from t2v.config.checks import is_spread
from t2v.config.evaluation import EvalConfig, FootageEvalConfig
from t2v.data.cache import Cache, keep_digest, weights_digest
from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.evaluation.given import Given
from t2v.evaluation.rows import BLUR, CEILING, CHANCE, MODEL, REAL, STILL, TEXT
from t2v.evaluation.suites import STORY, Suite, load_suite
from t2v.evaluation.types import Videos, blurred_copy, still_copy
from t2v.families.load import load_generator
from t2v.families.record import spatial
from t2v.io.engine import model_pool, succeeded
from t2v.io.files import digest
from t2v.io.progress import progress
from t2v.io.workers import Pool
from t2v.models.device import pick_device, pick_dtype, ready
from t2v.models.folder import model_folder
from t2v.models.hold import Hold, held_kind
from t2v.pipelines.generator import Ability, Generator, Request, rate_of, sample_videos
from t2v.pipelines.visuals import VisualInputs

ASKED = (
    *("height", "width", "num_frames", "num_inference_steps", "guidance_scale", "upscale"),
    *("cache", "cache_ratios", "guidance_interval", "token_merging"),
)
PARTS = ("transformer", "text_encoder", "vae")  # in the order that keys have always hashed them


def load_model(
    config: EvalConfig | FootageEvalConfig, command: str, needs: Sequence[Ability] = ()
) -> Generator:
    """Load the generator of `config.model` onto its device.

    Raises:
        UserError: it is not there, it is damaged, it lacks something, or there is no such device.
    """
    device = pick_device(config.device)
    folder, dtype = model_folder(config.model), pick_dtype(config.dtype, device)
    if not isinstance(config, EvalConfig):
        return load_generator(config.model, folder, device, dtype, command, needs)
    hold = Hold(offload=config.offload, quantize=config.quantize)

    def keep(_: type, name: str, part: nn.Module) -> None:
        keep_digest(part, held_kind(name, hold))

    adapt = keep if hold.offload != "none" else None
    return load_generator(config.model, folder, device, dtype, command, needs, hold, adapt)


def request_of(generator: Generator, config: EvalConfig) -> Request:
    """Return the request of an evaluation: the generator's defaults, but for what is set."""
    own = generator.defaults
    asked = {name: getattr(config, name) for name in ASKED}
    return replace(own, **{name: value for name, value in asked.items() if value is not None})


def parts_of(generator: Generator, upscale: int) -> dict[str, nn.Module]:
    """Return the networks that make the videos, by name, those of ours in the order of `PARTS`."""
    parts = dict(generator.pipeline.components)
    if upscale == 1:
        parts.pop("upscaler", None)
    names = sorted(name for name, part in parts.items() if isinstance(part, nn.Module))
    names.sort(key=lambda name: PARTS.index(name) if name in PARTS else len(PARTS))
    return {name: parts[name] for name in names}


def cache_keys(
    generator: Generator,
    prompts: tuple[str, ...],
    config: EvalConfig,
    request: Request | None = None,
    given: Sequence[str] = (),
    weights: Sequence[str] = (),
) -> list[str]:
    """Return a hash of everything that makes each video; prompt i is sampled with seed + i.

    Args:
        request: None: that of the settings.
        given: a hash of what each video is given to see; none: nothing is given.
        weights: hashes of the generator's networks; none: they are computed.
    """
    request, pipeline = request or request_of(generator, config), generator.pipeline
    model = list(weights) or [
        weights_digest(part) for part in parts_of(generator, request.upscale).values()
    ]
    scheduler = pipeline.components.get("scheduler")
    rules = (
        sorted((name, str(value)) for name, value in scheduler.config.items()) if scheduler else []
    )
    sizes = [request.height, request.width, request.num_frames]
    scale = request.guidance_scale
    same: tuple[object, ...] = (model, rules, sizes, request.num_inference_steps)
    same += (scale if scale is None else float(scale),)
    if request.upscale != 1:
        same += (request.upscale,)
    if config.token_merging:
        same += (f"token_merging={config.token_merging:g}",)
    left_out = _left_out(request)
    if left_out:
        same += (tuple(left_out.items()),)
    if pipeline._execution_device.type != "cpu":  # another device sums in another order
        same += (pipeline._execution_device.type,)
    if not generator.is_trainable:  # the keys of ours have never held the name of their class
        same += (type(pipeline).__name__,)
    parts = [(same, prompt, config.seed + i) for i, prompt in enumerate(prompts)]
    if given:
        return [digest(*each, seen) for each, seen in zip(parts, given, strict=True)]
    return [digest(*each) for each in parts]


def _left_out(request: Request) -> dict[str, Any]:
    """The settings of a request that leave work of the denoising out, by name."""
    names = {"cache": "none", "cache_ratios": (), "guidance_interval": ()}
    values = {name: (getattr(request, name), usual) for name, usual in names.items()}
    return {name: value for name, (value, usual) in values.items() if value != usual}


def protocol(config: EvalConfig, generator: Generator) -> dict[str, Any]:
    """Return the conditions of an evaluation, without which its figures mean nothing."""
    request, pipeline = request_of(generator, config), generator.pipeline
    return {
        "model": config.model,
        "weights": {
            name: weights_digest(part)
            for name, part in parts_of(generator, request.upscale).items()
        },
        "scheduler": type(pipeline.components.get("scheduler")).__name__,
        "steps": request.num_inference_steps,
        "guidance": request.guidance_scale,
        **_left_out(request),
        "seeds": f"{config.seed} + number of the prompt",
        **({"seeds of each prompt": config.seeds} if config.seeds > 1 else {}),
        "fps": request.fps,
        "size": [request.num_frames, request.height, request.width],
        **({"upscale": request.upscale} if request.upscale != 1 else {}),
        **({"windows": asdict(config.windows)} if STORY in config.suites else {}),
        "intervals": "95 %: Wilson for shares, BCa bootstrap over prompts for means",
        "device": pipeline._execution_device.type,
        "dtype": str(pipeline.dtype),
        **({"quantize": config.quantize} if config.quantize != "none" else {}),
        **({"token_merging": config.token_merging} if config.token_merging else {}),
        **({"offload": config.offload} if config.offload != "none" else {}),
        "clips": str(kept_in(config).resolve()),
        "versions": {name: version(name) for name in ("torch", "diffusers", "transformers")},
    }


def sample_suite(
    generator: Generator,
    prompts: tuple[str, ...],
    keys: list[str],
    config: EvalConfig,
    request: Request | None = None,
    visuals: Sequence[VisualInputs] = (),
    strength: float | None = None,
    workers: Pool | None = None,
) -> Tensor:
    """Return the videos of the prompts, `n t h w c` uint8; only those not kept yet are sampled.

    Args:
        request: None: that of the settings.
        visuals: what each video is given to see; none: nothing is given.
        strength: how far an edit may go from its clip; None: no edit.
        workers: of `sampling_workers`; None: they are sampled here.
    """
    request = replace(request or request_of(generator, config), strength=strength)
    with Cache(kept_in(config)) as cache:
        missing = [index for index, key in enumerate(keys) if key not in cache]
        about: dict[str, Any] = {"request": request, "batch_size": config.batch_size}

        def batch(indices: Sequence[int]) -> dict[str, Any]:
            return {
                "prompts": [prompts[index] for index in indices],
                "seeds": [config.seed + index for index in indices],
                "visuals": [visuals[index] for index in indices] if visuals else (),
            }

        if workers is None:
            videos = _sampled(generator, **batch(missing), **about)
        else:
            first = range(0, len(missing), config.batch_size)
            batches = [batch(missing[each : each + config.batch_size]) for each in first]
            tasks = [partial(_made, doing="", **each, **about) for each in batches]
            names = [f"the videos of {each['prompts']}" for each in batches]
            results = workers.results(tasks, count=len(tasks), in_order=True)
            found = chain.from_iterable(succeeded(results, names))
            videos = progress(found, "sample", "videos", len(missing))
        for index, video in zip(missing, videos, strict=True):
            cache.add(keys[index], torch.from_numpy(video))
        return torch.stack([cache.read(key) for key in keys])


def _sampled(generator: Generator, request: Request, **about: Any) -> Iterator[np.ndarray]:
    """Yield videos `t h w c` uint8, for the arguments of `sample_videos`."""
    for latents in sample_videos(generator, request=request, **about):
        yield from generator.decode(latents, request.num_frames, request.upscale)


def _made(generator: Generator, **about: Any) -> list[np.ndarray]:
    return list(_sampled(generator, **about))


@contextmanager
def sampling_workers(
    config: EvalConfig, generator: Generator, weights: Sequence[str]
) -> Iterator[Pool | None]:
    """Give workers that each hold the model, as the settings ask for; None: this process alone.

    Args:
        generator: the model, here.
        weights: hashes of its networks, which theirs have to have.
    """
    if not is_spread(config):
        yield None
        return
    load = partial(_loaded, config, list(weights))
    device = str(generator.pipeline._execution_device)
    with model_pool(config, load, device, torch.get_num_threads()) as workers:
        yield workers


def _loaded(config: EvalConfig, weights: list[str]) -> Generator:
    generator = load_model(config, "t2v eval")
    parts = parts_of(generator, request_of(generator, config).upscale)
    if [weights_digest(part) for part in parts.values()] != weights:
        raise UserError(
            f"model={config.model}: on {socket.gethostname()} its weights are not those it has "
            "where the command was given. Put the same files on every machine."
        )
    return generator


def rows_of(
    suite: Suite,
    sampled: Tensor,
    generator: Generator,
    seed: int,
    given: Given | None = None,
    text: Tensor | None = None,
    upscale: int = 1,
) -> dict[str, Videos]:
    """Return the model's videos, and where the prompts have real clips, the rows beside them.

    Args:
        sampled: the videos of the suite's prompts, `n t h w c` uint8.
        seed: the seed of the evaluation, from which real clips of other scenes follow.
        given: what was given of each clip; its copies stand beside the videos.
        text: videos of the same prompts and seeds without it.
        upscale: how many times as high and wide they are as the model made them.
    """
    prompts, fps = suite.prompts, rate_of(generator)
    side = spatial(generator.pipeline)
    block = side * upscale if side > 1 else None
    rendered = suite.real(*sampled.shape[1:4])
    if rendered is None:
        return {MODEL: Videos(sampled, prompts, fps, block=block)}
    real, mask = rendered
    size = (int(real.shape[1]), int(real.shape[2]), int(real.shape[3]))
    others = load_suite("world", len(prompts), seed + 1_000).real(*size)
    assert others is not None
    truths = suite.truths()
    model = Videos(sampled, prompts, fps, real, mask, others[0], truths, given, block=block)
    rows = {MODEL: model}
    if generator.vae is not None:
        rows[CEILING] = model.showing(through_vae(generator.vae, real))
    rows |= {REAL: model.showing(real), CHANCE: model.showing(real.roll(1, 0))}
    if text is not None:
        beside = {TEXT: text} | (given.copies() if given else {})
        return rows | {name: model.showing(video) for name, video in beside.items()}
    return rows | {
        STILL: model.showing(still_copy(real)),
        BLUR: model.showing(blurred_copy(real)),
    }


def kept_in(config: EvalConfig) -> Path:
    """Return the folder of sampled videos."""
    return Path(config.clips_kept or Path(config.output) / "clips")


@torch.no_grad()
def through_vae(vae: ModelMixin, videos: Tensor) -> Tensor:
    """Return `n t h w c` uint8 videos encoded and decoded by a VAE."""
    decoded, device = [], ready(vae)
    for chunk in videos.split(16):
        clips = pixels(chunk.to(device)).to(vae.dtype)
        latents = vae.encode(clips).latent_dist.mean
        video = (vae.decode(latents).sample.float().clamp(-1, 1) + 1) * 127.5
        decoded.append(rearrange(video, "b c t h w -> b t h w c").round().to("cpu", torch.uint8))
    return torch.cat(decoded)
