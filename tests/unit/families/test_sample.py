"""`t2v sample` with tiny folders of other packages."""

import json
from pathlib import Path

import av
import numpy as np
import pytest
from diffusers import LTXVideoTransformer3DModel
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from t2v.cli import main
from t2v.io.video import read_video, write_video

from .tiny import build

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation")  # a scheduler's
PROMPT = "a red ball"


@pytest.fixture
def text(tokenizer, text_encoder):
    return {"tokenizer": tokenizer, "text_encoder": text_encoder}


@pytest.fixture
def sample(text, wake, tmp_path, monkeypatch, capsys):
    """`t2v sample` with tiny folders: exit code and stderr."""
    monkeypatch.chdir(tmp_path)

    def sample(*words, model="ltx"):
        if model and not Path(model).exists():
            build(model, text, wake).save_pretrained(model)
        code = main(["sample", *words, *(["--model", model] if model else []), "device=cpu"])
        return code, capsys.readouterr().err

    return sample


def test_the_sound_of_a_model_is_in_the_file(sample):
    size = ["--height", "32", "--width", "32", "--frames", "8", "--steps", "1", "-o", "a.mp4"]
    code, err = sample(PROMPT, *size, model="ltx2")
    assert code == 0 and "8 frames of 32x32 at 24 fps" in err, err
    with av.open("a.mp4") as file:
        (track,) = file.streams.audio
        heard = np.concatenate([frame.to_ndarray() for frame in file.decode(track)], axis=1)
        assert (track.rate, track.channels) == (16000, 2)
    assert 0.1 < np.abs(heard).max() < 1.3 and heard.shape[1] >= 5000


