"""Makes `files.tar.xz`: a file of every format, as commit 85fb36c wrote it, of tiny models.

    cd CHECKOUT && PYTHONPATH=.:TESTS/integration python -m old_files.make OLDER

CHECKOUT is a checkout of that commit and OLDER one of 0b87070^, whose `t2v convert` wrote the
transformer's module into `model_index.json`. TESTS is the folder of these tests.
"""

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from contextlib import chdir, suppress
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLWan,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from tokenizers.processors import TemplateProcessing
from transformers import (
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
    UMT5Config,
    UMT5EncoderModel,
)
from unchanged.compare import HERE as UNCHANGED

from t2v.cli import main

ARCHIVE = Path(__file__).parent / "files.tar.xz"
FILMS = ("film-0", "film-2", "film-4")
MODIFIED = 1_700_000_000  # when the films were, in seconds: a curation knows films by it
UNUSED = ("tensorboard", "sheets", "page.html", "report.html", "sheet.png", "likeness.png")
HEAVY = (
    "make-text/text_encoder",
    "make-oracle/diffusion_pytorch_model.safetensors",
    "frames/checkpoint-000002",
)

VAE = (
    "model.latent_channels=4", "model.patch_size=[1,2,2]", "model.block_out_channels=[4,4]",
    "model.temporal_downsample=[true]", "model.spatial_downsample=[true]",
)  # fmt: skip
DIT = (
    "model.num_attention_heads=1", "model.attention_head_dim=16", "model.in_channels=4",
    "model.out_channels=4", "model.text_dim=16", "model.freq_dim=16", "model.ffn_dim=16",
    "model.num_layers=1", "vae=vae", "text=text", "max_sequence_length=32",
    "num_inference_steps=3", "prompts=[a red ball]", "optim.lr=0.05", "optim.adam_lr=0.05",
)  # fmt: skip
RUN = (
    "device=cpu", "steps=2", "batch_size=2", "held_out=2", "validate_every=2", "save_every=2",
    "optim.warmup_steps=0", "precision=fp32",
)  # fmt: skip
CLIPS = (
    "clips.fps=8", "clips.resolution=16", "clips.num_frames=5", "clips.aspects=[1:1]",
    "clips.workers=1",
)  # fmt: skip
EQUAL = ("optim.ema_decay=0",)  # the average is the weights, which takes no room in an archive
RUNS = {
    "vae": "train-vae", "dit": "train", "dit-films": "train", "lora": "finetune",
    "full": "finetune", "toy": "finetune", "soft": "finetune", "peft": "finetune",
    "scorer": "scorer",
}  # fmt: skip
TUNED = ("finetune", "model=dit/checkpoint-000002", "data=clips", *RUN, "optim.adam_lr=0.05")


def t2v(*words: str, code: int = 0) -> None:
    """Run a command."""
    assert main(list(words)) == code, words


def texts() -> None:
    """A folder with a tokenizer of one token a word, and a text encoder."""
    told = Path("clips/manifest.jsonl").read_text() + "a red blue green ball rolls left over sea"
    words = sorted(set(re.findall(r"[a-z]+", told.lower())))
    vocabulary = {word: i for i, word in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>"
    ).save_pretrained("text/tokenizer")
    T5EncoderModel(
        T5Config(
            vocab_size=len(vocabulary), d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2,
            dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
        )
    ).save_pretrained("text/text_encoder")  # fmt: skip


def world() -> None:
    """Rendered clips, in whose captions all is a `<toy>`, and the settings of its trainings."""
    t2v("world", "output=clips", "count=8", "num_frames=5", "height=16", "width=16", "workers=1")
    manifest = Path("clips/manifest.jsonl")
    things = r" (ball|sphere|star|heart|cube|box|block)\b"
    manifest.write_text(re.sub(things, " <toy>", manifest.read_text()))
    t2v("world", "make=text", "output=make-text", "count=50", "steps=1", "batch_size=4")
    t2v("world", "make=oracle", "data=clips", "output=make-oracle", "steps=1", "batch_size=4")


