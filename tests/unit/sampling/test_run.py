"""Mistakes that are found before weights are read."""

import json

import pytest

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.sampling.run import load


@pytest.mark.parametrize("length", [{"num_frames": 10**7}, {"duration": 10.0**6}])
def test_a_video_larger_than_the_memory_is_refused_before_the_weights_are_read(length, tmp_path):
    index = {"_class_name": "T2VPipeline", "height": 64, "width": 64, "num_frames": 17, "fps": 8}
    (tmp_path / "model_index.json").write_text(json.dumps(index))  # and nothing else
    with pytest.raises(UserError, match=r"num_frames=\d.* needs at least [\d,]+ GiB of memory"):
        load(SampleConfig(model=str(tmp_path), **length), [])
