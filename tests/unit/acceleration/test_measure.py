"""Settings are measured beside the exact video at its noise, on our pipeline and on others."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from t2v.acceleration.bounds import MOST_DB
from t2v.acceleration.candidates import CACHES, MERGED, candidates
from t2v.acceleration.measure import accelerated, decibels, measure, relative_error
from t2v.acceleration.table import Setting
from t2v.errors import UserError
from t2v.pipelines.generator import Start
from t2v.pipelines.t2v_generator import T2VGenerator

PROMPTS = ["a red ball", "a blue box", "a red box", "a blue ball"]


@pytest.fixture
def ours(pipe):
    generator = T2VGenerator(pipe)
    return generator, replace(generator.defaults, num_inference_steps=6, upscale=1)


def draw(generator, asked, seeds=(3,), **others):
    prompts = PROMPTS[: len(seeds)]
    return generator.generate(generator.encode(prompts, asked), asked, list(seeds), **others)


def test_the_candidates_are_caches_fewer_steps_and_guidance_in_a_part(ours):
    found = candidates(ours[1], ["taylor:5"])
    assert {each.cache for each in found} >= {*CACHES, "taylor:5"}
    assert {each.token_merging for each in found} == {0, *MERGED}
    assert all(each.num_inference_steps <= 6 for each in found) and len(set(found)) == len(found)
    assert any(each.guidance_interval for each in found)
    plain = candidates(replace(ours[1], guidance_scale=1.0))
    assert not any(each.guidance_interval for each in plain)
    unknown = candidates(replace(ours[1], num_inference_steps=None))
    assert all(each.num_inference_steps is None for each in unknown)


@pytest.mark.parametrize("cache", ["first_block:9", "taylor:2", "pyramid:2", "mag:0.5"])
def test_a_cache_changes_its_own_video_and_no_other(ours, cache):
    generator, asked = ours
    ratios = (1.0,) * 6 if cache.startswith("mag") else ()
    left_out = replace(asked, cache=cache, cache_ratios=ratios)
    exact, found = draw(generator, asked), draw(generator, left_out)
    assert 0 < relative_error(found, exact) < 1
    assert torch.equal(draw(generator, left_out), found)
    assert torch.equal(draw(generator, asked), exact)
    assert torch.equal(draw(generator, left_out, (3, 4))[:1], found)  # a batch is one by one
    with pytest.raises(UserError, match="cannot go on from its middle"):
        draw(generator, left_out, start=Start(exact, 2))


def test_guidance_in_a_part_lies_between_all_and_none_and_goes_on_to_the_bit(ours):
    generator, asked = ours
    part, kept = replace(asked, guidance_interval=(0.0, 0.5)), []
    found = draw(generator, part, watch=kept.append)
    exact, bare = draw(generator, asked), draw(generator, replace(asked, guidance_scale=1.0))
    assert 0 < relative_error(found, exact) < relative_error(bare, exact)
    assert torch.equal(draw(generator, replace(asked, guidance_interval=(0.0, 1.0))), exact)
    assert torch.equal(draw(generator, part, (3, 4))[:1], found)
    for step in (kept[1], kept[3]):  # before the end of the interval and behind it
        assert torch.equal(draw(generator, part, start=Start(step.latents, step.number)), found)


def test_rows_have_figures_or_a_reason_and_the_exact_setting_costs_nothing(ours):
    generator, asked = ours
    settings = [
        Setting(num_inference_steps=6),
        Setting(num_inference_steps=3),
        Setting(num_inference_steps=6, token_merging=0.5),
        Setting(num_inference_steps=6, cache="mag:1"),
        Setting(num_inference_steps=6, cache="mag:0.5", guidance_interval=(0.0, 0.5)),
        # its first block keeps rows of two predictions, and one comes
        Setting(num_inference_steps=6, cache="faster:2", guidance_interval=(0.0, 0.5)),
    ]
    rows = {row.setting: row for row in measure(generator, asked, settings, PROMPTS)}
    exact = rows.pop(settings[0]).measured
    assert exact.error == 0 and exact.psnr == MOST_DB and exact.most_error < 1e-5
    half = rows.pop(settings[1]).measured
    assert 0 < half.error < half.most_error and half.least_psnr < half.psnr
    assert half.speed_low <= half.speed <= half.speed_high and half.speed > 1.2
    assert rows.pop(settings[2]).measured.error > 0
    (mag,) = [row for each, row in rows.items() if each.cache == "mag:1"]
    assert len(mag.setting.cache_ratios) == 6 and mag.setting.cache_ratios[0] == 1
    assert mag.measured.error > 0
    remade = draw(generator, accelerated(asked, mag.setting))
    assert relative_error(remade, draw(generator, asked)) > 0


def test_a_prompt_is_embedded_and_warned_of_once(ours, caplog):
    generator, asked = ours
    settings = [Setting(num_inference_steps=each) for each in (1, 2)]
    strange = ["a xylophone", "a blue zeppelin"]
    measure(generator, replace(asked, num_inference_steps=2), settings, strange)
    warned = [each.getMessage() for each in caplog.records if each.levelname == "WARNING"]
    assert len(warned) == 2 and "xylophone" in warned[0] and "zeppelin" in warned[1]


def test_a_model_that_a_cache_does_not_fit_has_its_reason(ours):
    generator, asked = ours
    generator.pipeline.transformer.proj_out, kept = None, generator.pipeline.transformer.proj_out
    with pytest.raises(UserError, match=r"cache=taylor: does not fit .*no proj_out"):
        draw(generator, replace(asked, cache="taylor:2"))
    generator.pipeline.transformer.proj_out = kept
    assert not generator.pipeline.transformer.is_cache_enabled


def test_decibels_of_known_frames():
    black = np.zeros((1, 2, 2, 3), np.uint8)
    assert decibels(black + 255, black) == 0 and decibels(black, black) == MOST_DB
    assert decibels(black + 1, black) == pytest.approx(48.13, abs=0.01)
