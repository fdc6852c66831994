"""Quantizers: codes to latents and back to the bit, gradients, losses, and a VAE that has one."""

from dataclasses import asdict

import pytest
import torch
from torch import nn

from t2v.config.models import VAEConfig
from t2v.errors import UserError
from t2v.models.latents import latent_channels
from t2v.models.quantizers import Quantizer, usage
from t2v.models.vae import AutoencoderKLT2V

SIZES = [("vq", 64), ("lfq", 64), ("fsq", 64), ("fsq", 240), ("lfq", 512)]


def seeded(number=0):
    return torch.Generator().manual_seed(number)


def moments(count=4, channels=8):
    return torch.randn(count, 2 * channels, 3, 4, 4, generator=seeded())


@pytest.mark.parametrize(("kind", "size"), SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_codes_come_back_of_their_latents(kind, size, dtype):
    quantizer = Quantizer(kind, 8, size)
    codes = torch.randint(size, (2, 3, 4, 4), generator=seeded())
    latents = quantizer.latents(codes)
    assert latents.shape == (2, 8, 3, 4, 4)
    assert quantizer.codes(latents.to(dtype)).equal(codes)
    assert quantizer.table().shape == (size, 8)


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_a_posterior_is_its_codes_without_spread_and_lets_gradients_pass(kind, size):
    quantizer = Quantizer(kind, 8, size)
    given = moments().requires_grad_()
    posterior = quantizer.posterior(given)
    torch.testing.assert_close(posterior.mode(), quantizer.latents(posterior.codes))
    assert posterior.sample(generator=seeded()).equal(posterior.mode())
    assert posterior.codes.min() >= 0 and posterior.codes.max() < size
    posterior.mode().square().sum().backward()
    assert given.grad[:, :8].abs().sum() > 0 and not given.grad[:, 8:].any()


@pytest.mark.parametrize(("kind", "size"), SIZES)
def test_a_fit_loses_less_than_random_tables_do(kind, size):
    basis = torch.randn(8, 2, generator=seeded())
    places = torch.randn(4096, 2, generator=seeded(1)) @ basis.T + 3
    latents = places.T.reshape(1, 8, 16, 16, 16)
    quantizer = Quantizer(kind, 8, size)
    quantizer.fit(latents, seeded())
    posterior = quantizer.posterior(torch.cat([latents, latents], 1))
    lost = (posterior.mode() - latents).square().mean() / latents.var(dim=(2, 3, 4)).mean()
    # two dimensions of eight in 64 codes or more; signs tell their direction and no length
    assert lost < (0.6 if kind == "lfq" else 0.35)
    assert usage(posterior.codes, size)[1] > 4


def test_vectors_of_vq_follow_and_dead_ones_begin_again():
    quantizer = Quantizer("vq", 8, 16)
    quantizer.codebook[3:] = nn.functional.normalize(-quantizer.codebook[:1] + 1e-3, dim=1)
    quantizer.used[5:] = 0.0
    before = quantizer.codebook.clone()
    quantizer.losses(quantizer.posterior(moments()), seeded())
    assert not quantizer.codebook[5:].equal(before[5:])
    assert (quantizer.used[5:] > 0.9).all()
    torch.testing.assert_close(quantizer.codebook.norm(dim=1), torch.ones(16))
    kept = quantizer.codebook.clone()
    quantizer.eval()
    quantizer.losses(quantizer.posterior(moments()), seeded())
    assert quantizer.codebook.equal(kept)


def test_the_entropy_of_lfq_is_least_for_sure_and_equally_used_codes():
    quantizer = Quantizer("lfq", 4, 16)
    sure = torch.tensor(
        [[1.0 if code >> bit & 1 else -1.0 for bit in range(4)] for code in range(16)]
    )
    losses = {
        "even": quantizer._entropy(sure * 3, seeded()),
        "one": quantizer._entropy(sure[:1].expand(16, 4) * 3, seeded()),
        "unsure": quantizer._entropy(torch.zeros(16, 4), seeded()),
    }
    assert losses["even"] < -2.7  # ln 16, and nothing for each
    torch.testing.assert_close(losses["one"], torch.tensor(0.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(losses["unsure"], torch.tensor(0.0), atol=1e-4, rtol=0)
    assert set(quantizer.losses(quantizer.posterior(moments(channels=4)), seeded())) == {
        "commitment",
        "entropy",
    }


def test_usage_counts_codes_and_their_perplexity():
    assert usage(torch.tensor([0, 1, 2, 3]), 8) == pytest.approx((0.5, 4.0))
    assert usage(torch.tensor([5, 5, 5, 5]), 8) == pytest.approx((0.125, 1.0))


@pytest.mark.parametrize(
    ("kind", "size", "said"),
    [
        ("lfq", 1000, "powers of 2"),
        ("fsq", 4096, "4375"),
        ("vq", 1, "2 to 65536"),
        ("rvq", 64, "vq, lfq, fsq"),
    ],
)
def test_tables_that_a_kind_has_not_are_refused(kind, size, said):
    with pytest.raises(UserError, match=said):
        VAEConfig(quantizer=kind, codebook_size=size)


def test_a_vae_with_a_quantizer_is_causal_takes_images_and_is_saved(wake, tmp_path):
    config = VAEConfig(
        latent_channels=8, patch_size=(2, 4, 4), block_out_channels=(16, 16),
        temporal_downsample=(True,), quantizer="lfq", codebook_size=64,
    )  # fmt: skip
    vae = wake(AutoencoderKLT2V(**asdict(config)))
    video = torch.rand(1, 3, 9, 16, 16, generator=seeded()) * 2 - 1
    with torch.no_grad():
        codes = vae.encode(video).latent_dist.codes
        assert codes.shape == (1, 3, 2, 2)
        assert vae.encode(video[:, :, :5]).latent_dist.codes.equal(codes[:, :2])
        assert vae.encode(video[:, :, :1]).latent_dist.codes.equal(codes[:, :1])
        vae.save_pretrained(tmp_path)
        again = AutoencoderKLT2V.from_pretrained(tmp_path)
        assert again.encode(video).latent_dist.codes.equal(codes)
    assert again.config.quantizer == "lfq" and latent_channels(again) == 8
    assert isinstance(again.quantize, Quantizer)
