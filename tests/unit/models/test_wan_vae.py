"""Wan's VAE as ours computes it: the numbers of diffusers', its files and its hooks."""

import copy
import json

import diffusers
import pytest
import torch
from diffusers.hooks import apply_group_offloading

from t2v.models import wan_vae
from t2v.models.load import load_network
from t2v.models.wan_vae import AutoencoderKLWan

KINDS = {
    "2.1": {"dim_mult": [1, 2, 4, 4]},
    "2.2": {
        **{"dim_mult": [1, 2, 2], "decoder_base_dim": 8, "temperal_downsample": [True, True]},
        **{"is_residual": True, "in_channels": 12, "out_channels": 12, "patch_size": 2},
    },
}


@pytest.fixture(params=KINDS)
def pair(request, wake):
    """diffusers' VAE, and ours of the same weights."""
    theirs = diffusers.AutoencoderKLWan(
        base_dim=4, z_dim=3, num_res_blocks=1, latents_mean=[0.0] * 3, latents_std=[1.0] * 3,
        **KINDS[request.param],
    )  # fmt: skip
    theirs = wake(theirs, 1).eval().requires_grad_(False)
    return theirs, AutoencoderKLWan.of(copy.deepcopy(theirs))


def video(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)


def moments(vae, x):
    return vae.encode(x).latent_dist.parameters


@pytest.mark.parametrize(
    ("shape", "positions"),
    [
        ((1, 3, 1, 16, 24), 1024),
        ((2, 3, 7, 16, 24), 1024),
        ((1, 3, 17, 24, 16), 1),
        ((1, 3, 17, 24, 16), 12),
    ],
)
def test_it_gives_the_numbers_of_diffusers_in_pieces_of_any_length(
    pair, shape, positions, monkeypatch
):
    theirs, ours = pair
    monkeypatch.setattr(wan_vae, "POSITIONS", positions)
    with torch.no_grad():
        expected = moments(theirs, video(*shape))
        torch.testing.assert_close(moments(ours, video(*shape)), expected, atol=1e-5, rtol=1e-5)
        z = expected[:, :3] * 3
        decoded = theirs.decode(z).sample
        torch.testing.assert_close(ours.decode(z).sample, decoded, atol=1e-5, rtol=1e-5)
        assert expected.std() > 0.01 and decoded.std() > 0.01 and decoded.abs().mean() < 0.9


def test_tiles_have_no_seams(pair):
    _, ours = pair
    with torch.no_grad():
        encoded = moments(ours, video(1, 3, 5, 48, 80))
        decoded = ours.decode(encoded[:, :3]).sample
        ours.enable_tiling(16, 16, 16, 16)
        tiled = moments(ours, video(1, 3, 5, 48, 80))
        torch.testing.assert_close(tiled, encoded, atol=1e-5, rtol=1e-5)
        tiled = ours.decode(encoded[:, :3]).sample
        torch.testing.assert_close(tiled, decoded, atol=1e-5, rtol=1e-5)
        assert torch.equal(torch.cat([*ours.decode_pieces(encoded[:, :3])], dim=2), tiled)


def test_gradients_are_those_of_diffusers(pair):
    found = []
    for vae in pair:
        x = video(1, 3, 5, 16, 16).requires_grad_()
        vae.requires_grad_(True)(x).sample.square().sum().backward()
        weights = {name: each.grad for name, each in vae.named_parameters()}
        found.append({"x": x.grad} | weights)
    for name, expected in found[0].items():
        assert (found[1][name] - expected).norm() <= 1e-3 * expected.norm() + 1e-6, name


def test_half_precision_is_as_near_as_that_of_diffusers(pair):
    theirs, ours = pair
    with torch.no_grad():
        z = video(1, 3, 3, 4, 4)
        exact, errors = theirs.decode(z).sample, []
        for vae in (theirs, ours):
            vae.to(torch.bfloat16)
            errors.append((vae.decode(z.bfloat16()).sample - exact).square().mean().sqrt())
    assert errors[1] < 1.3 * errors[0] < 0.1


def test_folders_go_from_one_class_to_the_other(pair, tmp_path):
    theirs, ours = pair
    ours.save_pretrained(tmp_path / "vae")
    assert json.loads((tmp_path / "vae/config.json").read_text())["_class_name"] == (
        "AutoencoderKLWan"
    )
    back = diffusers.AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    assert type(back) is diffusers.AutoencoderKLWan
    loaded = load_network("vae", AutoencoderKLWan, tmp_path, "vae")
    assert back.state_dict().keys() == theirs.state_dict().keys() == loaded.state_dict().keys()
    with torch.no_grad():
        z = video(1, 3, 2, 3, 3)
        assert torch.equal(loaded.decode(z).sample, ours.decode(z).sample)


def test_weights_may_wait_on_another_device_and_hooked_layers_are_left_alone(pair, tmp_path):
    theirs, ours = pair
    z = video(1, 3, 2, 3, 3)
    with torch.no_grad():
        expected = ours.decode(z).sample
        for vae in (ours, theirs):
            for child in vae.children():
                apply_group_offloading(
                    child, torch.device("cpu"), offload_type="leaf_level",
                    offload_to_disk_path=str(tmp_path / f"{id(child)}"),
                )  # fmt: skip
        assert torch.equal(ours.decode(z).sample, expected)
    assert type(AutoencoderKLWan.of(theirs)) is diffusers.AutoencoderKLWan
