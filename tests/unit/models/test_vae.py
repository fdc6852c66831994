"""The causal video autoencoder: exactness of streaming and tiling, causality, inflation, errors."""

from dataclasses import asdict, replace

import pytest
import torch
from diffusers import AutoencoderKL

from t2v.config.models import VAEConfig
from t2v.errors import UserError
from t2v.models.causal import CausalConv3d, DecodeStream
from t2v.models.vae import AutoencoderKLT2V

PATCHED = VAEConfig(
    latent_channels=4,
    patch_size=(2, 2, 2),
    block_out_channels=(16, 16),
    temporal_downsample=(True,),
    spatial_downsample=(True,),
)
PLAIN = VAEConfig(
    latent_channels=4,
    patch_size=(1, 1, 1),
    block_out_channels=(32, 32, 32),
    temporal_downsample=(True, True),
    spatial_downsample=(True, True),
    resample_taps=3,
    norm="group",
    mid_block=True,
    mid_attention=True,
    quant_conv=True,
    linear_shortcut=False,
)


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


@pytest.mark.parametrize("config", [PATCHED, PLAIN], ids=["patched", "plain"])
@pytest.mark.parametrize("frames", [1, 5, 17, 33, 129])
@torch.no_grad()
def test_streamed_equals_whole(config, frames):
    vae = build(config)
    vae.chunk_latent_frames = 1000
    whole = vae.encode(clip(frames)).latent_dist.parameters
    video = vae.decode(whole[:, :4]).sample
    vae.chunk_latent_frames = 3
    # a convolution may sum in another order at another length, hence rounding and no more
    torch.testing.assert_close(
        vae.encode(clip(frames)).latent_dist.parameters, whole, atol=1e-4, rtol=1e-5
    )
    torch.testing.assert_close(vae.decode(whole[:, :4]).sample, video, atol=1e-4, rtol=1e-5)
    assert whole.shape == (1, 8, (frames + 3) // 4, 4, 4)
    assert video.shape == (1, 3, frames, 16, 16)


@pytest.mark.parametrize("config", [PATCHED, PLAIN], ids=["patched", "plain"])
@torch.no_grad()
def test_the_future_leaves_the_past_bit_equal(config):
    vae, video = build(config), clip(17)
    latents = vae.encode(video).latent_dist.mode()
    frames = vae.decode(latents).sample
    video[:, :, 9:] = 1 - video[:, :, 9:]
    changed = vae.encode(video).latent_dist.mode()
    assert torch.equal(changed[:, :, :3], latents[:, :, :3])
    assert not torch.allclose(changed[:, :, 3], latents[:, :, 3])
    assert torch.equal(vae.decode(changed).sample[:, :, :9], frames[:, :, :9])


@torch.no_grad()
def test_no_convolution_sees_more_than_a_chunk_however_long_the_video():
    vae, seen = build(), []
    vae.chunk_latent_frames = 2
    for module in vae.modules():
        if isinstance(module, CausalConv3d):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[2]))
    vae.decode(vae.encode(clip(129)).latent_dist.mode())
    assert max(seen) == 2 * 2  # two latent frames are four of the folded ones


@pytest.mark.parametrize("config", [PATCHED, PLAIN], ids=["patched", "plain"])
@torch.no_grad()
def test_convolutions_run_channels_last(config):
    vae, layouts = build(config), []
    vae.chunk_latent_frames = 3
    for module in vae.modules():
        if isinstance(module, CausalConv3d) and module.kernel_size[-1] > 1:
            module.register_forward_hook(
                lambda _, inputs, output: layouts.extend(
                    x.is_contiguous(memory_format=torch.channels_last_3d) for x in (*inputs, output)
                )
            )
    vae(clip(17, batch=2))
    assert layouts and all(layouts)


