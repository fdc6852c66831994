"""Workers of a queue that are killed at any instant: no job is lost, none is made twice."""

import json
import logging
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from t2v.config.queue import QueueRunConfig
from t2v.config.sampling import SampleConfig
from t2v.io.video import read_recipe, read_video
from t2v.queue.folder import Queue
from t2v.queue.worker import Worker
from t2v.sampling import run

ROOT = Path(__file__).parents[2]
KILLS = 40
PATIENCE = 300  # seconds


@pytest.fixture
def model(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def queue(tmp_path):
    return Queue.make(tmp_path / "queue")


def work(folder):
    torch.set_num_threads(1)
    config = QueueRunConfig(queue=str(folder), wait=False, keep_seconds=0)
    for _ in Worker(Queue(folder), config).work():
        pass


def started(queue):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["t2v.queue.worker", "t2v.pipelines.t2v_generator"])
    process = context.Process(target=work, args=(queue.folder,))
    process.start()
    return process


def same_as_sampled(queue, job, path):
    """The video of a job is that of `t2v sample` with its settings, and so is its recipe."""
    settings = {**job.settings, "output": str(path.with_suffix(job.output.suffix))}
    (plain,) = run.sample(SampleConfig(**settings), [job.prompt])
    np.testing.assert_array_equal(read_video(job.output)[0], read_video(plain)[0])
    made, wanted = read_recipe(job.output), read_recipe(plain)
    for recipe in (made, wanted):
        del recipe["settings"]["output"]
    assert made == wanted


@pytest.mark.slow
def test_twenty_jobs_of_two_workers_that_are_killed_at_random_instants(
    queue, model, clip_folder, tmp_path
):
    draw = random.Random(0)
    for number in range(20):
        settings = {"model": model, "seed": number, "num_inference_steps": draw.randint(2, 8)}
        if number % 7 == 3:
            settings |= {"best_of": 3, "scorer": clip_folder}
        queue.add({"prompt": f"a red ball {number}", "settings": settings})
    kills, ids, mtimes = Counter(), {job.id for job in queue.jobs()}, dict[str, int]()
    workers, deadline = [started(queue), started(queue)], time.monotonic() + PATIENCE
    while any(job.state != "done" for job in queue.jobs()):
        assert time.monotonic() < deadline, queue.jobs()
        time.sleep(draw.uniform(0.0, 0.7))
        place = draw.randrange(2)
        if kills.total() < KILLS:
            held = [job for job in queue.jobs(["running"])
                    if job.progress.get("pid") == workers[place].pid]  # fmt: skip
            workers[place].kill()
            workers[place].join()
            kills[held[0].progress["stage"] if held else "no job"] += 1
        if not workers[place].is_alive():
            workers[place] = started(queue)
        jobs = queue.jobs()
        assert {job.id for job in jobs} == ids and len(jobs) == 20, Counter(j.state for j in jobs)
        for job in jobs:
            if job.state == "done":  # and is never made again
                assert mtimes.setdefault(job.id, job.output.stat().st_mtime_ns) == (
                    job.output.stat().st_mtime_ns
                )
    for worker in workers:
        worker.join(PATIENCE)
        assert worker.exitcode == 0
    logging.info("killed: %s", dict(kills))
    assert len(kills) > 1, kills  # in several stages
    jobs = queue.jobs()
    assert {job.state for job in jobs} == {"done"}
    left = {path.suffix for path in (queue.folder / "videos").iterdir()}
    assert left == {".mp4", ".json"} and len(list((queue.folder / "videos").iterdir())) == 40
    for number, job in enumerate(jobs):
        same_as_sampled(queue, job, tmp_path / f"plain-{number}")


def command(queue, *words):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "t2v", "queue", "run", str(queue.folder), *words]
    return subprocess.Popen(
        line, env=environment, start_new_session=True, stderr=subprocess.PIPE, text=True
    )


def waited(what):
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def at_a_step(queue, id, step=1):
    """The process of the worker, when the job has come to a step."""

    def found():
        job = queue.job(id)
        assert job.state in ("queued", "running"), job
        return job.has_worker and job.progress.get("step", 0) >= step and job.progress["pid"]

    return waited(found)


@pytest.mark.slow
def test_the_command_starts_a_killed_worker_again_and_fails_a_job_that_kills_it_twice(queue, model):
    settings = {"model": model, "num_inference_steps": 400}
    hurt = queue.add({"prompt": "a red ball", "settings": settings})
    short = queue.add({"prompt": "a blue box", "settings": {"model": model}})
    process = command(queue, "wait=false", "keep_seconds=0")
    os.kill(at_a_step(queue, hurt), signal.SIGKILL)
    waited(lambda: not queue.job(hurt).has_worker or queue.job(hurt).progress["step"] == 0)
    again = waited(lambda: (job := queue.job(hurt)).has_worker and job.progress.get("pid"))
    os.kill(again, signal.SIGKILL)  # before it has come further
    failed = waited(lambda: (job := queue.job(hurt)).state == "failed" and job)
    assert "died twice at the same place" in failed.result["message"]
    assert "signal 9" in failed.result["message"]
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 2 and "1 job failed" in told, told
    assert queue.job(short).state == "done"


@pytest.mark.slow
def test_the_command_ends_after_the_step_when_it_is_told_to_or_when_it_is_killed(queue, model):
    settings = {"model": model, "num_inference_steps": 300}
    id = queue.add({"prompt": "a red ball", "settings": settings})
    process = command(queue)
    at_a_step(queue, id, 5)
    process.terminate()
    told = process.communicate(timeout=PATIENCE)[1]
    assert process.returncode == 0 and "Traceback" not in told, told
    stopped = queue.job(id)
    latents = stopped.output.with_suffix(".latents.safetensors")
    assert stopped.state == "queued" and stopped.position == 1 and latents.exists()
    step = stopped.files.joinpath("progress.json")
    before = json.loads(step.read_text())["step"]
    process = command(queue)
    waited(lambda: queue.job(id).progress.get("step", 0) > before)
    assert queue.job(id).progress["step"] < 300
    process.kill()  # its worker sees that, finishes the step and puts the job back
    waited(lambda: queue.job(id).state == "queued")
    process.communicate(timeout=PATIENCE)
    queue.cancel(id)
    assert not latents.exists()


@pytest.mark.slow
def test_a_full_disk_ends_the_worker_with_one_message_and_its_job_waits(model, tmp_path):
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user mounts no file systems")
    try:
        queue = Queue.make(place / "queue")
        settings = {"model": model, "num_inference_steps": 2}
        ids = [queue.add({"prompt": f"a red ball {n}", "settings": settings}) for n in range(2)]
        ballast = place / "ballast"
        free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
        ballast.write_bytes(bytes(free))
        process = command(queue, "wait=false")
        told = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 2 and "Traceback" not in told, told
        (line,) = [line for line in told.splitlines() if line.startswith("t2v: ")]
        assert "No space left on device" in line or "no space is left" in line
        assert [job.id for job in queue.jobs({"queued"})] == ids
        ballast.unlink()
        process = command(queue, "wait=false")
        told = process.communicate(timeout=PATIENCE)[1]
        assert process.returncode == 0, told
        assert [job.state for job in queue.jobs()] == ["done", "done"]
    finally:
        subprocess.run(["umount", str(place)], check=True)
