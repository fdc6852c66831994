"""What cannot be evaluated is refused in one message, before anything is sampled."""

import json
from dataclasses import replace

import pytest
import torch

from t2v.config.evaluation import EvalConfig, FootageEvalConfig
from t2v.errors import UserError
from t2v.evaluation import retrieval
from t2v.evaluation.measure import load_networks
from t2v.evaluation.metrics import alignment
from t2v.evaluation.run import _check_memory, evaluate
from t2v.evaluation.samples import cache_keys, load_model, through_vae
from t2v.evaluation.suites import load_suite
from t2v.evaluation.types import NotRun, Videos
from t2v.nets.clip import ClipModel
from t2v.nets.features import vae_frames
from t2v.pipelines.t2v_generator import T2VGenerator


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"oracle": "x", "suites": ("general",)},
            r"oracle=x: .* suites=\['general'\] describes none",
        ),
        ({"training": "nowhere"}, "nowhere"),
        ({"model": "nowhere"}, "model=nowhere: there is no such folder"),
        ({"device": "abacus"}, "device=abacus: not available on this machine"),
    ],
)
def test_a_mistake_is_found_before_a_model_is_loaded(settings, words, tmp_path):
    with pytest.raises(UserError, match=words):
        evaluate(EvalConfig(output=str(tmp_path / "out"), **settings))
    assert not (tmp_path / "out").exists()


def test_a_suite_of_scenes_beside_one_without_is_measured_where_it_can_be(tmp_path):
    with pytest.raises(UserError, match="holds no oracle"):  # the next thing that is looked at
        evaluate(
            EvalConfig(output=str(tmp_path), oracle="x", suites=("general", "motion"), count=1)
        )


def test_a_model_whose_latents_cannot_be_compared_is_named(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    config = FootageEvalConfig(output=str(tmp_path / "out"), model=str(tmp_path), data="clips")
    with pytest.raises(
        UserError, match="a WanPipeline does not have a VAE that encodes clips, which t2v"
    ):
        retrieval.evaluate(config)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("oracle", "holds no oracle"),
        ("scorer", "scorer=.* holds no scorer"),
        ("perceptual", "perceptual=.*holds no weights"),
        ("features", "features=.*holds no weights"),
        ("clip", "clip=.*holds no weights"),
        ("captioner", "captioner=.*cannot be loaded"),
    ],
)
def test_each_model_that_is_none_is_named_by_its_setting(setting, words, pipe, tmp_path):
    with pytest.raises(UserError, match=words):
        config = EvalConfig(output="x", **{setting: str(tmp_path)})
        load_networks(config, T2VGenerator(pipe))


def test_what_does_not_fit_the_machine_or_is_too_short_is_refused_with_figures(pipe):
    suites = [load_suite("world", 50, 0), load_suite("general", 50, 0)]
    request = T2VGenerator(pipe).defaults
    config = EvalConfig(output="x")
    _check_memory(suites, request, "T2VPipeline", config)
    with pytest.raises(UserError, match="num_frames=2: dynamics need at least 3"):
        _check_memory(suites, replace(request, num_frames=2), "T2VPipeline", config)
    large = replace(request, num_frames=100_001, height=4096, width=4096)
    with pytest.raises(UserError, match=r"50 prompts of suite world at 100001 frames 4096x4096"):
        _check_memory(suites, large, "T2VPipeline", config)


def test_retrieval_among_few_videos_is_not_run(clip_folder):
    video = torch.zeros(5, 3, 32, 32, 3, dtype=torch.uint8)
    found = alignment.measure(Videos(video, tuple("abcde"), 8), [ClipModel(clip_folder)])
    assert (
        isinstance(found["video_r1"], NotRun) and "more than 5 videos" in found["video_r1"].reason
    )


def test_another_number_format_samples_and_measures_and_is_kept_apart(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "model")
    config = EvalConfig(output="x", model=str(tmp_path / "model"), device="cpu")
    exact, coarse = (
        load_model(replace(config, dtype=name), "t2v eval") for name in ("fp32", "bf16")
    )
    assert coarse.pipeline.transformer.dtype == torch.bfloat16
    assert not set(cache_keys(exact, ("a", "b"), config)) & set(
        cache_keys(coarse, ("a", "b"), config)
    )
    clips = torch.randint(0, 256, (2, 9, 32, 48, 3), dtype=torch.uint8)
    fine, rough = (through_vae(each.vae, clips).float() for each in (exact, coarse))
    assert (fine - rough).abs().mean() < 4
    assert vae_frames(coarse.vae).maps(clips)[0].dtype == torch.float32
