"""The generator protocol: all that the commands need of a model that makes videos of prompts."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import parent_process
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from diffusers import DiffusionPipeline, ModelMixin
from torch import Tensor

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.pipelines.visuals import VisualInputs

if TYPE_CHECKING:  # few videos have one
    from t2v.io.sound import Sound

Ability = Literal["gives_latents", "can_resume", "is_trainable", "vae"]
LACKS: dict[Ability, str] = {
    "gives_latents": "does not give latents",
    "can_resume": "cannot go on from the middle of a video",
    "is_trainable": "does not have the parts that t2v trains",
    "vae": "does not have a VAE that encodes clips",
}
FLOAT_FRAMES = 4  # that are rounded at a time: five copies of them, each four times as large


@dataclass(frozen=True, kw_only=True)
class Request:
    """The video that is asked for; None: a setting that the pipeline does not have."""

    height: int | None
    width: int | None
    num_frames: int | None
    fps: float | None  # of the file; also told to models that take it
    num_inference_steps: int | None
    guidance_scale: float | None
    negative_prompt: str = ""
    truncate: bool = False  # cut a longer prompt off instead of refusing it
    upscale: int = 1  # times as high and wide as it is made, by the pipeline's upscaler
    strength: float | None = None  # how far an edit may go from its clip, in (0, 1]
    image_guidance_scale: float = 1.0  # weight of what is given to see; 1: no guidance of its own
    cache: str = "none"  # work that steps reuse, see `t2v.config.caching`; it changes the video
    cache_ratios: tuple[float, ...] = ()  # of cache=mag
    guidance_interval: tuple[float, ...] = ()  # shares of the steps with guidance; empty: all
    token_merging: float = 0.0  # share of the tokens that middle blocks do without
    motion: tuple[float, ...] = ()  # of a model's pictures, pixels right and down a frame; or none
    prompting: PromptingConfig = field(default_factory=PromptingConfig)  # how prompts are read


@dataclass(frozen=True, eq=False)
class Start:
    """Latents of a video that have `step` steps behind them, and what else the next one needs."""

    latents: Tensor
    step: int
    state: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Step:
    """One finished step of a generation.

    Args:
        number: how many steps the latents have behind them.
        latents: after the step.
        before: the latents before it, where they are known.
        times: the time before the step and after it, where it followed a straight line.
        state: what the next step needs beside the latents, for `Start`.
    """

    number: int
    latents: Tensor
    before: Tensor | None = None
    times: tuple[float, float] | None = None
    state: dict[str, Tensor] = field(default_factory=dict)

    def heading(self) -> Tensor:
        """The latents that the step was heading for: its straight line, followed to time 0."""
        if self.before is None or self.times is None:
            return self.latents
        last, now = self.times
        return self.latents - now * (self.latents - self.before) / (now - last)


Watcher = Callable[[Step], None]


class Generator(Protocol):
    """A model that makes videos of prompts. To add one: its class, and a line in `GENERATORS`.

    Args:
        pipeline_class: reads the folder of a saved one.
        is_trainable: the pipeline is a `T2VPipeline`, whose parts `t2v finetune` trains and `t2v
            plan` counts.
    """

    pipeline_class: ClassVar[type[DiffusionPipeline]]
    is_trainable: ClassVar[bool]

    def __init__(self, pipeline: Any) -> None: ...

    @property
    def pipeline(self) -> DiffusionPipeline:
        """The pipeline of diffusers' kind behind it: its parts, device and number format."""

    @property
    def defaults(self) -> Request:
        """The video it makes when nothing else is asked for."""

    @property
    def takes(self) -> frozenset[str]:
        """The names of `VisualInputs` it can be given to see, and `strength` where it edits."""

    @property
    def gives_latents(self) -> bool:
        """True if `generate` gives latents, which can be kept, previewed and compared before they
        are decoded; else it gives finished frames."""

    @property
    def can_resume(self) -> bool:
        """True if `generate` takes a start in the middle of a video."""

    @property
    def vae(self) -> ModelMixin | None:
        """The VAE that encodes clips to latents and decodes them, as ours do."""

    @property
    def sound(self) -> Sound | None:
        """The sound of the video that `generate` last gave; None: it is silent."""

    def check(self, prompt: str, request: Request, visuals: VisualInputs | None = None) -> None:
        """Raise `UserError` for what cannot work, before any time is spent on it."""

    def encode(
        self,
        prompts: Sequence[str],
        request: Request,
        visuals: Sequence[VisualInputs | None] = (),
    ) -> Any:
        """The prompts, and what each video is given to see, in the form that `generate` takes.

        Args:
            visuals: one for each prompt; empty: of none.
        """

    def latent_shape(self, request: Request) -> tuple[int, ...]:
        """The shape of what `generate` gives for one prompt."""

    def generate(
        self,
        conditions: Any,
        request: Request,
        seeds: Sequence[int],
        watch: Watcher | None = None,
        start: Start | None = None,
    ) -> Tensor:
        """The latents, or frames, of one video a seed; the first axis is the video.

        Args:
            conditions: what `encode` gave.
            watch: called after every step, with the latents of all videos.
            start: where one video goes on, if `can_resume`.

        Raises:
            UserError: the model gave NaN or infinite numbers.
        """

    def decode(self, latents: Tensor, num_frames: int | None, upscale: int = 1) -> np.ndarray:
        """Videos `b t h w c` uint8 of what `generate` gave, `num_frames` of each, enlarged.

        Raises:
            UserError: a frame holds NaN or infinite numbers.
        """

    def decode_pieces(
        self, latents: Tensor, num_frames: int | None, upscale: int = 1
    ) -> Iterator[np.ndarray]:
        """Yield the video of `decode`, of the latents of one, as pieces `t h w c` that follow one
        another: where the VAE can, a few frames at a time.

        Raises:
            UserError: a frame holds NaN or infinite numbers.
        """


