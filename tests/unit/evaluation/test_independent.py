"""Our formulas beside other packages' implementations of them, to 1e-4 or better."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.ndimage import laplace
from skimage.registration import phase_cross_correlation
from torch import nn
from torchmetrics.functional.retrieval import retrieval_hit_rate
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import poly_mmd
from transformers import CLIPModel, CLIPProcessor

from t2v.curation.shares import wilson
from t2v.evaluation.intervals import bootstrap, paired_p
from t2v.evaluation.metrics import alignment
from t2v.evaluation.metrics.alignment import hits
from t2v.evaluation.metrics.dynamics import sharpness
from t2v.evaluation.metrics.fidelity import frechet, kernel_distance
from t2v.evaluation.metrics.flow import flow, resized
from t2v.evaluation.types import Videos
from t2v.nets.clip import ClipModel
from t2v.nets.features import FrameNet, perceptual_distance


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def clips(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


class Passed(nn.Module):
    """Features that are their own pictures."""

    num_features = 6

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return features


def test_the_frechet_distance_is_that_of_torchmetrics():
    ours, theirs = normal(80, 6), 1.5 * normal(90, 6, seed=1) + 0.3
    other = FrechetInceptionDistance(feature=Passed()).set_dtype(torch.double)
    other.update(theirs, real=True)
    other.update(ours, real=False)
    assert frechet(ours, theirs) == pytest.approx(other.compute().item(), abs=1e-4)


def test_the_kernel_distance_is_that_of_torchmetrics():
    ours, theirs = normal(70, 6), 1.2 * normal(70, 6, seed=1) + 0.2
    assert kernel_distance(ours, theirs)[0] == pytest.approx(
        poly_mmd(theirs, ours, degree=3, gamma=None, coef=1.0).item(), abs=1e-4
    )


def test_retrieval_is_that_of_torchmetrics():
    score = normal(40, 40)
    for k in (1, 5):
        ours = hits(score, tuple(map(str, range(40))), k)
        theirs = [retrieval_hit_rate(score[i], torch.arange(40) == i, top_k=k) for i in range(40)]
        assert ours.tolist() == [each.item() for each in theirs]
    assert 0 < ours.mean() < 1


def test_sim_is_what_clip_itself_says_of_frames_and_prompts(clip_folder):
    video, prompts = clips(2, 4, 32, 32, 3), ("a red box", "the blue ball under the sky")
    model = CLIPModel.from_pretrained(clip_folder).eval()
    inputs = CLIPProcessor.from_pretrained(clip_folder)(
        text=list(prompts), images=list(video.flatten(0, 1).numpy()),
        padding="max_length", return_tensors="pt",
    )  # fmt: skip
    with torch.no_grad():
        cosines = model(**inputs).logits_per_text / model.logit_scale.exp()  # 2 8
    found = alignment.measure(Videos(video, prompts, 8), [ClipModel(clip_folder)])
    wanted = [cosines[0, :4].mean().item(), cosines[1, 4:].mean().item()]
    assert found["sim"].values.tolist() == pytest.approx(wanted, abs=1e-4)


def test_the_perceptual_distance_is_equation_1_of_lpips():
    maps, others = ([normal(1, 2, 3, 4, 5, seed=s), normal(1, 2, 7, 2, 2, seed=s)] for s in (0, 1))
    for frame in range(2):
        wanted = 0.0
        for ours, theirs in zip(maps, others, strict=True):
            a, b = (each[0, frame].flatten(1).T.numpy() for each in (ours, theirs))  # places d
            a, b = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in (a, b))
            wanted += ((a - b) ** 2).sum(axis=1).mean()
        assert perceptual_distance(maps, others)[0, frame].item() == pytest.approx(wanted, abs=1e-9)


def test_the_perceptual_distance_is_that_of_the_package_lpips():
    lpips = pytest.importorskip("lpips")
    torch.manual_seed(0)
    package = lpips.LPIPS(net="alex", lpips=False, pnet_rand=True, pretrained=False, verbose=False)
    package.eval()
    net = FrameNet("alex", lambda frames: list(package.net(package.scaling_layer(frames))))
    ours, theirs = clips(1, 2, 64, 64, 3), clips(1, 2, 64, 64, 3, seed=1)
    frames = [each[0].permute(0, 3, 1, 2).float() / 127.5 - 1 for each in (ours, theirs)]
    with torch.no_grad():
        wanted = package(*frames).flatten()
    assert wanted.min() > 1e-3
    assert net.distance(ours, theirs)[0].tolist() == pytest.approx(wanted.tolist(), abs=1e-4)


def test_sharpness_is_the_laplacian_of_scipy():
    video = clips(1, 2, 12, 16, 3)
    grey = video[0].double().mean(-1).numpy()
    wanted = np.mean([np.abs(laplace(frame)[1:-1, 1:-1]).mean() for frame in grey])
    assert sharpness(video).item() == pytest.approx(wanted, abs=1e-4)


def test_motion_goes_where_phase_correlation_of_scikit_image_sees_it():
    noise = clips(1, 64, 64, 3)
    shifts = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    soft = torch.stack([noise.roll(each, dims=(1, 2)).float() for each in shifts]).mean(0)
    noise = soft.to(torch.uint8)
    for y, x in ((2, -3), (-4, 1)):
        frames = torch.stack([noise, noise.roll((y, x), dims=(1, 2))], dim=1)
        pair = frames[0].double().mean(-1).numpy()
        back, *_ = phase_cross_correlation(pair[0], pair[1])
        inner = flow(*resized(frames)[0].split(1)).moved[0, :, 2:-2, 2:-2].flatten(1)
        assert inner.median(1).values.tolist() == pytest.approx((-back).tolist(), abs=0.05)


def test_intervals_and_tests_are_those_of_scipy():
    for right, n in ((0, 12), (7, 9), (81, 263)):
        other = stats.binomtest(right, n).proportion_ci(method="wilson")
        assert wilson(right, n) == pytest.approx((other.low, other.high), abs=1e-4)
    values = normal(50).exp()  # skewed
    ours = bootstrap(values, torch.Generator().manual_seed(0))
    rng = np.random.default_rng(0)
    other = stats.bootstrap((values.numpy(),), np.mean, method="BCa", rng=rng).confidence_interval
    width = other.high - other.low
    assert ours == pytest.approx(
        (other.low, other.high), abs=0.1 * width
    )  # both resample at random
    pairs = torch.tensor([1.0] * 9 + [-1.0] * 2 + [0.0] * 5)
    assert paired_p(pairs, torch.Generator()) == pytest.approx(stats.binomtest(9, 11).pvalue)
    moved = normal(9) + 0.5
    luck = stats.permutation_test((moved.numpy(),), np.mean, permutation_type="samples").pvalue
    assert paired_p(moved, torch.Generator().manual_seed(0)) == pytest.approx(luck, abs=0.02)
