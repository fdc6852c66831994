"""Clips packed into one sequence, and text without its padding: each as if it were alone."""

import pytest
import torch

from t2v.models.packing import predict_packed

SHAPES = ((2, 8, 3, 4, 6), (1, 8, 1, 4, 4), (3, 8, 2, 2, 4))


@pytest.fixture
def batches():
    found = []
    for number, (b, c, t, h, w) in enumerate(SHAPES):
        tokens = t * h * w // 4
        time = 1000 * (torch.rand(b, tokens) if number == 1 else torch.rand(b))  # one a token, too
        given = {"hidden_states": torch.randn(b, c, t, h, w), "timestep": time}
        found.append(given | {"encoder_hidden_states": torch.randn(b, 5, 32)})
    return found


def test_each_packed_clip_is_predicted_as_if_it_were_alone(transformer, batches):
    with torch.no_grad():
        packed = predict_packed(transformer, batches)
        for found, given in zip(packed, batches, strict=True):
            alone = transformer(**given).sample
            torch.testing.assert_close(found, alone, atol=1e-5, rtol=1e-5)


def test_no_packed_clip_sees_another_or_its_text(transformer, batches):
    for given in batches:
        given["hidden_states"].requires_grad_()
        given["encoder_hidden_states"].requires_grad_()
    packed = predict_packed(transformer, batches)
    inputs = [given[name] for given in batches for name in ("hidden_states", TEXT)]
    first = torch.autograd.grad(packed[0][0].square().sum(), inputs, allow_unused=True)
    video, text = first[0], first[1]
    assert video[0].abs().min() > 0 and text[0].abs().sum() > 0
    assert not video[1:].any() and not text[1:].any()
    assert all(grad is None or not grad.any() for grad in first[2:])


TEXT, MASK = "encoder_hidden_states", "encoder_attention_mask"


def test_text_without_its_padding_is_masked_padded_text(transformer, batches):
    for given in batches:
        lengths = torch.randint(1, 6, (len(given[TEXT]), 1))
        given[MASK] = torch.arange(5) < lengths
        given[TEXT] = given[TEXT] * given[MASK].unsqueeze(-1)
    rows = []
    transformer.blocks[0].attn2.to_k.register_forward_pre_hook(
        lambda _, given: rows.append(given[0].shape[1])
    )
    with torch.no_grad():
        packed = predict_packed(transformer, batches)
        assert rows == [sum(int(given[MASK].sum()) for given in batches)]
        for found, given in zip(packed, batches, strict=True):
            torch.testing.assert_close(found, transformer(**given).sample, atol=1e-5, rtol=1e-5)


def test_recomputed_blocks_of_a_pack_give_the_same_gradients(transformer, batches):
    def gradients():
        transformer.zero_grad()
        sum(each.square().mean() for each in predict_packed(transformer, batches)).backward()
        return [p.grad.clone() for p in transformer.parameters()]

    plain = gradients()
    transformer.enable_gradient_checkpointing()
    assert all(torch.equal(one, other) for one, other in zip(plain, gradients(), strict=True))
