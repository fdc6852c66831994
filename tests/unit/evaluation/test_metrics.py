"""Metrics whose answer is known: identity, published formulas, graded damage."""

import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.metrics import peak_signal_noise_ratio, structural_similarity
from torch.nn.functional import avg_pool2d, pad
from transformers import (
    VideoMAEConfig,
    VideoMAEImageProcessor,
    VideoMAEModel,
)

from t2v.errors import UserError
from t2v.evaluation.metrics import alignment, attributes, dynamics, reconstruction
from t2v.evaluation.metrics.alignment import by_text, hits, relative
from t2v.evaluation.metrics.dynamics import (
    change,
    jerk,
    max_running,
    persistence,
    sharpness,
)
from t2v.evaluation.metrics.fidelity import (
    distances,
    extrapolated,
    frechet,
    kernel_distance,
    oracle_features,
)
from t2v.evaluation.metrics.flow import flow, resized
from t2v.evaluation.metrics.reconstruction import Nets, psnr, seam, seam_time, ssim
from t2v.evaluation.suites import load_suite
from t2v.evaluation.types import NotRun, PerSet, PerVideo, Videos, blurred_copy, still_copy
from t2v.nets.clip import ClipModel
from t2v.nets.features import VideoNet, load_frame_net, load_video_net, vae_frames
from t2v.world.grammar import Scene, Thing
from t2v.world.oracle import WorldOracle, load_oracle
from t2v.world.render import render

ROOT = Path(__file__).parents[3]
THINGS = (
    Thing(shape="cube", colour="red", size="big", motion="left"),
    Thing(shape="ball", colour="blue", size="medium", motion="rise"),
    Thing(shape="star", colour="yellow", size="small", motion="right"),
)


@pytest.fixture(scope="module")
def real():
    """Three clips of the world in which something goes somewhere, `3 9 48 64 3`."""
    scenes = [
        Scene(things=(thing,), background=place, camera="still")
        for thing, place in zip(THINGS, ("grass", "snow", "night"), strict=True)
    ]
    return torch.stack([render(scene, 9, 48, 64)[0] for scene in scenes])


def noisy(video, amount):
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(0))
    return (video.float() + amount * noise).clamp(0, 255).to(torch.uint8)


def blurred(video, amount):
    return blurred_copy(video, 2 * amount + 1)


def jittered(video, amount):
    steps = torch.randint(-1, 2, (video.shape[1],), generator=torch.Generator().manual_seed(0))
    frames = [video[:, t].roll(int(steps[t]) * amount, dims=2) for t in range(video.shape[1])]
    return torch.stack(frames, dim=1)


