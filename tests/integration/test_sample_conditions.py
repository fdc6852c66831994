"""`t2v sample` with pictures, clips and masks: what is read, kept, repeated and refused."""

import json
import shutil
from contextlib import chdir
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from PIL import Image

from t2v.cli import main
from t2v.footage.fitting import fitted
from t2v.io.video import read_recipe, read_video, write_video
from t2v.pipelines.t2v import T2VPipeline
from t2v.sampling import results

PROMPT = "a red ball rolls on the grass"


@pytest.fixture
def model(request, tmp_path_factory):
    """The folder of the tiny pipeline, which takes pictures and clips; one for all tests."""
    folder = tmp_path_factory.getbasetemp() / "takes-pictures"
    if not folder.exists():
        request.getfixturevalue("pipe").save_pretrained(folder)
        pipe = T2VPipeline.from_pretrained(folder)
        pipe.transformer.take_known(picture_tokens=True)
        generator = torch.Generator().manual_seed(7)
        torch.nn.init.normal_(pipe.transformer.picture_embedding, std=0.3, generator=generator)
        pipe.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what `put_files` writes."""
    folder = tmp_path_factory.mktemp("files")
    with chdir(folder):
        put_files()
    return folder


@pytest.fixture
def run(model, files, tmp_path, monkeypatch, capsys):
    """`t2v sample` beside pictures and clips; returns exit code, stdout, stderr."""
    monkeypatch.chdir(shutil.copytree(files, tmp_path / "work"))

    def run(*argv, named=True):
        code = main(["sample", *argv, *(["--model", str(model)] if named else [])])
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


@pytest.fixture
def read_here(monkeypatch):
    """Files are read by this process, in a tenth of the time of one of their own."""

    def work(function, items, **_):
        return [(number, function(item)) for number, item in enumerate(items)]

    monkeypatch.setattr("t2v.sampling.reading.work", work)


def put_files() -> None:
    """A picture, a clip of 5 frames and one of 12, and masks of the size of the clips."""
    ramp = np.linspace(0, 220, 60).astype(np.uint8)[None, :, None].repeat(40, 0).repeat(3, 2)
    Image.fromarray(ramp).save("ramp.png")
    Image.fromarray(ramp[:, ::-1]).save("back.png")
    frames = np.stack([np.roll(ramp, 4 * number, 1) for number in range(12)])
    write_video(Path("long.mp4"), frames, 8)
    write_video(Path("short.mp4"), frames[:5], 8)
    mask = np.zeros((40, 60), np.uint8)
    for name, value in (("black.png", 0), ("half.png", 255)):
        mask[:, 30:] = value
        Image.fromarray(mask).save(name)
    Image.fromarray(mask[:20]).save("small.png")
    Path("text.png").write_text("no picture at all\n")


def frames_of(path) -> np.ndarray:
    return results.read_frames(Path(path)).astype(float)


def test_a_picture_begins_the_video_and_stands_in_its_recipe(run):
    code, _, err = run(PROMPT, "--image", "ramp.png", "-o", "a.mp4")
    assert code == 0, err
    assert run(PROMPT, "-o", "plain.mp4")[0] == 0
    assert run(PROMPT, "--image", "back.png", "-o", "b.mp4")[0] == 0
    a, b, plain = (frames_of(f"{name}.mp4") for name in ("a", "b", "plain"))
    assert a.shape == plain.shape == (9, 32, 48, 3)
    assert (a != plain).any() and (a != b).any()
    stored = read_recipe(Path("a.mp4"))
    assert stored["settings"]["image"] == "ramp.png" and len(stored["inputs"]["image"]) == 64
    plain_recipe = read_recipe(Path("plain.mp4"))
    assert not {"inputs", "image"} & {*plain_recipe, *plain_recipe["settings"]}


def test_a_sample_is_the_one_that_the_pipeline_gives(run, model, monkeypatch):
    seen = []
    monkeypatch.setattr("t2v.io.video.write_video", lambda path, pieces, *rest: seen.extend(pieces))
    monkeypatch.setattr("t2v.sampling.generate._read_back", lambda *_: None)
    given = {"image": "ramp.png", "last_image": "back.png"}
    words = [each for name, path in given.items() for each in (f"{name}={path}",)]
    code, _, err = run(PROMPT, *words, "--seed", "3")
    assert code == 0, err
    pipe = T2VPipeline.from_pretrained(model)
    pictures = {
        name: fitted(frames_of(path)[0].astype(np.uint8), (32, 48), "crop")
        for name, path in given.items()
    }
    video = pipe(PROMPT, **pictures, generator=torch.Generator().manual_seed(3)).frames[0]
    assert (seen[0] == (video * 255).round().astype(np.uint8)).all()


@pytest.mark.parametrize(
    ("words", "length"),
    [
        (["--image", "ramp.png", "--last-image", "back.png"], 9),
        (["--video", "short.mp4"], 9),
        (["--video", "short.mp4", "--last-image", "back.png"], 9),
        (["--video", "long.mp4", "video_end=0.6"], 9),
        (["--video", "long.mp4", "--mask", "half.png"], 9),
        (["--video", "short.mp4", "--mask", "half.png"], 5),
        (["--video", "short.mp4", "--fit", "outpaint", "--width", "32"], 5),
        (["--video", "long.mp4", "--strength", "0.6", "--frames", "7"], 7),
        (["--video", "short.mp4", "--strength", "0.6", "--mask", "half.png"], 5),
        (["--video", "short.mp4", "--interpolate", "3"], 13),
        (["--image", "ramp.png", "--image-guidance", "2", "--fit", "pad"], 9),
    ],
)
def test_every_task_gives_its_frames_and_again_the_same_ones(words, length, run, read_here):
    code, _, err = run(PROMPT, *words, "-o", "x.mp4")
    assert code == 0, err
    video, fps = read_video(Path("x.mp4"))
    assert video.shape == (length, 32, 32 if "outpaint" in words else 48, 3)
    assert fps == (24 if "--interpolate" in words else 8)
    assert run("--recipe", "x.mp4", named=False)[0] == 0
    assert (read_video(Path("x-again.mp4"))[0] == video).all()
    code, _, err = run(PROMPT, *words, "-o", "x.mp4")
    assert code == 0 and "exists already" in err


def test_a_changed_or_missing_file_is_named(run):
    assert run(PROMPT, "--image", "ramp.png", "-o", "x.mp4")[0] == 0
    shutil.copy("ramp.png", "same.png")
    shutil.copy("back.png", "ramp.png")
    code, _, err = run("--recipe", "x.mp4", named=False)
    assert code == 2 and "image=ramp.png: not the file it was" in err
    Path("ramp.png").unlink()
    code, _, err = run("--recipe", "x.mp4", named=False)
    assert code == 2 and "image=ramp.png: cannot be read" in err
    assert run("--recipe", "x.mp4", "image=same.png", named=False)[0] == 0
    assert (frames_of("x-again.mp4") == frames_of("x.mp4")).all()
    code, _, err = run("--recipe", "x.mp4", "image=back.png", "-o", "y.mp4", named=False)
    assert code == 0 and (frames_of("y.mp4") != frames_of("x.mp4")).any()


@pytest.mark.parametrize(
    "words",
    [
        ["--image", "ramp.png", "--last-image", "back.png"],
        ["--video", "short.mp4", "--strength", "0.8"],
    ],
)
def test_an_interrupted_video_goes_on_with_the_same_bits(words, run, monkeypatch):
    words = [*words, "--steps", "4"]
    assert run(PROMPT, *words, "-o", "whole.mp4")[0] == 0
    step, calls = FlowMatchEulerDiscreteScheduler.step, count(1)

    def stop(*args, **kwargs):
        if next(calls) == 3:
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(FlowMatchEulerDiscreteScheduler, "step", stop)
    code, _, err = run(PROMPT, *words, "-o", "x.mp4")
    assert code == 130 and "2 of 4 steps are kept" in err
    kept = Path("x.latents.safetensors")
    assert run("--resume", str(kept), named=False)[0] == 0
    assert (frames_of("x.mp4") == frames_of("whole.mp4")).all() and not kept.exists()


def test_resume_refuses_another_file(run, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("t2v.pipelines.t2v_generator.T2VGenerator.decode_pieces", stop)
        assert run(PROMPT, "--image", "ramp.png", "-o", "x.mp4")[0] == 130
    Path("ramp.png").rename("moved.png")
    resume = ["--resume", "x.latents.safetensors"]
    code, _, err = run(*resume, "image=back.png", named=False)
    assert code == 2 and "image=back.png: not the file it was" in err
    code, _, err = run(*resume, named=False)
    assert code == 2 and "image=ramp.png: cannot be read" in err
    code, _, err = run(*resume, "image=moved.png", named=False)
    assert code == 0, err


def test_several_prompts_and_seeds_share_what_is_given(run, read_here):
    words = ["--image", "ramp.png"]
    code, out, err = run(PROMPT, "the blue box", *words, "--num-videos", "2", "-o", "x.mp4")
    assert code == 0, err
    paths = out.splitlines()
    assert len(paths) == 4
    assert run("the blue box", *words, "--seed", "1", "-o", "one.mp4")[0] == 0
    assert (frames_of("one.mp4") == frames_of(paths[3])).all()


def test_a_single_frame_is_a_picture_that_carries_its_recipe(run):
    code, out, err = run(PROMPT, "the blue box", "-o", "x.png", "--sheet")
    assert code == 0, err
    assert [Path(each).name for each in out.splitlines()] == ["x.png", "x-1.png"]
    assert frames_of("x.png").shape == (1, 32, 48, 3) and Path("x.sheet.png").exists()
    stored = results.read_recipe(Path("x.png"))
    assert stored == json.loads(Path("x.json").read_text())
    assert stored["settings"]["num_frames"] == 1
    assert run("--recipe", "x.png", named=False)[0] == 0
    assert (frames_of("x-again.png") == frames_of("x.png")).all()
    assert "exists already" in run(PROMPT, "the blue box", "-o", "x.png", "--sheet")[2]
    Path("mine.png").write_bytes(Path("ramp.png").read_bytes())
    code, _, err = run(PROMPT, "-o", "mine.png")
    assert code == 2 and "mine.png would be replaced" in err
    words = ["--video", "ramp.png", "--mask", "half.png"]
    assert run(PROMPT, *words, "-o", "part.png")[0] == 0


def test_via_image_keeps_the_picture_beside_the_video(run):
    code, _, err = run(PROMPT, "--via-image", "-o", "x.mp4", "--seed", "4")
    assert code == 0, err
    assert run(PROMPT, "-o", "alone.png", "--seed", "4")[0] == 0
    assert (frames_of("alone.png") == frames_of("x.png")).all()
    assert run(PROMPT, "--image", "x.png", "--seed", "4", "-o", "two.mp4")[0] == 0
    assert (frames_of("two.mp4") == frames_of("x.mp4")).all()
    stored = read_recipe(Path("x.mp4"))
    assert stored["settings"]["image"] == str(Path("x.png").resolve())
    assert results.read_recipe(Path("x.png"))["settings"]["seed"] == 4
    before = Path("x.png").stat().st_mtime_ns
    assert "video 1/1: " in run(PROMPT, "--via-image", "-o", "x.mp4", "--seed", "4")[2]
    assert Path("x.png").stat().st_mtime_ns == before
    code, _, err = run(PROMPT, "--via-image", "-o", "x.mp4", "--seed", "5")
    assert code == 2 and "x.png is of another video" in err
    assert run("--recipe", "x.mp4", named=False)[0] == 0
    assert (frames_of("x-again.mp4") == frames_of("x.mp4")).all()


def test_a_preview_and_a_sheet_show_what_is_made_of_a_picture(run, monkeypatch):
    seen = []
    for room in ("watch.save_image", "results.video.save_image"):
        monkeypatch.setattr(f"t2v.sampling.{room}", lambda path, image, *_: seen.append(path.name))
    words = ["--image", "ramp.png", "--preview-every", "1", "--sheet"]
    code, _, err = run(PROMPT, *words, "-o", "x.mp4")
    assert code == 0, err
    assert seen == ["x.preview.png", "x.preview.png", "x.sheet.png"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--image", "text.png"], "image=text.png: not an image"),
        (["--image", "long.mp4"], "image=long.mp4: not an image"),
        (["--image", "gone.png"], "image=gone.png: cannot be read"),
        (["--image", "."], "image=.: not a file"),
        (["--video", "text.png"], "video=text.png: not a video"),
        (["--video", "long.mp4", "--mask", "small.png"], "Give a mask of the size of the clip"),
        (["--video", "long.mp4", "--mask", "short.mp4"], "5 frames and video=long.mp4 10"),
        (["--video", "long.mp4", "--mask", "black.png"], "black everywhere"),
        (["--mask", "half.png"], "mask=half.png: it goes with a clip"),
        (["--strength", "0.5"], "strength=0.5: it goes with a clip"),
        (["--video", "long.mp4", "--strength", "1.5"], "more than 0 and at most 1"),
        (["--image", "ramp.png", "--video", "long.mp4"], "image and video: each says how"),
        (["--image", "ramp.png", "--via-image"], "image and via_image"),
        (["--video", "long.mp4"], "12 frames are given at 8 fps and 9 are asked for"),
        (["--video", "short.mp4", "--frames", "5"], "so none is left to make"),
        (["--video", "short.mp4", "--mask", "half.png", "--frames", "9"], "has 5 frames"),
        (["--image", "ramp.png", "--frames", "1"], "nothing is left to make"),
        (["--video", "short.mp4", "--interpolate", "2", "--frames", "8"], "makes 9 of the 5"),
        (["--video", "short.mp4", "--interpolate", "2.5"], "takes a whole number or null"),
        (["--video", "ramp.png", "--interpolate", "2"], "Give a longer clip"),
        (["--video", "long.mp4", "video_start=3"], "video=long.mp4: lasts 1.50 s"),
        (["--fit", "outpaint"], "fit=outpaint: it goes with a clip"),
        (["--video", "short.mp4", "--fit", "outpaint"], "nothing is left to paint around"),
        (["-o", "x.png", "--frames", "9"], "a png holds one frame"),
        (["-o", "x.png", "--gif", "--duration", "1"], "Leave duration, gif out"),
        (["-o", "x.jpg"], "ends in .mp4 (H.264), .webm"),
        (["--image-guidance", "2"], "it weighs a picture or clip"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_message_and_nothing_is_written(words, message, run, read_here):
    before = sorted(Path().iterdir())
    code, out, err = run(PROMPT, *words)
    assert (code, out) == (2, "")
    assert message in err and "Traceback" not in err
    assert err.count("t2v: ") == 1
    assert sorted(Path().iterdir()) == before


def test_a_model_of_text_alone_says_what_it_takes(run, pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "text")
    plain = ["--model", str(tmp_path / "text")]
    code, _, err = run(PROMPT, "--image", "ramp.png", *plain, named=False)
    assert code == 2 and "a T2VPipeline that takes text, video and strength" in err
    code, _, err = run(PROMPT, "--via-image", *plain, named=False)
    assert code == 2 and "via_image=true needs a model that takes a first picture" in err
    assert "takes text, video and strength. Leave via_image out" in err
    code, _, err = run(PROMPT, "--video", "short.mp4", *plain, named=False)
    assert code == 2 and "edits a clip. Say how far with strength=" in err
    words = ["--video", "short.mp4", "--strength", "0.7", "-o", "x.mp4"]
    assert run(PROMPT, *words, *plain, named=False)[0] == 0
