"""The upscaler: sizes, streaming, tiles, and what it refuses."""

from dataclasses import asdict

import pytest
import torch
from torch.nn import functional as F

from t2v.config.models import UpscalerConfig
from t2v.errors import UserError
from t2v.models.upscaler import VideoUpscaler, check_scale
from t2v.models.upscaler_folder import load_upscaler


def build(scale=4, layers=(1, 1, 1), steadiness=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = UpscalerConfig(scale=scale, width=8, layers=layers, steadiness=steadiness)
        upscaler = VideoUpscaler(**asdict(config))
        for parameter in upscaler.parameters():
            parameter.data.normal_(0, 0.2)
    return upscaler.eval()


def clip(*shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("scale", [2, 4])
@pytest.mark.parametrize(("height", "width"), [(16, 24), (15, 9)])
def test_a_clip_of_any_size_becomes_as_many_times_larger(scale, height, width):
    with torch.no_grad():
        assert build(scale)(clip(2, 3, 4, height, width)).shape == (
            *(2, 3, 4),
            *(scale * height, scale * width),
        )


def test_a_fresh_one_is_bicubic_interpolation():
    video = clip(1, 3, 2, 8, 8)
    fresh = VideoUpscaler(**asdict(UpscalerConfig(width=8)))
    with torch.no_grad():
        smooth = F.interpolate(video[0].transpose(0, 1), scale_factor=4, mode="bicubic")
        assert torch.equal(fresh(video)[0].transpose(0, 1), smooth)


@pytest.mark.parametrize(("chunk", "steadiness"), [(1, 0.1), (2, 0.0), (5, 0.1)])
def test_a_streamed_clip_is_the_whole_one(chunk, steadiness):
    upscaler, video = build(steadiness=steadiness), clip(1, 3, 11, 12, 10)
    with torch.no_grad():
        whole = upscaler(video)
        pieces = list(upscaler.stream(video.split(chunk, dim=2)))
        upscaler.chunk_frames = chunk
        chunked = upscaler(video)
    assert len(pieces) > 1
    torch.testing.assert_close(upscaler(video), whole, atol=1e-5, rtol=0)  # keeps what it is given
    torch.testing.assert_close(torch.cat(pieces, dim=2), whole, atol=1e-4, rtol=0)
    torch.testing.assert_close(chunked, whole, atol=1e-4, rtol=0)


def test_a_stream_holds_no_more_frames_than_a_chunk_and_its_surroundings(monkeypatch):
    upscaler, held = build(), []
    enlarge = upscaler._enlarge
    monkeypatch.setattr(
        upscaler, "_enlarge", lambda video, *of: held.append(video.shape[2]) or enlarge(video, *of)
    )
    frames = sum(each.shape[2] for each in upscaler.stream(iter([clip(1, 3, 2, 4, 4)] * 20)))
    assert frames == 40
    assert max(held) <= 2 + 2 * upscaler.reach_frames + 1


def test_tiles_are_the_whole():
    upscaler, video = build(), clip(1, 3, 2, 62, 75)
    with torch.no_grad():
        whole = upscaler(video)
        upscaler.enable_tiling(16)
        torch.testing.assert_close(upscaler(video), whole, atol=1e-4, rtol=0)


def test_flicker_between_two_frames_becomes_less_and_what_rests_stays():
    plain, steady = build(), build(steadiness=0.1)
    resting = clip(1, 3, 1, 8, 8).repeat(1, 1, 12, 1, 1)
    flicker = resting + 0.2 * torch.tensor([1.0, -1.0] * 6).view(1, 1, 12, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(steady(resting)[:, :, 5:7], plain(resting)[:, :, 5:7])
        changes = [net(flicker).diff(dim=2).abs().mean() for net in (plain, steady)]
    assert changes[1] < 0.75 * changes[0]  # .6 of what alternates is left, and the ends


@pytest.mark.parametrize("steadiness", [0.0, 0.1])
def test_no_pixel_looks_further_than_the_reach_and_no_frame_further_than_its_own(steadiness):
    upscaler = build(layers=(1, 2, 1), steadiness=steadiness)
    size = 2 * upscaler.reach + 9
    video = clip(1, 3, 2 * upscaler.reach_frames + 3, size, size).requires_grad_()
    middle = upscaler.reach_frames + 1, 4 * (upscaler.reach + 4) + 1, 4 * (upscaler.reach + 4) + 1
    upscaler(video)[0, :, middle[0], middle[1], middle[2]].sum().backward()
    frames = video.grad.abs().sum((0, 1, 3, 4)).nonzero()
    columns = video.grad.abs().sum((0, 1, 2, 3)).nonzero()
    assert (frames - middle[0]).abs().max() == upscaler.reach_frames
    assert (columns - middle[2] // 4).abs().max() <= upscaler.reach


def test_neighbouring_frames_matter():
    upscaler, video = build(), clip(1, 3, 3, 8, 8)
    other = video.clone()
    other[:, :, 2] += 0.5
    with torch.no_grad():
        assert (upscaler(video)[:, :, 1] - upscaler(other)[:, :, 1]).abs().max() > 1e-3


def test_a_saved_one_loads_from_its_folder_a_pipelines_and_in_half_precision(tmp_path):
    upscaler, video = build(), clip(1, 3, 2, 8, 8)
    upscaler.save_pretrained(tmp_path / "model" / "upscaler")
    for folder in (tmp_path / "model", tmp_path / "model" / "upscaler"):
        again = load_upscaler(str(folder), torch.float32)
        with torch.no_grad():
            assert torch.equal(again(video), upscaler(video))
    half = load_upscaler(str(tmp_path / "model"), torch.bfloat16)
    with torch.no_grad():
        assert half(video.bfloat16()).dtype == torch.bfloat16


def test_what_is_no_upscaler_is_named(tmp_path, vae):
    vae.save_pretrained(tmp_path / "vae")
    with pytest.raises(UserError, match="AutoencoderKLT2V is no VideoUpscaler"):
        load_upscaler(str(tmp_path / "vae"), torch.float32)
    with pytest.raises(UserError, match=r"holds no upscaler\. Give the folder of one"):
        load_upscaler(str(tmp_path), torch.float32)


def test_scales_it_does_not_have_are_named():
    upscaler = build(scale=2)
    assert [check_scale(each, upscaler, "scale") for each in (None, 1, 2)] == [2, 1, 2]
    assert check_scale(None, None, "upscale") == check_scale(1, None, "upscale") == 1
    with pytest.raises(UserError, match="scale=4: this upscaler enlarges 2 times"):
        check_scale(4, upscaler, "scale")
    with pytest.raises(UserError, match=r"scale=1000000: .* Give scale=2\.$"):
        check_scale(1000000, upscaler, "scale")
    with pytest.raises(UserError, match="upscale=4: this model has no upscaler"):
        check_scale(4, None, "upscale")
    with pytest.raises(UserError, match="enlarges 2 or 4 times"):
        UpscalerConfig(scale=3)
    with pytest.raises(UserError, match="three numbers of at least 1"):
        UpscalerConfig(layers=(1, 0, 1))


def test_what_is_no_video_is_refused():
    with pytest.raises(UserError, match=r"shape \(1, 4, 2, 8, 8\) does not fit the upscaler"):
        build()(clip(1, 4, 2, 8, 8))
    with pytest.raises(UserError, match="give an even number"):
        build().enable_tiling(15)
