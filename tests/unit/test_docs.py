"""README and docs: short, whole, and no command in them that the package would not understand."""

from __future__ import annotations

import ast
import re
import shlex
from pathlib import Path

import pytest

from t2v.cli.commands import COMMANDS
from t2v.cli.parser import command_name, overrides_of, parser_of
from t2v.cli.plan import load_plan
from t2v.config.load import load_config

ROOT = Path(__file__).parents[2]
FIGURES = ROOT / "docs/figures"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text() for page in PAGES}
README = TEXTS["README.md"]
DOORS = {"train/dit.py": "train", "train/vae.py": "train-vae", "train/finetune.py": "finetune"}

each_page = pytest.mark.parametrize("page", TEXTS)


def blocks(page: str, language: str) -> list[str]:
    """The code blocks of a page that are marked with a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", TEXTS[page], flags=re.DOTALL | re.MULTILINE)


def bash_lines(page: str) -> list[str]:
    """The commands of a page's bash blocks, one a line."""
    return [line for block in blocks(page, "bash") for line in block.splitlines()]


def commands() -> list[list[str]]:
    """The words behind `t2v` of every command of every page, as a launcher gives them too."""
    found = []
    for page in TEXTS:
        for words in map(shlex.split, bash_lines(page)):
            doors = [number for number, word in enumerate(words) if word in DOORS]
            if words[0] == "t2v":
                found.append(words[1:])
            elif doors:
                found.append([DOORS[words[doors[0]]], *words[doors[0] + 1 :]])
    return found


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_understood(words, monkeypatch):
    monkeypatch.chdir(ROOT)
    name = command_name(words)
    end = words.index("--") if "--" in words else len(words)  # what follows is a prompt
    args = parser_of(name).parse_intermixed_args(words[len(name.split()) : end])
    overrides = overrides_of(COMMANDS[name], args)
    if name == "plan":  # its file is the planned command's
        assert load_plan(args.config, overrides)
    else:
        assert load_config(COMMANDS[name].schema, args.config, overrides)


def test_the_two_commands_of_the_readme_need_nothing_but_python():
    whole = [line for line in bash_lines("README.md") if line.startswith("python3 -m venv .venv ")]
    assert len(whole) == 2
    assert all("pip install -c constraints.txt" in line for line in whole)
    assert "t2v sample" in whole[0]
    assert whole[1].endswith("/pytest")
    assert f"install='{whole[1]}'" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_readme_lists_every_command(command):
    assert f"| `t2v {command}` |" in README


def test_the_readme_is_short_and_shows_a_picture_first():
    lines = README.splitlines()
    assert len(lines) <= 95
    assert any(line.startswith("![") for line in lines[:10])


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(page: Path) -> set[str]:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return {slug(heading) for heading in re.findall(r"^#+ (.*)$", text, flags=re.MULTILINE)}


@each_page
def test_every_link_and_picture_is_there(page):
    for target in re.findall(r"\]\(([^)]+)\)", TEXTS[page]):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.is_file(), target  # the site takes no folder
        assert not anchor or anchor in anchors(path), target


@each_page
def test_every_file_that_is_named_is_there(page):
    named = re.findall(r"`((?:t2v|tests|configs|docs|assets|train|sample)/[\w./-]+)`", TEXTS[page])
    assert not [name for name in named if not (ROOT / name).exists()]


def test_every_page_can_be_reached_from_the_readme():
    seen: set[Path] = set()
    ahead = [ROOT / "README.md"]
    while ahead:
        page = ahead.pop()
        if page in seen or page.suffix != ".md":
            continue
        seen.add(page)
        for target in re.findall(r"\]\(([^)#:]+)", page.read_text()):
            ahead.append((page.parent / target).resolve())
    assert seen >= set(PAGES)


@each_page
def test_python_blocks_are_python(page):
    for block in blocks(page, "python"):
        assert ast.parse(block).body


def test_pictures_are_small_described_and_made_by_a_command_that_stands_in_the_docs():
    pictures = [path for path in FIGURES.iterdir() if path.suffix in {".webp", ".svg", ".png"}]
    assert sum(path.stat().st_size for path in pictures) < 1_500_000
    written = [line for page in TEXTS for line in bash_lines(page)]
    shown = "".join(TEXTS.values())
    given = {path for path in pictures if f"--image docs/figures/{path.name}" in "".join(written)}
    assert len(given) <= 1
    for path in set(pictures) - given:
        assert path.stat().st_size < 450_000, path
        assert re.search(rf"!\[[^\]]{{20,}}\]\([^)]*{path.name}\)", shown), path
        assert any(f"docs/figures/{path.name}" in line.split() for line in written), path