def test_a_film_has_its_familys_rate_and_the_frames_asked_and_is_resumed_to_the_bit(
    sample, monkeypatch
):
    size = ["--height", "32", "--width", "32", "--frames", "10", "--steps", "3", "--seed", "3"]
    code, err = sample(PROMPT, *size, "-o", "whole.mp4", "--preview-every", "2")
    assert code == 0 and "10 frames of 32x32 at 25 fps" in err, err
    whole, fps = read_video(Path("whole.mp4"))
    assert whole.shape == (10, 32, 32, 3) and fps == 25
    forward, calls = LTXVideoTransformer3DModel.forward, []

    def stopped(*args, **options):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return forward(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(LTXVideoTransformer3DModel, "forward", stopped)
        code, err = sample(PROMPT, *size, "-o", "a.mp4")
    assert code == 130 and "2 of 3 steps are kept" in err, err
    kept = Path("a.latents.safetensors")
    with safe_open(kept, framework="pt") as file:
        tensors, about = load_file(kept), file.metadata()
    changed = tensors | {"state.step.0.0": 2 * tensors["state.step.0.0"]}
    save_file(changed, "changed.latents.safetensors", metadata=about)
    code, err = sample("--resume", "changed.latents.safetensors", model=None)
    assert code == 2 and "its contents were changed. The file is damaged" in err
    settings = Path("ltx/scheduler/scheduler_config.json")
    own = settings.read_text()
    settings.write_text(own.replace('"shift": 1.0', '"shift": 9.0'))
    code, err = sample("--resume", str(kept), model=None)
    assert code == 2 and "the settings of its scheduler are not those of the recipe" in err
    code, err = sample(PROMPT, *size, "-o", "whole.mp4")
    assert code == 2 and "another video" in err, err
    settings.write_text(own)
    code, err = sample("--resume", str(kept), model=None)
    assert code == 0, err
    assert (read_video(Path("a.mp4"))[0] == whole).all()


def test_a_folder_that_names_no_transformer_is_refused_and_an_empty_folder_is_used(sample):
    size = ["--height", "32", "--width", "32", "--frames", "9", "--steps", "1"]
    Path("frames").mkdir()
    code, err = sample(PROMPT, *size, "-o", "frames/", model="wan")
    assert code == 0 and len(list(Path("frames").glob("*.png"))) == 9, err
    index = Path("wan/model_index.json")
    index.write_text(json.dumps(json.loads(index.read_text()) | {"transformer": [None, None]}))
    code, err = sample(PROMPT, *size, "-o", "b.mp4", model="wan")
    assert code == 2 and "its model_index.json names no transformer" in err, err


@pytest.mark.parametrize(
    ("model", "words", "kind"),
    [
        ("wan_5b", ["--image", "seen.png"], "WanImageToVideoPipeline"),
        ("wan", ["--video", "seen.mp4", "--strength", "0.7"], "WanVideoToVideoPipeline"),
        ("ltx", ["--video", "seen.mp4"], "LTXConditionPipeline"),
    ],
)
def test_a_folder_of_text_is_called_as_the_pipeline_of_pictures_that_has_its_weights(
    model, words, kind, sample, text, wake
):
    Image.fromarray(np.full((32, 32, 3), 200, dtype=np.uint8)).save("seen.png")
    write_video(Path("seen.mp4"), np.full((5, 32, 32, 3), 200, dtype=np.uint8), 25)
    size = ["--height", "32", "--width", "32", "--steps", "2", "--fps", "25", "-o", "a.mp4"]
    frames = [] if "--strength" in words else ["--frames", "9"]
    code, err = sample(PROMPT, *size, *frames, *words, model=model)
    assert code == 0 and f"called as a {kind}, which has the same weights" in err, err
    assert len(read_video(Path("a.mp4"))[0]) == (5 if "--strength" in words else 9)


def test_a_picture_that_no_pipeline_of_a_familys_weights_takes_is_refused(sample):
    Image.fromarray(np.full((32, 32, 3), 200, dtype=np.uint8)).save("seen.png")
    code, err = sample(PROMPT, "--image", "seen.png", model="wan")
    assert code == 2 and "is a WanPipeline that takes text alone" in err, err


STORY = """scenes:
- {prompt: a red ball, seconds: 0.6, image: seen.png}
- {prompt: a blue box, seconds: 0.25, start: SECOND}
windows: {frames: 9}
"""


def test_windows_of_a_story_begin_with_the_last_frame_and_a_line_says_so(sample):
    Image.fromarray(np.full((32, 32, 3), 200, dtype=np.uint8)).save("seen.png")
    size = ["--height", "32", "--width", "32", "--steps", "2"]
    Path("story.yaml").write_text(STORY.replace("SECOND", "continue"))
    code, err = sample("--story", "story.yaml", *size, model="wan_5b_i2v")
    assert code == 0 and "takes no latents: each window begins with the last frame" in err, err
    film, fps = read_video(Path("story.mp4"))
    assert (
        fps == 24
        and len(film) == round(0.85 * 24)
        and len(list(Path("story.windows").iterdir())) == 3
    )
    Path("story.yaml").write_text(STORY.replace("SECOND", "cut"))
    code, err = sample("--story", "story.yaml", *size, "-o", "b.mp4", model="wan_5b_i2v")
    assert code == 2 and "scene 2 begins with a cut, and a WanImageToVideoPipeline makes" in err
    code, err = sample("--story", "story.yaml", *size, "-o", "d.mp4", model="wan_5b")
    assert code == 0 and "begins with pictures as a WanImageToVideoPipeline" in err, err
    Path("story.yaml").write_text(STORY.replace("SECOND", "continue"))
    code, err = sample("--story", "story.yaml", *size, "-o", "c.mp4", model="wan")
    assert (
        code == 2 and "goes on from a frame or a picture, and a WanPipeline takes no image" in err
    )


def test_a_pipeline_of_no_known_family_is_told_its_rate(sample, monkeypatch):
    monkeypatch.setattr("t2v.families.generator.family_of", lambda name: None)
    size = ["--height", "32", "--width", "32", "--frames", "9", "--steps", "1"]
    code, err = sample(PROMPT, *size)
    assert code == 2 and "does not say how many frames a second" in err and "Give fps=" in err
    code, err = sample(PROMPT, *size, "--fps", "12")
    assert code == 0 and "no family that t2v knows" in err, err
