"""Addresses and their working copies: what is brought, what is put, and what is refused."""

import json
import os
import shutil
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from t2v.errors import UserError
from t2v.io import stores, working_copies
from t2v.io.addresses import address_of, local, local_in, remove, shown
from t2v.io.files import Lines, complete, discard, write_text
from t2v.io.manifest import read_manifest, write_manifest
from t2v.io.stores import Missing
from t2v.io.working_copies import at_hand, bring, bring_data, written


@pytest.fixture
def memory(tmp_path, monkeypatch):
    """fsspec's memory, which is `memory://`; working copies are the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(working_copies, "_checked", set())
    store = fsspec.filesystem("memory")
    yield store
    store.store.clear()
    store.pseudo_dirs[:] = [""]


@pytest.fixture
def driver(memory, monkeypatch):
    """Makes a class of fsspec's memory the driver of a scheme."""

    def use(scheme, kind):
        monkeypatch.setitem(_registry, scheme, kind)

    return use


def copy(address):
    return Path(local(address))


def forget(tmp_path):
    shutil.rmtree(tmp_path / "cache" / "t2v")
    working_copies._checked.clear()


def test_an_address_and_its_working_copy_stand_for_each_other(memory, tmp_path):
    assert address_of(local("memory://b/x/")) == "memory://b/x/"
    assert shown(f"{local('S3://b/x y.mp4')} and /b/x") == "s3://b/x y.mp4 and /b/x"
    assert local("runs/a") == "runs/a" and address_of(tmp_path) is None
    settings = {"data": "memory://b", "prompts": ("memory://b",), "n": 3, "lora": ("a", "hf://o/n")}
    assert local_in(settings) == settings | {
        "data": local("memory://b"),
        "lora": ("a", local("hf://o/n")),
    }


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("file:///etc/passwd", "given by its path: /etc/passwd"),
        ("ftp://h/x", "addresses begin with s3://"),
        ("s3://b/../c", "no plain address"),
        ("s3://b//c", "no plain address"),
        ("s3://", "no plain address"),
        ("s3://b/x::file:///etc", "no plain address"),
        ("s3://b/\0", "no plain address"),
        ("http://h/x?key=1", "has a query"),
        ("https://user:word@h/x", r"https://\*\*\*@h/x: a password"),
    ],
)
def test_what_is_no_plain_address_is_one_message(address, words):
    with pytest.raises(UserError, match=words):
        local(address)


def test_a_file_is_fetched_once_and_again_when_it_changes(memory, tmp_path):
    memory.pipe("/b/clips/a.mp4", b"one")
    path = at_hand(copy("memory://b/clips/a.mp4"))
    assert path.read_bytes() == b"one" and at_hand(tmp_path / "here") == tmp_path / "here"
    memory.pipe("/b/clips/a.mp4", b"other")
    assert at_hand(path).read_bytes() == b"one"  # it is looked for once in a process
    working_copies._checked.clear()
    assert at_hand(path).read_bytes() == b"other"
    path.write_bytes(b"damaged here")
    working_copies._checked.clear()
    assert at_hand(path).read_bytes() == b"other"
    assert [each for each in path.parent.iterdir()] == [path]
    with pytest.raises(Missing, match="memory://b/none: there is no such file"):
        at_hand(copy("memory://b/none"))


def test_the_least_used_clips_make_room_and_nothing_else_does(memory, monkeypatch):
    monkeypatch.setattr(working_copies, "MOST", 8)
    monkeypatch.setattr(working_copies, "LOOKED", 1)
    memory.pipe({f"/b/{name}": name.encode() * 3 for name in "abcd"} | {"/m/model": b"x" * 99})
    bring(copy("memory://m"))
    for name in "abacd":
        working_copies._checked.clear()
        at_hand(copy(f"memory://b/{name}"))
        time.sleep(0.005)
    assert {each.name for each in copy("memory://b").iterdir()} == {"c", "d"}
    assert copy("memory://m/model").exists()


def test_a_folder_follows_its_address_without_hidden_files(memory):
    memory.pipe({"/m/a/index.json": b"1", "/m/a/vae/w": b"2", "/m/a/.git/x": b"3", "/m/ab": b""})
    folder = copy("memory://m/a")
    bring(folder)
    assert sorted(str(each.relative_to(folder)) for each in folder.rglob("*")) == [
        *("index.json", "vae", "vae/w"),
    ]
    memory.rm("/m/a/vae/w")
    (folder / "mine").write_text("kept")
    bring(folder)
    assert not (folder / "vae" / "w").exists() and (folder / "mine").exists()
    with pytest.raises(Missing, match="memory://m/b"):
        bring(copy("memory://m/b"))


