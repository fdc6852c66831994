"""What a kill may leave of the list of clips that are done."""

from t2v.curation.journal import ClipLog
from t2v.io.manifest import Clip


def test_a_line_torn_anywhere_does_not_count_and_the_ones_before_it_do(tmp_path):
    path = tmp_path / "caption.jsonl"
    log = ClipLog(path)
    clips = [Clip(path=f"{name}.mp4", extra={"probe": {"codec": "h264"}}) for name in "ab"]
    for clip in clips:
        log.add(clip.path, clip)
    log.close()
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for length in range(first, len(whole)):
        path.write_bytes(whole[:length])
        torn = ClipLog(path)
        torn.close()
        assert torn.done == {"a.mp4": clips[0]}
        assert path.read_bytes() == whole[:first]
