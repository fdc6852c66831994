"""Fields of a video beyond OpenAI's: clips, masks, LoRAs, scenes, and what goes together."""

import base64
import json
import time

import numpy as np
import pytest

from t2v.config.load import load_config
from t2v.config.sampling import SampleConfig
from t2v.footage.fitting import read_film
from t2v.io.gif import write_gif
from t2v.io.video import write_video

openai = pytest.importorskip("openai", reason="the extra `test` is not installed whole")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from test_serve import JSON, PROMPT, Served, made, png, quiet  # noqa: E402, F401  needs both


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    for name in ("ball.safetensors", "own"):
        (folder / name).mkdir()
    limits = ("max_clip=4", "max_best_of=2", "max_scenes=2", "max_prompt=100")
    loras = f"loras=[{folder / 'ball.safetensors'},{folder / 'own'}]"
    server = Served(folder / "queue", "devices=[]", loras, *limits)
    yield server
    assert server.stop() == (0, "False")


@pytest.fixture
def server(served):
    for job in served.queue.jobs():
        served.client.videos.delete(f"video_{job.id}")
    return served


def clip(path, frames=12, fps=8):
    noise = np.random.default_rng(0).integers(0, 256, (frames, 30, 44, 3), np.uint8)
    (write_gif if path.suffix == ".gif" else write_video)(path, noise, fps)
    return path.name, path.read_bytes()


slow = pytest.mark.slow


@pytest.mark.parametrize(
    "ending", [".mp4", pytest.param(".webm", marks=slow), pytest.param(".gif", marks=slow)]
)
def test_a_clip_is_kept_frame_by_frame_as_it_came(server, tmp_path, ending):
    path = tmp_path / f"clip{ending}"
    video = server.client.videos.create(prompt=PROMPT, input_reference=clip(path))
    url = f"/v1/videos/{video.id}/inputs/input_reference"
    assert video.settings["input_reference"] == {"kind": "clip", "url": url}
    (job,) = server.queue.jobs()
    kept = tmp_path / "kept.mp4"
    kept.write_bytes(server.ask("GET", url)[2])
    for fps in (None, 8, 24):
        asked = {"fps": fps, "size": (32, 48), "fit": "crop", "most": 100}
        assert (read_film(kept, **asked)[0] == read_film(path, **asked)[0]).all()
    assert set(job.settings) == {"model", "seed", "video"}
    status, headers, content = server.ask("GET", f"{url}?variant=thumbnail")
    assert (status, headers["Content-Type"], content[8:12]) == (200, "image/webp", b"WEBP")
    assert server.refused("GET", f"{url}?variant=x") == (400, "invalid_value")


@slow
def test_a_clip_is_edited_where_a_mask_is_white(server, tmp_path):
    mask = {"image_url": "data:image/png;base64," + png_text()}
    video = server.client.videos.create(
        prompt=PROMPT,
        input_reference=clip(tmp_path / "clip.mp4"),
        extra_body={"mask": mask, "strength": 0.5, "reference_start": 0.25},
    )
    assert {**video.settings, "seed": 0, "input_reference": 0}.keys() == {
        *("model", "seed", "input_reference", "mask", "strength", "reference_start"),
    }
    assert video.settings["mask"]["kind"] == "picture"
    (job,) = server.queue.jobs()
    assert (job.settings["strength"], job.settings["video_start"]) == (0.5, 0.25)
    assert len({job.settings["mask"], job.settings["video"]}) == 2
    server.client.videos.delete(video.id)
    assert list((server.folder / "uploads").iterdir()) == []


def png_text():
    return base64.b64encode(png((44, 30), "white")).decode()


def test_fields_that_are_asked_for_become_settings(server):
    picture = {"image_url": "data:image/png;base64," + png_text()}
    loras = [{"name": "own", "strength": -0.5}, {"name": "ball", "strength": 1}]
    body = {"last_reference": picture, "fps": 12, "best_of": 2, "fit": "pad", "lora": loras}
    video = server.client.videos.create(prompt=PROMPT, extra_body=body)
    (job,) = server.queue.jobs()
    parent = server.folder.parent
    assert job.settings["lora"] == [str(parent / "own"), str(parent / "ball.safetensors")]
    assert job.settings["lora_scale"] == [-0.5, 1.0]
    assert (job.settings["best_of"], job.settings["fps"], job.settings["fit"]) == (2, 12.0, "pad")
    shown = {**video.settings, "seed": 0}
    assert shown.pop("last_reference")["kind"] == "picture"
    assert shown == {
        **{"model": "t2v-tiny", "seed": 0, "best_of": 2, "fps": 12.0, "fit": "pad"},
        "lora": loras,
    }


