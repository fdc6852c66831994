"""Commands that read and write addresses of fsspec: as on a disk, and on any machine."""

import json
import shutil
from dataclasses import replace

import fsspec
import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors.torch import load

from t2v.cli import main
from t2v.config.data import ClipsConfig
from t2v.config.load import save_config
from t2v.io import working_copies
from t2v.io.video import read_video
from t2v.pipelines.t2v import T2VPipeline

CLIPS = ClipsConfig(fps=8, resolution=62, num_frames=9, workers=1)
ROWS = [
    *({"path": f"../clips/red ball {n}.mp4", "caption": "the red ball"} for n in range(4)),
    {"path": "../clips/gone.mp4", "caption": "a ball"},
    {"path": "/etc/passwd", "caption": "a ball"},
]


@pytest.fixture
def memory(tmp_path, monkeypatch, pipe, media):
    """fsspec's memory, which is `memory://`, with a model, and clips beside their manifest."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    store = fsspec.filesystem("memory")
    pipe.register_to_config(fps=8.0, num_frames=9, height=48, width=80)
    pipe.save_pretrained(tmp_path / "base")
    store.put(str(tmp_path / "base"), "/b/model", recursive=True)
    for n in range(4):
        store.pipe(f"/b/clips/red ball {n}.mp4", (media / f"{n}.mp4").read_bytes())
    store.pipe("/b/set/manifest.jsonl", "\n".join(map(json.dumps, ROWS)).encode())
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def forget(tmp_path):
    """Go on at another machine, which has no working copies."""

    def go():
        shutil.rmtree(tmp_path / "cache" / "t2v" / "addresses")
        shutil.rmtree(tmp_path / "cache" / "t2v" / "addresses-twins")
        working_copies._checked.clear()

    return go


@pytest.fixture
def train(dit_config, tmp_path):
    """Trains on `data` to a number of steps."""

    def run(data, output, steps):
        config = replace(
            dit_config, data=data, vae="memory://b/model", clips=CLIPS, held_out=1, steps=steps,
            precision="fp32", output=output, save_every=1, validate_every=9, keep_checkpoints=1,
        )  # fmt: skip
        save_config(config, tmp_path / "run.yaml")
        return main(["train", "--config", str(tmp_path / "run.yaml")])

    return run


def test_a_manifest_at_an_address_trains_with_the_clips_beside_it(memory, train, capsys):
    assert train("memory://b/set", "memory://made/run", 1) == 0
    out, err = capsys.readouterr()
    assert out.strip() == "memory://made/run/checkpoint-000001"
    assert "2 of 6 clips" not in err and "1 of 6 clips are not looked for" in err
    found = {each.removeprefix("/made/run/") for each in memory.find("/made/run")}
    assert found >= {"config.yaml", "metrics.jsonl", "checkpoint-000001/manifest.json"}
    config = memory.cat("/made/run/config.yaml")
    assert b"data: memory://b/set" in config and b"vae: memory://b/model" in config
    assert memory.find("/b/set") == ["/b/set/manifest.jsonl"]  # what is read stays as it is


@pytest.mark.slow
def test_clips_of_a_manifest_are_encoded_and_trained_on_and_another_machine_goes_on(
    memory, forget, train, capsys
):
    words = ["encode", "memory://b/set", "model=memory://b/model", "precision=fp32"]
    assert main([*words, "clips.workers=2", "output=memory://made/set"]) == 0
    assert capsys.readouterr().out.strip() == "memory://made/set/report.txt"
    report = json.loads(memory.cat("/made/set/report.json"))
    assert (report["kept"], report["dropped by"]) == (4, {"data: no file": 2})
    memory.rm("/b/clips", recursive=True)  # its latents are enough
    forget()
    assert train("memory://made/set", "memory://made/run", 1) == 0
    before = memory.cat(memory.find("/made/run/checkpoint-000001"))
    assert b"memory://made/set" in before["/made/run/checkpoint-000001/training/config.yaml"]
    forget()
    assert train("memory://made/set", "memory://made/run", 2) == 0
    assert "memory://made/run: resuming at step 1 of 2" in capsys.readouterr().err
    assert {each.split("/")[3] for each in memory.find("/made/run")} >= {"checkpoint-000002"}
    assert not memory.exists("/made/run/checkpoint-000001")
    assert len(memory.cat("/made/run/metrics.jsonl").splitlines()) == 2


def test_a_video_goes_to_an_address_and_what_was_kept_goes_on_from_there(
    memory, forget, monkeypatch, tmp_path, capsys
):
    words = ["sample", "a red ball", "--steps", "3", "device=cpu"]
    assert main([*words, "--model", str(tmp_path / "base"), "-o", str(tmp_path / "x.mp4")]) == 0
    words += ["--model", "memory://b/model", "-o", "memory://out/x.mp4"]
    step, calls = FlowMatchEulerDiscreteScheduler.step, []

    def stop(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(FlowMatchEulerDiscreteScheduler, "step", stop)
        assert main(words) == 130
    assert "t2v sample --resume memory://out/x.latents.safetensors" in capsys.readouterr().err
    assert memory.find("/out") == ["/out/x.latents.safetensors"]
    forget()
    resume = ["sample", "--resume", "memory://out/x.latents.safetensors"]
    assert main(resume) == 2
    told = "names model=memory://b/model, which is not here, and a recipe fetches nothing"
    assert told in capsys.readouterr().err
    assert main([*resume, "--model", "memory://b/model"]) == 0
    assert capsys.readouterr().out.strip() == "memory://out/x.mp4"
    assert memory.find("/out") == ["/out/x.json", "/out/x.mp4"]
    recipe = json.loads(memory.cat("/out/x.json"))["settings"]
    assert (recipe["model"], recipe["output"]) == ("memory://b/model", "memory://out/x.mp4")
    memory.get("/out/x.mp4", str(tmp_path / "y.mp4"))
    frames = [read_video(tmp_path / name)[0] for name in ("x.mp4", "y.mp4")]
    np.testing.assert_array_equal(*frames)
    again = T2VPipeline.from_pretrained("memory://b/model")
    assert again.config.num_frames == 9


@pytest.mark.slow
def test_a_run_at_an_address_equals_one_on_the_disk_to_the_bit(memory, forget, train, tmp_path):
    assert train("memory://b/set", str(tmp_path / "whole"), 4) == 0
    for steps in (2, 4):
        assert train("memory://b/set", "memory://made/run", steps) == 0
        forget()
    for name in ("transformer/diffusion_pytorch_model", "training/optimizer", "training/ema"):
        place = f"checkpoint-000004/{name}.safetensors"
        ours = load(memory.cat(f"/made/run/{place}"))
        whole = load((tmp_path / "whole" / place).read_bytes())
        assert ours.keys() == whole.keys()
        assert all(torch.equal(each, whole[key]) for key, each in ours.items())


@pytest.mark.slow
def test_footage_is_curated_from_and_to_an_address_and_trained_on(memory, forget, train, capsys):
    words = ["curate", "memory://b/clips", "output=memory://b/curated"]
    words += ["skip=[probe,quality,motion,overlay,dedup,topics]", "caption.authors=[filename]"]
    assert main(words) == 0
    first = memory.cat("/b/curated/manifest.jsonl")
    assert first.count(b'"path": "memory://b/clips/') == 4
    forget()
    assert main(words) == 0  # whose films are known there too
    assert "4 of 4 files are done already" in capsys.readouterr().err
    assert memory.cat("/b/curated/manifest.jsonl") == first
    forget()
    assert train("memory://b/curated", "memory://b/run", 1) == 0
    assert main(["world", "output=memory://b/world", "count=4", "workers=1"]) == 0
    names = memory.find("/b/world")
    forget()
    assert main(["world", "output=memory://b/world", "count=4", "workers=1"]) == 0
    assert "holds all 4 clips already" in capsys.readouterr().err
    assert memory.find("/b/world") == names
    model = "memory://b/run/checkpoint-000001"
    words = [model, "data=memory://b/curated", "held_out=2", "draws=1", "device=cpu"]
    assert main(["eval", "footage", *words, "output=memory://b/eval"]) == 0
    assert memory.exists("/b/eval/likeness.json")
