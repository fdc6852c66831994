"""What suites give of their clips: the rest alone is to be made, and no copy of it is given."""

import pytest
import torch

from t2v.errors import UserError
from t2v.evaluation.parts import boxes, given_of
from t2v.evaluation.rows import AS_GIVEN, FADE, HOLD
from t2v.evaluation.suites import WORLD, load_suite
from t2v.evaluation.tasks import TASKS, changed, given_frames
from t2v.world.grammar import COLOURS, Scene, Thing

STRIDE = (16, 4)
SIZE = (17, 64, 64)
COUNT = 12


@pytest.fixture(scope="module")
def suites():
    """Each suite that gives a part of real clips, its clips with masks, and what it gives."""
    found = {}
    for name in TASKS:
        suite = load_suite(name, COUNT, 0)
        real, mask = suite.real(*SIZE)
        found[name] = suite, real, mask, given_of(suite, real, mask, STRIDE)
    return found


@pytest.mark.parametrize(
    ("name", "frames", "edges"),
    [
        ("first", [0], [1]),
        ("ends", [0, 16], [1, 16]),
        ("continue", list(range(9)), [9]),
        ("between", [0, 13, 14, 15, 16], [1, 13]),
        ("interpolate", [0, 4, 8, 12, 16], [1, 4, 5, 8, 9, 12, 13, 16]),
    ],
)
def test_frames_are_given_or_made(name, frames, edges, suites):
    suite, real, _, given = suites[name]
    assert suite.prompts == load_suite(WORLD, COUNT, 0).prompts and suite.task == name
    assert given.frames == tuple(frames) and given.edges == edges
    assert (given.kept == ~given.made).all() and given.clip is real
    assert given.kept[:, frames].all() and given.made.float().mean() == pytest.approx(
        1 - len(frames) / 17
    )
    assert given.window.start == min(set(range(17)) - set(frames))
    assert given.moving.float().mean() > 0.5
    shown = given.shown()
    assert (shown[:, frames] == real[:, frames]).all()
    assert (shown[:, edges[0]] == 127).all() == (edges[0] not in frames)


@pytest.mark.parametrize(("count", "prefix"), [(9, 5), (17, 9), (33, 17)])
def test_the_first_half_is_a_whole_number_of_latents(count, prefix):
    assert given_frames("continue", count, 4) == list(range(prefix))


def test_copies_hold_and_mix_what_is_given(suites):
    _, real, _, given = suites["between"]
    rows = given.copies()
    assert list(rows) == [HOLD, FADE]
    for each in rows.values():
        assert (each[given.kept] == real[given.kept]).all()
    assert (rows[HOLD][:, 12] == real[:, 0]).all()
    middle = torch.lerp(real[:, 0].float(), real[:, 13].float(), 5 / 13)
    assert (rows[FADE][:, 5].float() - middle).abs().max() <= 0.5
    assert list(suites["continue"][3].copies()) == [HOLD]  # nothing is given behind the gap
    assert (suites["continue"][3].copies()[HOLD][:, 16] == real[:, 8]).all()


def test_a_region_shows_another_thing_and_all_else_is_as_asked(suites):
    suite, real, _, given = suites["region"]
    halves = [topic == "half" for topic in suite.topics]
    assert 0 < sum(halves) < COUNT
    off = (given.clip.int() - real.int()).abs().amax(-1)
    assert off[given.kept].max() <= 2  # it is one clip but for the region
    for index, half in enumerate(halves):
        made = given.made[index, 0]
        assert off[index].amax() > 50
        assert made[:, 32:].all() and not made[:, :32].any() if half else made.any()
    assert list(given.copies()) == [AS_GIVEN]
    for asked, source in zip(suite.scenes, suite.sources, strict=True):
        last, before = asked.things[-1], source.things[-1]
        assert last.shape != before.shape and last.colour != before.colour
        assert (last.motion, asked.background) == (before.motion, source.background)


def test_an_edit_asks_for_another_colour_and_keeps_what_is_far_from_the_thing(suites):
    suite, real, mask, given = suites["edit"]
    assert given.made.all() and not given.unknown().any()
    assert (given.clip[given.kept] == real[given.kept]).all()
    assert not (given.kept & (mask > 0)).any() and given.kept.float().mean() > 0.5
    for asked, source, prompt in zip(suite.scenes, suite.sources, suite.prompts, strict=True):
        assert asked.things[-1].shape == source.things[-1].shape
        assert asked.things[-1].colour != source.things[-1].colour
        assert any(word in prompt for word in COLOURS[asked.things[-1].colour])
    assert (given.shown() == given.clip).all()


def test_a_picture_of_the_model_is_nothing_of_a_real_clip(suites):
    suite, _, _, given = suites["via_image"]
    assert given is None and suite.prompts == load_suite(WORLD, COUNT, 0).prompts


def test_boxes_are_the_least_of_whole_blocks():
    clip = torch.zeros(2, 3, 32, 48, 3, dtype=torch.uint8)
    real = clip.clone()
    real[0, 1, 17, 20] = 90
    real[0, 2, 5, 30] = 90
    real[1, 0, 31, 47] = 2  # too faint to count
    found = boxes(clip, real, 16)
    wanted = torch.zeros(32, 48, dtype=torch.bool)
    wanted[:, 16:32] = True
    assert (found[0] == wanted).all() and not found[1].any()
    assert boxes(clip, real, 1)[0, 0].nonzero().amin(0).tolist() == [5, 20]


def test_all_alike_are_changed_together_and_none_becomes_the_other():
    red = Thing(shape="cube", colour="red", size="medium", motion="spin")
    generator = torch.Generator().manual_seed(0)
    twins = Scene(things=(red, red), background="sea", camera="still")
    for _ in range(20):
        new = changed(twins, ("shape", "colour"), generator)
        assert new.things[0] == new.things[1] != red
        assert new.things[0].shape not in ("ball", "ring")  # nobody sees them spin
    blue = Thing(shape="cube", colour="blue", size="medium", motion="spin")
    two = Scene(things=(red, blue), background="sea", camera="still")
    found = {changed(two, ("colour",), generator).things for _ in range(40)}
    assert all(first == red and second.colour not in ("red", "blue") for first, second in found)
    assert len(found) == len(COLOURS) - 2


@pytest.mark.parametrize("name", ["first", "ends", "interpolate"])
def test_a_clip_that_is_given_whole_is_refused(name):
    with pytest.raises(UserError, match=rf"suites=\[{name}\]: gives .* of 1 frames none is left"):
        given_frames(name, 1, 4)
