import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from t2v.errors import UserError
from t2v.io import files
from t2v.io.files import FOLDER_LOCK, Lines, complete, locked, read_lines, remove_partials

HOLD = """
import sys, time
from pathlib import Path
from t2v.io.files import locked
with locked(Path(sys.argv[1]), command="t2v train"):
    if "fork" in sys.argv:
        import os
        if os.fork():
            time.sleep(60)
    print("held", flush=True)
    time.sleep(60)
"""


@contextlib.contextmanager
def holder(path, *words):
    """Another process that holds an output; killed at the end."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(path), *words], stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "held\n"
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()


@pytest.mark.parametrize("name", ["folder", "file.mp4"])
def test_the_second_process_is_refused_at_once_with_the_first_one_named(name, tmp_path):
    output = tmp_path / name
    if name == "folder":
        output.mkdir()
    with holder(output) as process:
        started = time.monotonic()
        wanted = f"t2v train, process {process.pid} on .* since "
        with pytest.raises(UserError, match=wanted), locked(output, command="t2v train"):
            pass
        assert time.monotonic() - started < 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_killed_holder_holds_nothing_even_where_a_forked_child_lives_on(tmp_path):
    with holder(tmp_path, "fork") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert (tmp_path / FOLDER_LOCK).is_file()
        with locked(tmp_path, command="t2v train"):
            pass
    assert list(tmp_path.iterdir()) == []


def test_who_holds_an_output_may_hold_it_again_but_another_thread_may_not(tmp_path):
    refused = []

    def other():
        try:
            with locked(tmp_path, command="t2v eval"):
                pass
        except UserError as error:
            refused.append(str(error))

    with locked(tmp_path, command="t2v scorer"), locked(tmp_path, command="t2v scorer"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(refused) == 1
    assert "t2v scorer" in refused[0]
    other()
    assert len(refused) == 1


def test_a_file_is_whole_or_absent_and_two_writers_do_not_share_a_name(tmp_path):
    path = tmp_path / ("n" * 250)  # names end at 255 bytes
    with complete(path) as one, complete(path) as two:
        assert one != two
        one.write_text("one")
        two.write_text("two")
        assert not path.exists()
    assert path.read_text() == "one"
    with pytest.raises(RuntimeError), complete(path) as partial:
        partial.write_text("half")
        raise RuntimeError
    assert path.read_text() == "one"
    assert list(tmp_path.iterdir()) == [path]


def test_only_partial_files_of_dead_processes_are_removed(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    own = files._partial(tmp_path / "a.mp4")
    dead = own.with_name(own.name.replace(f"-{os.getpid()}-", f"-{int(done.stdout)}-"))
    elsewhere = dead.with_name(dead.name.replace(files._HOST, "0" * 8))
    theirs = tmp_path / ".notes.partial"
    for path in (own, dead, elsewhere, theirs):
        path.write_text("half")
    remove_partials(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([own, elsewhere, theirs])


def test_lines_outlive_zero_bytes_and_torn_lines_and_the_lost_ones_are_counted(tmp_path, caplog):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(
        b'{"step": 1}\n{"st\n\0\0\0\0{"step": 3}\n\0\0\0\n[4]\n{"other": 5}\n{"step": 6'
    )
    with caplog.at_level(logging.WARNING):
        assert read_lines(path, "step") == [{"step": 1}, {"step": 3}]
    assert "4 damaged lines are left out, 2 are whole" in caplog.text
    with Lines(path) as lines:
        lines.add({"step": 7})
    assert read_lines(path, "step")[-1] == {"step": 7}  # not spoilt by the torn one before it
