"""The distance of features as a loss."""

import pytest
import torch
from torch.nn import functional as F
from transformers import CLIPImageProcessor, ViTConfig, ViTImageProcessor, ViTModel

from t2v.data.world_shards import pixels
from t2v.errors import UserError
from t2v.nets.features import load_frame_net
from t2v.training.losses.perceptual import Perceptual
from t2v.world.oracle import WorldOracle


@pytest.fixture(params=["oracle", "vit"])
def folder(request, tmp_path):
    torch.manual_seed(0)
    if request.param == "oracle":
        WorldOracle(width=4).save_pretrained(tmp_path)
    else:
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
        config = ViTConfig(image_size=16, patch_size=4, intermediate_size=32, **sizes)
        ViTModel(config).save_pretrained(tmp_path)
        ViTImageProcessor(size={"height": 16, "width": 16}).save_pretrained(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize("frames", [1, 5])
def test_a_clip_is_near_itself_and_further_the_more_it_is_blurred(folder, frames):
    distance = Perceptual(folder, "cpu")
    video = torch.rand(2, 3, frames, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    blurred = [F.avg_pool3d(video, (1, k, k), 1, (0, k // 2, k // 2)) for k in (1, 3, 5)]
    distances = torch.stack([distance(each, video) for each in blurred])
    assert distances.shape == (3, 2)
    assert (distances[0] == 0).all()
    assert (distances[1] < distances[2]).all() and (distances[1] > 0).all()


def test_gradients_reach_ours_alone_and_are_those_of_the_distance(folder):
    distance = Perceptual(folder, "cpu")
    ours, theirs = torch.rand(2, 1, 3, 5, 16, 16, generator=torch.Generator().manual_seed(1))
    ours, theirs = ours.requires_grad_(), theirs.requires_grad_()
    distance(ours, theirs).sum().backward()
    assert theirs.grad is None
    step = 1e-3 * ours.grad / ours.grad.norm()
    with torch.no_grad():
        moved = distance(ours + step, theirs) - distance(ours - step, theirs)
    torch.testing.assert_close(moved.item() / 2e-3, ours.grad.norm().item(), rtol=0.05, atol=0)


def test_frames_are_as_far_apart_as_t2v_eval_says(folder):
    video = torch.randint(0, 256, (2, 2, 5, 16, 16, 3), generator=torch.Generator().manual_seed(2))
    ours, theirs = video.to(torch.uint8)
    distance = Perceptual(folder, "cpu")
    if not distance.by_frame:
        pytest.skip("t2v eval takes image models")
    net = load_frame_net(folder)
    assert net.name == distance.name
    wanted = net.distance(ours, theirs).mean(1)
    torch.testing.assert_close(distance(pixels(ours), pixels(theirs)), wanted)


@pytest.mark.parametrize("resample", [2, 3])
def test_a_network_sees_frames_of_any_size_as_its_processor_prepares_them(tmp_path, resample):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=16, patch_size=4, intermediate_size=32, **sizes)).save_pretrained(
        tmp_path
    )
    CLIPImageProcessor(
        size={"shortest_edge": 20}, crop_size={"height": 16, "width": 16}, resample=resample
    ).save_pretrained(tmp_path)
    exact, smooth = (
        load_frame_net(str(tmp_path), differentiable=each).compute for each in (False, True)
    )
    coarse = torch.rand(2, 3, 9, 13, generator=torch.Generator().manual_seed(3)) * 2 - 1
    frames = F.interpolate(coarse, (45, 64), mode="bilinear")
    for ours, theirs in zip(smooth(frames), exact(frames), strict=True):
        assert (ours - theirs).abs().mean() < 0.02 * theirs.std()


def test_a_processor_without_a_known_gradient_is_refused(tmp_path):
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    ViTModel(ViTConfig(image_size=16, patch_size=4, intermediate_size=32, **sizes)).save_pretrained(
        tmp_path
    )
    ViTImageProcessor(size={"height": 16, "width": 16}, resample=0).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"ViTImageProcessor\w* prepares .* no known gradient"):
        Perceptual(str(tmp_path), "cpu")


def test_a_name_that_leads_nowhere_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"perceptual=.*nowhere: cannot be loaded"):
        Perceptual(str(tmp_path / "nowhere"), "cpu")


def test_settings_that_are_no_json_are_refused(tmp_path):
    (tmp_path / "config.json").write_text('{"_class_name": ')
    with pytest.raises(UserError, match=r"perceptual=.*: cannot be loaded"):
        Perceptual(str(tmp_path), "cpu")
