"""Looks that spoil a clip are named; those of a good one pass."""

import cv2
import numpy as np
import pytest

from t2v.config.curation import QualityConfig
from t2v.curation.frames.quality import quality


def measured(frames, shot, **settings):
    return quality(shot(frames.clip(0, 255).astype(np.uint8), zoom=1), QualityConfig(**settings))


@pytest.fixture
def film(scene):
    return scene(0, 36, pan=2).astype(np.float32)


def jpeg(frame, mark):
    options = [cv2.IMWRITE_JPEG_QUALITY, mark]
    return cv2.imdecode(cv2.imencode(".jpg", frame.astype(np.uint8), options)[1], cv2.IMREAD_COLOR)


def test_a_good_film_passes(film, shot):
    clip = measured(film, shot)
    assert clip.dropped == ""
    assert 0.9 < clip.scores["blockiness"] < 1.3


SPOILED = {
    "black": lambda film: film * 0 + 1,
    "blank": lambda film: film * 0 + 128,
    "blank: contrast": lambda film: film * 0 + 100,
    "over-exposed": lambda film: film * 2 + 150,
    "under-exposed": lambda film: film * 0.8 - 120,
    "blurred": lambda film: np.stack([cv2.GaussianBlur(x, (0, 0), 8) for x in film]),
    "noisy": lambda film: film + np.random.default_rng(0).normal(size=film.shape) * 30,
    "blocks of compression": lambda film: np.stack([jpeg(x, 2) for x in film]),
}


@pytest.mark.parametrize("fault", SPOILED)
def test_a_spoiled_film_is_dropped_with_the_fault_named(film, shot, fault):
    clip = measured(SPOILED[fault](film), shot)
    assert clip.dropped == "quality"
    assert fault in clip.reason


def test_a_named_model_scores_aesthetics(film, shot, tmp_path):
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil

    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=32,
        patch_size=16,
        num_labels=10,
    )
    ViTForImageClassification(config).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    clip = measured(film, shot, aesthetic_model=str(tmp_path), min_aesthetic=9.9)
    assert 1 <= clip.scores["aesthetic"] <= 10
    assert clip.reason.startswith("plain")
