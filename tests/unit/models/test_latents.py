"""The scale of latents: the VAE's and the denoiser's."""

import torch
from diffusers import AutoencoderKLWan

from t2v.models.latents import denormalize_latents, latent_channels, normalize_latents


def test_normalizing_takes_each_channels_mean_and_spread_away_and_is_undone(vae):
    mean, std = (torch.tensor(vae.config[f"latents_{name}"]) for name in ("mean", "std"))
    noise = torch.randn(2, 8, 3, 4, 4)
    latents = noise * std[:, None, None, None] + mean[:, None, None, None]
    torch.testing.assert_close(normalize_latents(latents, vae.config), noise, atol=1e-5, rtol=1e-5)
    again = denormalize_latents(normalize_latents(latents, vae.config), vae.config)
    torch.testing.assert_close(again, latents, atol=1e-5, rtol=1e-5)


def test_half_precision_is_kept_on_the_way_in_and_left_on_the_way_out(vae):
    latents = torch.randn(1, 8, 1, 2, 2, dtype=torch.bfloat16)
    assert normalize_latents(latents, vae.config).dtype == torch.bfloat16
    assert denormalize_latents(latents, vae.config).dtype == torch.float32


def test_the_channels_of_a_vae_are_found_under_both_names(vae):
    with torch.device("meta"):
        wan = AutoencoderKLWan(base_dim=3, z_dim=6, dim_mult=[1, 1, 1, 1], num_res_blocks=1)
    assert (latent_channels(vae), latent_channels(wan)) == (8, 6)
