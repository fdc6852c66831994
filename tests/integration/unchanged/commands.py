"""Commands at tiny sizes, one after the other in one folder, and what each gives."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from safetensors.torch import load_file
from threadpoolctl import threadpool_limits
from torch.nn import functional as F
from unchanged.compare import HERE, picture, told

from t2v import T2VPipeline
from t2v.cli import main

ASSETS = Path(__file__).parents[3] / "assets"
TINY, ORACLE, SCORER = (str(ASSETS / n) for n in ("t2v-tiny", "world-oracle", "world-scorer"))

VAE_SETTINGS = (
    "model.latent_channels=8", "model.patch_size=[2,4,4]", "model.block_out_channels=[16,32]",
    "model.temporal_downsample=[true]", "model.spatial_downsample=[true]",
)  # fmt: skip
DIT_SETTINGS = (
    "model.num_attention_heads=2", "model.attention_head_dim=16", "model.in_channels=8",
    "model.out_channels=8", "model.freq_dim=32", "model.ffn_dim=64", "model.num_layers=2",
    "num_inference_steps=2", "prompts=[a red ball bounces on grass, a blue cube]",
    "optim.lr=1e-2", "optim.adam_lr=1e-2", "optim.warmup_steps=2",
)  # fmt: skip
TRAINING = (
    "device=cpu", "precision=fp32", "batch_size=4", "held_out=4", "validate_every=5",
    "save_every=5",
)  # fmt: skip
FOOTAGE = (
    "clips.fps=8", "clips.resolution=32", "clips.num_frames=9", "clips.aspects=[3:2, 1:1]",
    "clips.workers=1",
)  # fmt: skip
ENCODED = ("clips.aspects=[1:1]", "clips.max_upscale=2", "clips.workers=1")
PLAN = ("tflops=100", "bandwidth=1000", "memory=1")


def command(*words: str) -> str:
    """Run a command; gives what it printed."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(words))
    assert code == 0, f"{' '.join(words)}\n{err.getvalue()}"
    return out.getvalue()


def world() -> dict[str, Any]:
    """Rendered clips."""
    command(
        "world", "output=clips", "count=20", "workers=1", "num_frames=9", "height=32", "width=32"
    )
    return {"rows": rows("clips/manifest.jsonl"), "tensors": tensors("clips")}


def text() -> dict[str, Any]:
    """A tokenizer and a text encoder from captions."""
    command("world", "text", "output=text", "count=100", "steps=3", "batch_size=8")
    words = Path("text/tokenizer/tokenizer.json").read_bytes()
    return {"tokenizer": hashlib.sha256(words).hexdigest(), "tensors": tensors("text")}


def oracle() -> dict[str, Any]:
    """The judge of the world."""
    need("world")
    command("world", "oracle", "data=clips", "output=oracle", "steps=3", "batch_size=4")
    return {"tensors": tensors("oracle")}


def train_vae() -> dict[str, Any]:
    """Five steps of an autoencoder, of videos and images."""
    need("world")
    words = ("data=clips", "output=vae", "steps=5", "image_ratio=0.4", *VAE_SETTINGS, *TRAINING)
    command("train-vae", *words)
    return training("vae", 5, "vae")


def train_vae_adversary() -> dict[str, Any]:
    """Its decoder alone, against a discriminator and with a net of features."""
    need("train-vae")
    words = ("data=clips", "output=vae-2", "start_from=vae", "train_encoder=false", "steps=5")
    words += ("discriminator.weight=0.1", "discriminator.alone=1", "discriminator.start=1")
    command("train-vae", *words, f"perceptual={ORACLE}", *VAE_SETTINGS, *TRAINING)
    return training("vae-2", 5, "vae")


def train() -> dict[str, Any]:
    """Ten steps of a transformer and its text encoder on the latents of rendered clips."""
    need("train-vae")
    words = ("data=clips", "vae=vae", f"text={TINY}", "output=dit", "steps=10", "text_lr=1e-3")
    command("train", *words, "caption_dropout=0.3", *DIT_SETTINGS, *TRAINING)
    return training("dit", 10, "transformer", "text_encoder")