@torch.no_grad()
def test_tiles_give_the_whole_where_norms_are_per_position():
    vae, video = build(), clip(5, 96)
    latents = vae.encode(video).latent_dist.parameters
    whole = vae.decode(latents[:, :4]).sample
    vae.enable_tiling(tile_sample_min_size=32)
    tiled = vae.encode(video).latent_dist.parameters
    torch.testing.assert_close(tiled, latents, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(vae.decode(latents[:, :4]).sample, whole, atol=1e-4, rtol=1e-5)
    assert 32 + 2 * 4 * vae.encoder.reach < 96, "no tile may see the whole"


@torch.no_grad()
def test_blended_tiles_keep_size_and_mix_without_gain():
    vae = build(PLAIN)
    latents = vae.encode(clip(5, 40)).latent_dist.parameters
    vae.enable_tiling(tile_sample_min_size=16)
    tiled = vae.encode(clip(5, 40)).latent_dist.parameters
    assert tiled.shape == latents.shape
    assert vae.decode(tiled[:, :4]).sample.shape == (1, 3, 5, 40, 40)
    assert torch.allclose(tiled.mean(), latents.mean(), atol=0.2)


@torch.no_grad()
def test_slices_give_the_batch():
    vae, videos = build(), clip(5, batch=3)
    together = vae(videos).sample
    vae.enable_slicing()
    torch.testing.assert_close(vae(videos).sample, together, atol=1e-4, rtol=1e-5)


@torch.no_grad()
def test_a_fresh_vae_is_pca_once_its_shortcut_is_fitted():
    vae, videos = build(wake=False), clip(9, 32, batch=20)
    stds = vae.init_linear_shortcut(videos)
    posterior = vae.encode(videos).latent_dist
    spread = posterior.mean.std(dim=(0, 2, 3, 4), correction=0)
    torch.testing.assert_close(spread, (stds / stds[0]).float(), atol=1e-4, rtol=1e-4)
    assert torch.equal(posterior.logvar, torch.full_like(posterior.logvar, -5.0))

    # what PCA of whole patches loses is the variance of the components it dropped
    static = videos[:, :, :1].repeat(1, 1, 4, 1, 1)
    patched = torch.cat([static, videos[:, :, 1:]], dim=2)
    patches = patched.unfold(2, 4, 4).unfold(3, 4, 4).unfold(4, 4, 4)
    patches = patches.permute(0, 2, 3, 4, 1, 5, 6, 7).reshape(-1, 192).double()
    kept = torch.linalg.eigvalsh(torch.cov(patches.T, correction=0))[-4:].flip(0)
    torch.testing.assert_close(stds.square(), kept, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_an_inflated_image_vae_is_the_same_function_of_images_and_still_videos():
    torch.manual_seed(0)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 3, "layers_per_block": 1}
    image_vae = AutoencoderKL(
        up_block_types=("UpDecoderBlock2D",) * 3, block_out_channels=(32, 32, 64), **blocks
    ).eval()
    vae = AutoencoderKLT2V.from_image_vae(image_vae, temporal_downsample=(True, True)).eval()
    image = clip(1, 32)
    moments = image_vae.encode(image[:, :, 0]).latent_dist.parameters
    recon = image_vae.decode(moments[:, :4]).sample
    for frames in (1, 9):
        still = image.repeat(1, 1, frames, 1, 1)
        inflated = vae.encode(still).latent_dist.parameters
        video = vae.decode(inflated[:, :4]).sample
        for frame in inflated.unbind(2):
            torch.testing.assert_close(frame, moments, atol=1e-5, rtol=1e-5)
        for frame in video.unbind(2):
            torch.testing.assert_close(frame, recon, atol=1e-5, rtol=1e-5)
    assert vae.config.latents_std == [1 / image_vae.config.scaling_factor] * 4


def test_an_image_vae_with_other_parts_is_refused():
    other = AutoencoderKL(block_out_channels=(32,), norm_num_groups=16)
    with pytest.raises(UserError, match="norm_num_groups=32"):
        AutoencoderKLT2V.from_image_vae(other, temporal_downsample=())


def test_checkpointing_gives_the_same_gradients():
    vae, video = build(), clip(5)
    vae(video).sample.square().mean().backward()
    plain = [parameter.grad.clone() for parameter in vae.parameters()]
    vae.zero_grad()
    vae.enable_gradient_checkpointing()
    vae(video).sample.square().mean().backward()
    for parameter, gradient in zip(vae.parameters(), plain, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


@torch.no_grad()
def test_a_saved_vae_loads_equal(tmp_path):
    vae = build(PLAIN)
    vae.register_to_config(latents_mean=[0.5] * 4, latents_std=[2.0] * 4)
    vae.save_pretrained(tmp_path)
    loaded = AutoencoderKLT2V.from_pretrained(tmp_path).eval()
    assert (loaded.config.scale_factor_temporal, loaded.config.scale_factor_spatial) == (4, 4)
    assert loaded.config.latents_std == [2.0] * 4
    assert torch.equal(loaded(clip(5)).sample, vae(clip(5)).sample)


def test_the_sampled_latent_follows_the_generator():
    vae, video = build(), clip(5)
    samples = [
        vae(video, sample_posterior=True, generator=torch.Generator().manual_seed(seed)).sample
        for seed in (0, 0, 1)
    ]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((1, 3, 6, 16, 16), r"num_frames=6 .* 4k\+1 .* 5 or 9"),
        ((1, 3, 5, 18, 16), r"height=18 .* multiples of 4.*16 or 20"),
        ((1, 3, 5, 16, 2), r"width=2 .* multiples of 4.*Nearest: 4\."),
        ((1, 4, 5, 16, 16), r"\(1, 4, 5, 16, 16\) does not fit .*\(batch, 3,"),
        ((3, 5, 16, 16), r"\(3, 5, 16, 16\) does not fit"),
    ],
)
def test_a_video_that_does_not_fit_names_what_does(shape, message):
    with pytest.raises(UserError, match=message):
        build().encode(torch.zeros(shape))


