"""Features of the denoiser, and maps of where it looks for a word, of films that exist."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from einops import rearrange
from torch import Tensor

from t2v.errors import UserError
from t2v.models.diffusion import add_noise, objective_of
from t2v.models.taps import block_outputs, check_layers, looks_at_text

Frames = np.ndarray | Tensor


@torch.no_grad()
def features(
    pipeline: Any,
    video: Frames,
    layer: int | Sequence[int],
    time: float,
    prompt: str = "",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The hidden states of blocks for a film that is noised to `time`, `b d t h w`.

    As VD-IT (arXiv 2403.12042) takes them from a text-to-video model. One prediction of the
    transformer is made and thrown away; nothing of it is changed by being looked at.

    Args:
        video: frames `t h w c`, uint8 or in [0, 1]. They become `(t - 1) / stride + 1` latent
            frames, and these patches: `t h w` of the result.
        layer: number of a block, from 0, whose output it is; of several, `d` is their states one
            after the other.
        time: from 0, the film itself, to 1, noise alone.
        prompt: what the transformer is told of the film.
        generator: of the noise. None: the noise of seed 0.

    Raises:
        UserError: there is no such block or time; the model is not ours, or takes more than text.
    """
    layers = [layer] if isinstance(layer, int) else list(layer)
    check_layers(pipeline.transformer, layers)
    latents = latents_of(pipeline, video)
    text = _text(pipeline, prompt)
    transformer = network_at(pipeline, time)
    with block_outputs(transformer, layers) as found:
        _predict(pipeline, transformer, latents, text, time, generator)
    whole = torch.cat([found[each] for each in layers], dim=-1)
    return _on_grid(whole[:, : _count(pipeline, latents)], pipeline, latents)


@torch.no_grad()
def attention_maps(
    pipeline: Any,
    video: Frames,
    words: Sequence[str],
    prompt: str,
    layers: Sequence[int] | None = None,
    times: Sequence[float] = (0.3, 0.5, 0.7),
    generator: torch.Generator | None = None,
) -> Tensor:
    """Maps of how much each place of a film looks at words of its prompt, `w t h w`.

    The weights of cross-attention for the word's tokens, over their mean in the film, averaged over
    heads, `layers` and `times`: 1 is what every place looks in the mean (as in DAAM, arXiv
    2210.04885, along time).

    Args:
        video: as in `features`, as for `times` and `generator`.
        words: each stands in the prompt; where it stands more than once, all of them count.
        layers: numbers of blocks. None: all.

    Raises:
        UserError: see `features`; a word is not in the prompt.
    """
    if layers is None:
        layers = range(len(getattr(pipeline.transformer, "blocks", ())))
    check_layers(pipeline.transformer, layers)
    columns = [tokens_of(pipeline.tokenizer, prompt, word) for word in words]
    latents, text = latents_of(pipeline, video), _text(pipeline, prompt)
    maps = []
    for time in times:
        transformer = network_at(pipeline, time)
        with looks_at_text(transformer, layers) as found:
            _predict(pipeline, transformer, latents, text, time, generator)
        for each in found:
            looks = torch.stack([each[0, :, of].sum(-1) for of in columns])  # w n
            maps.append(looks / looks.mean(1, keepdim=True))
    mean = torch.stack(maps).mean(0)[:, : _count(pipeline, latents)]
    return _on_grid(mean.unsqueeze(-1), pipeline, latents)[:, 0]


def tokens_of(tokenizer: Any, prompt: str, word: str) -> list[int]:
    """The places of a word's tokens among those of the prompt.

    Raises:
        UserError: it is not there.
    """
    from t2v.io.prompt_words import clean_prompt  # as prompts are encoded

    text = clean_prompt(prompt)
    given = tokenizer(text, return_offsets_mapping=True, verbose=False)
    spans = _spans(text.lower(), clean_prompt(word).lower())
    places = [
        place
        for place, (start, end) in enumerate(given.offset_mapping)
        if any(start < last and end > first for first, last in spans) and end > start
    ]
    if not places:
        raise UserError(
            f"word {word!r}: it is not in the prompt {prompt[:80]!r}. Name one that is."
        )
    return places


def _spans(text: str, word: str) -> list[tuple[int, int]]:
    """The places of a whole word in a text."""
    import re

    found = re.finditer(rf"(?<!\w){re.escape(word)}(?!\w)", text) if word else ()
    return [each.span() for each in found]


def latents_of(pipeline: Any, video: Frames) -> Tensor:
    """Normalised latents `1 c t h w` of frames `t h w c`, uint8 or in [0, 1].

    Raises:
        UserError: the frames have another shape, or the transformer takes more than such latents.
    """
    frames = torch.as_tensor(video)
    if frames.ndim != 4 or frames.shape[-1] != 3:
        raise UserError(
            f"video of shape {tuple(frames.shape)}: give frames t h w c of three colours, uint8 or "
            "in [0, 1]."
        )
    frames = frames.float() / 255 if frames.dtype == torch.uint8 else frames.float()
    latents = pipeline.encode_frames(rearrange(frames, "t h w c -> t c h w"))
    taken = pipeline.transformer.config.in_channels
    if latents.shape[1] != taken:
        raise UserError(
            f"This transformer takes {taken} channels, and a film has {latents.shape[1]}: it is "
            "also told a picture or a mask. Take a model of text to video."
        )
    return latents


def _text(pipeline: Any, prompt: str) -> Tensor:
    text, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    return text.to(pipeline.transformer.dtype)


def network_at(pipeline: Any, time: float) -> Any:
    """The transformer that a pipeline takes at this time, the first or the second.

    Raises:
        UserError: there is no such time.
    """
    if not 0 <= time <= 1:
        raise UserError(f"time={time:g}: give one from 0 (the film) to 1 (noise).")
    second, ratio = pipeline.transformer_2, pipeline.config.boundary_ratio
    return (
        second
        if second is not None and ratio is not None and time < ratio
        else pipeline.transformer
    )


def _predict(
    pipeline: Any,
    transformer: Any,
    latents: Tensor,
    text: Tensor,
    time: float,
    generator: torch.Generator | None,
) -> None:
    noisy, timestep = noised(pipeline, latents, time, generator)
    transformer(noisy.to(transformer.dtype), timestep, text, return_dict=False)


def noised(
    pipeline: Any, latents: Tensor, time: float, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Latents of a film, `1 c t h w`, noised to `time`, and the timestep that tells so, `1`."""
    generator = generator or torch.Generator().manual_seed(0)
    noise = torch.randn(latents.shape, generator=generator, device=generator.device).to(latents)
    at = torch.full((1,), time, device=latents.device)
    objective, _ = objective_of(pipeline.scheduler)
    sample = add_noise(objective, latents, noise, at)
    return sample.latents, sample.timestep


def _count(pipeline: Any, latents: Tensor) -> int:
    sizes = zip(latents.shape[2:], pipeline.transformer.config.patch_size, strict=True)
    return int(np.prod([size // step for size, step in sizes]))


def _on_grid(x: Tensor, pipeline: Any, latents: Tensor) -> Tensor:
    """Tokens `b n d` as `b d t h w`."""
    _, h, w = (
        size // step
        for size, step in zip(
            latents.shape[2:], pipeline.transformer.config.patch_size, strict=True
        )
    )
    return rearrange(x, "b (t h w) d -> b d t h w", h=h, w=w)
