"""The settings of a server: what it refuses before it listens, and its models and sizes."""

import pytest

from t2v.config.load import load_config
from t2v.config.serve import ServeConfig
from t2v.errors import UserError
from t2v.serve.models import Model, known

ASKED = "0.0.0.0"
GOOD = "a token of sixteen and more"


def config_of(**values):
    return ServeConfig(queue="q", **values)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("port=70000", "from 0 to 65,535"),
        ("max_queued=0", "at least 1"),
        ("patience=0", "more than 0"),
        ("models=[]", "at least one"),
        ("memory=0", "memory=0"),
    ],
)
def test_a_setting_out_of_range_is_refused(line, message):
    with pytest.raises(UserError, match=message):
        load_config(ServeConfig, None, ["queue=q", line])


def test_only_loopback_goes_without_a_token(monkeypatch, tmp_path):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    from t2v.serve.run import token_of

    monkeypatch.delenv("T2V_TOKEN", raising=False)
    for host in ("127.0.0.1", "::1", "localhost", "127.3.2.1"):
        assert token_of(config_of(host=host)) is None
    for host in (ASKED, "::", "10.0.0.1", "example.org"):
        with pytest.raises(UserError, match="it needs a token"):
            token_of(config_of(host=host))
    monkeypatch.setenv("T2V_TOKEN", GOOD)
    assert token_of(config_of(host=ASKED)) == token_of(config_of()) == GOOD
    file = tmp_path / "token"
    file.touch(mode=0o600)
    for bad in ("", "short", GOOD + "\n" + GOOD, "ä" * 20):
        file.write_text(bad)
        with pytest.raises(UserError, match="at least 16 characters"):
            token_of(config_of(token_file=str(file)))
    file.write_text(f"{GOOD} of a file\n")
    assert token_of(config_of(token_file=str(file))) == f"{GOOD} of a file"
    for mode in (0o640, 0o604, 0o620):
        file.chmod(mode)
        with pytest.raises(UserError, match=f"mode {mode:o}.*chmod 600"):
            token_of(config_of(token_file=str(file)))


def test_an_address_that_is_taken_is_one_message(tmp_path):
    pytest.importorskip("uvicorn", reason="the extra `serve` is not installed")
    import socket

    from t2v.serve.run import serve

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = ServeConfig(queue=str(tmp_path / "queue"), devices=(), port=port)
        with pytest.raises(UserError, match=f"port={port}: cannot be listened on"):
            serve(config, [], str)


def test_models_are_known_by_names_that_tell_no_path(tmp_path):
    (tmp_path / "a/own").mkdir(parents=True)
    (tmp_path / "b/own").mkdir(parents=True)
    for folder in ("a", "b"):
        (tmp_path / folder / "own/model_index.json").write_text('{"width": 48, "height": 32}')
    found = known(["t2v-tiny", str(tmp_path / "a/own"), "somebody/model"])
    assert list(found) == ["t2v-tiny", "own", "somebody/model"]
    assert found["own"].setting == str(tmp_path / "a/own")
    assert [model.size for model in found.values()] == ["256x256", "48x32", "auto"]
    assert found["t2v-tiny"].seconds == 17 / 8
    with pytest.raises(UserError, match="would both be own"):
        known([str(tmp_path / "a/own"), str(tmp_path / "b/own")])
    with pytest.raises(UserError, match="no pipeline folder"):
        known([str(tmp_path / "a")])
    with pytest.raises(UserError, match="no such folder"):
        known([str(tmp_path / "gone")])


def test_a_size_is_enlarged_where_that_is_nearer_to_what_the_model_makes():
    model = Model(name="m", setting="m", width=64, height=64, scale=4)
    enlarged = {"width": 64, "height": 48, "upscale": 4}
    assert model.made_at(256, 192) == enlarged
    assert model.made_at(64, 48) == {**enlarged, "upscale": 1}
    assert model.made_at(250, 250) == {"width": 250, "height": 250, "upscale": 1}
    plain = Model(name="m", setting="m", width=64, height=64)
    assert plain.made_at(512, 256) == {"width": 512, "height": 256, "upscale": 1}


def test_no_more_streams_are_open_than_may_and_none_of_a_client_that_has_left():
    pytest.importorskip("starlette", reason="the extra `serve` is not installed")
    import asyncio
    from types import SimpleNamespace

    from t2v.serve.errors import Refused
    from t2v.serve.events import Stream

    async def follow() -> tuple[list[int], int]:
        metrics, opened = SimpleNamespace(streams=0), []
        has_left = asyncio.Event()

        async def endless():
            while True:
                yield "event: progress\n\n"
                await asyncio.sleep(0)

        async def receive():
            await has_left.wait()
            return {"type": "http.disconnect"}

        async def send(message):
            if message["type"] == "http.response.start":
                opened.append(message["status"])
            await asyncio.sleep(0)

        def asked():
            scope = {"type": "http", "asgi": {"spec_version": "2.3"}}
            return Stream(endless(), metrics, 2)(scope, receive, send)

        streams = [asyncio.create_task(asked()) for _ in range(2)]
        await asyncio.sleep(0.01)
        for _ in range(3):
            with pytest.raises(Refused, match="2 event streams are open"):
                await asked()
        has_left.set()
        await asyncio.gather(*streams)
        await asked()  # of a client that had left before
        return opened, metrics.streams

    assert asyncio.run(follow()) == ([200, 200, 200], 0)