def test_scenes_become_a_story(server):
    scenes = [
        {"prompt": "a red ball rolls", "seconds": 1.5},
        {"prompt": "a blue cube spins", "start": "cut"},
    ]
    body = {"prompt": "my film", "scenes": scenes, "size": "64x48"}
    status, _, content = server.ask("POST", "/v1/videos", json.dumps(body), Content_Type=JSON)
    video = json.loads(content)
    assert (status, video["prompt"], video["seconds"]) == (200, "my film", "3.625")
    scenes[1]["seconds"] = 2.125
    assert video["settings"]["scenes"] == scenes
    assert (video["size"], video["settings"]["size"]) == ("64x48", "64x48")
    (job,) = server.queue.jobs()
    assert {**job.settings, "seed": 0} == {
        **{"model": "t2v-tiny", "seed": 0, "width": 64, "height": 48},
    }
    del body["prompt"]
    line = f"/v1/videos/{video['id']}/duplicate"
    again = json.loads(server.ask("POST", line, json.dumps({"seed": 5}), Content_Type=JSON)[2])
    assert {**again["settings"], "seed": 0} == {**video["settings"], "seed": 0}
    plain = {"scenes": None, "prompt": PROMPT}
    plain = json.loads(server.ask("POST", line, json.dumps(plain), Content_Type=JSON)[2])
    assert plain["settings"]["size"] == "64x48" and "scenes" not in plain["settings"]
    assert plain["prompt"] == PROMPT


def test_a_seed_that_browsers_would_round_is_told_as_text_and_taken_so(server):
    for seed in (2**53 - 1, 2**53 + 1, 2**63 - 1):
        _, _, content = server.ask(
            *("POST", "/v1/videos", json.dumps({"prompt": PROMPT, "seed": seed})), Content_Type=JSON
        )
        video = json.loads(content)
        told = video["settings"]["seed"]
        assert (told, video["seed"]) == ((seed if seed < 2**53 else str(seed)),) * 2
        (job,) = server.queue.jobs()
        fields = json.dumps({"prompt": "a blue cube spins", "seed": told})
        server.ask("PATCH", f"/v1/videos/{video['id']}", fields, Content_Type=JSON)
        assert server.queue.job(job.id).settings["seed"] == seed
        server.queue.delete(job.id, "deleted")


SCENE = {"prompt": "a", "seconds": 1}


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"prompt": "ball " * 90}, "prompt"),  # more tokens than the 64 that the model takes
        ({"negative_prompt": "ball " * 90}, "negative_prompt"),
        ({"scenes": [SCENE, {"prompt": "ball " * 90}]}, "scenes"),
        ({"fps": 0}, "fps"),
        ({"fps": 60, "seconds": 9}, "fps"),
        ({"best_of": 3}, "best_of"),
        ({"fit": "stretch"}, "fit"),
        ({"mask": "x"}, "mask"),
        ({"strength": 0.5}, "strength"),
        ({"reference_start": 1}, "reference_start"),
        ({"last_reference": {"image_url": "file:///etc/passwd"}}, "last_reference"),
        ({"last_reference": "x", "strength": 1}, "last_reference"),
        ({"lora": [{"name": "/etc/passwd"}]}, "lora"),
        ({"lora": [{"name": "own", "strength": 3}]}, "lora"),
        ({"lora": [{"name": "own", "path": "x"}]}, "lora"),
        ({"lora": {"name": "own"}}, "lora"),
        ({"lora": "["}, "lora"),
        ({"lora": [{"name": "own"}] * 9}, "lora"),
        ({"scenes": [SCENE] * 3}, "scenes"),
        ({"scenes": [{"prompt": "a", "seconds": 11}]}, "scenes"),
        ({"scenes": [{"prompt": " "}]}, "scenes"),
        ({"scenes": [{"prompt": "a", "image": "/etc/passwd"}]}, "scenes"),
        ({"scenes": [{**SCENE, "start": "continue"}]}, "scenes"),
        ({"scenes": [SCENE], "seconds": 1}, "seconds"),
        ({"scenes": [SCENE], "best_of": 2}, "best_of"),
    ],
)
def test_a_field_that_is_wrong_is_named(server, fields, param):
    body = json.dumps({"prompt": "a", **fields})
    status, _, content = server.ask("POST", "/v1/videos", body, Content_Type=JSON)
    assert (status, json.loads(content)["error"]["param"]) == (400, param)
    assert server.queue.jobs() == []


