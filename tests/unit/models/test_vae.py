"""The causal video autoencoder: exactness, shapes, errors."""

from dataclasses import asdict

import pytest
import torch

from t2v.config import VAEConfig
from t2v.errors import UserError
from t2v.models.vae import AutoencoderKLT2V

PATCHED = VAEConfig(
    latent_channels=4, patch_size=(2, 2, 2), block_out_channels=(16, 16),
    temporal_downsample=(True,), spatial_downsample=(True,),
)  # fmt: skip


def build(config: VAEConfig = PATCHED, wake: bool = True) -> AutoencoderKLT2V:
    torch.manual_seed(0)
    vae = AutoencoderKLT2V(**asdict(config)).eval()
    if wake:
        with torch.no_grad():
            for parameter in vae.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
    return vae


def clip(frames: int, size: int = 16, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(frames)
    return torch.rand(batch, 3, frames, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize("frames", [1, 5, 17, 33, 129])
@torch.no_grad()
def test_streamed_equals_whole(frames):
    vae = build()
    vae.chunk_latent_frames = 1000
    whole = vae.encode(clip(frames)).latent_dist.parameters
    video = vae.decode(whole[:, :4]).sample
    vae.chunk_latent_frames = 3
    # oneDNN may sum a convolution in another order at another length: rounding only
    torch.testing.assert_close(vae.encode(clip(frames)).latent_dist.parameters, whole)
    torch.testing.assert_close(vae.decode(whole[:, :4]).sample, video, atol=1e-5, rtol=1e-5)
    assert video.shape == (1, 3, frames, 16, 16)
    assert whole.shape == (1, 8, (frames + 3) // 4, 4, 4)


@torch.no_grad()
def test_a_fresh_vae_with_a_fitted_shortcut_reconstructs_as_pca():
    vae = build(wake=False)
    stds = vae.init_linear_shortcut(clip(9, 32, batch=20))
    assert stds.shape == (4,)
    latents = vae.encode(clip(9, 32, batch=20)).latent_dist.mode()
    spread = latents.std(dim=(0, 2, 3, 4), correction=0)
    torch.testing.assert_close(spread, (stds / stds[0]).float(), atol=1e-4, rtol=1e-4)
    video = clip(9, 32, batch=20)
    error, lost = (vae(video).sample - video).square(), video.var() - stds.square().sum() / 96
    assert error.shape == video.shape and lost > 0


def test_a_wrong_frame_count_names_the_nearest():
    with pytest.raises(UserError, match=r"num_frames=6 .* 4k\+1 .* 5 or 9"):
        build().encode(clip(6))
