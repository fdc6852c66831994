"""A studio in a process of its own, and a browser that looks at it."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from t2v.queue.folder import Queue


class Studio:
    """`t2v studio` in a process of its own."""

    def __init__(self, folder, *settings, token=""):
        self.folder, self.settings, self.token = folder, settings, token
        self.url = ""
        self.start()
        self.queue = Queue(folder)

    def start(self):
        """Start the studio, again at the same address if it had one."""
        port = self.url.rpartition(":")[2] or "0"
        line = [sys.executable, "-m", "t2v", "studio", str(self.folder), f"port={port}"]
        with (self.folder.parent / "log.txt").open("a") as log:
            self.process = subprocess.Popen(
                [*line, "open=false", *self.settings],
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, "T2V_TOKEN": self.token},
                start_new_session=True,
            )
        with self.process.stdout as told:  # the address is all that it says
            self.url = told.readline().strip()
        assert self.url, (self.folder.parent / "log.txt").read_text()
        with suppress(HTTPError):  # once it answers, a signal ends it in order
            urlopen(self.url, timeout=60).close()

    def kill(self):
        """End the studio and its workers as a power cut does."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self):
        """End it as its user does; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(60)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """Starts studios, which end with the module."""
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    begun = []

    def started(*settings, **given):
        folder = tmp_path_factory.mktemp("studio") / "queue"
        begun.append(Studio(folder, *settings, **given))
        return begun[-1]

    yield started
    assert [each.stop() for each in begun if each.process.poll() is None].count(0) == sum(
        each.process.returncode != -signal.SIGKILL for each in begun
    )


@pytest.fixture(scope="module")  # its event loop is in the way of other tests' own
def browser():
    driven = pytest.importorskip("playwright.sync_api", reason="the extra `test` is not whole")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("no chromium in PATH")
    with driven.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser):
    """A page of a browser; what its console calls an error, a refusal by the policy too, fails."""
    context = browser.new_context(viewport={"width": 1280, "height": 800})
    made, errors = context.new_page(), []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    made.set_default_timeout(20_000)
    yield made
    context.close()
    assert [each for each in errors if "Failed to load resource" not in each] == []
