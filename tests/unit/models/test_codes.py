"""Models of codes: the head, causal attention with kept keys and values, and the schedulers."""

import math

import pytest
import torch

from t2v.errors import UserError
from t2v.models.attention.causal import earlier
from t2v.models.code_head import in_patches, is_causal, of_patches
from t2v.models.code_schedulers import MaskedCodeScheduler, NextCodeScheduler, narrowed
from t2v.models.conditions import Conditions
from t2v.models.diffusion import objective_of
from t2v.models.next_codes import NextCodes
from t2v.models.transformer import T2VTransformer3DModel
from t2v.training.losses.codes import before, masked_losses, masked_places, next_losses, total

CODES, PATCH = 32, (1, 2, 2)


def seeded(number=0):
    return torch.Generator().manual_seed(number)


@pytest.fixture
def make(wake):
    """Makes a transformer of codes whose layers attend by a word."""

    def made(attention="full", layers=3):
        torch.manual_seed(0)
        model = T2VTransformer3DModel(
            patch_size=PATCH, num_attention_heads=2, attention_head_dim=16, in_channels=8,
            out_channels=12, text_dim=32, freq_dim=32, ffn_dim=64, num_layers=layers,
            sincos_positions=True, pooled_text=True, attention=attention, codebook_size=CODES,
        )  # fmt: skip
        wake(model)
        model.code_head.table.data.normal_(generator=seeded(1))
        return model

    return made


def texts(count=1):
    return Conditions(text=torch.randn(count, 5, 32, generator=seeded(2)))


def test_codes_and_latents_of_a_head(make):
    head = make().code_head
    codes = torch.randint(CODES + 1, (2, 3, 4, 4), generator=seeded())
    latents = head.latents(codes)
    assert head.codes(latents)[codes < CODES].equal(codes[codes < CODES])
    unknown = latents.permute(0, 2, 3, 4, 1)[codes == CODES]
    assert unknown.equal(head.unknown.expand_as(unknown))
    patches = in_patches(latents, PATCH)
    assert patches.shape == (2, 12, 4, 8)
    assert of_patches(patches, PATCH, (3, 2, 2)).equal(latents)


def test_the_layers_are_causal_in_all_or_in_none(make):
    assert is_causal(make("causal")) and is_causal(make(["causal", "causal_axial"]))
    assert not is_causal(make("full"))
    with pytest.raises(UserError, match="in all layers or in none"):
        make(["full", "causal"])


def test_axes_of_causal_attention():
    grid = {"t": 2, "h": 2, "w": 3}
    places = [(t, h, w) for t in range(2) for h in range(2) for w in range(3)]
    everything = earlier(grid, None, torch.device("cpu"))
    lines = torch.zeros_like(everything)
    for axis in range(3):
        seen = earlier(grid, axis, torch.device("cpu"))
        for q, query in enumerate(places):
            for k, key in enumerate(places):
                same = all(query[other] == key[other] for other in range(3) if other != axis)
                assert bool(seen[q, k]) == (same and k <= q)
        lines |= seen
    assert everything.equal(torch.ones(12, 12).tril().bool()) and not lines.equal(everything)


@pytest.mark.parametrize("attention", ["causal", "causal_axial"])
def test_a_later_token_changes_no_earlier_one(make, attention):
    model = make(attention)
    latents = torch.randn(1, 8, 3, 4, 4, generator=seeded())
    other = latents.clone()
    other[:, :, 2, 2:] += 1  # the third frame's last two patches
    one, two = (
        in_patches(model(each, torch.zeros(1), texts().text).sample, PATCH)
        for each in (latents, other)
    )
    assert one[:, :10].equal(two[:, :10]) and not one[:, 10:].equal(two[:, 10:])