def sample_videos(
    generator: Generator,
    prompts: Sequence[str],
    seeds: Sequence[int],
    request: Request,
    *,
    visuals: Sequence[VisualInputs | None] = (),
    batch_size: int = 1,
    doing: str = "sample",
    watch: Watcher | None = None,
    start: Start | None = None,
    seconds: dict[str, float] | None = None,
) -> Iterator[Tensor]:
    """Yield what `generator.generate` gives for the prompts, batch by batch.

    Progress is shown video by video; with `watch`, which is for a single one, step by step.

    Args:
        seeds: of each video; it alone decides the noise, whatever else is in its batch.
        visuals: what each video is given to see; empty: nothing.
        doing: the name of the work in the progress.
        start: where a single video goes on.
        seconds: takes the times of `text` and `denoise`.
    """
    assert len(prompts) == len(seeds) and len(visuals) in (0, len(prompts))
    assert watch is None or len(prompts) == 1
    seconds = {} if seconds is None else seconds
    # the bars of several workers would be mixed on one terminal
    has_bar = watch is not None and sys.stderr.isatty() and parent_process() is None
    generator.pipeline.set_progress_bar_config(desc="denoising", disable=not has_bar)
    for first, count in _batches(len(prompts), batch_size, "" if watch else doing):
        chosen = slice(first, first + count)
        with clock(seconds, "text"):
            conditions = generator.encode(prompts[chosen], request, visuals[chosen])
        with clock(seconds, "denoise"):
            latents = generator.generate(conditions, request, seeds[chosen], watch, start)
        yield latents


def _batches(total: int, size: int, doing: str) -> Iterator[tuple[int, int]]:
    """Yield the first index and the size of each batch; with a name of the work also progress."""
    batches = [(first, min(size, total - first)) for first in range(0, total, size)]
    if not doing:
        yield from batches
        return
    from t2v.io.progress import Progress  # a single video shows its own steps

    with Progress(total, doing, "videos") as bar:
        for first, count in batches:
            yield first, count
            bar.update(count)


@contextmanager
def clock(seconds: dict[str, float], name: str) -> Iterator[None]:
    """Add the time that the block takes to `seconds`."""
    started = time.perf_counter()
    yield
    seconds[name] = seconds.get(name, 0.0) + time.perf_counter() - started


def timed(
    pieces: Iterator[np.ndarray], seconds: dict[str, float], name: str, within: str
) -> Iterator[np.ndarray]:
    """Yield pieces; the time that they take is that of `name`, not of `within`, which waits."""
    while True:
        started = time.perf_counter()
        piece = next(pieces, None)
        took = time.perf_counter() - started
        seconds[name] = seconds.get(name, 0.0) + took
        seconds[within] = seconds.get(within, 0.0) - took
        if piece is None:
            return
        yield piece


def require(generator: Generator, ability: Ability, what: str, command: str) -> None:
    """Raise `UserError` where a generator lacks what a command cannot do without.

    Args:
        what: the setting and its value; begins the message.
        command: what needs the ability.
    """
    if not getattr(generator, ability):
        raise lacking(type(generator.pipeline).__name__, ability, what, command)


def lacking(name: str, ability: Ability, what: str, command: str) -> UserError:
    """The error for `require`, of a pipeline class by its name."""
    return UserError(
        f"{what}: a {name} {LACKS[ability]}, which {command} needs. Name a T2VPipeline folder; "
        "`t2v convert SRC DST` makes one of a Wan pipeline."
    )


def rate_of(generator: Generator) -> float:
    """The frames per second of a generator's videos.

    Raises:
        UserError: it does not say.
    """
    if generator.defaults.fps is None:
        raise UserError(
            f"A {type(generator.pipeline).__name__} does not say how many frames a second its "
            "videos have, and t2v does not know its family. `t2v sample` takes it with fps=."
        )
    return float(generator.defaults.fps)


def as_frames(pipeline: Any, video: Tensor) -> np.ndarray:
    """One video `1 c t h w` in [-1, 1] as frames `t h w c` uint8, a few of which are floats at a
    time."""
    rounded = []
    for some in video.split(FLOAT_FRAMES, dim=2):
        floats = pipeline.video_processor.postprocess_video(some, output_type="np")[0]
        rounded.append(to_uint8(floats))
    return np.concatenate(rounded)


def to_uint8(frames: np.ndarray) -> np.ndarray:
    """Return frames in [0, 1] as the nearest of 256 levels."""
    return (frames * 255).round().astype(np.uint8)
