"""Videos of a server that are changed, tried again, moved, and made after others."""

import json
from pathlib import Path

import pytest

openai = pytest.importorskip("openai", reason="the extra `test` is not installed whole")
pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")

from test_serve import JSON, PROMPT, Served, made, png, quiet  # noqa: E402, F401  needs both

ASKED = {"seed": 3, "num_inference_steps": 4, "guidance_scale": 2.5, "negative_prompt": "yes"}


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served")
    (folder / "ball.safetensors").write_bytes(b"x")
    loras = f"loras=[{folder / 'ball.safetensors'}]"
    server = Served(folder / "queue", "devices=[]", "max_queued=5", loras)
    yield server
    assert server.stop() == (0, "False")


@pytest.fixture
def server(served):
    for job in served.queue.jobs():
        served.client.videos.delete(f"video_{job.id}")
    return served


def ask(server, method, id, path="", **values):
    """The video of an answer, or its status and the code and field of what is refused."""
    body = json.dumps(values) if values else None
    kind = {"Content_Type": JSON} if values else {}
    status, _, content = server.ask(method, f"/v1/videos/{id}{path}", body, **kind)
    answer = json.loads(content)
    assert str(server.folder) not in json.dumps(answer)
    return answer if status == 200 else (status, answer["error"]["code"], answer["error"]["param"])


def test_a_video_shows_what_it_was_asked_for_and_is_changed_field_by_field(server):
    video = server.client.videos.create(
        prompt=PROMPT, seconds="4", size="256x192", extra_body=ASKED | {"fps": 8}
    )
    shown = {"model": "t2v-tiny", "seconds": "4", "size": "256x192", "fps": 8.0, **ASKED}
    assert video.settings == shown
    changed = ask(server, "PATCH", video.id, prompt="a blue cube", seed=None, size=None, seconds=2)
    assert (changed["id"], changed["prompt"], changed["position"]) == (video.id, "a blue cube", 1)
    seed = changed["seed"]
    assert seed != 3
    expected = {**shown, "seed": seed, "seconds": "2"}
    del expected["size"]
    assert changed["settings"] == expected
    (job,) = server.queue.jobs()
    assert job.settings["negative_prompt"] == "yes" and "width" not in job.settings
    for values, param in (({"seconds": 11}, "seconds"), ({"seed": "x"}, "seed")):
        assert ask(server, "PATCH", video.id, **values) == (400, "invalid_value", param)
    assert ask(server, "PATCH", video.id, output="/x") == (400, "unknown_parameter", "output")
    assert ask(server, "PATCH", video.id) == (400, "missing_required_parameter", None)
    assert server.queue.jobs() == [job]


def test_what_a_state_does_not_allow_is_a_conflict(server):
    video = server.client.videos.create(prompt=PROMPT)
    conflict = (409, "wrong_state", None)
    assert ask(server, "POST", video.id, "/retry") == conflict
    with made(server.queue):
        assert ask(server, "PATCH", video.id, seed=1) == conflict
        assert ask(server, "POST", video.id, "/move", position=1) == conflict
    assert ask(server, "PATCH", video.id, seed=1) == conflict
    assert ask(server, "POST", video.id, "/cancel") == conflict
    assert ask(server, "POST", video.id, "/retry", seed=1) == conflict
    for path in ("/cancel", "/retry", "/remix", "/duplicate"):
        assert ask(server, "POST", "video_" + "0" * 32, path)[0] == 404
    assert ask(server, "PATCH", "video_" + "0" * 32, seed=1)[0] == 404


def test_a_video_that_was_cancelled_is_tried_again_with_other_fields(server):
    video = server.client.videos.create(prompt=PROMPT, extra_body={"seed": 3})
    cancelled = ask(server, "POST", video.id, "/cancel")
    assert (cancelled["status"], cancelled["error"]["code"]) == ("failed", "cancelled")
    assert ask(server, "POST", video.id, "/retry", seed=5)["settings"]["seed"] == 5
    assert [job.state for job in server.queue.jobs()] == ["queued"]
    ask(server, "POST", video.id, "/cancel")
    again = ask(server, "POST", video.id, "/retry")
    assert (again["status"], again["error"], again["seed"]) == ("queued", None, 5)


