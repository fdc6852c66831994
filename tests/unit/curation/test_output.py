"""Files of clips."""

import errno
import tarfile

import pytest

from t2v.curation import output
from t2v.errors import UserError
from t2v.io.manifest import Clip


@pytest.mark.parametrize("kept", [3, 2, 1, 0])
def test_shards_of_a_run_that_kept_more_do_not_stay(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(output, "PER_SHARD", 2)
    (tmp_path / output.SHARDS).mkdir()
    (tmp_path / "a.mp4").write_bytes(b"video")
    clips = [Clip(path=str(tmp_path / "a.mp4"), extra={"id": f"clip{n}"}) for n in range(5)]
    output._write_shards(clips, tmp_path)
    output._write_shards(clips[:kept], tmp_path)
    names = []
    for shard in sorted((tmp_path / output.SHARDS).iterdir()):
        with tarfile.open(shard) as tar:
            names += [name for name in tar.getnames() if name.endswith(".mp4")]
    assert names == [f"clip{n}.mp4" for n in range(kept)]


@pytest.mark.parametrize(
    ("path", "words"),
    [("gone.mp4", "gone.mp4: cannot be read any more"), ("a.mp4", "tar: cannot be written")],
)
def test_files_that_cannot_be_read_are_told_from_those_that_cannot_be_written(
    tmp_path, monkeypatch, path, words
):
    (tmp_path / output.SHARDS).mkdir()
    (tmp_path / "a.mp4").write_bytes(b"video")
    if path == "a.mp4":

        def full(*given):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(output, "_add", full)
    with pytest.raises(UserError, match=words):
        output._write_shards([Clip(path=str(tmp_path / path), extra={"id": "clip"})], tmp_path)
    assert list((tmp_path / output.SHARDS).iterdir()) == []