def trainings() -> None:
    """A run of every kind of training, two steps long."""
    t2v("train-vae", "data=clips", "output=vae", *VAE, *RUN, *EQUAL)
    t2v("train", "data=clips", "output=dit", "train_text_encoder=false", *DIT, *RUN)
    Path("base.txt").write_text("a red ball\na blue ball\na green ball\n")
    t2v(*TUNED, "output=lora", "lora.rank=2", "base_prompts=base.txt", "base_ratio=0.3")
    t2v(*TUNED, "output=full", "method=full", "train_text_encoder=true", "interpolate=0.5")
    t2v(*TUNED, "output=toy", "method=concept", "concept=[<toy>]", "concept_from=[ball]")
    t2v(*TUNED, "output=soft", "method=soft_prompt", "soft_prompt=a red ball")
    adapter = {"peft_type": "LOKR", "r": 2, "alpha": 2, "target_modules": ["to_q"]}
    Path("adapter.json").write_text(json.dumps(adapter))
    t2v(*TUNED, "output=peft", "method=peft", "peft=adapter.json")
    scorer = ("model.channels=8", "model.width=8", "model.heads=2", "model.layers=1")
    t2v("scorer", "data=clips", "text=text", "output=scorer", "model.dim=8", *scorer, *RUN, *EQUAL)


def continued() -> None:
    """What the third and fourth step of every run give, which are not in the runs themselves."""
    found = {}
    for run, command in RUNS.items():
        shutil.copytree(run, "copy")
        t2v(command, "--config", f"{run}/config.yaml", "output=copy", "steps=4")
        told = [json.loads(row) for row in Path("copy/metrics.jsonl").read_text().splitlines()[2:]]
        found[run] = [
            {name: row[name] for name in ("step", "loss", "grad_norm", "val_loss") if name in row}
            for row in told
        ]
        shutil.rmtree("copy")
    Path("continued.json").write_text(json.dumps(found))


def films() -> None:
    """Films curated, encoded and trained on; they are not needed for that any more."""
    Path("films").mkdir()
    for name in FILMS:
        for suffix in (".mp4", ".txt"):
            copy = shutil.copyfile(UNCHANGED / "footage" / (name + suffix), f"films/{name}{suffix}")
            os.utime(copy, (MODIFIED, MODIFIED))
    curation = ("scenes.min_seconds=0.5", "quality.min_sharpness=0", "workers=1", "files=cut")
    t2v("curate", "films", "-o", "curated", *curation)
    t2v("encode", "curated", "model=dit/checkpoint-000002", "output=encoded", "device=cpu", *CLIPS)
    kept = (*CLIPS, "clips.cache=encoded/latents")
    t2v("train", "data=encoded", "output=dit-films", *DIT, *RUN, *kept, "held_out=1")
    kept = (*CLIPS, "clips.cache=frames")
    t2v("train-vae", "data=encoded", "output=frames", *VAE, *RUN, *kept, "held_out=1")
    likeness = ("data=encoded", "clips.cache=encoded/latents", "held_out=1", "draws=1")
    t2v("eval", "dit-films/checkpoint-000002", "-o", "likeness", *likeness, "device=cpu", *CLIPS)


def samples() -> None:
    """Videos with their recipes, and the latents of some that were interrupted."""
    words = ("sample", "a red ball", "--model", "dit/checkpoint-000002", "--device", "cpu")
    t2v(*words, "-o", "whole.mp4", "--seed", "3")
    t2v(*words, "-o", "adapted.mp4", "lora=lora/checkpoint-000002", "lora_scale=0.5")
    best = ("--best-of", "3", "scorer=scorer/checkpoint-000002")
    t2v(*words, *best, "-o", "best.mp4")
    interrupted(2, *words, "-o", "stopped.mp4", "--seed", "3")  # amid its first video
    interrupted(5, *words, *best, "-o", "choice.mp4")  # amid the second draw