def train_half() -> dict[str, Any]:
    """Three steps in bfloat16, as a training does unless told otherwise, from other weights."""
    need("train")
    words = ("data=clips", "vae=vae", f"text={TINY}", "output=dit-half", "steps=3")
    words += ("start_from=dit/checkpoint-000010", *DIT_SETTINGS, *TRAINING, "precision=bf16")
    command("train", *words)
    return training("dit-half", 3, "transformer", "text_encoder")


def train_velocity() -> dict[str, Any]:
    """Another objective and layout in float32, in two batches a step, with cached captions."""
    need("train-vae")
    words = ("data=clips", "vae=vae", f"text={TINY}", "output=dit-v", "steps=5", "objective=v")
    words += ("model.attention=factorized", "train_text_encoder=false")
    words += ("accumulate=2", "gradient_checkpointing=true", "clips.image_ratio=0.4")
    command("train", *words, *DIT_SETTINGS, *TRAINING)
    return training("dit-v", 5, "transformer")


def train_footage() -> dict[str, Any]:
    """A transformer on films, through two stages."""
    need("train-vae")
    words = ("data=films.jsonl", "vae=vae", f"text={TINY}", "output=dit-films", "steps=6")
    words += ("clips.stages=[{num_frames: 5}, {from_step: 3, image_ratio: 0.5}]",)
    words += ("clips.cache=latents", *FOOTAGE)
    command("train", *words, *DIT_SETTINGS, *TRAINING, "batch_size=2", "held_out=2")
    return training("dit-films", 6, "transformer", "text_encoder") | {"cached": tensors("latents")}


def train_vae_footage() -> dict[str, Any]:
    """An autoencoder on films."""
    words = ("data=films.jsonl", "output=vae-films", "steps=4", "image_ratio=0.4", *FOOTAGE)
    command("train-vae", *words, "clips.cache=frames", *VAE_SETTINGS, *TRAINING, "held_out=2")
    return training("vae-films", 4, "vae") | {"cached": tensors("frames")}


def finetune() -> dict[str, Any]:
    """Ten steps of a LoRA, with the base model's own videos among them."""
    need("train")
    Path("base.txt").write_text("a red ball\na blue cube\na green ring\n")
    words = ("model=dit/checkpoint-000010", "data=clips", "output=lora", "steps=10", "lora.rank=2")
    words += ("optim.adam_lr=1e-2", "base_prompts=base.txt", "base_ratio=0.3", "save=full")
    command("finetune", *words, *TRAINING)
    return training("lora", 10, "transformer")


def finetune_full() -> dict[str, Any]:
    """Transformer and text encoder, saved half way from the base, with another shift."""
    need("train")
    words = ("model=dit/checkpoint-000010", "data=clips", "output=full", "steps=5", "method=full")
    words += ("train_text_encoder=true", "interpolate=0.5", "shift=1.5", "optim.adam_lr=1e-2")
    command("finetune", *words, *TRAINING)
    return training("full", 5, "transformer", "text_encoder")


def finetune_words() -> dict[str, Any]:
    """A soft prompt."""
    need("train")
    words = ("model=dit/checkpoint-000010", "data=clips", "output=soft", "steps=5")
    words += ("method=soft_prompt", "soft_prompt=a red ball", "text_lr=0.05", "save=full")
    command("finetune", *words, *TRAINING)
    return training("soft", 5, "text_encoder")


def finetune_footage() -> dict[str, Any]:
    """The embedded model on films that are encoded already, at the sizes it was saved with."""
    need("encode")
    words = ("data=films.jsonl", "output=films", "steps=3", "lora.rank=2", "optim.adam_lr=1e-2")
    words += ("clips.cache=encoded/latents", *ENCODED, "attention=_native_math", *TRAINING)
    command("finetune", *words, "batch_size=2", "held_out=2")
    return training("films", 3)


def scorer() -> dict[str, Any]:
    """A scorer of videos and texts, and its test."""
    need("world")
    words = ("data=clips", "output=scorer", "steps=3", "model.channels=8", "model.width=32")
    words += ("model.heads=2", "model.layers=1", "model.dim=16", "masked=0.5")
    command("scorer", *words, *TRAINING)
    report = json.loads(Path("scorer/report.json").read_text())
    return training("scorer", 3, "towers", "text_encoder") | {"report": report}


