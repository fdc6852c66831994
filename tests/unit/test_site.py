"""The site of the docs and its notebooks: every page in the menu, nothing from other hosts."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from t2v.cli.commands import COMMANDS
from t2v.cli.parser import command_name, overrides_of, parser_of
from t2v.config.load import load_config

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))


class Settings(yaml.SafeLoader):
    """YAML in which functions of Python are left out."""


Settings.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
SITE: dict[str, Any] = yaml.load((ROOT / "mkdocs.yml").read_text(), Settings)


def cells(notebook: Path, kind: str) -> list[str]:
    """The texts of the cells of a kind, code or markdown."""
    found = json.loads(notebook.read_text())["cells"]
    return ["".join(cell["source"]) for cell in found if cell["cell_type"] == kind]


def pages(menu: list[dict[str, Any]]) -> list[str]:
    """The pages of a menu, in its order."""
    found = []
    for entry in menu:
        for place in entry.values():
            found += pages(place) if isinstance(place, list) else [place]
    return found


def test_every_page_of_the_docs_and_every_notebook_is_in_the_menu_once():
    wanted = [path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")]
    wanted += [path.relative_to(ROOT).with_suffix(".md").as_posix() for path in NOTEBOOKS]
    menu = pages(SITE["nav"])
    beside = [place for place in menu if not place.startswith("docs/")]
    assert sorted(menu) == sorted(wanted + beside)
    assert menu[0] == "README.md"
    assert all((ROOT / place).exists() for place in beside)
    (laid,) = re.findall(r"BESIDE = (\(.*?\n\))", (ROOT / "docs" / "layout.py").read_text(), re.S)
    assert set(beside) == set(ast.literal_eval(laid))  # importing it takes mkdocs


def test_fonts_are_the_readers():
    assert SITE["theme"]["font"] is False


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_its_python_is_python(notebook):
    for cell in json.loads(notebook.read_text())["cells"]:
        assert cell.get("outputs", []) == []
        assert cell.get("execution_count") is None
        assert cell["metadata"] == {}
    for code in cells(notebook, "code"):
        assert code.startswith("%%bash\n") or ast.parse(code).body


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_link_of_a_notebook_is_there(notebook):
    targets = re.findall(r"\]\(([^)]+)\)", "\n".join(cells(notebook, "markdown")))
    assert targets
    for target in targets:
        assert (notebook.parent / target).exists(), target


def commands(notebook: Path) -> list[list[str]]:
    """The words behind `t2v` of every command of a notebook, without what the shell takes."""
    shell = [cell for cell in cells(notebook, "code") if cell.startswith("%%bash\n")]
    lines = [line for cell in shell for line in cell.replace("\\\n", "").splitlines()]
    words = [shlex.split(re.split(r" 2?> ", line)[0]) for line in lines if line.startswith("t2v ")]
    return [each[1:] for each in words]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_command_of_a_notebook_is_understood(notebook):
    assert commands(notebook)
    for words in commands(notebook):
        name = command_name(words)
        args = parser_of(name).parse_intermixed_args(words[len(name.split()) :])
        command = COMMANDS[name]
        assert load_config(command.schema, args.config, overrides_of(command, args))


FILES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "mkdocs.yml")  # beside the folders
needs_mkdocs = pytest.mark.skipif(
    find_spec("mkdocs") is None, reason="needs mkdocs: pip install -e .[docs]"
)


def built(folder: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """A build of the site, as CI makes it."""
    command = re.findall(r"bin/mkdocs\" (.*) --site-dir", (ROOT / ".ci/run").read_text())[0]
    build = [sys.executable, "-m", "mkdocs", *command.split(), "--site-dir", str(site)]
    return subprocess.run(build, cwd=folder, capture_output=True, text=True)


@pytest.mark.slow
@needs_mkdocs
@pytest.mark.parametrize(
    ("page", "link"),
    [
        ("README.md", "docs/sample.md#instal"),
        ("docs/sample.md", "nowhere.md"),
        ("docs/notebooks/new.md", "../sample.md"),
    ],
)
def test_a_broken_link_or_anchor_or_a_page_outside_the_menu_ends_the_build(tmp_path, page, link):
    for name in FILES:
        shutil.copy(ROOT / name, tmp_path)
    for name in ("docs", "assets"):
        weights = shutil.ignore_patterns("*.safetensors")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=weights)
    with (tmp_path / page).open("a") as file:
        file.write(f"\n[a link]({link})\n")
    made = built(tmp_path, tmp_path / "site")
    assert made.returncode == 1 and "with 1 warnings in strict mode" in made.stdout + made.stderr


@pytest.mark.slow
@needs_mkdocs
def test_the_site_is_whole_and_its_pages_load_nothing_from_elsewhere(tmp_path):
    assert built(ROOT, tmp_path).returncode == 0
    loading = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=\"?([^\"\s>]+)|<link\b[^>]*>")
    made = list(tmp_path.rglob("*.html"))
    assert len(made) > len(pages(SITE["nav"]))
    for page in made:
        for match in loading.finditer(page.read_text()):
            assert "//" not in (match[1] or match[0]), match[0]
    assert not list(tmp_path.rglob("*.safetensors"))
