"""`compile=true`: compiled blocks give the same latents, but for rounding."""

from dataclasses import replace

import pytest
import torch
from diffusers.models.attention_dispatch import _AttentionBackendRegistry

from t2v.config.sampling import SampleConfig
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator
from t2v.families.load import compile_blocks, set_attention
from t2v.pipelines.generator import sample_videos
from t2v.pipelines.t2v_generator import T2VGenerator

from .tiny import BUILDERS, build

CPU = torch.device("cpu")


def test_what_it_cannot_go_with_and_what_it_lacks_is_one_message(pipe, monkeypatch):
    with pytest.raises(UserError, match=r"compile=true offload=group: .* are not compiled"):
        SampleConfig(compile=True, offload="group")
    monkeypatch.setattr("t2v.models.compiling.shutil.which", lambda name: None)
    with pytest.raises(UserError, match=r"compiles with a C\+\+ compiler, such as g\+\+, which"):
        compile_blocks(pipe, CPU)


def test_a_backend_that_does_not_run_is_told_before_any_step_of_any_family(
    tokenizer, text_encoder, wake
):
    pipeline = build("wan", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    with pytest.raises(UserError, match=r"xformers.* does not run on cpu.*constraints-gpu\.txt"):
        set_attention(pipeline, "xformers")
    set_attention(pipeline, "_native_math")
    kernels = {each._attention_backend for each in pipeline.transformer.attn_processors.values()}
    assert {each.value for each in kernels} == {"_native_math"}
    assert _AttentionBackendRegistry.get_active_backend()[0].value == "native"  # of other models


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of the compiler itself
@pytest.mark.parametrize("name", ["ours", "wan", "ltx", "cogvideox"])
def test_compiled_blocks_give_the_same_latents_but_for_rounding(
    name, pipe, tokenizer, text_encoder, wake
):
    if name == "ours":
        generator, size = T2VGenerator(pipe), {}
    else:
        text = {"tokenizer": tokenizer, "text_encoder": text_encoder}
        generator = FamilyGenerator(build(name, text, wake))
        size = dict(zip(("height", "width", "num_frames"), BUILDERS[name][1], strict=True))
    asked = replace(generator.defaults, num_inference_steps=2, upscale=1, **size)

    def draw():
        (latents,) = sample_videos(generator, ["a red ball"], [0], asked)
        return latents

    plain = draw()
    compile_blocks(generator.pipeline, CPU)
    modules = generator.pipeline.transformer.modules()
    assert sum(each._compiled_call_impl is not None for each in modules) >= 2
    compiled = draw()
    assert 0 < (compiled - plain).abs().max() < 1e-4 * plain.abs().max()
