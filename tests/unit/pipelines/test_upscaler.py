"""A pipeline with an upscaler: sizes, saving, recipes, and what it refuses."""

from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from t2v import T2VPipeline
from t2v.config.evaluation import EvalConfig
from t2v.config.models import UpscalerConfig
from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.evaluation.samples import cache_keys, request_of
from t2v.io.text_files import read_json
from t2v.io.video import read_video
from t2v.models.folder import upscaler_hash, weights_hash
from t2v.models.upscaler import VideoUpscaler
from t2v.pipelines.t2v_generator import T2VGenerator
from t2v.sampling import run
from t2v.sampling.recipe import read

PROMPT = "a red ball"
FEW = {"num_inference_steps": 1, "num_frames": 5, "height": 32, "width": 48}


@pytest.fixture
def upscaler():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        upscaler = VideoUpscaler(**asdict(UpscalerConfig(scale=2, width=8, layers=(1, 1, 1))))
        for parameter in upscaler.parameters():
            parameter.data.normal_(0, 0.05)
    return upscaler.eval()


@pytest.fixture
def larger(pipe, upscaler):
    return T2VPipeline(**pipe.components | {"upscaler": upscaler}, **numbers(pipe))


def numbers(pipe):
    names = ("fps", "height", "width", "num_frames", "num_inference_steps", "guidance_scale")
    return {name: pipe.config[name] for name in (*names, "max_sequence_length")}


def frames(pipe, **words):
    generator = torch.Generator().manual_seed(0)
    return pipe(PROMPT, generator=generator, **(FEW | words)).frames


def test_videos_are_enlarged_unless_the_plain_ones_are_asked_for(pipe, larger):
    plain = frames(pipe)
    assert np.array_equal(frames(larger, upscale=1), plain)
    assert frames(larger).shape == (1, 5, 64, 96, 3)
    assert np.array_equal(frames(larger, upscale=2), frames(larger))
    small = frames(larger).reshape(1, 5, 32, 2, 48, 2, 3).mean((3, 5))
    assert np.abs(small - plain).mean() < 0.2


def test_latents_are_those_of_the_plain_video(pipe, larger):
    assert torch.equal(frames(larger, output_type="latent"), frames(pipe, output_type="latent"))


def test_the_generator_gives_what_the_pipeline_gives(larger):
    generator = T2VGenerator(larger)
    request = replace(generator.defaults, **FEW)
    assert request.upscale == 2
    latents = generator.generate(generator.encode([PROMPT], request), request, [0])
    given = generator.decode(latents, 5, request.upscale)
    assert np.array_equal(given, (frames(larger) * 255).round().astype(np.uint8))
    assert generator.decode(latents, 5).shape == (1, 5, 32, 48, 3)


def test_a_saved_pipeline_keeps_its_upscaler_and_an_old_one_has_none(pipe, larger, tmp_path):
    larger.save_pretrained(tmp_path / "larger")
    again = T2VPipeline.from_pretrained(tmp_path / "larger")
    assert np.array_equal(frames(again), frames(larger))
    pipe.save_pretrained(tmp_path / "plain")
    index = tmp_path / "plain" / "model_index.json"
    assert read_json(index).get("upscaler", [None, None]) == [None, None]
    text = index.read_text()
    assert T2VPipeline.from_pretrained(tmp_path / "plain").upscaler is None
    lines = [line for line in text.splitlines() if "upscaler" not in line]
    if len(lines) < len(text.splitlines()):
        index.write_text(text.replace('"upscaler": [\n    null,\n    null\n  ],', ""))
    assert T2VPipeline.from_pretrained(tmp_path / "plain").upscaler is None
    assert weights_hash(tmp_path / "plain") == weights_hash(tmp_path / "larger")


def test_other_scales_are_refused_before_anything_is_sampled(pipe, larger):
    with pytest.raises(UserError, match="upscale=4: this upscaler enlarges 2 times"):
        frames(larger, upscale=4)
    with pytest.raises(UserError, match="upscale=2: this model has no upscaler"):
        frames(pipe, upscale=2)
    with pytest.raises(UserError, match="upscale=2: this model has no upscaler"):
        generator = T2VGenerator(pipe)
        generator.check(PROMPT, replace(generator.defaults, upscale=2))


def test_a_recipe_makes_the_enlarged_video_again_and_one_of_before_the_plain_one(larger, tmp_path):
    larger.save_pretrained(tmp_path / "model")
    settings = SampleConfig(
        model=str(tmp_path / "model"), output=str(tmp_path / "x.mp4"), device="cpu", **FEW
    )
    (path,) = run.sample(settings, [PROMPT])
    first, _ = read_video(path)
    assert first.shape == (5, 64, 96, 3)
    values = read_json(tmp_path / "x.json")
    assert values["settings"]["upscale"] == 2
    assert values["upscaler"] == upscaler_hash(tmp_path / "model")
    again, _ = read_video(run.repeat(path, []))
    assert np.array_equal(first, again)
    plain, _ = read_video(run.repeat(path, ["upscale=1", f"output={tmp_path / 'plain.mp4'}"]))
    assert plain.shape == (5, 32, 48, 3)
    del values["settings"]["upscale"], values["upscaler"]
    assert read(values, path).settings.upscale == 1
    larger.upscaler.conv_out.bias.data += 0.1
    larger.save_pretrained(tmp_path / "model")
    with pytest.raises(UserError, match="its upscaler is not that of the recipe"):
        run.repeat(path, [f"output={tmp_path / 'other.mp4'}"])


def test_evaluation_judges_the_plain_video_unless_asked(pipe, larger, tmp_path):
    plain, large = T2VGenerator(pipe), T2VGenerator(larger)
    config = EvalConfig(output=str(tmp_path))
    assert request_of(large, config).upscale == 1
    keys = cache_keys(plain, (PROMPT,), config)
    assert cache_keys(large, (PROMPT,), config) == keys
    assert cache_keys(large, (PROMPT,), replace(config, upscale=2)) != keys
