"""The settings of evaluation."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from string import ascii_uppercase
from typing import ClassVar, Literal

from t2v.config.caching import check_acceleration
from t2v.config.checks import at_least_one, check_workers, kinds_of
from t2v.config.data import ClipsConfig
from t2v.config.retired import Retired
from t2v.config.story import WindowsConfig
from t2v.errors import UserError

# both were one command once, whose files hold the settings of both
FOOTAGE = "It goes with real clips: use `t2v eval footage`."
PROMPTS = "It goes with suites of prompts: use `t2v eval`."


@dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """`t2v eval`: measure a pipeline on suites of prompts."""

    RETIRED: ClassVar[dict[str, Retired]] = {
        "data": Retired(FOOTAGE, neutral=(None,)),
        "held_out": Retired(FOOTAGE, neutral=(4,)),
        "draws": Retired(FOOTAGE, neutral=(8,)),
    } | {f"clips.{name}": Retired(FOOTAGE, (each,)) for name, each in asdict(ClipsConfig()).items()}

    ONE_OR_MORE: ClassVar[tuple[str, ...]] = ("versus",)

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    output: str  # folder of tables, page and sampled videos
    overwrite: bool = False  # replace files in the output that are not this command's own
    # world (sampled scenes), attribute, motion, ... (in t2v/evaluation/suites), or a prompt file;
    # with a part of each clip given: first (frame), ends, continue, between, interpolate, region,
    # edit; via_image: with a picture that the model made of the prompt; story: films of five scenes
    suites: tuple[str, ...] = ("world",)
    count: int = 512  # prompts of each suite, at most
    # tables to make: world, given, story, events, alignment, caption back, dynamics, fidelity,
    # teacher, variety, reconstruction; empty: all that the suite and the networks allow
    metrics: tuple[str, ...] = ()
    oracle: str | None = None  # folder of `t2v world oracle`, which reads attributes of scenes
    # network of perceptual distance: vae (the model's own) or an image model of transformers
    perceptual: str | None = "vae"
    # network of distances between sets, a video or image model of transformers; null: the oracle
    features: str | None = None
    clip: str | None = None  # text-video alignment: a CLIP, SigLIP or X-CLIP of transformers
    # text-video alignment and the events of stories: a folder of `t2v scorer`
    scorer: str | None = None
    captioner: str | None = None  # image- or video-to-text model of transformers, for captions back
    # text encoder that compares captions with prompts, of transformers or of a pipeline (t2v-tiny);
    # null: by the words they share
    sentences: str | None = None
    # training clips, to find copies of them: a manifest, a folder of videos or of `t2v world`
    training: str | None = None
    # model whose videos of the same prompts from the same noise stand beside these (a folder or a
    # Hub id): what a student or a faster setting is to be like; with its own steps and guidance
    teacher: str | None = None
    seeds: int = 1  # videos of each prompt, 4 for example: more than 1 show how they vary
    # other settings to make the same evaluation with and to compare it with, a text as on the
    # command line or a list of texts: ["num_inference_steps=4 guidance_scale=1", "quantize=int8"]
    versus: tuple[str, ...] = ()
    clips_kept: str | None = None  # folder that keeps sampled videos; null: `clips` in the output
    page_videos: int = 60  # videos of each suite on the page, the worst first
    seed: int = 0  # of the first prompt; prompt i takes seed + i
    num_frames: int | None = None  # frames of a video; null: the model's own
    height: int | None = None  # pixels; null: the model's own
    width: int | None = None  # pixels; null: the model's own
    num_inference_steps: int | None = None  # denoising steps; null: the model's own
    guidance_scale: float | None = None  # weight of the prompt, 1: no guidance; null: the model's
    # what is left out, as in `t2v sample`; `t2v eval compare` shows what it costs
    cache: str = "none"
    cache_ratios: tuple[float, ...] = ()  # of cache=mag
    guidance_interval: tuple[float, ...] = ()  # shares of the steps with guidance; empty: all
    strength: float = 0.6  # of suite edit: how far from the clip, from 0 to 1 (a new video)
    windows: WindowsConfig = field(default_factory=WindowsConfig)  # of suite story: how they join
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights
    # number format of linear layers, as in `t2v sample`; `t2v eval compare` shows what it costs
    quantize: str = "none"
    # where weights wait until they are used, as in `t2v sample`: none, group (of a block) or leaf
    # (of a layer), in main memory beside a GPU, else on the disk
    offload: Literal["none", "group", "leaf"] = "none"
    token_merging: float = 0.0  # share of tokens that middle blocks merge, as in `t2v sample`
    batch_size: int = 16  # videos sampled at once
    engine: Literal["local", "ray"] = "local"  # processes of this machine, or a Ray cluster
    # processes that each hold the model and sample a batch at a time; null: this one
    # alone, on Ray as many as there is room for
    workers: int | None = None
    # 1: the videos as they are decoded; more: enlarged by the model's upscaler, and beside them
    # the real clips rendered at that size
    upscale: int = 1

    def __post_init__(self) -> None:
        kinds_of(self.quantize)
        check_workers(self)
        at_least_one(self, "count", "batch_size", "page_videos", "seeds")
        if not 0 < self.strength <= 1:
            raise UserError(f"strength={self.strength}: it must be more than 0 and at most 1.")
        check_acceleration(self)
        if "story" in self.suites and (self.cache != "none" or self.guidance_interval):
            raise UserError(
                f"suites={list(self.suites)} cache={self.cache} guidance_interval="
                f"{list(self.guidance_interval)}: films of scenes are made exactly. Leave story "
                "out, or the others."
            )
        if self.sentences is not None and self.captioner is None:
            raise UserError(
                f"sentences={self.sentences}: compares captions with prompts. Give captioner=MODEL."
            )
        if "teacher" in self.metrics and self.teacher is None:
            raise UserError(
                "metrics=[teacher]: compares with the videos of another model. Give teacher=MODEL."
            )
        if "variety" in self.metrics and self.seeds == 1:
            raise UserError(
                "metrics=[variety] seeds=1: compares videos of one prompt. Give seeds=4, or more."
            )
        if self.seeds > 1 and self.metrics and "variety" not in self.metrics:
            raise UserError(
                f"seeds={self.seeds}: the others are for variety alone. Add variety to metrics, or "
                "leave seeds out."
            )
        if not self.suites:
            raise UserError("suites=[]: name at least one, for example suites=[world].")


@dataclass(frozen=True, kw_only=True)
class FootageEvalConfig:
    """`t2v eval footage`: sample the captions of real clips and find the nearest clip of each."""

    model: str = "t2v-tiny"  # the embedded model, a pipeline folder or a Hub id
    output: str  # folder of the table and a contact sheet
    overwrite: bool = False  # replace files in the output that are not this command's own
    data: str  # manifest of captioned clips, or a folder of media
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    held_out: int = 4  # clips whose captions are sampled: the last ones, or those of their split
    draws: int = 8  # videos of each caption
    seed: int = 0  # of the first video; video i takes seed + i
    device: str = "auto"  # auto (cuda, mps or cpu), cpu, cuda, cuda:1, mps
    dtype: Literal["auto", "fp32", "bf16", "fp16"] = "auto"  # of the weights

    FORMERLY: ClassVar[tuple[str, ...]] = ("EvalConfig",)
    RETIRED: ClassVar[dict[str, Retired]] = {
        each.name: Retired(PROMPTS, neutral=(each.default,))
        for each in fields(EvalConfig)
        if each.name not in {"model", "output", "overwrite", "seed", "device", "dtype", "windows"}
    } | {
        f"windows.{name}": Retired(PROMPTS, (each,))
        for name, each in asdict(WindowsConfig()).items()
    }

    def __post_init__(self) -> None:
        at_least_one(self, "held_out", "draws")


@dataclass(frozen=True, kw_only=True)
class CompareConfig:
    """`t2v eval compare A B ...`: compare evaluations with the first, prompt by prompt."""

    runs: tuple[str, ...]  # folders written by `t2v eval`, at least two
    output: str  # folder of tables and page
    overwrite: bool = False  # replace files in the output that are not this command's own
    page_videos: int = 60  # videos of each suite on the page, the worst first
    seed: int = 0  # of the resampling, and of left and right on the page for votes

    def __post_init__(self) -> None:
        at_least_one(self, "page_videos")
        if not 2 <= len(self.runs) <= len(ascii_uppercase):
            raise UserError(
                f"runs={list(self.runs)}: name 2 to {len(ascii_uppercase)} folders of `t2v eval`."
            )


@dataclass(frozen=True, kw_only=True)
class VotesConfig:
    """`t2v eval votes VOTES ...`: count the votes that people gave on the page of a comparison."""

    votes: tuple[str, ...]  # files that the page saved or `t2v studio` kept (.jsonl), one a voter
    compared: str  # folder written by `t2v eval compare`, whose vote.html was voted on

    def __post_init__(self) -> None:
        if not self.votes:
            raise UserError("votes=[]: name at least one file that vote.html saved.")