def test_outputs_go_as_they_are_whole_and_indexes_last(memory, tmp_path, monkeypatch):
    puts = []
    put = MemoryFileSystem.put_file
    monkeypatch.setattr(
        MemoryFileSystem, "put_file", lambda s, a, b, **k: (puts.append(b), put(s, a, b, **k))
    )
    out = copy("memory://o/run")
    memory.pipe("/o/run/before", b"brought")
    with pytest.raises(KeyError), written(out):
        assert (out / "before").read_bytes() == b"brought"
        write_text(out / "config.yaml", f"output: {out}")
        assert memory.cat("/o/run/config.yaml") == b"output: memory://o/run"
        with complete(out / "checkpoint-1") as folder:
            folder.mkdir()
            for name in ("manifest.json", "model_index.json", "z"):
                (folder / name).write_text(name)
        discard(out / "checkpoint-1")
        assert memory.find("/o/run/checkpoint-1") == []
        with Lines(out / "metrics.jsonl") as log:
            log.add({"step": 1})
        remove(out / "before")
        (out / "left").write_text("by another process")
        write_text(out / "manifest.jsonl", "")
        (out / "later").write_text("not yet")
        write_text(tmp_path / "elsewhere", "")
        raise KeyError
    names = [each.removeprefix("/o/run/") for each in puts]
    assert names == [
        *("config.yaml", "checkpoint-1/z", "checkpoint-1/model_index.json"),
        *("checkpoint-1/manifest.json", "metrics.jsonl", "left", "manifest.jsonl", "later"),
    ]
    assert not memory.exists("/o/run/before")
    forget(tmp_path)
    with written(out):
        assert (out / "later").read_text() == "not yet"
    assert len(puts) == len(names)  # nothing changed


def test_a_video_takes_its_kin_along_and_nothing_else(memory):
    memory.pipe({"/o/x.json": b"{}", "/o/x/0.png": b"0", "/o/x/y/z": b"deep", "/o/y.mp4": b"other"})
    folder = copy("memory://o")
    with written(folder, begins="x"):
        assert {each.name for each in folder.iterdir()} == {"x.json", "x"}
        assert not (folder / "x" / "y").exists()
        (folder / "y.txt").write_text("not ours")
        write_text(folder / "x-1.mp4", "video")
    assert memory.cat("/o/x-1.mp4") == b"video" and not memory.exists("/o/y.txt")
    assert memory.exists("/o/x/y/z")


def test_an_output_that_was_not_put_is_put_by_the_next_run(memory, driver):
    class Closed(MemoryFileSystem):
        def put_file(self, *args, **how):
            raise PermissionError("AccessDenied")

    out = copy("memory://o/run")
    driver("memory", Closed)
    words = r"no permission: it could not be written \(AccessDenied"
    with pytest.raises(UserError, match=words), written(out):
        out.mkdir(parents=True)
        write_text(out / "config.yaml", "x: 1")
    driver("memory", MemoryFileSystem)
    with written(out):
        assert memory.find("/o") == []
    assert memory.cat("/o/run/config.yaml") == b"x: 1"


def test_a_store_whose_files_grow_gets_them_under_another_name_first(memory, driver):
    moved = []

    class Growing(MemoryFileSystem):
        @classmethod
        def _strip_protocol(cls, path):
            return super()._strip_protocol(path.replace("sftp://", "memory://"))

        def mv(self, path1, path2, **how):
            assert path1.startswith(path2 + ".") and self.cat(path1) == b"x" * 9
            moved.append(path2)
            super().mv(path1, path2, **how)

    driver("sftp", Growing)
    out = copy("sftp://host/out")
    with written(out):
        out.mkdir(parents=True)
        write_text(out / "a", "x" * 9)
    assert moved == ["/host/out/a"] and memory.find("/host") == ["/host/out/a"]


