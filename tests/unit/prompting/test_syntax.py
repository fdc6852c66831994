"""The signs of prompts, and their alternatives."""

import time

import pytest
import torch

from t2v.errors import UserError
from t2v.prompting.syntax import Blend, Clause, Scene, Span, escaped, has_signs, parse
from t2v.prompting.templates import all_of, pick


def clause(prompt: str) -> Clause:
    (scene,) = parse(prompt)
    (blend,) = scene.blends
    assert not blend.others
    return blend.first


@pytest.mark.parametrize(
    ("prompt", "text", "spans"),
    [
        ("a red ball", "a red ball", []),
        ("a (red:1.3) ball", "a red ball", [(2, 5, 1.3)]),
        ("a ( red :1.3)  ball ", "a red ball", [(2, 6, 1.3)]),
        ("a ((red:2) big:1.5) ball", "a red big ball", [(2, 5, 3.0), (5, 9, 1.5)]),
        ("a (red:1) ball", "a red ball", []),
        (r"a \(red:1.3\) ball", "a (red:1.3) ball", []),
        ("a (red) ball (", "a (red) ball (", []),
        ("(at 10:30", "(at 10:30", []),
        ("a😀 (héllo:.5)", "a😀 héllo", [(3, 8, 0.5)]),
        (r"salt \AND pepper, me\@home, C:\\x", r"salt AND pepper, me@home, C:\x", []),
        ("ball@0.5box", "ball@0.5box", []),
    ],
)
def test_weights_are_read_and_plain_signs_stay(prompt, text, spans):
    assert clause(prompt) == Clause(text, tuple(Span(*span) for span in spans))


def test_a_blend_binds_tighter_than_and():
    a, b, c = (Clause(each) for each in "abc")
    assert parse("a AND b @0.3 c") == (Scene((Blend(a), Blend(b, ((0.3, c),)))),)
    assert parse("a @1 b @.5 c") == (Scene((Blend(a, ((1.0, b), (0.5, c))),)),)


def test_times_make_scenes():
    first, second = parse("[0-2s] a [2 - 3.5 s] b AND c")
    assert (first.start, first.end, second.start, second.end) == (0, 2, 2, 3.5)
    assert len(second.blends) == 2
    assert not has_signs(parse("a ball")) and has_signs((first, second))
    assert has_signs(parse("[0-2s] a")) and has_signs(parse("(a:2)"))


@pytest.mark.parametrize(
    ("prompt", "words"),
    [
        ("a AND ", "empty"),
        ("a @0.5", "empty"),
        ("(:2)", "empty"),
        ("a @1.5 b", "from 0 to 1"),
        ("(a:5.1) b", "from 0 to 5"),
        ("(a:-1) b", "from 0 to 5"),
        ("[1-2s] a", "begin at 0 s"),
        ("[0-2s] a [3-4s] b", "begin at 2 s"),
        ("[0-2s] a [2-2s] b", "begin at 2 s"),
        ("a [0-2s] b", "before the first time"),
        ("[0-2s] a [2-3s]", "empty"),
    ],
)
def test_a_sign_that_says_nothing_is_refused_by_name(prompt, words):
    with pytest.raises(UserError, match=words):
        parse(prompt)


def test_an_escaped_text_is_itself():
    text = r"a {b|c} (d:2) AND e @0.5 f [0-2s] \ g"
    assert clause(escaped(text)).text == text
    assert all_of(escaped(text)) == [escaped(text)]


def test_a_hostile_prompt_is_read_in_time():
    began = time.perf_counter()
    for prompt in (
        "(" * 20_000,
        "(a" * 10_000 + ":1)" * 10_000,
        "a @1 " * 5000 + "b",
        "[" * 20_000,
    ):
        parse(prompt)
    with pytest.raises(UserError, match="deep"):
        all_of("{a|" * 10_000)
    assert time.perf_counter() - began < 10


def test_every_alternative_is_made_in_order():
    assert all_of("a {red|blue} {big {ball|box}|}") == [
        "a red big ball",
        "a red big box",
        "a red ",
        "a blue big ball",
        "a blue big box",
        "a blue ",
    ]
    for plain in ("a {red} ball", "a { ball", "a } ball", "a | b", r"a \{b\|c\}"):
        assert all_of(plain) == [plain]
    with pytest.raises(UserError, match="1,024 prompts"):
        all_of("{a|b}" * 10)


def test_a_seed_picks_and_each_alternative_comes():
    def picked(seed: int) -> str:
        return pick("{a|b{c|d}|e}", torch.Generator().manual_seed(seed))

    assert picked(3) == picked(3)
    assert {picked(seed) for seed in range(40)} == {"a", "bc", "bd", "e"}