@pytest.mark.parametrize("attention", ["causal", "causal_axial", ["causal", "causal_axial"]])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("given", [0, 1, 5])
def test_kept_keys_and_values_give_the_bits_of_the_whole(make, attention, scale, given):
    model, step = make(attention), NextCodeScheduler(CODES).step
    negative = Conditions(text=torch.randn(1, 5, 32, generator=seeded(3)))
    known = torch.randint(CODES, (1, 12, 4, 1), generator=seeded(4))
    known[:, given:] = CODES
    start = of_patches(known, PATCH, (3, 2, 2))[:, 0]
    run = NextCodes(model, texts(), negative, scale, start)
    found = {}
    whole = run.features
    run.features = lambda begin, end: found.setdefault(end - 1, whole(begin, end))
    uniform = torch.rand(1, 12, 4, generator=seeded(5))
    assert list(run(uniform, step)) == list(range(given, 12))
    codes = run.videos()
    assert in_patches(codes.unsqueeze(1), PATCH)[:, :given].equal(known[:, :given])
    with torch.no_grad():
        once = NextCodes(model, texts(), negative, scale, codes)
        features = once.features(0, 12)
        for number, each in found.items():
            assert each[:, number].equal(features[:, number])
        if scale == 1:  # and of the plain forward
            patches = in_patches(model.code_head.latents(codes), PATCH)
            read = of_patches(before(model.code_head, patches), PATCH, (3, 2, 2))
            plain = model(read, torch.zeros(1), texts().text).sample
            assert in_patches(plain, PATCH).equal(features)
    # one frame more changes none of the first three
    longer = torch.cat([start, torch.full_like(start[:, :1], CODES)], dim=1)
    run = NextCodes(model, texts(), negative, scale, longer)
    more = torch.cat([uniform, torch.rand(1, 4, 4, generator=seeded(6))], dim=1)
    assert len(list(run(more, step))) == 16 - given
    assert run.videos()[:, :3].equal(codes)


def test_a_causal_head_sees_the_codes_before_a_place_alone(make):
    head = make("causal").code_head
    features = torch.randn(2, 6, 4, 12, generator=seeded())
    latents = torch.randn(2, 6, 4, 8, generator=seeded(1))
    other = latents.clone()
    other[:, :, 2:] += 1
    one, two = (head.to_scores(head.features_of(features, z)) for z in (latents, other))
    assert one[:, :, :3].equal(two[:, :, :3]) and not one[:, :, 3].equal(two[:, :, 3])
    for place in range(4):
        torch.testing.assert_close(
            head.next_scores(features[:, :, place], latents[:, :, :place]), one[:, :, place]
        )


@pytest.mark.parametrize("steps", [1, 4, 12])
@pytest.mark.parametrize("given_count", [0, 20, 79])
def test_a_masked_scheduler_fills_as_many_as_the_cosine_says(steps, given_count):
    scheduler = MaskedCodeScheduler(CODES)
    scheduler.set_timesteps(steps)
    codes = torch.full((2, 80), CODES)
    given = torch.zeros(2, 80, dtype=torch.bool)
    given[:, :given_count] = True
    codes[given] = 7
    for index, t in enumerate(scheduler.timesteps):
        scores = torch.randn(2, 80, CODES, generator=seeded(index))
        before_step = codes
        codes = scheduler.step_all(scores, int(t), codes, given, [seeded(index), seeded(index + 9)])
        left = (codes == CODES).sum(dim=1)
        share = math.cos(math.pi / 2 * (index + 1) / steps)
        free = 80 - given_count
        if index + 1 < steps and free > 1:
            assert all(
                each >= 1 and free * share - 1.001 < each < free * share + 1 for each in left
            )
        kept = before_step < CODES
        assert codes[kept].equal(before_step[kept])
    assert (codes < CODES).all() and (codes[given] == 7).all()


def test_scores_are_narrowed_to_the_likeliest():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).log()
    config = NextCodeScheduler(4, top_k=2).config
    assert narrowed(scores, config).isinf().tolist() == [[False, False, True, True]]
    config = NextCodeScheduler(4, top_p=0.75).config
    assert narrowed(scores, config).isinf().tolist() == [[False, False, True, True]]
    config = NextCodeScheduler(4, code_temperature=0.5).config
    torch.testing.assert_close(narrowed(scores, config), scores * 2)
    sure = NextCodeScheduler(4, code_temperature=0)
    assert sure.step(scores.expand(50, 4), torch.rand(50, generator=seeded())).tolist() == [0] * 50


