"""The Dockerfile: its rules, and its steps in a folder that is thrown away."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from t2v.cli.commands import COMMANDS
from t2v.cli.parser import overrides_of, parser_of
from t2v.config.load import load_config
from t2v.config.serve import ServeConfig

ROOT = Path(__file__).parents[2]
MINUTES = 20


def instructions() -> list[tuple[str, str]]:
    """The instructions of the Dockerfile, in order, with lines that go on joined."""
    text = re.sub(r"^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [(line.split()[0], line.partition(" ")[2].strip()) for line in lines if line.strip()]


STEPS = instructions()
LAST = max(number for number, (name, _) in enumerate(STEPS) if name == "FROM")
BUILT, FINAL = STEPS[:LAST], STEPS[LAST:]


def values_of(name: str, steps: list[tuple[str, str]] = STEPS) -> list[str]:
    return [value for each, value in steps if each == name]


def command() -> list[str]:
    """What the container runs."""
    (entry,), (arguments,) = values_of("ENTRYPOINT", FINAL), values_of("CMD", FINAL)
    return [*json.loads(entry), *json.loads(arguments)]


def health() -> list[str]:
    """The command that asks whether it is well."""
    (check,) = values_of("HEALTHCHECK", FINAL)
    return json.loads(check.partition("CMD")[2])


def copied() -> list[str]:
    """What is copied from the clone."""
    return [name for each in values_of("COPY", BUILT) for name in each.split()[:-1]]


def test_it_runs_the_server_on_all_addresses_as_an_ordinary_user():
    words = command()
    assert words[:2] == ["t2v", "serve"]
    args = parser_of("serve").parse_intermixed_args(words[2:])
    config = load_config(ServeConfig, None, overrides_of(COMMANDS["serve"], args))
    assert config.host == "0.0.0.0"
    (user,) = values_of("USER", FINAL)
    assert user == "10001" and "--uid 10001" in values_of("RUN", FINAL)[0]
    assert values_of("EXPOSE", FINAL) == [str(config.port)]
    assert f"127.0.0.1:{config.port}/health" in health()[-1]
    (home,) = values_of("VOLUME", FINAL)
    assert values_of("WORKDIR", FINAL) == [home] and not Path(config.queue).is_absolute()
    assert f"--home-dir {home}" in values_of("RUN", FINAL)[0]


def test_it_is_built_from_pinned_versions_and_holds_no_secret():
    base = dict(each.split("=") for each in values_of("ARG"))["BASE"]
    assert re.fullmatch(r"python:3\.\d+-slim-\w+", base)
    assert {each.split()[0] for each in values_of("FROM")} == {"${BASE}"}
    installs = [run for run in values_of("RUN") if "pip install" in run]
    assert len(installs) == 2
    assert all("--no-cache-dir --constraint pins.txt" in run for run in installs)
    named = values_of("ARG") + values_of("ENV")
    assert not [each for each in named if re.search("token|secret|password", each, re.IGNORECASE)]
    assert not [each for each in values_of("RUN") if "sudo" in each or "curl" in each]


def test_what_is_copied_is_there_and_is_not_ignored_and_nothing_else_is_sent():
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    lines = [line for line in lines if not line.startswith("#")]
    assert lines[0] == "*"
    assert sorted(line[1:] for line in lines if line.startswith("!")) == sorted(copied())
    assert all((ROOT / name).exists() for name in copied())
    kept = [line for line in lines[1:] if not line.startswith("!")]
    assert kept == ["**/__pycache__"]
    assert fnmatch.fnmatch("t2v/cli/__pycache__", kept[0])


def test_the_versions_for_a_gpu_are_those_of_its_extra():
    """The build arguments that the Dockerfile names for a GPU are files and extras that exist."""
    (said,) = re.findall(r"# For a GPU: (.*)", (ROOT / "Dockerfile").read_text())
    given = dict(each.split("=", 1) for each in said.split())
    assert set(given) <= {each.split("=")[0] for each in values_of("ARG", BUILT)}
    assert (ROOT / given["CONSTRAINTS"]).exists() and given["CONSTRAINTS"] in copied()
    assert "gpu" in given["EXTRAS"].split(",")


@pytest.mark.slow
def test_its_steps_build_a_server_that_is_well_asks_for_a_token_and_stops(tmp_path):
    places = {"/src": str(tmp_path / "src"), "/opt/t2v": str(tmp_path / "opt")}

    def moved(text: str) -> str:
        for place, here in places.items():
            text = text.replace(place, here)
        return text

    environment = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    environment |= {name: text for name, text in os.environ.items() if name.startswith("PIP_")}
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys._base_executable)
    for name, value in BUILT:
        if name == "ARG":
            environment |= [value.split("=", 1)]
        elif name == "WORKDIR":
            source = Path(moved(value))
            source.mkdir(parents=True)
        elif name == "COPY":
            *names, target = value.split()
            for each in names:
                place = source / (target if len(names) == 1 else each)
                place.parent.mkdir(parents=True, exist_ok=True)
                subprocess.run(["cp", "-r", ROOT / each, place], check=True)
        elif name == "RUN":
            # the index of torch may be out of reach; another has the same versions, some larger
            environment["TORCH_INDEX"] = "https://pypi.org/simple"
            run = ["sh", "-ec", moved(value)]
            subprocess.run(run, cwd=source, env=environment, check=True, timeout=60 * MINUTES)
        else:
            assert name == "FROM"
    home, port = tmp_path / "home", 18_765
    home.mkdir()
    inside = {"HOME": str(home), "PATH": f"{tmp_path / 'opt/bin'}:/usr/bin:/bin"}
    words = [*command(), f"port={port}"]
    refused = subprocess.run(words, cwd=home, env=inside, capture_output=True, text=True)
    assert refused.returncode == 2 and "needs a token" in refused.stderr
    inside["T2V_TOKEN"] = "a-token-of-many-characters"
    check = [each.replace(":8000/", f":{port}/") for each in health()]
    assert subprocess.run(check, cwd=home, env=inside, capture_output=True).returncode
    server = subprocess.Popen(words, cwd=home, env=inside)
    try:
        until = time.monotonic() + 60
        while subprocess.run(check, cwd=home, env=inside, capture_output=True).returncode:
            assert server.poll() is None and time.monotonic() < until
            time.sleep(1)
        made = subprocess.run(
            shlex.split("t2v sample 'a red ball' --queue queue num_inference_steps=1 upscale=1"),
            cwd=home,
            env=inside,
            capture_output=True,
            check=True,
            text=True,
        )
        video = home / "queue/videos" / f"{made.stdout.split()[0]}.mp4"
        while not video.exists():
            assert server.poll() is None and time.monotonic() < until + 60
            time.sleep(1)
    finally:
        server.send_signal(signal.SIGTERM)
    assert server.wait(60) == 0
