"""Every module of the package imports alone, first in its process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted((ROOT / "t2v").rglob("*.py"))
    if path.stem != "__main__"
]
# a process of their own for each would take a minute and more: one imports what all need, except
# diffusers, which registers our classes as it is imported, and splits off one child a module
LOADED = "torch, transformers, numpy, PIL.Image, av, omegaconf"
FORKS = """
import os, sys, {loaded}
for name in sys.argv[1:]:
    child = os.fork()
    if not child:
        __import__(name)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        print(name)
"""


def refused(names: list[str]) -> list[str]:
    command = [sys.executable, "-c", FORKS.format(loaded=LOADED), *names]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.split()


def test_a_module_that_the_pipeline_needs_imports_alone():
    assert refused(["t2v.models.lora"]) == []


@pytest.mark.slow
def test_every_module_imports_alone():
    assert len(MODULES) > 100
    assert refused(MODULES) == []
