"""Clips go to disk and back unchanged, and a wrong row is named by its line."""

import json

import pytest

from t2v.errors import UserError
from t2v.io.manifest import Clip, read_manifest, write_manifest

FULL = dict(
    start=1.5, end=4.0, fps=29.97, width=640, height=360, num_frames=75, caption="a dög",
    captions=("a dög", "the dog"), scores={"motion": 0.5}, tags=("pan",), source="archive",
    license="CC0-1.0", sha256="ab", extra={"camera": {"x": 1}},
)  # fmt: skip


def test_clips_come_back_as_they_went_and_equal_clips_give_equal_bytes(tmp_path):
    inside = Clip(path=str(tmp_path / "in side" / "a.mp4"), **FULL)
    clips = [inside, Clip(path="/elsewhere/b.mp4").drop("motion", "it stands still")]
    clips.append(Clip(path="/elsewhere/a line\u2028break.mp4"))
    write_manifest(tmp_path / "manifest.jsonl", clips)
    assert read_manifest(tmp_path) == read_manifest(tmp_path / "manifest.jsonl") == clips
    written = (tmp_path / "manifest.jsonl").read_bytes()
    write_manifest(tmp_path / "manifest.jsonl", read_manifest(tmp_path))
    assert (tmp_path / "manifest.jsonl").read_bytes() == written
    rows = [json.loads(line) for line in written.splitlines()]
    assert [row["path"] for row in rows[:2]] == ["in side/a.mp4", "/elsewhere/b.mp4"]
    assert rows[0]["camera"] == {"x": 1}
    assert (rows[1]["dropped"], rows[1]["reason"]) == ("motion", "it stands still")
    assert [each.name for each in tmp_path.iterdir()] == ["manifest.jsonl"]


def test_a_folder_of_media_takes_its_captions_from_the_text_beside_them(tmp_path):
    for name in ("b.mp4", "a.MOV", "pictures/c.png", "notes.md", ".hidden.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b.txt").write_text("a ball\n\nthe ball \n")
    clips = read_manifest(tmp_path)
    assert [clip.path for clip in clips] == [
        str(tmp_path / name) for name in ("a.MOV", "b.mp4", "pictures/c.png")
    ]
    assert [clip.texts() for clip in clips] == [(), ("a ball", "the ball"), ()]


def test_a_folder_of_the_world_is_a_manifest_too(clips, tmp_path):
    read = read_manifest(clips)
    assert len(read) == 12
    assert read[7].path == str(clips / "clips-00001.safetensors")
    assert (read[7].extra["index"], len(read[7].texts()), read[7].num_frames) == (1, 2, 5)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", "line 2: cannot be read as JSON"),
        ("[1]", r"line 2: holds \[1\]; a clip is a JSON object"),
        ('{"caption": "x"}', "line 2: names no file"),
        ('{"path": "a.mp4", "fps": "25"}', "line 2: fps='25' should be more than 0"),
        ('{"path": "a.mp4", "fps": 0}', "line 2: fps=0 should be more than 0"),
        ('{"path": "a.mp4", "fps": NaN}', "line 2: cannot be read as JSON .NaN is no number"),
        ('{"path": "a.mp4", "width": 2.5}', "line 2: width=2.5 should be a whole number"),
        ('{"path": "a.mp4", "captions": "x"}', "line 2: captions='x' should be a list of texts"),
        ('{"path": "a.mp4", "dropped": true}', "line 2: dropped=True should be text"),
        ('{"path": "a.mp4", "start": 3, "end": 3}', "line 2: start=3 end=3: the end comes first"),
    ],
)
def test_a_wrong_row_is_named_by_its_line(tmp_path, row, message):
    manifest = tmp_path / "clips.jsonl"
    manifest.write_text('{"path": "good.mp4"}\n' + row + "\n")
    with pytest.raises(UserError, match=message):
        read_manifest(manifest)


def test_what_holds_no_clips_says_what_would(tmp_path):
    with pytest.raises(UserError, match=r"neither manifest\.jsonl nor videos"):
        read_manifest(tmp_path)
    with pytest.raises(UserError, match=r"cannot be read as a manifest.*x\.mp4, x\.txt"):
        read_manifest(tmp_path / "missing.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(UserError, match="lists no clips"):
        read_manifest(tmp_path / "empty.jsonl")
