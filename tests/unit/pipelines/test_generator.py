"""Generators: one loop of samples, whatever makes them, to the bit what the pipeline gives."""

import json

import numpy as np
import pytest
import torch
from diffusers import UniPCMultistepScheduler

from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.families.load import check_room, generator_class, load_generator
from t2v.pipelines.generator import Start, Step, require, sample_videos, to_uint8
from t2v.pipelines.t2v_generator import T2VGenerator

PROMPTS = ["a red ball rolls", "a blue box", "a red ball rolls"]
CPU = torch.device("cpu")


@pytest.fixture
def generator(pipe):
    return T2VGenerator(pipe)


def wan_index(folder):
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "WanPipeline"}))
    return folder


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_samples_are_those_of_the_pipeline_however_they_are_batched(generator, pipe, batch_size):
    asked, seeds = generator.defaults, [7, 8, 3]
    batches = list(sample_videos(generator, PROMPTS, seeds, asked, batch_size=batch_size))
    assert [len(each) for each in batches] == {1: [1, 1, 1], 2: [2, 1], 5: [3]}[batch_size]
    frames = np.concatenate([generator.decode(each, asked.num_frames) for each in batches])
    for prompt, seed, video in zip(PROMPTS, seeds, frames, strict=True):
        alone = pipe(prompt, generator=torch.Generator().manual_seed(seed)).frames[0]
        np.testing.assert_array_equal(to_uint8(alone), video)


def test_a_watched_video_is_the_same_and_goes_on_from_any_step(generator):
    asked, steps = generator.defaults, []
    (whole,) = sample_videos(generator, PROMPTS[:1], [3], asked)
    (watched,) = sample_videos(generator, PROMPTS[:1], [3], asked, watch=steps.append)
    assert torch.equal(whole, watched)
    assert [step.number for step in steps] == list(range(1, asked.num_inference_steps + 1))
    for step in steps[:-1]:
        later = []
        start = Start(step.latents, step.number)
        (resumed,) = sample_videos(
            generator, PROMPTS[:1], [3], asked, watch=later.append, start=start
        )
        assert torch.equal(whole, resumed)
        assert later[0].number == step.number + 1 and later[0].before is start.latents


def test_a_step_heads_for_where_its_line_meets_time_0():
    data, noise = torch.randn(2, 1, 4, 2, 2, 2, generator=torch.Generator().manual_seed(0))
    before, after = (t * noise + (1 - t) * data for t in (0.9, 0.4))
    torch.testing.assert_close(Step(2, after, before, (0.9, 0.4)).heading(), data)
    assert Step(1, after, None, (1.0, 0.4)).heading() is after


def test_seconds_of_text_and_denoising_are_reported(generator):
    seconds = {}
    list(sample_videos(generator, PROMPTS, [0, 1, 2], generator.defaults, seconds=seconds))
    assert set(seconds) == {"text", "denoise"} and min(seconds.values()) > 0


def test_a_scheduler_that_remembers_its_steps_cannot_resume(generator, pipe):
    assert generator.can_resume
    pipe.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True
    )
    assert not generator.can_resume
    with pytest.raises(UserError, match=r"x: a T2VPipeline cannot go on .*, which resuming needs"):
        require(generator, "can_resume", "x", "resuming")


def test_a_folder_is_of_the_generator_that_its_index_names(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "ours")
    assert generator_class("x", tmp_path / "ours", "t2v eval", ["is_trainable"]) is T2VGenerator
    kind = generator_class("x", wan_index(tmp_path), "t2v eval")
    assert kind is FamilyGenerator
    with pytest.raises(
        UserError, match=r"model=x: a WanPipeline does not have the parts .*t2v pla"
    ):
        generator_class("x", tmp_path, "t2v plan", ["is_trainable"])


def test_what_a_command_needs_is_looked_up_before_weights_are_read(tmp_path):
    with pytest.raises(UserError, match=r"^model=x: a WanPipeline does not have the parts"):
        load_generator("x", wan_index(tmp_path), CPU, torch.float32, "t2v plan", ["is_trainable"])


def test_a_loaded_generator_gives_the_videos_of_the_one_saved(generator, pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = load_generator("x", tmp_path, CPU, torch.float32, "t2v sample")
    assert loaded.defaults == generator.defaults
    ours, theirs = (
        next(sample_videos(each, PROMPTS[:1], [1], each.defaults)) for each in (generator, loaded)
    )
    assert torch.equal(ours, theirs)


def test_frames_larger_than_the_memory_are_refused_by_their_index_alone(tmp_path):
    index = {"_class_name": "T2VPipeline", "height": 64, "width": 64, "num_frames": 17, "fps": 8}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    check_room(tmp_path, CPU, None, None, None)
    with pytest.raises(UserError, match=r"num_frames=8000000: needs at least [\d,]+ GiB"):
        check_room(tmp_path, CPU, None, None, None, duration=1e6)
