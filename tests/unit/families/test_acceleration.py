"""Pipelines of other packages are accelerated by the same settings, each as far as it can be."""

import re
from dataclasses import replace

import pytest
import torch

from t2v.acceleration.measure import measure, relative_error
from t2v.acceleration.table import Setting
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.pipelines.generator import Start

from .tiny import BUILDERS, build

pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast"),  # Mochi asks for fp32
    pytest.mark.filterwarnings("ignore:__array__ implementation"),  # of schedulers, in numpy
]
PROMPTS = ["a red ball", "a blue box", "the grass", "a red box"]
STEPS = 4


@pytest.fixture
def tiny(tokenizer, text_encoder, wake):
    def make(name):
        text = {"tokenizer": tokenizer, "text_encoder": text_encoder}
        generator = FamilyGenerator(build(name, text, wake))
        generator.pipeline.set_progress_bar_config(disable=True)
        sizes = dict(zip(("height", "width", "num_frames"), BUILDERS[name][1], strict=True))
        return generator, replace(generator.defaults, num_inference_steps=STEPS, **sizes)

    return make


def draw(made, seed=3, start=None, watch=None, **others):
    generator, asked = made
    asked = replace(asked, **others)
    conditions = generator.encode(PROMPTS[:1], asked)
    return generator.generate(conditions, asked, [seed], watch=watch, start=start)


@pytest.mark.parametrize("name", ["wan", "ltx", "cogvideox", "mochi"])
def test_guidance_in_a_part_of_the_steps_is_that_of_the_pipeline_and_none_after_it(tiny, name):
    made, kept = tiny(name), []
    exact, bare = draw(made), draw(made, guidance_scale=1.0)
    assert relative_error(bare, exact) > 1e-3
    assert torch.equal(draw(made, guidance_interval=(0.0, 1.0)), exact)
    never = draw(made, guidance_interval=(0.0, 0.1))  # of 4 steps: none
    torch.testing.assert_close(never, bare, atol=1e-4, rtol=1e-4)
    half = draw(made, guidance_interval=(0.0, 0.5), watch=kept.append)
    assert relative_error(half, exact) > 1e-4 and relative_error(half, bare) > 1e-4
    for step in (kept[0], kept[2]):
        start = Start(step.latents, step.number, step.state)
        assert torch.equal(draw(made, guidance_interval=(0.0, 0.5), start=start), half)
    assert torch.equal(draw(made), exact)


def test_a_pipeline_whose_steps_cannot_be_told_apart_refuses_a_part_of_them(tiny):
    with pytest.raises(UserError, match=r"cannot be told apart \(each latent frame"):
        draw(tiny("forcing"), guidance_interval=(0.0, 0.5))


def test_a_cache_is_one_by_one_and_gone_afterwards(tiny):
    generator, asked = made = tiny("wan")
    exact, found = draw(made), draw(made, cache="taylor:2")
    assert relative_error(found, exact) > 0
    left_out = replace(asked, cache="taylor:2")
    both = generator.generate(generator.encode(PROMPTS[:2], left_out), left_out, [3, 4])
    assert torch.equal(both[:1], found)
    assert torch.equal(draw(made), exact)
    with pytest.raises(UserError, match="cannot go on from its middle"):
        draw(made, cache="taylor:2", start=Start(exact, 1))


REASONS = {  # of what does not fit, by family; all else runs
    "wan": {"faster": "IndexError"},
    "ltx": {"faster": "permute"},
    "cogvideox": {},
    "kandinsky": {
        "first_block": "hidden_states",
        "mag": "step by step",
        "taylor": "no proj_out",
        "pyramid": "does not tell the step",
        "faster": "does not tell the step",
    },
    # its second transformer has one block
    "wan_a14b": {"faster": "IndexError", "mag": "step by step", "first_block": "empty list"},
    "sana": dict.fromkeys(("first_block", "taylor"), "enable_cache|no proj_out")
    | {"mag": "step by step"}
    | dict.fromkeys(("pyramid", "faster"), "does not tell the step"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", REASONS)
def test_each_family_is_measured_and_what_does_not_fit_is_a_row_with_its_reason(tiny, name):
    generator, asked = tiny(name)
    caches = ("first_block:0.5", "mag:1", "taylor:2", "pyramid:2", "faster:2")
    settings = [Setting(num_inference_steps=STEPS, cache=each) for each in caches]
    settings.append(Setting(num_inference_steps=2))
    settings.append(Setting(num_inference_steps=STEPS, guidance_interval=(0.0, 0.5)))
    for row in measure(generator, asked, settings, PROMPTS):
        reason = REASONS[name].get(row.setting.cache.partition(":")[0])
        if reason is None:
            assert row.measured is not None, row
            assert row.measured.error <= row.measured.most_error
        else:
            assert re.search(reason, row.reason or ""), row