@pytest.mark.parametrize(
    ("name", "kind", "fields", "message"),
    [
        pytest.param(
            *("input_reference", "long", {}, "a clip of 5.0 s, and 4 s are taken"), marks=slow
        ),
        ("input_reference", "playlist", {}, "no picture or clip that can be read"),
        pytest.param(
            *("input_reference", "short", {}, "gives 3 s and 2.125 s are asked for"), marks=slow
        ),
        pytest.param("input_reference", "short", {"reference_start": 5}, "lasts 3 s", marks=slow),
        pytest.param("mask", "black", {}, "goes with a clip", marks=slow),
        pytest.param("video", "short", {"seconds": 8}, "seconds and the clip are 11 s", marks=slow),
        pytest.param("video", "short", {}, "seconds is missing", marks=slow),
        pytest.param("last_reference", "long", {}, "last_reference is a clip", marks=slow),
        pytest.param(
            *("input_reference", "picture", {"strength": 1}, "strength goes with a clip"),
            marks=slow,
        ),
    ],
)
def test_a_file_that_a_field_does_not_take_leaves_nothing(
    server, tmp_path, name, kind, fields, message
):
    files = {
        "long": lambda: clip(tmp_path / "long.mp4", frames=40),
        "short": lambda: clip(tmp_path / "short.mp4", frames=24),
        "black": lambda: ("a.png", png((44, 30), "black")),
        "playlist": lambda: ("x.mp4", b"#EXTM3U\nfile:///etc/passwd\n"),
        "picture": lambda: ("a.png", png()),
    }
    with pytest.raises(openai.BadRequestError, match=message) as error:
        server.client.post(
            "/videos/extensions" if name == "video" else "/videos",
            body={"prompt": "a", **fields},
            files={name: files[kind]()},
            cast_to=object,
            options={"headers": {"Content-Type": "multipart/form-data"}},
        )
    assert error.value.param in (name, "seconds", *fields)
    assert server.queue.jobs() == [] and list((server.folder / "uploads").iterdir()) == []


def test_tokens_are_counted_as_one_types(server):
    def told(**values):
        status, _, content = server.ask(
            "POST", "/v1/prompts", json.dumps(values), Content_Type=JSON
        )
        return status, json.loads(content)

    told(prompt="a")
    began = time.perf_counter()
    answer = told(model="t2v-tiny", prompt="a red wrods bounces")
    assert time.perf_counter() - began < 0.2  # 20 ms on two idle cores
    assert answer == (200, {"tokens": 9, "most": 64, "unknown": ["wrods"]})
    assert told(prompt="a" * 101)[0] == told()[0] == told(prompt=[1])[0] == 400
    assert told(prompt="a", model="/etc")[0] == 404
    model = server.client.models.retrieve("t2v-tiny")
    assert (model.max_tokens, model.limits["prompt"]) == (64, 100)


SETTINGS = {
    **{"model": "/elsewhere/t2v-tiny", "output": "x.mp4", "seed": 7, "width": 64, "height": 48},
    **{"num_frames": 17, "fps": 8.0, "upscale": 4, "guidance_scale": 2.0, "image": "/a.png"},
    **{"quantize": "int8", "dtype": "fp32", "lora": None},
}
STORY = {"scenes": [{"prompt": "a ball", "seconds": 2.0, "start": None, "image": "/a.png"}]}


def told(server, content, code=200):
    body = {"file": {"image_url": f"data:video/mp4;base64,{base64.b64encode(content).decode()}"}}
    status, _, answer = server.ask("POST", "/v1/recipes", json.dumps(body), Content_Type=JSON)
    assert (status, list((server.folder / "uploads").iterdir())) == (code, [])
    return json.loads(answer)


@pytest.mark.parametrize(
    "ending",
    [".mp4", pytest.param(".gif", marks=slow), pytest.param(".json", marks=slow)],
)
def test_the_fields_of_a_file_are_those_of_its_recipe(server, tmp_path, ending):
    path, recipe = tmp_path / f"x{ending}", {"prompt": PROMPT, "settings": SETTINGS}
    frames = np.zeros((3, 32, 48, 3), np.uint8)
    if ending == ".json":
        path.write_text(json.dumps(recipe))
    else:
        (write_gif if ending == ".gif" else write_video)(path, frames, 8, recipe)
    assert told(server, path.read_bytes()) == {
        "object": "recipe",
        "prompt": PROMPT,
        "settings": {
            **{"model": "t2v-tiny", "seed": 7, "size": "256x192", "seconds": "2.125"},
            **{"fps": 8.0, "guidance_scale": 2.0},
        },
        "unknown": ["input_reference", "quantize"],
    }


@slow
def test_the_scenes_of_a_story_come_back(server):
    recipe = {"prompt": "a ball", "settings": {"later": 1, "num_frames": 17}, "story": STORY}
    assert told(server, json.dumps(recipe).encode()) == {
        "object": "recipe",
        "prompt": "a ball",
        "settings": {
            **{"model": "t2v-tiny", "seed": 0},
            "scenes": [{"prompt": "a ball", "seconds": 2.0}],
        },
        "unknown": ["later", "scenes.image"],
    }


