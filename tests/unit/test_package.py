"""What an index of packages shows and sends: the long description, the sdist and the wheel."""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def description() -> str:
    """The README as an index shows it; every change that pyproject.toml names finds its place."""
    text = (ROOT / "README.md").read_text()
    hook = PROJECT["tool"]["hatch"]["metadata"]["hooks"]["fancy-pypi-readme"]
    for change in hook["substitutions"]:
        text, count = re.subn(change["pattern"], change["replacement"], text)
        assert count, change["pattern"]
    return text


def test_the_description_on_an_index_has_no_link_into_the_clone_and_no_command_of_one():
    text = description()
    targets = re.findall(r"\]\(([^)]+)\)", text)
    assert all(target.startswith("https://") for target in targets)
    assert "![" not in text
    assert "constraints.txt" not in text
    assert "pip install t2v\n" in text
    for heading in ("## Three ways to use it", "## Commands", "| `t2v sample` |"):
        assert heading in text


def test_the_licence_stands_as_an_expression_and_in_no_classifier():
    project = PROJECT["project"]
    assert project["license"] == "Apache-2.0"
    assert project["license-files"] == ["LICENSE"]
    assert not [each for each in project["classifiers"] if each.startswith("License")]


def digests(wheel: Path) -> dict[str, str]:
    with zipfile.ZipFile(wheel) as opened:
        return {n: hashlib.sha256(opened.read(n)).hexdigest() for n in opened.namelist()}


@pytest.mark.slow
@pytest.mark.skipif(find_spec("build") is None, reason="needs build: pip install -e .[dev]")
def test_the_sdist_makes_the_wheel_of_the_clone_and_carries_nothing_else(tmp_path):
    build = [sys.executable, "-m", "build", str(ROOT), "--outdir"]
    subprocess.run([*build, tmp_path / "sdist"], check=True)
    subprocess.run([*build, tmp_path / "clone", "--wheel"], check=True)
    (sdist,) = (tmp_path / "sdist").glob("*.tar.gz")
    (made,) = (tmp_path / "sdist").glob("*.whl")
    (direct,) = (tmp_path / "clone").glob("*.whl")
    assert digests(made) == digests(direct)
    with tarfile.open(sdist) as opened:
        names = {Path(*Path(name).parts[1:]).as_posix() for name in opened.getnames()}
    with zipfile.ZipFile(made) as opened:
        inside = {name for name in opened.namelist() if name.startswith("t2v/")}
    in_clone = {name.replace("t2v/assets/", "assets/") for name in inside}
    about = {"PKG-INFO", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", ".gitignore"}
    assert names == in_clone | about
    assert {"assets/t2v-tiny/model_index.json", "assets/world-scorer/README.md"} <= in_clone
    assert sdist.stat().st_size < 50e6  # an index takes 100 MB