def test_a_driver_that_hangs_fails_or_is_not_there_is_one_message(memory, driver, monkeypatch):
    class Odd(MemoryFileSystem):
        def info(self, path, **how):
            if "slow" in path:
                time.sleep(1)
            if "shut" in path:
                raise PermissionError("403")
            if "none" in path:
                raise FileNotFoundError(path)
            raise OSError("host is down")

    driver("memory", Odd)
    monkeypatch.setattr(stores, "LIMIT", 0.1)
    for name, words in {
        "slow": r"no answer for 0\.1 s",
        "shut": "no permission",
        "none": "no such file",
        "down": "could not be read .OSError: host is down",
    }.items():
        with pytest.raises(UserError, match=f"memory://b/{name}: .*{words}"):
            at_hand(copy(f"memory://b/{name}"))
    with pytest.raises(UserError, match=r"s3:// needs s3fs, .* pip install s3fs"):
        at_hand(copy("s3://b/x"))
    for path, words in (copy("http://h/x"), "is read only"), (copy("s3://x").parent, "no bucket"):
        with pytest.raises(UserError, match=words), written(path):
            pass


def test_a_manifest_at_an_address_names_files_of_its_bucket_alone(memory, tmp_path, caplog):
    (tmp_path / "here.mp4").write_bytes(b"mine")
    inside = ["clips/0.mp4", "../beside/1.mp4", "memory://b/2.mp4"]
    outside = [
        *(str(tmp_path / "here.mp4"), "file:///etc/passwd", "memory://other/x.mp4"),
        *("../../../../../../../../etc/passwd", "../../other/x.mp4", "http://h/x?y"),
        "memory://b/../../../../../etc/passwd",
    ]
    rows = [{"path": each, "caption": "a"} for each in [*inside, *outside]]
    memory.pipe("/b/set/manifest.jsonl", "\n".join(map(json.dumps, rows)).encode())
    bring_data(copy("memory://b/set"))
    clips = read_manifest(copy("memory://b/set"))
    assert [address_of(clip.path) for clip in clips[:3]] == [
        *("memory://b/set/clips/0.mp4", "memory://b/beside/1.mp4", "memory://b/2.mp4"),
    ]
    top = os.path.realpath(tmp_path / "cache")
    for clip in clips[3:]:
        assert address_of(clip.path) is None and not Path(clip.path).exists()
        assert os.path.realpath(clip.path).startswith(top)
    assert f"7 of 10 clips are not looked for, the first at {tmp_path}/here.mp4" in caplog.text
    copy("memory://b/new").mkdir()
    write_manifest(copy("memory://b/new/manifest.jsonl"), clips)
    write_manifest(tmp_path / "manifest.jsonl", clips)
    for file in (copy("memory://b/new/manifest.jsonl"), tmp_path / "manifest.jsonl"):
        told = [json.loads(line)["path"] for line in file.read_text().splitlines()]
        assert told[:3] == [address_of(clip.path) for clip in clips[:3]]
        assert told[3:6] == outside[:3]
    assert [clip.path for clip in read_manifest(tmp_path / "manifest.jsonl")[:4]] == [
        *(clip.path for clip in clips[:3]),
        str(tmp_path / "here.mp4"),  # the user's own manifest may name it
    ]


def test_a_web_server_gives_files_and_its_lists_of_links(memory, tmp_path, monkeypatch):
    pytest.importorskip("aiohttp")

    class Pages(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    (tmp_path / "web" / "set" / "clips").mkdir(parents=True)
    (tmp_path / "web" / "secret").write_text("here")
    for name in ("manifest.jsonl", "clips/a b.mp4", "clips/c.mp4"):
        (tmp_path / "web" / "set" / name).write_text(json.dumps({"path": "clips/c.mp4"}))
    links = '<a href="c.mp4">c</a><a href="?C=N">sort</a><a href="../../secret">up</a>'
    (tmp_path / "web" / "set" / "clips" / "index.html").write_text(links)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Pages, directory=tmp_path / "web"))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        web = f"http://127.0.0.1:{server.server_port}"
        bring_data(copy(f"{web}/set"))
        (clip,) = read_manifest(copy(f"{web}/set"))
        assert not Path(clip.path).exists() and at_hand(clip.path).exists()
        assert at_hand(copy(f"{web}/set/clips/a b.mp4")).exists()
        bring(copy(f"{web}/set/clips"))
        with pytest.raises(Missing):
            bring(copy(f"{web}/none"))
    finally:
        server.shutdown()
        server.server_close()
    found = {str(p.relative_to(copy(web))) for p in copy(web).rglob("*") if p.is_file()}
    assert found == {"set/manifest.jsonl", "set/clips/c.mp4", "set/clips/a b.mp4"}
