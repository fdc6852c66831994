"""A second family of generators, added by a row in `GENERATORS`: the commands take it."""

import json
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from diffusers import DiffusionPipeline

from t2v.bench.pipeline import load, stages
from t2v.cli import main
from t2v.config.bench import BenchConfig
from t2v.families.load import GENERATORS
from t2v.io.video import read_recipe, read_video
from t2v.pipelines.generator import Request, Step

STEPS = 3


class NoisePipeline(DiffusionPipeline):
    """Noise of the size that it is saved with; no networks."""

    def __init__(self, height=32, width=48, num_frames=9, fps=8.0):
        super().__init__()
        self.register_to_config(height=height, width=width, num_frames=num_frames, fps=fps)


class NoiseGenerator:
    """Videos of noise, made in steps that all give the same."""

    pipeline_class = NoisePipeline
    gives_latents = True
    is_trainable = False
    sound = None
    can_resume = True
    takes = frozenset()
    vae = None

    def __init__(self, pipeline):
        self.pipeline = pipeline

    @property
    def defaults(self):
        saved = self.pipeline.config
        return Request(
            height=saved.height,
            width=saved.width,
            num_frames=saved.num_frames,
            fps=saved.fps,
            num_inference_steps=STEPS,
            guidance_scale=None,
        )

    def check(self, prompt, request, visuals=None):
        pass

    def encode(self, prompts, request, visuals=()):
        return len(prompts)

    def latent_shape(self, request):
        return 1, 3, request.num_frames, request.height, request.width

    def generate(self, conditions, request, seeds, watch=None, start=None):
        assert conditions == len(seeds)
        size = self.latent_shape(request)[1:]
        made = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        for number in range(start.step if start else 0, request.num_inference_steps):
            if watch is not None:
                watch(Step(number + 1, torch.stack(made)))
        return torch.stack(made)

    def decode(self, latents, num_frames, upscale=1):
        frames = latents[:, :, :num_frames] * 255
        return frames.round().byte().permute(0, 2, 3, 4, 1).numpy()

    def decode_pieces(self, latents, num_frames, upscale=1):
        yield from np.split(self.decode(latents, num_frames, upscale)[0], [4])


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """A command with a saved family of noise, in an empty folder: exit code, stdout and stderr."""
    monkeypatch.setattr(diffusers, "NoisePipeline", NoisePipeline, raising=False)
    monkeypatch.setitem(GENERATORS, "NoisePipeline", NoiseGenerator)
    monkeypatch.chdir(tmp_path)
    NoisePipeline().save_pretrained("model")

    def run(*words, model="model=model"):
        code = main([*words, *([model] if model else []), "device=cpu"])
        return code, *capsys.readouterr()

    return run


def test_its_videos_are_sampled_and_sampled_again(run):
    code, _, err = run("sample", "a ball", "--seed", "5", "--sheet", "--preview-every", "1")
    assert code == 0, err
    frames = read_video(Path("video.mp4"))[0]
    assert frames.shape == (9, 32, 48, 3) and read_recipe(Path("video.mp4"))["settings"]["fps"] == 8
    code, _, err = run("sample", "--recipe", "video.mp4", model=None)
    assert code == 0, err
    np.testing.assert_array_equal(read_video(Path("video-again.mp4"))[0], frames)


def test_an_interrupted_video_is_resumed(run, monkeypatch):
    def stop(*args):
        raise KeyboardInterrupt

    assert run("sample", "a ball", "-o", "whole.mp4")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr(NoiseGenerator, "decode", stop)
        code, _, err = run("sample", "a ball", "-o", "a.mp4")
    assert code == 130 and "The latents are kept" in err
    assert run("sample", "--resume", "a.latents.safetensors", model=None)[0] == 0
    whole, resumed = (read_video(Path(name))[0] for name in ("whole.mp4", "a.mp4"))
    np.testing.assert_array_equal(whole, resumed)


def test_it_is_evaluated_beside_real_clips_and_not_sampled_twice(run, monkeypatch):
    words = ["eval", "suites=[world]", "count=2", "perceptual=null", "output=eval"]
    code, out, err = run(*words)
    assert code == 0, err
    report = json.loads(Path("eval/eval.json").read_text())
    assert report["protocol"]["size"] == [9, 32, 48] and report["protocol"]["guidance"] is None
    rows = report["suites"]["world"]["tables"]["dynamics"]
    assert "model" in rows and "real clips" in rows and "real clips through the VAE" not in rows
    monkeypatch.delattr(NoiseGenerator, "generate")
    assert run(*words)[:2] == (0, out)


def test_its_stages_can_be_measured_one_by_one(run):
    config = BenchConfig(model="model", device="cpu", num_frames=5)
    measured = {name: stage() for name, stage in stages(load(config), config).items()}
    assert measured.keys() == {"text", "denoise", "decode"}
    assert measured["decode"].shape == (1, 5, 32, 48, 3)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["finetune", "data=x", "output=y"], "does not have the parts that t2v trains"),
        (["plan", "sample"], "does not have the parts that t2v trains, which t2v plan sample"),
        (["eval", "output=y"], "perceptual=vae: a NoisePipeline has no VAE"),
        (["eval", "footage", "data=x", "output=y"], "does not have a VAE that encodes clips"),
    ],
)
def test_what_it_cannot_do_is_said_in_one_message(words, message, run):
    code, out, err = run(*words)
    assert (code, out) == (2, "") and "NoisePipeline" in err and message in err
    assert "Traceback" not in err