@pytest.mark.parametrize(
    "content",
    [
        b'{"prompt": "a", "settings": {"seed": "much"}}',
        *(
            pytest.param(content, marks=slow)
            for content in (
                b"",
                b"nothing",
                b"{" * 10_000,
                b'{"prompt": "a"}',
                b'{"prompt": "a", "settings": {"seed": NaN}}',
                b'{"prompt": "a", "settings": {}, "story": {"scenes": 3}}',
                b"GIF89a" + bytes(100),
                b"\x89PNG" + bytes(100),
            )
        ),
    ],
    ids=lambda content: content[:20].decode(errors="replace"),
)
def test_a_file_without_a_sound_recipe_is_refused(server, content):
    error = told(server, content, 400)["error"]
    assert (error["code"], error["param"]) == ("no_recipe", "file")
    assert str(server.folder) not in error["message"]


@slow
def test_openais_edits_and_extensions_are_made_of_files_and_finished_videos(server, tmp_path):
    source = server.client.videos.create(
        prompt=PROMPT, size="64x48", seconds="1", extra_body={"num_inference_steps": 4, "seed": 1}
    )
    assert of_video(server, "edits", source.id, prompt="a blue cube") == "video_not_ready"
    with made(server.queue):
        pass
    edited = of_video(server, "edits", source.id, prompt="a blue cube")
    own = {**edited["settings"], "seed": 0}
    assert own.pop("input_reference")["kind"] == "clip"
    shown = {"model": "t2v-tiny", "size": "64x48", "num_inference_steps": 4, "seed": 0}
    assert own == {**shown, "strength": 0.6}
    assert (edited["prompt"], edited["remixed_from_video_id"]) == ("a blue cube", source.id)
    longer = of_video(server, "extensions", source.id, prompt=PROMPT, seconds="4")
    assert (longer["seconds"], longer["size"]) == ("4.625", "64x48")
    assert of_video(server, "edits", "video_" + "0" * 32, prompt="a") == "video_not_found"
    server.client.videos.delete(source.id)
    assert len(list((server.folder / "uploads").iterdir())) == 2
    longer = server.client.videos.extend(
        prompt=PROMPT, seconds="2", video=clip(tmp_path / "clip.mp4", frames=8)
    )
    assert (longer.seconds, longer.remixed_from_video_id) == ("3", None)
    edited = server.client.videos.edit(prompt="a", video=clip(tmp_path / "clip.mp4"))
    assert edited.settings["strength"] == 0.6


def of_video(server, path, id, **values):
    """The answer to an edit or extension of a video, which OpenAI's client cannot name."""
    body = json.dumps({**values, "video": {"id": id}})
    content = server.ask("POST", f"/v1/videos/{path}", body, Content_Type=JSON)[2]
    answer = json.loads(content)
    return answer["error"]["code"] if answer.get("error") else answer


def test_a_picture_of_the_subject_becomes_a_reference(tmp_path):
    server = Served(tmp_path / "queue", "devices=[]", "models=[t2v-tiny,t2v-tiny-references]")
    try:
        picture = {"image_url": "data:image/png;base64," + png_text()}
        body = {"subject_reference": picture}
        asked = {"prompt": "it rolls on sand", "model": "t2v-tiny-references"}
        video = server.client.videos.create(**asked, extra_body=body)
        (job,) = server.queue.jobs()
        (kept,) = (server.folder / "uploads").iterdir()
        assert load_config(SampleConfig, None, (), job.settings).reference_images == (str(kept),)
        assert video.settings["subject_reference"]["kind"] == "picture"
        status, _, content = server.ask("GET", f"/v1/videos/{video.id}/inputs/subject_reference")
        assert status == 200 and content == kept.read_bytes()
        for name, takes in (("t2v-tiny-references", True), ("t2v-tiny", False)):
            offered = json.loads(server.ask("GET", f"/v1/models/{name}")[2])
            assert ("subject_reference" in offered["fields"]) == takes
        scenes = [{"prompt": "it rolls", "seconds": 1}, {"prompt": "it bounces", "seconds": 1}]
        story = server.client.videos.create(**asked, extra_body={**body, "scenes": scenes})
        told = next(each for each in server.queue.jobs() if f"video_{each.id}" == story.id)
        assert "reference_images" in told.settings and "story" in told.values
        with pytest.raises(openai.BadRequestError, match="t2v-tiny takes none there"):
            server.client.videos.create(prompt=PROMPT, model="t2v-tiny", extra_body=body)
        server.client.videos.delete(video.id)
        server.client.videos.delete(story.id)
        assert list((server.folder / "uploads").iterdir()) == []
    finally:
        server.stop()
