"""Videos of a server with a worker, made of clips, pictures and scenes, beside those of samples."""

import json
from pathlib import Path

import pytest

from t2v.cli import main
from t2v.io.video import read_video

openai = pytest.importorskip("openai", reason="the extra `test` is not installed whole")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from test_serve import JSON, Served, png, quiet  # noqa: E402, F401  needs both

pytestmark = pytest.mark.slow

PROMPT, STEPS = "a red ball bounces on grass", {"num_inference_steps": 3, "seed": 5}
SAMPLE = ["num_inference_steps=3", "seed=5", "width=64", "height=48", "upscale=1"]


def same(server, video, path):
    done = server.client.videos.poll(video.id)
    assert done.status == "completed", done.error
    made = server.folder / "videos" / f"{video.id.removeprefix('video_')}.mp4"
    assert (read_video(made)[0] == read_video(path)[0]).all()
    return made


def test_videos_of_clips_pictures_and_scenes_are_those_of_samples(tmp_path):
    server = Served(tmp_path / "queue", "max_seconds=20")
    create, own = server.client.videos.create, {"size": "64x48", **STEPS}
    clip, picture = tmp_path / "clip.mp4", tmp_path / "picture.png"
    assert main(["sample", PROMPT, *SAMPLE, "num_frames=9", f"output={clip}"]) == 0
    picture.write_bytes(png((64, 48)))
    tasks = {
        "edit": ({"strength": 0.6}, clip, [f"video={clip}", "strength=0.6"]),
        "goes on": ({"reference_start": 0.25}, clip, [f"video={clip}", "video_start=0.25"]),
        "begins": ({}, picture, [f"image={picture}"]),
    }
    for name, (fields, file, line) in tasks.items():
        plain = tmp_path / f"{name}.mp4"
        assert main(["sample", PROMPT, *SAMPLE, *line, f"output={plain}"]) == 0
        upload = (file.name, file.read_bytes())
        video = create(prompt=PROMPT, input_reference=upload, extra_body={**own, **fields})
        same(server, video, plain)
    scenes = [{"prompt": PROMPT, "seconds": 1}, {"prompt": "a blue cube spins", "seconds": 1.5}]
    (tmp_path / "story.yaml").write_text(json.dumps({"scenes": scenes}))
    plain = tmp_path / "story.mp4"
    line = [*SAMPLE[:-1], f"--story={tmp_path / 'story.yaml'}", f"output={plain}"]
    assert main(["sample", *line]) == 0
    video = create(prompt="my film", extra_body={"scenes": scenes, **own})
    made = same(server, video, plain)
    told = server.client.videos.retrieve(video.id)
    assert (told.seconds, told.size, told.prompt) == ("2.5", "64x48", "my film")
    _comes_back(server, made, told.settings)
    assert server.stop() == (0, "False")


def _comes_back(server: Served, made: Path, settings: dict) -> None:
    """The fields of a film that is dropped on a page are those that it was asked for with."""
    answer = server.client.post(
        "/recipes",
        body={},
        files={"file": ("x.mp4", made.read_bytes())},
        cast_to=object,
        options={"headers": {"Content-Type": "multipart/form-data"}},
    )
    assert answer["unknown"] == []
    asked = {name: value for name, value in settings.items() if name in answer["settings"]}
    assert {name: answer["settings"][name] for name in asked} == asked
    assert asked.keys() >= {"model", "scenes", "seed", "num_inference_steps", "size"}
