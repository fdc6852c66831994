"""Settings of stories: one message for scenes that are none."""

import pytest

from t2v.config.story import SceneConfig
from t2v.errors import UserError


@pytest.mark.parametrize(
    ("scene", "words"),
    [
        ({"prompt": "???", "seconds": 2}, "one has no prompt"),
        ({"prompt": "a red ball", "seconds": "???"}, "one has no seconds"),
        ({"prompt": "a red ball", "seconds": 1e12}, "at most 86,400 seconds"),
        ({"prompt": "a red ball", "seconds": float("nan")}, "more than 0"),
        ({"prompt": " ", "seconds": 1.0}, "it is empty"),
    ],
)
def test_a_scene_that_is_none_is_one_message(scene, words):
    with pytest.raises(UserError, match=words):
        SceneConfig(**scene)