def encode() -> dict[str, Any]:
    """Films to latents and embeddings."""
    command("encode", "footage", f"model={TINY}", "output=encoded", "device=cpu", *ENCODED)
    report = json.loads(Path("encoded/report.json").read_text())
    report = {name: each for name, each in report.items() if "second" not in name}
    return {"report": report, "rows": rows("encoded/manifest.jsonl"), "tensors": tensors("encoded")}


def sample() -> dict[str, Any]:
    """The embedded model: two prompts, two videos of each."""
    words = ("sample", "a red ball bounces on grass", "a blue cube spins on sand", "-o", "a.mp4")
    words += ("--steps", "3", "--guidance", "3", "--num-videos", "2", "--negative-prompt", "a star")
    command(*words, "--seed", "7", "--sheet", "--device", "cpu")
    return {"sheet": picture("a.sheet.png"), "recipes": [recipe(n) for n in ("a", "a-1", "a-3")]}


def sample_best() -> dict[str, Any]:
    """The best of three as a scorer has it, at another size."""
    words = ("sample", "a red ball bounces on grass", "-o", "b.mp4", "--steps", "2", "--best-of")
    words += ("3", "--frames", "9", "--height", "32", "--width", "48", "--fps", "6")
    command(*words, f"scorer={SCORER}", "--sheet", "--device", "cpu")
    return {"sheet": picture("b.sheet.png"), "recipe": recipe("b")}


def sample_lora() -> dict[str, Any]:
    """A model under a LoRA of half its strength."""
    need("finetune")
    words = ("sample", "a red ball", "--model", "dit/checkpoint-000010", "-o", "c.mp4", "--sheet")
    command(*words, "lora=lora/checkpoint-000010", "lora_scale=0.5", "--device", "cpu")
    return {"sheet": picture("c.sheet.png"), "recipe": recipe("c")}


def pipeline() -> dict[str, Any]:
    """The embedded model from Python: latents, and frames of a batch."""
    pipe = T2VPipeline.from_pretrained(TINY)
    pipe.set_progress_bar_config(disable=True)
    prompts, found = ["a red ball bounces on grass", "a yellow star"], {}
    for kind in ("latent", "pt"):
        generators = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        found[kind] = pipe(
            prompts, num_inference_steps=4, generator=generators, output_type=kind
        ).frames
    small = F.adaptive_avg_pool3d(rearrange(found["pt"], "b t c h w -> b c t h w"), (3, 4, 4))
    return {"tensors": told(found), "small": small.flatten().tolist()}


def curate() -> dict[str, Any]:
    """Films to clips."""
    words = ("scenes.min_seconds=0.5", "quality.min_sharpness=0", "workers=1", "balance.keep=0.8")
    command("curate", "footage", "-o", "curated", *words)
    stats = json.loads(Path("curated/stats.json").read_text())
    funnel = [{name: row[name] for name in row if name != "seconds"} for row in stats["stages"]]
    return {"rows": rows("curated/manifest.jsonl"), "funnel": funnel}


def evaluate() -> dict[str, Any]:
    """A model on prompts, beside real clips, and what a comparison makes of two settings."""
    need("train")
    words = ("dit/checkpoint-000010", "count=2", "batch_size=1", "device=cpu", "training=clips")
    words += (f"oracle={ORACLE}", f"scorer={SCORER}")
    command("eval", *words, "-o", "eval-1", "num_inference_steps=1")
    command("eval", *words, "-o", "eval-2", "num_inference_steps=2", "guidance_scale=1")
    command("eval", "compare", "eval-1", "eval-2", "-o", "compared")
    measured, compared = (
        json.loads(Path(file).read_text())["suites"]["world"]
        for file in ("eval-1/eval.json", "compared/compare.json")
    )
    del measured["warnings"]  # figures in words
    columns = {
        name: {each: value for each, value in column.items() if each != "verdict"}
        for name, column in compared["columns"]["B"].items()
    }
    return {"measured": measured, "drawn": tensors("eval-1/clips"), "compared": columns}


def evaluate_footage() -> dict[str, Any]:
    """To which film the videos of a model are nearest."""
    need("encode")
    words = ("eval", "footage", TINY, "data=films.jsonl", "-o", "likeness", "held_out=2", "draws=1")
    command(*words, "device=cpu", "clips.cache=encoded/latents", *ENCODED)
    return {"report": json.loads(Path("likeness/likeness.json").read_text())}


