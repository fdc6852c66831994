"""README and docs from top to bottom: every command and every Python block, at tiny sizes."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from t2v.cli import main
from t2v.cli.parser import command_name

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
# pages whose lines take longest; their commands are understood in the quick tests too
LONG = {
    *("attention", "curate", "distill", "evaluate", "finetune", "stories", "text", "trace"),
    *("train", "upscale"),
}
# What makes a command quick; settings of its own that a line gives otherwise are replaced.
BRIEF = "steps=1 batch_size=2 save_every=1 validate_every=1"
TINY = {
    "sample": "num_inference_steps=1 upscale=1",  # docs/upscale.md enlarges
    "queue add": "num_inference_steps=1 upscale=1",
    "world": "count=12 num_frames=5 repeats=0 workers=1",
    "world text": "count=64 steps=1 batch_size=8",
    "train-text": "steps=1 batch_size=8",
    "world oracle": "steps=1 batch_size=4",
    "train": f"{BRIEF} held_out=2 num_inference_steps=1 prompts=[red]",
    "train-vae": f"{BRIEF} held_out=2",
    "train-upscaler": f"{BRIEF} held_out=1 pool=1 window=16 window_frames=3",
    "finetune": f"{BRIEF} held_out=1 base_prompts=null base_ratio=0",
    "distill": f"{BRIEF} pairs=4 held_out=1 teacher_steps=1 sizes=[5x16x16]",
    "scorer": f"{BRIEF} held_out=4 count=8",
    "train-captioner": f"{BRIEF} held_out=4 count=8 model.max_tokens=32",
    "encode": "sheet_clips=1",
    "eval": "suites=[motion] count=2 num_frames=5 num_inference_steps=1 batch_size=2",
    "calibrate": "count=4 num_frames=5 num_inference_steps=2",
    "eval probe": "count=4 layers=[1]",
    "eval language": "count=4",
    "eval words": "times=[0.5] overwrite=true",
    "eval footage": "held_out=2 draws=1",
    "curate": "workers=1",  # a worker is a process, and imports for itself
    "trace": "workers=1",
    "plan sample": "num_frames=33",
    "bench attention": "grids=[1x2x2] dim=128 repeats=1",
    "bench": "warmup=0 repeats=1 memory_frames=[5]",
}
# What shortens the Python of a page that renders films and clips.
SHORTER = {
    "docs/curate.md": {"seconds: int = 4": "seconds: int = 3", "range(4)": "range(2)"},
    "docs/finetune.md": {"range(65)": "range(20)"},
}
# Lines that another page runs on the same files.
ELSEWHERE = {
    "docs/curate.md": ("t2v finetune --config configs/finetune/lora.yaml data=runs/curated/manif",),
}
# Lines, by how they begin, that are not run, and why.
NOT_RUN = {
    "t2v finetune --config configs/finetune/motion": "one clip; test_finetune_motion.py has one",
    "t2v sample --model runs/motion": "likewise",
    "t2v encode s3://": "needs a store; tests/integration/test_addresses.py has one in memory",
    "t2v train --config configs/train/tiny.yaml data=https://": "likewise",
    't2v sample "a red ball" --model hf://': "likewise",
    "python3 -m venv": ".ci/run does, in an environment that it throws away",
    ".venv/bin/pip": "it would change this environment",
    "pip install": "it would change this environment",
    "torchrun": "8 devices; tests/integration/test_distributed.py and test_devices.py run 2",
    "accelerate launch": "8 devices; tests/integration/test_distributed.py runs 2 processes",
    "t2v queue run": "waits for more jobs; tests/integration/test_queue.py runs workers",
    "t2v studio": "answers until it is stopped; tests/integration/studio looks at its pages",
    "t2v serve": "answers until it is stopped; tests/integration/test_serve.py asks it",
    "jupyter lab": "a page that stays open; .ci/run runs the notebooks",
    "curl": "needs a server; likewise",
    "export T2V_TOKEN": "likewise",
    "t2v eval votes": "needs people; tests/unit/evaluation/test_votes.py votes as a browser does",
    "for option in": "an hour: ten evaluations; tests/integration/test_eval_story.py runs two",
    "t2v sample --image": "pictures of the reader; tests/integration/test_sample_conditions.py",
    "t2v sample --video": "clips of the reader; tests/integration/test_sample_conditions.py",
    "t2v sample --reference": "likewise; tests/integration/test_references.py",
    "t2v plan finetune model=": "likewise; tests/unit/test_plan.py has it at night",
    "t2v plan sample model=": "config files of the Hub; tests/unit/test_plan_peers.py has some",
    "t2v curate unseen": "films of the reader, curated as those before them",
    "t2v curate footage -o runs/ocr": "needs RapidOCR; tests/unit/curation run a stand-in",
    "t2v curate footage -o runs/captioned": "needs a captioner; tests/unit/training has one",
    "t2v curate footage -o runs/spoken": "likewise; tests/unit/curation/text has subtitles",
    "t2v scorer --config configs/scorer/time": "the same command as with tiny.yaml, above it",
    "t2v scorer --config configs/scorer/order": "likewise; its clips have acts, and need 17 frames",
    "t2v scorer data=runs/white": "the scorer trains on docs/train.md, the captioner above",
    "t2v train-captioner data=runs/white": "likewise",
    "t2v sample motion": "one step moves nothing; tests/unit/families/test_picture_films.py films",
    "python docs/figures/moved.py": "minutes: 32 films, and where each frame of them lies",
    "python docs/figures/text_encoders.py": "ten minutes: eight encoders and twenty scorers learn",
    "python docs/figures/captions.py": "minutes: hundreds of clips are described",
    "t2v sample max_error": "one step has no table; tests/integration/test_calibrate.py has one",
    "t2v sample min_psnr": "likewise",
    "t2v sample prompting.rewrite": "an endpoint; tests/unit/prompting/test_rewrite.py has one",
}
SLOW = {
    "t2v calibrate": "four prompts, each made in some thirty ways",
    "t2v plan train ": "a minute each: 28 blocks of published size are traced",
    "t2v plan train-vae": "a minute: two steps are measured",
    "t2v curate footage -o runs/balanced": "every worker loads a tokenizer",
    "python docs/figures/upscale.py": "minutes: clips are rendered at 256x256 and enlarged",
    "t2v bench": "every stage of sampling or curation, several times",
    "python docs/figures/code_rates.py": "a minute: 64 clips, coded by five qualities of x264",
    "python docs/figures/make.py page": "a Chromium, which CI has not",
}


def parts(page: str) -> list[tuple[str, str]]:
    """The code of a page, Python blocks before lines of bash, which need what those render."""
    text = (ROOT / page).read_text()
    found = re.findall(r"^```(python|bash)\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)
    python = [("python", code) for language, code in found if language == "python"]
    bash = [code.splitlines() for language, code in found if language == "bash"]
    return python + [("bash", line) for lines in bash for line in lines]


def begins(line: str, table: dict[str, str]) -> bool:
    return any(line.startswith(start) for start in table)


def lines_of(pages: list[str]) -> list[str]:
    return [code for page in pages for language, code in parts(page) if language == "bash"]


def run_python(code: str, page: str) -> None:
    exec(compile(code, page, "exec"), {"__name__": page})


def shortened(code: str, changes: dict[str, str]) -> str:
    for long, short in changes.items():
        assert long in code, long
        code = code.replace(long, short)
    return code


@pytest.fixture(scope="module")
def rendered(tmp_path_factory) -> Path:
    """A folder with the footage that the docs render: `footage` and `runs/white`."""
    folder = tmp_path_factory.mktemp("rendered")
    here = Path.cwd()
    os.chdir(folder)
    try:
        for page in SHORTER:
            for language, code in parts(page):
                if language == "python":
                    run_python(shortened(code, SHORTER[page]), page)
    finally:
        os.chdir(here)
    return folder


@pytest.fixture
def clone(tmp_path, rendered, monkeypatch) -> Path:
    """What a reader has: the clone, footage, and captioned clips."""
    for name in ("assets", "configs", "train"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "docs", tmp_path / "docs")  # pictures are written there
    shutil.copytree(rendered / "footage", tmp_path / "footage")
    for name in ("white", "toys"):
        shutil.copytree(rendered / "runs/white", tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def existing(word: str) -> str:
    """The word, with the last checkpoint or sheet of a tiny run in the place of a full one's."""
    path = Path(word.rpartition("=")[2])
    pattern = re.sub(r"\d{6}$", "[0-9]*", path.stem) + path.suffix
    if path.exists() or pattern == path.name or not (found := sorted(path.parent.glob(pattern))):
        return word
    return word.replace(str(path), str(found[-1]))


