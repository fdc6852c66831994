"""`t2v trace` finds where a film comes from, keeps what it has read, and says what it could not."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from t2v.cli import main
from t2v.config.curation import CurateConfig
from t2v.config.trace import TraceConfig
from t2v.config.world import WorldClipsConfig
from t2v.curation.analyze import analyze
from t2v.curation.copies import index
from t2v.curation.copies.index import collect
from t2v.curation.copies.reading import read_pieces
from t2v.curation.journal import THUMBS, WORK, save_analysis
from t2v.curation.sources import find_sources
from t2v.errors import UserError
from t2v.io.manifest import Clip, read_manifest, write_manifest
from t2v.io.video import write_video
from t2v.world.run import render_world

CONFIG = TraceConfig(video="", collection="", workers=1)


@pytest.fixture(scope="module")
def films(scene):
    """Films of three places; the camera moves in all."""
    return {f"film {seed}": scene(seed, 60, pan=2, ball=3) for seed in (1, 2, 3)}


@pytest.fixture(scope="module")
def written(films, tmp_path_factory):
    """A folder of the three films."""
    folder = tmp_path_factory.mktemp("written")
    for name, film in films.items():
        write_video(folder / f"{name}.mp4", film, 24)
    (folder / "film 2.txt").write_text("a ball rolls\n")
    return folder


@pytest.fixture
def collection(written, tmp_path):
    """A copy of that folder."""
    return Path(shutil.copytree(written, tmp_path / "clips"))


@pytest.fixture
def directly(monkeypatch):
    """Films are read in this process, which saves the start of others; their paths, as read."""
    read = []

    def run(doing, unit, function, items, config):
        for number, clips in enumerate(items):
            read.append(Path(clips[0].path).name)
            try:
                yield number, function(clips)
            except UserError as error:
                yield number, index.Failure("error", str(error))

    monkeypatch.setattr(index.engine, "run", run)
    return read


def test_a_copy_is_traced_to_its_clip_and_what_is_new_in_it_to_none(
    collection, films, scene, tmp_path, capsys
):
    shots = [films["film 2"][12:, 14:-14, ::-1], scene(9, 48, pan=2)[:, :116]]
    write_video(tmp_path / "copy.mp4", np.concatenate(shots), 24)
    report = tmp_path / "new" / "found.json"
    words = ["trace", str(tmp_path / "copy.mp4"), f"in={collection}", "workers=1"]
    assert main([*words, f"json={report}"]) == 0
    shown, found = capsys.readouterr().out, json.loads(report.read_text())
    assert re.search(
        r"\| copy.mp4 \| 0.0-2.0 \| film 2.mp4 \| 0.5-2.5 \| 0.\d\d \| .*mirrored", shown
    )
    assert "2.0 of 4.0 s are in 1 of the 3 clips there" in shown
    (match,) = found["matches"]
    assert match["caption"] == "a ball rolls" and match["distance"] < 0.2
    assert found["seconds_found"] == pytest.approx(2, abs=0.1)
    assert main([*words, f"json={report}"]) == 0  # its own
    report.write_text('{"mine": 1}')
    assert main([*words, f"json={report}"]) == 2
    assert "holds no matches of `t2v trace`" in capsys.readouterr().err
    assert report.read_text() == '{"mine": 1}'


def test_what_two_collections_share_is_counted(
    collection, films, scene, tmp_path, capsys, directly
):
    other = tmp_path / "other"
    other.mkdir()
    write_video(other / "same.mp4", films["film 1"][:, ::2, ::2], 24)
    write_video(other / "new.mp4", scene(9, 48, pan=2), 24)
    assert main(["trace", str(other), f"in={collection}"]) == 0
    shown = capsys.readouterr().out
    assert "1 of 2 clips (50.00%) have a copy there." in shown
    assert "| same.mp4 |" in shown and "| new.mp4 |" not in shown


def test_films_are_read_once_whatever_they_are_called(collection, directly):
    def clips():
        return [Clip(path=str(path)) for path in sorted(collection.glob("*.mp4"))]

    folder = collection / "prints"
    first = collect(clips(), folder, CONFIG)
    assert directly == ["film 1.mp4", "film 2.mp4", "film 3.mp4"]
    (collection / "film 1.mp4").rename(collection / "zoo.mp4")
    again = collect(clips(), folder, CONFIG)
    assert len(directly) == 3
    assert [part.clip.path[-5] for part in again.parts] == ["2", "3", "o"]
    assert np.array_equal(again.pictures(2), first.pictures(0))
    for name in ("layouts", "changes", "lengths"):
        old, new = (getattr(each.summaries, name) for each in (first, again))
        assert np.array_equal(np.sort(old, 0), np.sort(new, 0))
    (collection / "film 2.mp4").write_bytes((collection / "zoo.mp4").read_bytes())
    collect(clips(), folder, CONFIG)
    assert len(directly) == 3  # known by its bytes


@pytest.mark.parametrize("damage", ["torn", "flipped", "foreign", "empty", "other rules"])
def test_a_damaged_file_of_fingerprints_is_left_out_and_its_clips_are_read_again(
    collection, directly, damage, caplog, monkeypatch
):
    clips = [Clip(path=str(path)) for path in sorted(collection.glob("*.mp4"))]
    folder = collection / "prints"
    first = collect(clips, folder, CONFIG)
    (file,) = folder.glob("*.npz")
    data = bytearray(file.read_bytes())
    if damage == "torn":
        del data[len(data) // 2 :]
    elif damage == "flipped":
        data[data.index(b"layouts.npy") + 60] ^= 1
    elif damage == "foreign":
        np.savez(file, rows=np.zeros(3))
        data = file.read_bytes()
    elif damage == "empty":
        data = b""
    else:
        monkeypatch.setattr(index, "RULES", index.RULES + 1)
    file.write_bytes(data)
    again = collect(clips, folder, CONFIG)
    assert len(directly) == 6
    assert damage == "other rules" or "is damaged" in caplog.text
    assert np.array_equal(again.pictures(1), first.pictures(1))
    assert len(collect(clips, folder, CONFIG).parts) == 3 and len(directly) == 6


def test_a_fingerprint_that_is_damaged_later_is_named(collection, directly):
    clips = [Clip(path=str(path)) for path in sorted(collection.glob("*.mp4"))]
    collect(clips, collection / "prints", CONFIG)
    index._opened.cache_clear()
    found = collect(clips, collection / "prints", CONFIG)
    (file,) = (collection / "prints").glob("*.npz")
    data = bytearray(file.read_bytes())
    data[data.index(b"p1.npy") + 200] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"\.npz is damaged .* Remove it"):
        found.pictures(1)


def test_the_spans_of_a_manifest_are_compared_and_dropped_clips_are_not(
    collection, films, tmp_path, capsys, directly
):
    whole = str(collection / "film 1.mp4")
    rows = [Clip(path=whole, start=0.5, end=2.0), Clip(path=whole, start=0.0, end=0.5)]
    rows.append(Clip(path=str(collection / "film 2.mp4")).drop("motion", "it is still"))
    write_manifest(tmp_path / "manifest.jsonl", rows)
    assert main(["trace", str(collection), f"in={tmp_path / 'manifest.jsonl'}"]) == 0
    shown = capsys.readouterr().out
    assert "| film 1.mp4 | 0.5-2.0 | film 1.mp4 | 0.5-2.0 |" in shown
    assert "1 of 3 clips (33.33%)" in shown and "of the 2 clips there" in shown


def test_fingerprints_of_a_curation_are_taken_from_it(written, tmp_path, directly):
    (source,) = find_sources(str(written / "film 1.mp4"), tmp_path)
    for name in (WORK, THUMBS):
        (tmp_path / name).mkdir()
    found = analyze(source, CurateConfig(input="", output=""))
    save_analysis(tmp_path, "key", found)
    write_manifest(tmp_path / "manifest.jsonl", found.clips)
    clips = read_manifest(tmp_path)
    collected = collect(clips, tmp_path / "prints", CONFIG, tmp_path)
    assert directly == [] and len(collected.parts) == len(found.prints) == 1
    other = [replace(clips[0], extra=clips[0].extra | {"id": "../../elsewhere"})]
    collect(other, None, CONFIG, tmp_path)
    assert directly == ["film 1.mp4"]


def test_what_cannot_be_read_is_named_and_the_rest_is_compared(collection, capsys, directly):
    (collection / "broken.mp4").write_bytes(b"no film")
    os.mkfifo(collection / "pipe.mp4")
    (collection / "gone.mp4").symlink_to("nowhere")
    assert main(["trace", str(collection / "film 1.mp4"), f"in={collection}"]) == 0
    shown = capsys.readouterr().out
    assert "| film 1.mp4 | 0.0-2.5 | film 1.mp4 | 0.0-2.5 | 0.00 | the same file |" in shown
    assert "Could not be read: " in shown
    for name in ("broken.mp4: not a video", "pipe.mp4: it is no file", "gone.mp4: No such file"):
        assert name in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nothing.mp4", "in=clips"], "video=nothing.mp4: there is no such file or folder"),
        (["clips/film 1.mp4", "in=nowhere"], "collection=nowhere: there is no such file"),
        (["clips/film 1.mp4"], "collection: required"),
        (["bad.mp4", "in=clips"], "nothing in it can be compared .*bad.mp4: not a video"),
        (["clips/film 1.mp4", "in=empty"], "empty holds neither manifest.jsonl nor videos"),
        (["clips/film 1.mp4", "in=pictures"], "lists no videos that are kept"),
        (["clips/film 1.mp4", "in=clips", "correlation=2"], "more than 0 and at most 1"),
        (["clips/film 1.mp4", "in=clips", "speeds=[9]"], "from 0.25 to 4"),
        (["clips/film 1.mp4", "in=clips", "rows=0"], "rows=0"),
        (["clips/film 1.mp4", "in=clips", "index=bad.mp4"], "Give index=FOLDER"),
    ],
)
def test_what_cannot_be_traced_is_refused(
    collection, directly, words, message, monkeypatch, capsys
):
    place = collection.parent
    (place / "bad.mp4").write_text("no film")
    (place / "empty").mkdir()
    (place / "pictures").mkdir()
    (place / "pictures/one.png").write_bytes(b"")
    monkeypatch.chdir(place)
    assert main(["trace", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_clips_of_the_world_are_compared_too(tmp_path, directly):
    sizes = {"num_frames": 17, "height": 32, "width": 48}
    render_world(WorldClipsConfig(output=str(tmp_path / "world"), count=3, workers=1, **sizes))
    clips = read_manifest(tmp_path / "world")
    pieces = read_pieces(tuple(clips))
    assert [len(each) for each in pieces] == [1, 1, 1]
    assert pieces[0][0].pictures.shape[1:] == (18, 32)
    assert len(collect(clips, tmp_path / "prints", CONFIG).parts) == 3