def interrupted(step: int, *words: str) -> None:
    """Run a command until the scheduler's given step, and interrupt it there."""
    whole, left = FlowMatchEulerDiscreteScheduler.step, iter(range(step - 1))

    def until(*args: object, **kwargs: object) -> object:
        if next(left, None) is None:
            raise KeyboardInterrupt
        return whole(*args, **kwargs)

    FlowMatchEulerDiscreteScheduler.step = until
    t2v(*words, code=130)
    FlowMatchEulerDiscreteScheduler.step = whole


def evaluations() -> None:
    """Two evaluations, their comparison and a bench."""
    words = ("eval", "dit/checkpoint-000002", "count=2", "device=cpu", "suites=[motion]")
    t2v(*words, "-o", "eval-1", "num_inference_steps=1")
    t2v(*words, "-o", "eval-2", "num_inference_steps=2")
    t2v("eval", "compare", "eval-1", "eval-2", "-o", "compared")
    words = ("bench", "model=dit/checkpoint-000002", "repeats=1", "warmup=0", "device=cpu")
    t2v(*words, "json=bench.json", "memory_frames=[5,9]")


def converted(older: Path) -> None:
    """A tiny pipeline of Wan's, converted."""
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0), ("▁ball", -1.0)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    WanPipeline(
        tokenizer=T5TokenizerFast(tokenizer_object=tokenizer, extra_ids=0),
        text_encoder=UMT5EncoderModel(
            UMT5Config(vocab_size=8, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
        ),
        transformer=WanTransformer3DModel(
            num_attention_heads=1,
            attention_head_dim=12,
            in_channels=4,
            out_channels=4,
            text_dim=16,
            freq_dim=16,
            ffn_dim=16,
            num_layers=1,
        ),
        vae=AutoencoderKLWan(
            base_dim=2,
            z_dim=4,
            dim_mult=[1, 1, 1, 1],
            num_res_blocks=1,
            latents_mean=[0.0] * 4,
            latents_std=[1.0] * 4,
        ),
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0
        ),
    ).save_pretrained("wan")
    command = [sys.executable, "-m", "t2v", "convert", "wan", "converted"]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(older)}, check=True)
    shutil.rmtree("wan")


def settings() -> None:
    """Files as people write them, for the commands that write none themselves."""
    Path("settings").mkdir()
    told = {
        "sample": "model: dit\nnegative_prompt: a star\nseed: 7\nduration: 2.5\nlora: lora\n"
        "lora_scale: 0.5\ndtype: bf16\nsheet: true\npreview_every: 2\ntruncate: true\n",
        "bench": "what: pipeline\nmodel: dit\nmemory_frames: [5, 9]\nwarmup: 0\nrepeats: 3\n",
        "bench-curate": "what: curate\nfootage: films\nrepeats: 3\n",
        "convert": "src: wan\ndst: ours\n",
    }
    for name, text in told.items():
        Path(f"settings/{name}.yaml").write_text(text)


def pack() -> None:
    """Write the archive, without what no command reads back."""
    for name in (*UNUSED, *HEAVY):
        for path in [*Path().rglob(name)]:
            with suppress(NotADirectoryError):
                shutil.rmtree(path)
                continue
            path.unlink()
    for path in [*Path().rglob("*.lock"), *Path("films").iterdir()]:  # those are in `unchanged`
        path.unlink()
    with tarfile.open(ARCHIVE, "w:xz", preset=9) as archive:
        for path in sorted(Path().rglob("*")):
            if path.is_file():
                entry = tarfile.TarInfo(path.as_posix())
                entry.size, entry.mtime = path.stat().st_size, MODIFIED
                archive.addfile(entry, io.BytesIO(path.read_bytes()))


if __name__ == "__main__":
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        for make in (world, texts, trainings, films, continued, samples, evaluations, settings):
            make()
        converted(Path(sys.argv[1]))
        pack()
