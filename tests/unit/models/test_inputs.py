"""What a caller asks for, counted and checked."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKLWan

from t2v.errors import UserError
from t2v.models.inputs import check_prompts, count_frames, latent_shape, warn_outside


@pytest.mark.parametrize(
    ("num_frames", "duration", "fps", "frames"),
    [
        (None, None, 8, 81),
        (7, None, 8, 7),
        (None, 2, 8, 16),
        (None, 0.01, 8, 1),
        (None, 0.3125, 8, 3),  # 2.5 frames: half goes up, also where Python's round goes to even
        (None, 1.001, 23.976, 24),
    ],
)
def test_frames_are_counted_by_one_rule(num_frames, duration, fps, frames):
    assert count_frames(num_frames, duration, fps, saved=81) == frames


@pytest.mark.parametrize("frames", [-1, 0, 2.5, float("inf"), float("nan")])
def test_impossible_numbers_of_frames_are_refused(frames):
    with pytest.raises(UserError, match="num_frames"):
        count_frames(frames, None, 8, saved=81)


@pytest.mark.parametrize("frames, latent", [(1, 1), (2, 2), (5, 2), (6, 3), (9, 3), (10, 4)])
@pytest.mark.parametrize("patch", [1, 2])
def test_latent_frames_are_padded_to_the_grid(frames, latent, patch):
    with torch.device("meta"):
        vae = AutoencoderKLWan(base_dim=3, z_dim=16, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    config = SimpleNamespace(patch_size=(patch, 2, 1), in_channels=36)  # latents and more
    transformer = SimpleNamespace(config=config)
    shape = latent_shape(transformer, vae, 3, frames, 32, 40)
    assert shape == (3, 16, latent + latent % patch, 4, 5)
    with pytest.raises(UserError, match=r"width=20: .* multiples of 8. Nearest: 16 or 24"):
        latent_shape(transformer, vae, 3, frames, 32, 20)


def test_texts_must_be_texts():
    check_prompts(prompt=("", None), negative_prompt=(None, "embeddings"))
    for bad in ([], ["", None], 3, ("a", "b")):
        with pytest.raises(UserError, match=r"prompt=.*give a text, or a list"):
            check_prompts(prompt=(bad, None))


def test_sizes_of_the_training_pass_and_others_are_warned_of_with_what_is_known(caplog):
    saved = {"trained": [[33, 64, 64], [17, 48, 64]], "num_frames": 17, "height": 64, "width": 64}
    for n, h, w in ((33, 64, 64), (1, 64, 64), (17, 48, 64), (17, 56, 64)):
        warn_outside(saved, set(), num_frames=n, height=h, width=w)
    assert not caplog.records
    for n, h, w in ((34, 64, 64), (33, 48, 64), (17, 64, 48), (17, 128, 128), (17, 32, 128)):
        caplog.clear()
        warn_outside(saved, set(), num_frames=n, height=h, width=w)
        assert f"{n} frames of {h}x{w} are outside" in caplog.text, (n, h, w)
        assert "(33 frames of 64x64, 17 frames of 48x64)" in caplog.text