def test_videos_that_wait_change_places(server):
    ids = [server.client.videos.create(prompt=f"{PROMPT} {each}").id for each in range(3)]

    def order():
        jobs = server.queue.jobs({"queued"})
        return [ids.index(f"video_{job.id}") for job in jobs]

    assert ask(server, "POST", ids[2], "/move", position="first")["position"] == 1
    assert order() == [2, 0, 1]
    assert ask(server, "POST", ids[2], "/move", position=2)["position"] == 2
    assert ask(server, "POST", ids[0], "/move", position="last")["position"] == 3
    assert order() == [2, 1, 0]
    for position in (0, -1, "middle", 1.5, True, [1]):
        refused = ask(server, "POST", ids[0], "/move", position=position)
        assert refused == (400, "invalid_value", "position")
    assert ask(server, "POST", ids[0], "/move")[1] == "missing_required_parameter"


def test_videos_are_made_after_others(server):
    source = server.client.videos.create(prompt=PROMPT, extra_body=ASKED)
    with made(server.queue):
        pass
    remixed = server.client.videos.remix(source.id, prompt="a blue cube")
    assert (remixed.prompt, remixed.remixed_from_video_id) == ("a blue cube", source.id)
    assert remixed.settings == source.settings and remixed.status == "queued"
    varied = ask(server, "POST", source.id, "/duplicate", seed=None)
    assert varied["prompt"] == PROMPT and varied["seed"] != 3
    assert varied["settings"] == {**source.settings, "seed": varied["seed"]}
    same = ask(server, "POST", source.id, "/duplicate")
    assert (same["settings"], same["remixed_from_video_id"]) == (source.settings, source.id)
    with pytest.raises(openai.BadRequestError, match="prompt is missing"):
        server.client.post(f"/videos/{source.id}/remix", body={}, cast_to=object)
    ask(server, "PATCH", remixed.id, seed=9)
    edited = server.client.videos.retrieve(remixed.id)
    assert (edited.seed, edited.remixed_from_video_id) == (9, source.id)


def test_a_full_queue_takes_no_video_after_another(server):
    videos = [server.client.videos.create(prompt=PROMPT).id for _ in range(5)]
    for path in ("/duplicate", "/remix"):
        assert ask(server, "POST", videos[0], path, prompt="a")[:2] == (429, "queue_full")
    ask(server, "POST", videos[0], "/cancel")
    server.client.videos.create(prompt=PROMPT)
    assert ask(server, "POST", videos[0], "/retry")[:2] == (429, "queue_full")


def test_a_picture_stays_as_long_as_a_video_is_made_of_it(server):
    video = server.client.videos.create(prompt=PROMPT, input_reference=("a.png", png()))
    url = f"/v1/videos/{video.id}/inputs/input_reference"
    assert video.settings["input_reference"] == {"kind": "picture", "url": url}
    status, headers, content = server.ask("GET", url)
    assert (status, headers["Content-Type"], content[:4]) == (200, "image/png", b"\x89PNG")
    other = ask(server, "POST", video.id, "/duplicate", seed=1)
    uploads = server.folder / "uploads"
    server.client.videos.delete(video.id)
    assert len(list(uploads.iterdir())) == 1
    assert ask(server, "PATCH", other["id"], input_reference=None)["settings"].keys() == {
        *("model", "seed"),
    }
    assert list(uploads.iterdir()) == []
    assert server.refused("GET", f"/v1/videos/{other['id']}/inputs/input_reference")[0] == 404


def test_a_video_of_the_command_line_is_changed_without_what_no_field_tells(server, tmp_path):
    server.queue.add(
        {
            "prompt": PROMPT,
            "settings": {"output": str(tmp_path / "own.mp4"), "vae_tiling": True, "num_frames": 9},
        }
    )
    (job,) = server.queue.jobs()
    assert ask(server, "GET", job.id)["settings"] == {
        **{"model": "t2v-tiny", "seconds": "1.125", "seed": 0},
    }
    ask(server, "PATCH", job.id, guidance_scale=2)
    (job,) = server.queue.jobs()
    settings = {**job.settings, "seed": 0}
    assert settings == {
        **{"model": "t2v-tiny", "output": str(tmp_path / "own.mp4"), "vae_tiling": True},
        **{"num_frames": 9, "guidance_scale": 2.0, "seed": 0},
    }
    copy = ask(server, "POST", job.id, "/duplicate", seed=1)
    kept = server.queue.job(copy["id"].removeprefix("video_"))
    assert kept.settings["vae_tiling"] and kept.output.parent == Path(server.folder / "videos")
    server.queue.add({"prompt": PROMPT, "settings": {"model": "somebody/else"}})
    other = server.queue.jobs()[-1]
    assert ask(server, "GET", other.id)["model"] == "other"
    assert ask(server, "PATCH", other.id, seed=1) == (409, "model_not_offered", "model")
    assert ask(server, "PATCH", other.id, model="t2v-tiny")["model"] == "t2v-tiny"
