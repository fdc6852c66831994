"""The commands of `t2v`: their settings, what runs them, and a line of help for each."""

from __future__ import annotations

import gc
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from t2v.io.addresses import is_used


@dataclass(frozen=True)
class Command:
    """A row of `COMMANDS`.

    Settings and function are named as `module:name` and imported when the command runs, so that
    one command loads the modules of that command alone.

    Args:
        settings: the dataclass of its settings.
        run: the function that takes them; what it returns is printed.
        help: one line, as `t2v --help` shows it.
        positional: settings that may be given by position; a list takes all that follow.
        options: settings that may also be given as `--name`.
        whole_line: the function takes the parsed command line and the overrides instead, and
            prints by itself.
    """

    settings: str
    run: str
    help: str
    positional: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    whole_line: bool = False

    @property
    def schema(self) -> type:
        """The dataclass of the settings."""
        schema: type = imported(self.settings)
        return schema


def imported(place: str) -> Any:
    """Return what `module:name` stands for."""
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def brought(config: Any, **how: Any) -> AbstractContextManager[None]:
    """Have what settings name at addresses at hand, see `t2v.config.places.brought`."""
    if not is_used():
        return nullcontext()
    from t2v.config import places  # few runs know an address

    return places.brought(config, **how)


def collect_garbage() -> None:
    """Collect garbage from now on, where the program does not yet, but not of what is imported."""
    if not gc.isenabled():
        gc.freeze()
        gc.enable()


