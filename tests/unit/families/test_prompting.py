"""Signs in prompts of other packages' pipelines: read where there are embeddings, or refused."""

from dataclasses import replace

import pytest
import torch

from t2v.config.prompting import PromptingConfig
from t2v.errors import UserError
from t2v.families.generator import FamilyGenerator

from .tiny import BUILDERS, build
from .tiny_cosmos import COSMOS_BUILDERS

A, B = "a red ball", "a blue box"
OF_TOKENS = ["wan", "skyreels", "ltx", "cogvideox", "mochi"]
OF_CHATS = ["hunyuan", "hunyuan_15", "kandinsky", "ltx2", "sana"]

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # Mochi asks for fp32
each_of_tokens = pytest.mark.parametrize("name", ["wan", "ltx"])


@pytest.fixture
def films(tokenizer, text_encoder, wake):
    """Makes what a prompt becomes in two steps of a tiny pipeline."""
    made: dict[str, FamilyGenerator] = {}

    def film(name, prompt, is_read=True, negative=""):
        if name in COSMOS_BUILDERS:
            pytest.importorskip("torchvision", reason="the networks of Cosmos import it")
        if name not in made:
            text = {"tokenizer": tokenizer, "text_encoder": text_encoder}
            made[name] = FamilyGenerator(build(name, text, wake))
        generator = made[name]
        generator.pipeline.set_progress_bar_config(disable=True)
        height, width, frames = BUILDERS[name][1]
        request = replace(
            generator.defaults,
            height=height,
            width=width,
            num_frames=frames,
            num_inference_steps=2,
            negative_prompt=negative,
            prompting=PromptingConfig(syntax=is_read),
        )
        generator.check(prompt, request)
        return generator.generate(generator.encode([prompt], request), request, [0])

    return film


@pytest.mark.parametrize("name", [*OF_TOKENS, *OF_CHATS])
def test_the_ends_of_a_blend_are_its_texts_and_it_is_neither(films, name):
    one, other = films(name, A, is_read=False), films(name, B, is_read=False)
    assert torch.equal(films(name, A), one)
    assert torch.equal(films(name, f"{A} @0 {B}"), one)
    assert torch.equal(films(name, f"{A} @1 {B}"), other)
    if name == "kandinsky":  # its texts have as many rows as they have tokens
        with pytest.raises(UserError, match="do not mix"):
            films(name, f"{A} @0.5 {B} and the grass")
        return
    half = films(name, f"{A} @0.5 {B}")
    assert not torch.equal(half, one) and not torch.equal(half, other)


@each_of_tokens
def test_a_weight_of_one_changes_no_bit_and_others_do(films, name):
    one = films(name, A, is_read=False)
    assert torch.equal(films(name, "a (red:1) ball"), one)
    assert not torch.equal(films(name, "a (red:2) ball"), one)


@each_of_tokens
def test_both_sides_of_and_count(films, name):
    both = films(name, f"{A} AND {B}")
    assert not torch.equal(both, films(name, A))
    assert not torch.equal(both, films(name, f"{A} AND the grass"))
    with pytest.raises(UserError, match="together and"):
        films(name, " AND ".join(["a red ball on the blue grass " * 20] * 30))


@pytest.mark.parametrize("name", OF_CHATS)
def test_weights_of_a_text_within_a_conversation_are_refused(films, name):
    for prompt in ("a (red:2) ball", f"{A} AND {B}"):
        with pytest.raises(UserError, match="not the tokens of the prompt alone"):
            films(name, prompt)


def test_what_a_family_cannot_be_told_is_refused(films):
    for prompt, negative, words in (
        (f"[0-1s] {A} [1-2s] {B}", "", "one text for the whole film"),
        (A, "(blue:2)", "reads no signs in it"),
    ):
        with pytest.raises(UserError, match=words):
            films("wan", prompt, negative=negative)


def test_a_pipeline_is_as_it_was_after_a_call(films, tokenizer, text_encoder, wake):
    from t2v.families.prompting import read_by

    pipeline = build("wan", {"tokenizer": tokenizer, "text_encoder": text_encoder}, wake)
    before = pipeline.encode_prompt
    with pytest.raises(ZeroDivisionError), read_by(pipeline, PromptingConfig(syntax=True)):
        raise ZeroDivisionError
    assert pipeline.encode_prompt == before and "encode_prompt" not in vars(pipeline)