def plan() -> dict[str, Any]:
    """The figures of plans, without their words."""
    need("world")
    words = ("plan", "train-vae", "data=clips", "output=planned", *VAE_SETTINGS, *PLAN)
    return {"sample": figures("plan", "sample", *PLAN), "train-vae": figures(*words)}


def plan_transformers() -> dict[str, Any]:
    """Those of trainings of a transformer."""
    need("train-vae")
    words = ("data=clips", "output=planned", *PLAN)
    return {
        "train": figures("plan", "train", "vae=vae", f"text={TINY}", *DIT_SETTINGS, *words),
        "finetune": figures("plan", "finetune", *words),
    }


CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "world": world,
    "text": text,
    "oracle": oracle,
    "train-vae": train_vae,
    "train-vae-adversary": train_vae_adversary,
    "train-vae-footage": train_vae_footage,
    "train": train,
    "train-half": train_half,
    "train-velocity": train_velocity,
    "train-footage": train_footage,
    "finetune": finetune,
    "finetune-full": finetune_full,
    "finetune-words": finetune_words,
    "finetune-footage": finetune_footage,
    "scorer": scorer,
    "encode": encode,
    "sample": sample,
    "sample-best": sample_best,
    "sample-lora": sample_lora,
    "pipeline": pipeline,
    "curate": curate,
    "eval": evaluate,
    "eval-footage": evaluate_footage,
    "plan": plan,
    "plan-transformers": plan_transformers,
}


@cache
def need(case: str) -> dict[str, Any]:
    """What a case gives in the folder at work, computed once."""
    torch.manual_seed(0)  # the dropout of the judge of the world draws from the global source
    # paths differ from machine to machine
    found = (
        json.dumps(CASES[case]()).replace(str(Path.cwd()), "WORK").replace(str(ASSETS), "ASSETS")
    )
    result: dict[str, Any] = json.loads(found)
    return result


def figures(*words: str) -> list[float]:
    """The numbers among the words that a command prints."""
    found = re.findall(r"\d[\d,]*(?:\.\d+)?(?:e[+-]?\d+)?", command(*words))
    return [float(each.replace(",", "")) for each in found]


def rows(path: str) -> list[dict[str, Any]]:
    """The rows of a JSONL file."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def training(output: str, steps: int, *parts: str) -> dict[str, Any]:
    """Losses, validations, the average weights of what learns and all that a run goes on from."""
    metrics = rows(f"{output}/metrics.jsonl")
    for row in metrics:
        del row["seconds"]
        row.pop("verdict", None)  # figures in words
    folder = f"{output}/checkpoint-{steps:06d}"
    state = {path.stem: load_file(path) for path in Path(folder, "training").glob("*.safetensors")}
    flat = {
        f"{len(each)} tensors of {name}": torch.cat(
            [each[n].flatten().double() for n in sorted(each)]
        )
        for name, each in state.items()
    }
    return {
        "metrics": metrics,
        "validations": rows(f"{output}/validations.jsonl"),
        "sheet": picture(f"{output}/sheets/{steps:06d}.png"),
        "state": told(flat),
        **{part: tensors(f"{folder}/{part}") for part in parts},
    }


def tensors(folder: str) -> dict[str, str]:
    """Every tensor of the safetensors files in a folder or below it, as `told`."""
    found = {}
    for file in sorted(Path(folder).rglob("*.safetensors")):
        found |= {f"{file.stem} {name}": tensor for name, tensor in load_file(file).items()}
    return told(found)


def recipe(name: str) -> dict[str, Any]:
    """What is written beside a video."""
    found: dict[str, Any] = json.loads(Path(f"{name}.json").read_text())
    del found["versions"]
    return found


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """An empty folder to run the cases in, with films and a list of them, on one thread."""
    shutil.copytree(HERE / "footage", folder / "footage")
    films = sorted((folder / "footage").glob("film-*.mp4"))
    captions = [film.with_suffix(".txt").read_text().splitlines() for film in films]
    given = [
        {"path": f"footage/{film.name}", "caption": each[0], "captions": each}
        for film, each in zip(films, captions, strict=True)
    ]
    (folder / "films.jsonl").write_text("".join(json.dumps(row) + "\n" for row in given))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums are made in other parts by more
    try:
        with threadpool_limits(1), contextlib.chdir(folder):
            yield
    finally:
        torch.set_num_threads(threads)
