"""Workers of a queue: the bits of `t2v sample`, whatever happens to them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from diffusers import FlowMatchEulerDiscreteScheduler

from t2v.cli import main
from t2v.config.queue import QueueRunConfig
from t2v.io.video import read_recipe, read_video
from t2v.queue.folder import Queue
from t2v.queue.worker import Worker

ROOT = Path(__file__).parents[2]
PROMPT = "a red ball rolls on the grass"
STATES = ("queued", "running", "done", "failed", "cancelled")


@pytest.fixture
def model(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


@pytest.fixture
def queue(tmp_path):
    return Queue.make(tmp_path / "queue")


@pytest.fixture
def sampled(model, tmp_path, monkeypatch):
    """The video and recipe that `t2v sample` gives."""

    def sampled(prompt, *argv, name="plain.mp4"):
        path = tmp_path / name
        line = ["sample", prompt, *argv, "--model", model, "-o", str(path)]
        assert main(line) == 0
        return read_video(path)[0], recipe_of(path)

    return sampled


def recipe_of(path):
    """A recipe without the place of its video."""
    recipe = read_recipe(path)
    del recipe["settings"]["output"]
    return recipe


def worker_of(queue, **settings):
    return Worker(queue, QueueRunConfig(queue=str(queue.folder), wait=False, **settings))


def worked(queue, **settings):
    """The jobs that a worker ended, in that order."""
    return list(worker_of(queue, keep_seconds=0, **settings).work())


def job(model, prompt=PROMPT, **settings):
    return {"prompt": prompt, "settings": {"model": model, **settings}}


def same(job, wanted):
    frames, recipe = wanted
    np.testing.assert_array_equal(read_video(job.output)[0], frames)
    assert recipe_of(job.output) == recipe


def at_step(monkeypatch, number, do):
    """Do something when a step of any video begins, counted from 1."""
    step, calls = FlowMatchEulerDiscreteScheduler.step, iter(range(1, 10**6))

    def stepped(*args, **options):
        if next(calls) == number:
            do()
        return step(*args, **options)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", stepped)


def test_jobs_give_the_videos_and_recipes_of_t2v_sample_in_their_order(queue, model, sampled):
    first = queue.add(job(model, seed=3, num_inference_steps=3))
    second = queue.add(job(model, "a blue box", output=str(queue.folder / "box.gif")))
    queue.move(second, 1)
    one, other = worked(queue)
    assert (one.id, other.id) == (second, first) and other.state == "done"
    same(other, sampled(PROMPT, "--seed", "3", "--steps", "3"))
    assert one.result["paths"] == [str(queue.folder / "box.gif")]
    recipe = json.loads(other.output.with_suffix(".json").read_text())
    again = queue.add(recipe)  # a recipe is a job as it is; its video is the same
    (done,) = worked(queue)
    assert done.id == again and done.result["paths"] == [str(done.output)]
    assert done.output == other.output  # which is there already


def test_a_worker_that_is_stopped_puts_its_job_back_and_another_goes_on(
    queue, model, sampled, monkeypatch
):
    id = queue.add(job(model, num_inference_steps=5))
    worker = worker_of(queue)
    with monkeypatch.context() as patch:
        at_step(patch, 3, worker.stop)
        assert list(worker.work()) == []
    stopped = queue.job(id)
    assert stopped.state == "queued" and stopped.output.with_suffix(".latents.safetensors").exists()
    steps = []
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: steps.append(queue.job(id)))
        at_step(patch, 3, lambda: steps.append("too many"))
        (done,) = worked(queue)
    assert len(steps) == 1 and steps[0].state == "running" and steps[0].has_worker
    same(done, sampled(PROMPT, "--steps", "5"))
    assert sorted(each.name for each in done.files.iterdir()) == ["log.txt", "result.json"]
    assert len(list((queue.folder / "videos").iterdir())) == 2


def test_a_job_is_changed_and_cancelled_while_it_runs(queue, model, sampled, monkeypatch):
    ids = queue.add_all([job(model, f"a red ball {n}", num_inference_steps=4) for n in range(3)])
    told = []

    def change():
        told.append(queue.job(ids[0]).progress)
        queue.edit(ids[1], "a blue ball", ["seed=7"])
        queue.move(ids[2], 1)
        queue.cancel(ids[0])

    with monkeypatch.context() as patch:
        at_step(patch, 3, change)
        ended = worked(queue, previews=1)
    assert [(each.id, each.state) for each in ended] == [
        (ids[0], "cancelled"), (ids[2], "done"), (ids[1], "done")]  # fmt: skip
    assert told[0]["stage"] == "denoising" and told[0]["step"] in (1, 2)
    assert told[0]["steps"] == 4 and 0 < told[0]["share"] < 1
    assert not list((queue.folder / "videos").glob(f"*{ids[0]}*"))
    assert not (ended[0].files / "preview.png").exists()
    same(ended[2], sampled("a blue ball", "--seed", "7", "--steps", "4"))
    retried = queue.retry(ids[0], None, ["num_inference_steps=1"])
    assert retried.position == 1 and worked(queue)[0].state == "done"


@pytest.mark.slow
def test_a_choice_goes_on_with_the_samples_that_are_scored(
    queue, model, clip_folder, monkeypatch, sampled
):
    id = queue.add(job(model, best_of=3, scorer=clip_folder, num_inference_steps=2))
    for number in (2, 4):  # within the second sample, and the third
        worker = worker_of(queue, keep_seconds=0)
        with monkeypatch.context() as patch:
            at_step(patch, number, worker.stop)
            assert list(worker.work()) == [] and queue.job(id).state == "queued"
    (done,) = worked(queue)
    same(done, sampled(PROMPT, "--best-of", "3", f"scorer={clip_folder}", "--steps", "2"))


def test_what_goes_wrong_with_a_job_is_told_and_the_next_one_is_made(queue, model, monkeypatch):
    bad = [
        (dict(sede=3), "Did you mean seed?"),
        (dict(height="tall"), "takes a whole number"),
        (dict(output="/tmp/../etc/x.mp4"), "leads upwards"),
        (dict(image="cat.png"), "whole path"),
        (dict(model="/nowhere/at/all"), "there is no such folder"),
        (dict(overwrite=True), "replaces no file"),
        (dict(workers=2), "made by the worker that takes it"),
        (dict(parallel="guidance"), "a worker is one process"),
        (dict(num_videos_per_prompt=2), "a job is one video"),
        (dict(height=33, model=model), "Nearest: 32 or 48"),
        (dict(device="abacus", model=model), "not available on this machine"),
    ]
    for number, (settings, _) in enumerate(bad):
        values = {"prompt": PROMPT, "settings": settings}
        queue.store.write("queued", f"{number:016d}-{number:032x}.json", values)
    hurt = queue.add(job(model, "a red box"))
    good = queue.add(job(model))
    with monkeypatch.context() as patch:
        at_step(patch, 1, lambda: {}["bug"])
        *failed, broken, done = worked(queue)
    assert [each.state for each in failed] == ["failed"] * len(bad)
    for job_, (_, words) in zip(failed, bad, strict=True):
        message = job_.result["message"]
        assert words in message and "Traceback" not in message, message
    assert broken.id == hurt and "KeyError: 'bug' (a bug;" in broken.result["message"]
    assert "Traceback" in (broken.files / "log.txt").read_text()
    assert (done.id, done.state) == (good, "done")
    assert queue.retry(hurt).state == "queued" and worked(queue)[0].state == "done"


def test_models_stay_ready_and_the_least_recently_used_one_leaves(queue, pipe, tmp_path):
    models = []
    pipe.save_pretrained(tmp_path / "a")
    for name in ("a", "b", "c"):
        if name != "a":
            shutil.copytree(tmp_path / "a", tmp_path / name)
        models.append(str(tmp_path / name))
    a, b, c = models
    queue.add_all(
        [job(each, seed=seed, num_inference_steps=1) for seed, each in enumerate((a, b, a, c))]
    )
    worker, held = worker_of(queue, models=2), []
    for _ in worker.work():
        held.append([Path(key[0]).name for key in worker.engine._ready])
    assert held == [["a"], ["a", "b"], ["b", "a"], ["a", "c"]]
    worker.engine.memory = worker.engine.nbytes * 3 // 4  # no room for two
    queue.add(job(b, seed=9, num_inference_steps=1))
    assert [each.state for each in worker.work()] == ["done"] and len(worker.engine) == 1


@pytest.mark.slow
def test_stories_and_recipes_of_a_command_line_are_jobs_too(
    queue, model, sampled, tmp_path, capsys
):
    def added(*words):
        assert main(["sample", "--queue", str(queue.folder), *words]) == 0
        return capsys.readouterr().out.split()[-1]

    scenes = "scenes: [{prompt: a red ball, seconds: 1}, {prompt: blue, seconds: 1, start: cut}]"
    (tmp_path / "film.yaml").write_text(f"{scenes}\nwindows: {{overlap: 1}}")
    sampled(PROMPT, "--seed", "5")
    words = ["--story", str(tmp_path / "film.yaml"), "--model", model, "--steps", "1"]
    film = added(*words)
    again = added("--recipe", str(tmp_path / "plain.mp4"))
    other = added("--recipe", str(tmp_path / "plain.json"), "--seed", "6")
    worker = worker_of(queue)
    with pytest.MonkeyPatch.context() as patch:
        at_step(patch, 1, worker.stop)
        assert list(worker.work()) == []
    assert queue.job(film).state == "queued"
    assert len(list((queue.folder / "videos" / f"{film}.windows").iterdir())) == 1
    assert [each.id for each in worked(queue)] == [film, again, other]
    assert main(["sample", *words, "-o", str(tmp_path / "film.mp4")]) == 0
    same(queue.job(film), (read_video(tmp_path / "film.mp4")[0], recipe_of(tmp_path / "film.mp4")))
    same(
        queue.job(again), (read_video(tmp_path / "plain.mp4")[0], recipe_of(tmp_path / "plain.mp4"))
    )
    same(queue.job(other), sampled(PROMPT, "--seed", "6", name="other.mp4"))
