"""Captions embedded once: as the pipeline embeds a prompt, never twice, never not a number."""

import pytest
import torch

from t2v.data.captions import Captions
from t2v.data.text_cache import Texts
from t2v.errors import UserError
from t2v.models.text import encode_prompts

PROMPTS = ["a red ball", "the blue box rolls on the grass", ""]


@pytest.fixture
def captions(tokenizer):
    return Captions([{"captions": PROMPTS[:2]}], tokenizer, 12)


def both(captions):
    clips = torch.tensor([0, 0, 0])
    dropped = torch.tensor([False, False, True])
    return captions.pick(clips, torch.tensor([0.0, 0.5, 0.0]), dropped)


def test_an_embedding_is_what_the_pipeline_makes_of_the_prompt(
    captions, tokenizer, text_encoder, tmp_path
):
    texts = Texts(text_encoder, tmp_path, "fp32")
    texts.add(captions, text_encoder)
    with torch.no_grad():
        alone = encode_prompts(tokenizer, text_encoder, PROMPTS, 12)
    assert torch.equal(texts.read(*both(captions), 12), alone)


def test_nothing_is_embedded_twice_and_other_weights_embed_anew(captions, text_encoder, tmp_path):
    Texts(text_encoder, tmp_path, "fp32").add(captions, text_encoder)
    seen = []
    text_encoder.register_forward_hook(lambda *_: seen.append(1))
    again = Texts(text_encoder, tmp_path, "fp32")
    again.add(captions, text_encoder)
    before = again.read(*both(captions), 12)
    assert not seen
    with torch.no_grad():
        text_encoder.shared.weight[5] += 1  # "a"
    other = Texts(text_encoder, tmp_path, "fp32")
    other.add(captions, text_encoder)
    assert len(seen) == len(PROMPTS)
    assert not torch.equal(other.read(*both(captions), 12), before)
    rounded = Texts(text_encoder, tmp_path, "bf16")
    rounded.add(captions, text_encoder)
    assert len(seen) == 2 * len(PROMPTS)


def test_an_embedding_that_is_no_number_is_refused_and_never_kept(captions, text_encoder, tmp_path):
    with torch.no_grad():
        text_encoder.shared.weight.fill_(float("inf"))
    with pytest.raises(UserError, match="not finite"):
        Texts(text_encoder, tmp_path, "fp32").add(captions, text_encoder)
    assert list(tmp_path.rglob("*.safetensors")) == []
