"""Tokens of single frames: who sees them, at any length, saved and loaded."""

import pytest
import torch

from t2v.models.context_tokens import ContextTokens, take_tokens, without_tokens


def tokens(frames: int, each: int, shared: int) -> ContextTokens:
    like = torch.zeros(1)
    return ContextTokens(frames * each + shared, 4, like, at_end=False, of_frames=(frames, each, 1))


def test_a_frame_sees_its_own_tokens_the_shared_ones_and_the_text():
    text, mask = torch.ones(2, 3, 4), torch.tensor([[True, True, False], [True, False, False]])
    seen = tokens(3, 2, 1).seen(mask, text, 3)
    assert seen.shape == (2, 3, 10)
    assert seen[0].int().tolist() == [
        [1, 1, 0, 0, 0, 0, 1, 1, 1, 0],
        [0, 0, 1, 1, 0, 0, 1, 1, 1, 0],
        [0, 0, 0, 0, 1, 1, 1, 1, 1, 0],
    ]
    assert seen[1, :, 7:].int().tolist() == [[1, 0, 0]] * 3
    text[1, 1:] = 0  # an empty prompt goes without them, and sees what it always saw
    seen = tokens(3, 2, 1).seen(None, text, 3)
    assert not seen[1, :, :7].any() and seen[1, :, 7:].all() and seen[0, :, 6:].all()
    text[0, 2] = 0
    assert tokens(3, 2, 1).seen(None, text, 3)[0, 0].int().tolist() == [
        1,
        1,
        0,
        0,
        0,
        0,
        1,
        1,
        1,
        0,
    ]
    by_frame = torch.eye(3, dtype=torch.bool).expand(2, 3, 3)  # of scenes by time
    assert torch.equal(tokens(3, 2, 1).seen(by_frame, text, 3)[..., 7:], by_frame)


@pytest.mark.parametrize(
    ("frames", "owners"), [(1, [0]), (2, [0, 2]), (3, [0, 1, 2]), (5, [0, 0, 1, 2, 2])]
)
def test_tokens_are_spread_over_a_video_of_another_length(frames, owners):
    seen = tokens(3, 1, 0).seen(None, torch.ones(1, 2, 4), frames)[..., :3]
    assert seen[0].int().argmax(1).tolist() == owners and seen.sum() == frames


def test_a_video_changes_only_through_the_frames_that_see_a_token(pipe):
    transformer = pipe.transformer.eval()
    take_tokens(transformer, 0, 7, (3, 2, 1))
    assert transformer.config.frame_tokens == [3, 2, 1] and transformer._cp_plan is None
    text = torch.randn(1, 4, 32, generator=torch.Generator().manual_seed(0))
    given = text.clone()
    hidden = torch.randn(1, 8, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        transformer.proj_out.weight.normal_(std=0.1)
        for block in transformer.blocks:  # frames do not mix, so what differs is what was seen
            block.attn1.to_out[0].weight.zero_()
            block.attn1.to_out[0].bias.zero_()
            block.attn2.to_out[0].weight.normal_(std=0.1)

    def frames() -> torch.Tensor:
        with torch.no_grad():
            return transformer(hidden, torch.tensor([500.0]), text).sample

    before = frames()
    with torch.no_grad():
        transformer.condition_embedder.prefix.tokens[2:4] += 1  # those of the second frame
    changed = (frames() != before).flatten(3).any(3)[0].any(0)
    assert changed.tolist() == [False, True, False]
    with torch.no_grad():
        transformer.condition_embedder.prefix.tokens[6] += 1  # that of all
    assert (frames() != before).flatten(3).any(3)[0].any(0).all()
    with without_tokens(transformer):
        plain = frames()
    text[:, 1:] = 0
    empty = frames()
    transformer.condition_embedder.prefix.tokens.data.zero_()
    assert torch.allclose(frames(), empty)
    text = given
    del transformer.condition_embedder.prefix
    transformer.condition_embedder.prefix = None
    assert torch.equal(frames(), plain)
