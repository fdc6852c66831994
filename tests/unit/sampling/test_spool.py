"""Frames that wait on the disk."""

import numpy as np

from t2v.sampling.spool import Spool


def test_what_passes_comes_again_and_leaves_no_file(tmp_path):
    video = np.arange(40 * 2 * 3 * 3, dtype=np.uint16).astype(np.uint8).reshape(40, 2, 3, 3)
    with Spool(tmp_path) as spool:
        passed = list(spool.passing([video[:5], video[5:]]))
        assert [len(each) for each in passed] == [5, 35]
        for _ in range(2):
            assert (np.concatenate(list(spool.pieces())) == video).all()
        assert (np.stack(list(spool.frames())) == video).all()
    assert not list(tmp_path.iterdir())