def held(video, amount):
    """Only every `amount + 1`th frame, each shown as often."""
    return video[:, torch.arange(video.shape[1]) // (amount + 1) * (amount + 1)]


def shuffled(video, amount):
    """`amount` exchanges of two frames, of a quarter of the frames at most."""
    order = list(range(video.shape[1]))
    for first in range(amount):
        order[2 * first], order[-1 - 2 * first] = order[-1 - 2 * first], order[2 * first]
    return video[:, order]


def tinted(video, amount):
    shift = torch.tensor([amount, 0, -amount])
    return (video.int() + shift).clamp(0, 255).to(torch.uint8)


def rises(values):
    return all((after > before).all() for before, after in pairwise(values))


LADDERS = {
    noisy: (0, 4, 12, 32),
    blurred: (0, 1, 2, 4),
    jittered: (0, 1, 3),
    held: (0, 1, 3),
    shuffled: (0, 1, 2),
    tinted: (0, 5, 15, 40),
}


@pytest.mark.parametrize("damage", LADDERS, ids=lambda each: each.__name__)
def test_worse_videos_are_further_from_the_real_ones(real, damage):
    steps = [damage(real, amount) for amount in LADDERS[damage]]
    assert rises([-psnr(each, real) for each in steps])
    if damage is not tinted:  # which hardly changes structure
        assert rises([-ssim(each, real) for each in steps])


def test_psnr_and_ssim_are_those_of_scikit_image(real):
    bad = blurred(noisy(real, 20), 1)
    for ours, theirs, got_psnr, got_ssim in zip(
        bad.numpy(), real.numpy(), psnr(bad, real), ssim(bad, real), strict=True
    ):
        assert got_psnr == pytest.approx(peak_signal_noise_ratio(theirs, ours), abs=1e-4)
        wanted = [structural_similarity(a, b, channel_axis=-1) for a, b in zip(theirs, ours)]  # noqa: B905
        assert got_ssim == pytest.approx(np.mean(wanted), abs=1e-4)


def test_reconstruction_is_exact_on_identity_and_looks_inside_things(real, vae):
    mask = torch.zeros(real.shape[:4], dtype=torch.uint8)
    mask[:, :, :8, :8] = 255
    mask[2] = 0
    bad = real.clone()
    bad[:, :, :8, :8] = real[:, :, :8, :8] // 2
    videos = Videos(real, ("a",) * 3, 8, real, mask)
    nets = Nets(vae_frames(vae), (8, 4))
    same = reconstruction.measure(videos, nets)
    values = {name: column.values[:2].tolist() for name, column in same.items()}
    assert values == {
        "psnr": [100, 100], "ssim": [1, 1], "seam": [1, 1], "seam_time": [1, 1],
        "psnr_things": [100, 100], "psnr_backdrop": [100, 100], "perceptual": [0, 0],
    }  # fmt: skip
    found = reconstruction.measure(videos.showing(bad), nets)
    assert (found["psnr_backdrop"].values[:2] == 100).all()
    assert (found["psnr_things"].values[:2] < found["psnr"].values[:2]).all()
    assert found["psnr_things"].values[2].isnan()
    assert found["perceptual"].method.startswith("vae ")
    assert isinstance(reconstruction.measure(videos, Nets())["perceptual"], NotRun)


def test_perceptual_distance_rises_with_damage(real, vae):
    net = vae_frames(vae)
    for damage in (noisy, blurred, tinted):
        assert rises([net.distance(damage(real, a), real).mean(1) for a in LADDERS[damage]])


def test_seams_are_found_where_blocks_and_groups_meet(real):
    grey = torch.full((2, 9, 32, 48, 3), 100, dtype=torch.uint8)
    blocks, groups = noisy(grey, 1), noisy(grey, 1)
    blocks[:, :, :, 8:16] += 10
    blocks[:, :, :, 24:32] += 10
    assert (seam(blocks, grey, 8) > 3).all() and (seam(noisy(grey, 5), grey, 8) < 1.2).all()
    groups[:, 1:5] += 10  # the first frame, then groups of four
    assert (seam_time(groups, grey, 4) > 3).all() and (seam_time(blocks, grey, 4) < 1.2).all()


def test_a_moving_square_moves_as_far_as_it_does():
    noise = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    noise = avg_pool2d(pad(noise, (1,) * 4, "circular"), 3, 1).movedim(1, -1) * 255
    for y, x in ((0, 1), (3, -2), (-5, 5)):
        frames = [noise.roll((t * y, t * x), dims=(1, 2)) for t in range(4)]
        grey = resized(torch.stack(frames, dim=1).to(torch.uint8))[0]
        inner = flow(grey[:-1], grey[1:]).moved[:, :, 3:-3, 3:-3].transpose(0, 1).flatten(1)
        assert inner.median(1).values.tolist() == pytest.approx([y, x], abs=0.05)


def test_motion_stands_beside_the_consistency_that_a_still_video_wins(real, vae):
    net = vae_frames(vae)
    moving, still = (
        dynamics.measure(Videos(video, ("a",) * 3, 8), net) for video in (real, still_copy(real))
    )
    assert list(moving)[:2] == ["motion", "warp_error"]
    assert (moving["motion"].values > 0.5).all() and (moving["frozen"].values < 0.5).all()
    assert (still["motion"].values == 0).all() and (still["frozen"].values == 1).all()
    assert (still["flickering"].values == 1).all() and (still["jerk"].values == 0).all()
    assert (still["max_running"].values == 0).all()  # frames 0 and 8, a second apart
    assert torch.allclose(still["background"].values, torch.ones(3), atol=1e-5)
    assert still["subject"].values.isnan().all()  # nothing moves
    assert (moving["max_running"].values > 0).all() and (moving["subject"].values < 1).all()


def test_motion_falls_with_a_slower_clip_and_does_not_depend_on_the_frame_rate():
    thing = Thing(shape="cube", colour="red", size="big", motion="left")
    scene = Scene(things=(thing,), background="snow", camera="still")
    whole = render(scene)[0][None]
    clips = {17: whole, 9: whole[:, ::2]}  # one motion
    motion = {
        (n, fps): dynamics.measure(Videos(clips[n], ("a",), fps), None)["motion"].values.item()
        for n, fps in ((9, 8), (17, 16), (17, 8))
    }
    assert motion[9, 8] == pytest.approx(motion[17, 16], rel=0.25)
    assert motion[17, 8] == pytest.approx(motion[17, 16] / 2)


@pytest.mark.parametrize("damage", [noisy, jittered, shuffled], ids=lambda each: each.__name__)
def test_unrest_raises_change_and_jerk(real, damage):
    for measure in (lambda video: change(video).mean(1), jerk):
        assert rises([measure(damage(real, amount)) for amount in LADDERS[damage]])


def test_blur_and_freezing_are_shown_by_sharpness_and_frozen_frames(real):
    assert rises([-sharpness(blurred(real, amount)) for amount in LADDERS[blurred]])
    frozen = [
        dynamics.measure(Videos(held(real, amount), ("a",) * 3, 8), None)["frozen"].values
        for amount in LADDERS[held]
    ]
    assert rises(frozen)


def test_max_running_lpips_compares_frames_a_second_apart(real, vae):
    net = vae_frames(vae)
    videos = Videos(real, ("a",) * 3, 4)  # 9 frames: 0, 4 and 8 are a second apart
    found = dynamics.measure(videos, net)["max_running"].values
    steps = [net.distance(real[:, t + 4, None], real[:, t, None])[:, 0] for t in (0, 4)]
    assert torch.allclose(found, torch.maximum(*steps))
    slow = dynamics.measure(Videos(real, ("a",) * 3, 24), net)["max_running"]
    assert "9 frames last less than a second of 24" in slow.reason
    cut = real.clone()
    cut[:, 5:] = 255 - cut[:, 5:]
    assert (dynamics.measure(Videos(cut, ("a",) * 3, 4), net)["max_running"].values > found).all()
    maps = [each[:, ::4] for each in net.maps(real)]
    assert torch.allclose(max_running(maps), found)


READ = {  # the attributes that each damage hides from the oracle
    noisy: ("all", (120,)),
    blurred: ("all", (9,)),
    jittered: ("all", (8,)),
    held: ("motion", (3, 16)),
    shuffled: ("motion", (5,)),
    tinted: ("all", (90,)),
}


def test_the_oracle_reads_less_in_damaged_clips():
    oracle = load_oracle(str(ROOT / "assets" / "world-oracle"))
    suite = load_suite("world", 24, 0)
    clips, _ = suite.real(17, 64, 64)
    videos = Videos(clips, suite.prompts, 8, truths=suite.truths())
    whole = attributes.measure(videos, oracle)
    for damage, (name, amounts) in READ.items():
        steps = [
            attributes.measure(videos.showing(damage(clips, amount)), oracle) for amount in amounts
        ]
        means = [found[name].values.nanmean()[None] for found in (whole, *steps)]
        assert means[0] > 0.9 and rises([-each for each in means]), damage


def test_what_changes_is_less_persistent():
    base = torch.rand(2, 5, 6, 4, 4, generator=torch.Generator().manual_seed(0)) - 0.5
    base[:] = base[:, :1]
    other = torch.rand(base.shape, generator=torch.Generator().manual_seed(1)) - 0.5
    where = torch.ones(2, 32, 32, dtype=torch.bool)
    steps = [persistence(base + amount * other, where) for amount in (0, 0.2, 0.5, 2)]
    assert torch.allclose(steps[0], torch.ones(2)) and rises([-each for each in steps])


def test_frechet_has_the_closed_form_of_gaussians_and_its_bias_is_known():
    generator = torch.Generator().manual_seed(0)
    a = torch.randn(20_000, 3, generator=generator, dtype=torch.double)
    b = 2 * torch.randn(20_000, 3, generator=generator, dtype=torch.double)
    assert frechet(a, b + 1) == pytest.approx(3 * 1 + 3 * (2 - 1) ** 2, abs=0.15)
    assert frechet(a, a) == pytest.approx(0, abs=1e-9)
    pairs = [a[i : i + 128].chunk(2) for i in range(0, 2_560, 128)]
    corrected = np.mean([extrapolated(*pair, generator) for pair in pairs])
    assert np.mean([frechet(*pair) for pair in pairs]) > 4 * abs(corrected)
    estimates = [kernel_distance(*a[i : i + 40].chunk(2))[0] for i in range(0, 20_000, 40)]
    spread = np.std(estimates) / math.sqrt(len(estimates))
    assert abs(np.mean(estimates)) < 3 * spread  # unbiased even at 20 clips a side
    stated = np.mean([kernel_distance(*a[i : i + 40].chunk(2))[1] for i in range(0, 4_000, 40)])
    assert stated == pytest.approx(np.std(estimates), rel=0.5)


def test_set_distances_rise_with_damage(real):
    generator = torch.Generator().manual_seed(0)
    crops = [real[:, :, y : y + 32, x : x + 32] for y in range(0, 16, 4) for x in range(0, 32, 4)]
    clips = torch.cat(crops)  # 96 of 32 x 32
    net = VideoNet("mean, change and detail", _mean_change_and_detail)
    for damage in LADDERS:
        found = [
            distances(damage(clips, amount), clips, net, generator) for amount in LADDERS[damage]
        ]
        for name in ("kernel", "frechet"):
            values = [each[name].value for each in found]
            assert values == sorted(values), (damage, name)
    assert "halves of the real clips" in found[0]["frechet"].method


def _mean_change_and_detail(video):
    frames = video.float() / 255
    moves = (frames[:, 1:] - frames[:, :-1]).abs().mean((1, 2, 3, 4))
    detail = (frames[:, :, 1:] - frames[:, :, :-1]).abs().mean((1, 2, 3, 4))
    held = (frames[:, 1:] - frames[:, :-1]).abs().mean((2, 3, 4)).amin(1)
    return torch.cat((frames.mean((1, 2, 3)), torch.stack((moves, detail, held), 1)), dim=1)


def test_the_oracle_is_a_net_of_features_and_few_clips_have_no_frechet_distance(real):
    net = oracle_features(WorldOracle(width=8).eval())
    few = real.repeat(3, 1, 1, 1, 1)
    found = distances(few, few, net, torch.Generator().manual_seed(0))
    assert isinstance(found["kernel"], PerSet) and "world oracle" in found["kernel"].method
    assert "64 features need 128 videos" in found["frechet"].reason
    with pytest.raises(UserError, match="needs at least 8 videos, there are 3"):
        distances(real, few, net, torch.Generator())


def test_a_clip_model_measures_alignment_and_a_real_clip_has_rm_one(real, clip_folder):
    prompts = ("a red box", "a blue ball", "a ball on snow")
    aligner = ClipModel(clip_folder)
    videos = Videos(real, prompts, 8, real)
    found = alignment.measure(videos, [aligner])
    frames, text = aligner.embed_video(real), aligner.embed_text(prompts)
    sim = torch.stack([(frames[i] @ text[i]).mean() for i in range(3)])
    assert torch.allclose(found["sim"].values, sim, atol=1e-5)
    assert clip_folder in found["sim"].method
    positive = sim > 0
    assert torch.allclose(found["rm"].values[positive], torch.ones(int(positive.sum())))
    assert (found["sim_weighed"].values >= found["sim"].values - 1e-6).all()


def test_rm_falls_as_the_picture_is_damaged_and_retrieval_is_right_by_known_answers():
    prompts = tuple("abcdef")
    assert hits(torch.eye(6), prompts, 1).mean() == 1
    assert hits(torch.zeros(6, 6), prompts, 5).sum() == 0  # ties find nothing
    assert hits(torch.zeros(6, 6), ("a",) * 6, 1).mean() == 1  # no rivals
    assert hits(torch.eye(6).roll(1, 0), prompts, 1).sum() == 0
    score = torch.tensor([[0.1, 0.5], [0.3, 0.3]])
    weighed = by_text(score)
    assert score.mean(1)[0] < weighed[0] <= 0.5 and weighed[1] == pytest.approx(0.3)
    ratio = relative(torch.tensor([0.2, 0.1, 0.1]), torch.tensor([0.2, -0.1, 0.001]))
    assert ratio[0] == 1 and ratio[1:].isnan().all()


def test_rm_over_a_real_clip_that_fits_nothing_is_off_the_scale():
    frames = torch.tensor([[[1.0, 0.0]], [[0.01, 1.0]], [[-1.0, 0.0]]])  # cosines 1, 0.01, -1

    class Known:
        name = "known"

        def embed_video(self, video):
            return frames[video[:, 0, 0, 0, 0].long()]

        def embed_text(self, texts):
            return torch.tensor([[1.0, 0.0]] * len(texts))

    real = torch.arange(3).byte()[:, None, None, None, None].expand(3, 3, 8, 8, 3)
    videos = Videos(torch.zeros_like(real), tuple("abc"), 8, real)
    rm = alignment.measure(videos, [Known()])["rm"]
    assert rm.off_scale.tolist() == [False, True, True]
    assert rm.values[0] == 1 and rm.values[1:].isnan().all()


def test_named_models_of_images_and_of_videos_give_features(real, clip_folder, tmp_path):
    net = load_frame_net(clip_folder)
    assert (net.distance(real, real) == 0).all()
    assert rises([net.distance(noisy(real, a), real).mean(1) for a in (0, 12, 60)])
    assert net.maps(real)[-1].shape == (3, 9, 16, 4, 4)
    assert "blind to time" in load_video_net(clip_folder).name
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, hidden_size=16,
        intermediate_size=32, num_hidden_layers=1, num_attention_heads=2
    )  # fmt: skip
    VideoMAEModel(config).save_pretrained(tmp_path / "mae")
    VideoMAEImageProcessor(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}
    ).save_pretrained(tmp_path / "mae")
    video = load_video_net(str(tmp_path / "mae"))
    assert video.features(real).shape == (3, 16) and "blind" not in video.name
    assert not torch.allclose(video.features(real), video.features(real.flip(1)))


