"""Videos are compared with training clips of any kind: a folder of videos, or a manifest of it."""

import numpy as np
import pytest
import torch

from t2v.errors import UserError
from t2v.evaluation.copies import TrainingClips
from t2v.evaluation.sanity_checks import copied
from t2v.evaluation.types import Videos
from t2v.io.video import write_video


def test_a_video_that_shows_a_training_clip_is_near_to_it_and_another_is_not(scene, tmp_path):
    films = [scene(seed, 40, pan=2, ball=3) for seed in (1, 2, 3)]
    for number, film in enumerate(films[:2]):
        write_video(tmp_path / f"{number}.mp4", film, 24)
    (tmp_path / "1.txt").write_text("a ball rolls\n")
    frames = np.stack([films[1][::3, :, ::-1], films[2][::3]])
    videos = Videos(torch.from_numpy(np.ascontiguousarray(frames)), ("a", "b"), 8)
    training = TrainingClips(str(tmp_path))
    near, far = training.nearest(videos)
    assert near.distance < 0.1 and near.clip == "a ball rolls"
    assert far.distance > training.distance
    marks = copied(torch.tensor([near.distance, far.distance]), None, training.distance)
    assert marks.tolist() == [True, False]


def test_a_copy_is_nearer_than_any_new_clip_where_there_are_some():
    distance, new = torch.tensor([0.05, 0.2, 0.6]), torch.tensor([0.1, 1.0, 0.4])
    assert copied(distance, new, 0.3).tolist() == [True, False, False]
    assert copied(distance, None, 0.3).tolist() == [True, True, False]


def test_training_clips_that_are_not_there_are_named(tmp_path):
    with pytest.raises(UserError, match=r"training=.*nowhere: there is no such file"):
        TrainingClips(str(tmp_path / "nowhere"))