COMMANDS = {
    "sample": Command(
        "t2v.config.sampling:SampleConfig",
        "t2v.cli.sample:sample",
        "make videos from prompts",
        whole_line=True,
    ),
    "queue": Command(
        "t2v.config.sampling:SampleConfig",
        "t2v.cli.queue:queue",
        "add videos to a queue, list, change and cancel them",
        whole_line=True,
    ),
    "queue run": Command(
        "t2v.config.queue:QueueRunConfig",
        "t2v.cli.worker:run",
        "make the videos of a queue, one after the other",
        ("queue",),
    ),
    "serve": Command(
        "t2v.config.serve:ServeConfig",
        "t2v.cli.worker:serve",
        "answer OpenAI's requests for videos over a queue, and make them",
        ("queue",),
    ),
    "studio": Command(
        "t2v.config.serve:StudioConfig",
        "t2v.cli.worker:studio",
        "open a page in the browser to make and look at videos",
        ("queue",),
    ),
    "upscale": Command(
        "t2v.config.upscale:UpscaleConfig",
        "t2v.sampling.upscale:upscale",
        "enlarge a video or picture 2 or 4 times",
        ("input",),
    ),
    "world": Command(
        "t2v.config.world:WorldClipsConfig",
        "t2v.world.run:render_world",
        "render captioned clips of a synthetic world",
    ),
    "world text": Command(
        "t2v.config.world:WorldTextConfig",
        "t2v.world.text:train_text",
        "train the world's tokenizer and text encoder",
    ),
    "world oracle": Command(
        "t2v.config.world:WorldOracleConfig",
        "t2v.world.oracle_training:train_oracle",
        "train the classifier that reads the world's clips",
    ),
    "train-vae": Command(
        "t2v.config.training:TrainVAEConfig",
        "t2v.training.tasks.vae:train_vae",
        "train the video VAE",
    ),
    "train": Command(
        "t2v.config.training:TrainDiTConfig",
        "t2v.training.tasks.dit:train_dit",
        "train the transformer; writes a pipeline folder",
    ),
    "train-text": Command(
        "t2v.config.text:TrainTextConfig",
        "t2v.training.tasks.text:train_text",
        "train a text encoder on captions alone",
    ),
    "train-upscaler": Command(
        "t2v.config.training:TrainUpscalerConfig",
        "t2v.training.tasks.upscaler:train_upscaler",
        "train the upscaler, for super-resolution",
    ),
    "finetune": Command(
        "t2v.config.finetune:FinetuneConfig",
        "t2v.training.tasks.family:finetune_any",
        "fine-tune a saved pipeline on new footage",
    ),
    "distill": Command(
        "t2v.config.distill:DistillConfig",
        "t2v.training.tasks.distill:distill",
        "train a student that needs few steps and no guidance; writes a pipeline folder",
    ),
    "encode": Command(
        "t2v.config.data:EncodeConfig",
        "t2v.data.encode:encode",
        "encode clips to cached latents, with a report",
        ("data",),
        ("engine",),
    ),
    "convert": Command(
        "t2v.config.upscale:ConvertConfig",
        "t2v.models.convert:convert",
        "convert a Wan pipeline folder to this package, or the names in a LoRA file",
        ("src", "dst"),
    ),
    "push": Command(
        "t2v.config.push:PushConfig",
        "t2v.pipelines.push:push",
        "put a pipeline folder on the Hugging Face Hub, with a card and sample videos",
        ("folder", "repo"),
    ),
    "eval": Command(
        "t2v.config.evaluation:EvalConfig",
        "t2v.evaluation.run:evaluate",
        "evaluate a pipeline on suites of prompts",
        ("model",),
        ("engine",),
    ),
    "eval footage": Command(
        "t2v.config.evaluation:FootageEvalConfig",
        "t2v.evaluation.retrieval:evaluate",
        "find the real clip nearest to each video sampled from a caption",
        ("model",),
    ),
    "eval compare": Command(
        "t2v.config.evaluation:CompareConfig",
        "t2v.evaluation.compare:compare",
        "compare evaluations prompt by prompt",
        ("runs",),
    ),
    "eval probe": Command(
        "t2v.config.features:ProbeConfig",
        "t2v.evaluation.probe:probe",
        "find things in clips by a linear head on features of the denoiser",
        ("model",),
    ),
    "eval words": Command(
        "t2v.config.features:WordsConfig",
        "t2v.evaluation.words:show_words",
        "tell which word of its prompt moves which region of a film",
        ("video",),
    ),
    "eval language": Command(
        "t2v.config.language:LanguageConfig",
        "t2v.evaluation.language:examine",
        "test which captions of clips a scorer tells from wrong ones",
        ("data",),
    ),
    "eval votes": Command(
        "t2v.config.evaluation:VotesConfig",
        "t2v.evaluation.votes:count_votes",
        "count the votes that people gave on the page of a comparison",
        ("votes",),
    ),
    "calibrate": Command(
        "t2v.config.calibrate:CalibrateConfig",
        "t2v.evaluation.calibrate:calibrate",
        "measure what a model's videos may leave out, for max_error= of t2v sample",
        ("model",),
    ),
    "scorer": Command(
        "t2v.config.scorer:ScorerConfig",
        "t2v.training.tasks.scorer:train_scorer",
        "train a CLIP-style video-text scorer",
    ),
    "train-captioner": Command(
        "t2v.config.captioner:CaptionerConfig",
        "t2v.training.tasks.captioner:train_captioner",
        "train a model that describes videos, for captions and for eval",
    ),
    "plan": Command(
        "t2v.config.plan:PlanConfig",
        "t2v.cli.plan:plan",
        "estimate memory, time and disk of a command before running it",
        ("command",),
        whole_line=True,
    ),
    "curate": Command(
        "t2v.config.curation:CurateConfig",
        "t2v.curation.run:curate",
        "turn footage into a manifest of clean, captioned clips",
        ("input",),
        ("engine",),
    ),
    "trace": Command(
        "t2v.config.trace:TraceConfig",
        "t2v.curation.trace:trace",
        "find the clips of a collection that a film shows, or that two collections share",
        ("video", "collection"),
        ("engine",),
    ),
    "bench": Command(
        "t2v.config.bench:BenchConfig",
        "t2v.bench.pipeline:bench",
        "measure time, memory and utilisation of every stage of a pipeline",
    ),
    "bench peers": Command(
        "t2v.config.bench:BenchPeersConfig",
        "t2v.bench.peers:bench",
        "measure our networks beside diffusers' Wan classes on the same weights",
    ),
    "bench attention": Command(
        "t2v.config.bench:BenchAttentionConfig",
        "t2v.bench.attention:bench",
        "measure the layouts of attention over the number of tokens",
    ),
    "bench curate": Command(
        "t2v.config.bench:BenchCurateConfig",
        "t2v.bench.curation:bench",
        "measure the speed of curation beside decoding alone",
        ("footage",),
    ),
}