@pytest.mark.parametrize("load", [load_frame_net, load_video_net, ClipModel])
def test_a_model_that_is_not_there_is_named(load, tmp_path):
    with pytest.raises(UserError, match="cannot be loaded"):
        load(str(tmp_path / "nothing"))


def test_a_model_without_towers_and_sizes_that_differ_are_refused(real, tmp_path):
    VideoMAEModel(
        VideoMAEConfig(hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                       num_attention_heads=2, image_size=32, patch_size=8)
    ).save_pretrained(tmp_path / "mae")  # fmt: skip
    VideoMAEImageProcessor().save_pretrained(tmp_path / "mae")
    with pytest.raises(UserError, match=r"cannot be loaded\. It compares no videos|processor"):
        ClipModel(str(tmp_path / "mae"))
    with pytest.raises(UserError, match="3 of 9 frames 48x64, the real clips 3 of 9 frames 48x32"):
        Videos(real, ("a",) * 3, 8, real[:, :, :, :32])
    with pytest.raises(UserError, match="at least 3"):
        dynamics.measure(Videos(real[:, :2], ("a",) * 3, 8), None)
    assert isinstance(alignment.measure(Videos(real, ("a",) * 3, 8), [])["sim"], NotRun)
    assert isinstance(reconstruction.measure(Videos(real, ("a",) * 3, 8), Nets())["psnr"], NotRun)


def test_every_metric_of_dynamics_has_one_value_a_video(real, vae):
    found = dynamics.measure(Videos(real, ("a",) * 3, 8, block=8), vae_frames(vae))
    assert set(found) == {
        "motion", "warp_error", "frozen", "flickering", "jerk", "sharpness", "subject",
        "background", "max_running", "block_edges",
    }  # fmt: skip
    assert all(isinstance(each, PerVideo) and each.values.shape == (3,) for each in found.values())
