"""Side files, whatever they are, are one verdict: they neither end a curation nor hold it up."""

import json
import os
import re

import pytest

from t2v.config.captions import CaptionConfig
from t2v.config.curation import CurateConfig
from t2v.curation.analyze import analyze
from t2v.curation.sources import find_sources
from t2v.curation.text.caption import caption
from t2v.errors import UserError
from t2v.io.manifest import Clip

TABLE = "file,licence,caption\nfilms/a.mp4,CC0,A café.\n"


def pipe(path):
    os.mkfifo(path)


def loop(path):
    path.symlink_to(path)


ODD = {
    "a pipe": pipe,
    "a link to a pipe": lambda path: (pipe(path.with_name("p")), path.symlink_to("p")),
    "a link that leads nowhere": lambda path: path.symlink_to("nowhere"),
    "a link to itself": loop,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a folder": lambda path: path.mkdir(),
    "deep": lambda path: path.write_text("[" * 200_000),
    "a number of 5,000 digits": lambda path: path.write_text(f'[{{"a": {"9" * 5000}}}]'),
    "no text": lambda path: path.write_bytes(b"\xff\xfe\xff\x00\xd8"),
    "bytes": lambda path: path.write_bytes(bytes(range(256))),
}


@pytest.fixture
def films(tmp_path):
    folder = tmp_path / "films"
    folder.mkdir()
    (folder / "a.mp4").write_bytes(b"film")
    return folder


@pytest.mark.parametrize("suffix", ["csv", "json", "jsonl"])
@pytest.mark.parametrize("kind", ODD)
def test_what_lies_beside_the_input_is_none_of_its_business(films, kind, suffix):
    ODD[kind](films.parent / f"odd.{suffix}")
    (films.parent / "table.csv").write_text(TABLE)
    [source] = find_sources(str(films), films.parent / "out")
    assert (source.name, source.license, source.caption) == ("a.mp4", "CC0", "A café.")


@pytest.mark.parametrize("kind", ["a pipe", "deep", "a number of 5,000 digits", "bytes"])
def test_a_table_in_the_input_that_is_none_is_one_message(films, kind):
    ODD[kind](films / "odd.json")
    with pytest.raises(UserError, match=r"odd\.json.*cannot be read"):
        find_sources(str(films), films.parent / "out")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_tables_that_windows_wrote_read_the_same(films, encoding):
    (films.parent / "table.csv").write_text(TABLE.replace("\n", "\r\n"), encoding=encoding)
    row = json.dumps({"file": "a.mp4", "source": "Zoë"}, ensure_ascii=False)
    (films / "b.jsonl").write_text(f"{row}\r\n", encoding=encoding)
    [source] = find_sources(str(films), films.parent / "out")
    assert source.source == "Zoë"
    (films / "b.jsonl").unlink()
    [source] = find_sources(str(films), films.parent / "out")
    assert source.caption == "A café."


def test_a_table_may_hold_what_python_writes_for_no_number(films):
    (films / "b.json").write_text('[{"file": "a.mp4", "score": NaN, "license": "CC0"}]')
    assert find_sources(str(films), films.parent / "out")[0].license == "CC0"


@pytest.mark.parametrize(
    "kind",
    ["a pipe", "a link to a pipe", "a link that leads nowhere", "a link to itself", "a device"],
)
def test_footage_that_is_no_file_is_one_clip_that_failed(films, kind):
    ODD[kind](films / "b.mp4")
    sources = find_sources(str(films), films.parent / "out")
    assert [source.name for source in sources] == ["a.mp4", "b.mp4"]
    config = CurateConfig(input=str(films), output=str(films.parent / "out"))
    [clip] = analyze(sources[1], config).clips
    assert clip.dropped == "failed"
    assert re.search("cannot be read|not a file|no such file", clip.reason)


@pytest.mark.parametrize("kind", ["a pipe", "a device", "a folder", "no text", "bytes"])
def test_a_sidecar_that_is_no_text_is_a_verdict_on_its_clip(films, kind):
    ODD[kind](films / "a.txt")
    clip = caption(Clip(path=str(films / "a.mp4")), CaptionConfig(authors=("sidecar",)))
    assert clip.dropped == "caption"
    assert "a.txt" in clip.reason
    told = Clip(path=str(films / "a.mp4"), caption="A dog barks.", captions=("A dog barks.",))
    clip = caption(told, CaptionConfig(authors=("sidecar", "table")))
    assert clip.caption == "A dog barks."


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_sidecars_that_windows_wrote_read_the_same(films, encoding):
    (films / "a.txt").write_text("A dog at a café.\r\nIt barks.\r\n", encoding=encoding)
    clip = caption(Clip(path=str(films / "a.mp4")), CaptionConfig(authors=("sidecar",)))
    assert clip.captions == ("A dog at a café.", "It barks.")