def test_other_mistakes_name_their_remedy():
    with pytest.raises(UserError, match=r"\(1, 3, 2, 4, 4\) do not fit .*\(batch, 4,"):
        build().decode(torch.zeros(1, 3, 2, 4, 4))
    with pytest.raises(UserError, match=r"factor of 8 .* give 4"):
        AutoencoderKLT2V(**asdict(PATCHED), scale_factor_temporal=8)
    with pytest.raises(UserError, match=r"tile_sample_min_size=30 .* multiple of 4"):
        build().enable_tiling(tile_sample_min_size=30)
    with pytest.raises(UserError, match="linear_shortcut=true"):
        build(PLAIN).init_linear_shortcut(clip(5))
    with pytest.raises(UserError, match="more varied"):
        build().init_linear_shortcut(torch.zeros(1, 3, 5, 16, 16))
    with pytest.raises(UserError, match="mid_block=true"):
        replace(PATCHED, mid_attention=True)
    with pytest.raises(UserError, match="1 steps"):
        replace(PATCHED, temporal_downsample=(True, True))
    with pytest.raises(UserError, match="must be equal"):
        replace(PATCHED, patch_size=(1, 2, 4))


@pytest.mark.parametrize("tile", [None, 16])
@torch.no_grad()
def test_a_video_decoded_piece_by_piece_is_that_of_the_whole(vae, tile):
    latents = torch.randn(1, 8, 7, 4, 6)
    if tile:
        vae.enable_tiling(tile)
    whole, stream = vae.decode(latents).sample, DecodeStream()
    pieces = [vae.decode_next(part, stream) for part in latents.split([2, 4, 1], dim=2)]
    assert [piece.shape[2] for piece in pieces] == [5, 16, 4]
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, atol=1e-4, rtol=1e-5)
    for is_less in (vae._state_is_less(latents.repeat(1, 1, 99, 1, 1)), False):
        vae._state_is_less = lambda z, is_less=is_less: is_less
        pieces = list(vae.decode_pieces(latents))
        assert len(pieces) > 1 and torch.equal(torch.cat(pieces, dim=2), whole)