def test_the_next_code_is_drawn_by_its_share():
    scheduler = NextCodeScheduler(4)
    scores = torch.tensor([0.5, 0.3, 0.15, 0.05]).log().expand(10_000, 4)
    uniform = (torch.arange(10_000) + 0.5) / 10_000
    counts = torch.bincount(scheduler.step(scores, uniform), minlength=4)
    assert counts.tolist() == [5000, 3000, 1500, 500]
    edge = scheduler.step(scores[:2], torch.tensor([0.0, 1.0]))
    assert edge.tolist() == [0, 3]


def test_objectives_of_schedulers(tmp_path):
    for kind, name in ((MaskedCodeScheduler, "masked"), (NextCodeScheduler, "autoregressive")):
        kind(CODES, top_k=5).save_pretrained(tmp_path / name)
        again = kind.from_pretrained(tmp_path / name)
        assert objective_of(again) == (name, 1.0) and again.config.top_k == 5


def test_masked_places_are_the_share_of_those_not_given():
    order = torch.randn(3, 2, 4, 4, generator=seeded())
    given = torch.zeros(3, 2, 4, 4, dtype=torch.bool)
    given[1, 0] = True
    t = torch.tensor([0.0, 2 / 3, 1.0])
    masked = masked_places(order, given, t)
    assert masked.flatten(1).sum(dim=1).tolist() == [32, 8, 1]
    assert not (masked & given).any()
    assert not masked_places(order, torch.ones_like(given), t).any()


def test_losses_of_masked_given_and_noised_codes(make):
    model = make()
    head = model.code_head
    codes = torch.randint(CODES, (2, 3, 4, 4), generator=seeded())
    latents = head.latents(codes)
    noise = torch.randn(latents.shape, generator=seeded(1))
    mask = torch.zeros(2, 1, 3, 4, 4)
    mask[:, :, 0] = 1
    wrong = head.latents((codes + 1) % CODES)
    read = []

    def predict(given, timestep):
        read.append((head.codes(given), given, timestep))
        return torch.zeros(2, 12, 3, 4, 4)

    t = torch.tensor([0.0, 0.5])
    losses = masked_losses(head, predict, latents, noise, t, PATCH, (wrong, mask))
    seen, given, timestep = read[0]
    assert seen[:, 0].equal((codes[:, 0] + 1) % CODES)
    assert (given[0, :, 1:] == head.unknown[:, None, None, None]).all()  # at time 0 all is masked
    torch.testing.assert_close(timestep[0], torch.tensor(1000 * 32 / 48))
    assert set(losses) == {"mask", "refine", "reconstruct"}
    assert losses["refine"].min() > 0 and losses["reconstruct"][0] == 0
    torch.testing.assert_close(
        total(losses), losses["mask"] + losses["refine"] + 0.1 * losses["reconstruct"]
    )
    plain = masked_losses(head, predict, latents, noise, t, PATCH)
    assert plain["refine"].tolist() == [0, 0]


def test_a_model_that_knows_the_next_code_has_no_loss(make):
    model = make("causal")
    head = model.code_head
    codes = torch.randint(CODES, (2, 3, 4, 4), generator=seeded())
    with torch.no_grad():
        head.to_scores.weight.copy_(20 * torch.eye(CODES, 12))
        head.to_scores.bias.zero_()
        for each in head.before:
            each[2].weight.zero_()
            each[2].bias.zero_()
    codes = codes % 12

    def know(latents, timestep):
        assert (latents[:, :, 0, :2, :2] == head.unknown[:, None, None]).all()
        return torch.nn.functional.one_hot(codes, 12).permute(0, 4, 1, 2, 3).float()

    assert next_losses(head, know, head.latents(codes), PATCH)["next"].max() < 1e-4
