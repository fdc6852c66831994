"""Files of clips."""

import tarfile

import pytest

from t2v.curation import output
from t2v.manifest import Clip


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