def matching(word: str) -> list[str]:
    """The files that a word with a star stands for, as a shell gives them."""
    return sorted(map(str, Path().glob(word))) if "*" in word else []


def run(line: str) -> None:
    words = [existing(word) for word in shlex.split(line)]
    if words[0] == "python":
        words = [each for word in words for each in (matching(word) or [word])]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        subprocess.run([sys.executable, *words[1:]], check=True, env=environment)
        return
    if words[0] == "awk":
        subprocess.run(line, shell=True, check=True)
        return
    assert words[0] == "t2v", line
    name = command_name(words[1:])
    tiny = (
        TINY.get(" ".join(words[1:3]), TINY.get(name, "")).split()
        if "--recipe" not in words
        else []
    )
    names = {each.partition("=")[0] for each in tiny}
    words = [word for word in words if word.partition("=")[0] not in names]
    behind = words.index("--") if "--" in words else len(words)
    assert main([*words[1:behind], *tiny, *words[behind:]]) == 0, line


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[pytest.mark.slow] if Path(page).stem in LONG else [])
        for page in PAGES
    ],
)
def test_a_page_runs_from_top_to_bottom(page, clone):
    for language, code in parts(page):
        if code.startswith(ELSEWHERE.get(page, ())):
            assert code in lines_of(["README.md"])
        elif language == "bash" and not begins(code, NOT_RUN | SLOW):
            run(code)
        elif language == "python" and page not in SHORTER:
            run_python(code, page)  # these two were run for `rendered`


@pytest.mark.slow
@pytest.mark.parametrize("line", [line for line in lines_of(PAGES) if begins(line, SLOW)])
def test_a_slow_line_runs(line, clone):
    if " page " in line:
        if shutil.which("chromium") is None:
            pytest.skip("no chromium in PATH")
        pages = "docs/curate.md", "docs/evaluate.md"
        for before in lines_of(list(pages)):
            if before.startswith(("t2v curate footage -o runs/curated", "t2v eval t2v-tiny")):
                run(before)
    run(line)


def test_every_line_that_is_not_run_is_in_the_docs():
    for start in NOT_RUN | SLOW:
        assert any(line.startswith(start) for line in lines_of(PAGES)), start
