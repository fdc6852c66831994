"""Forms of a word are one word, and shared words are counted as an F1."""

import pytest

from t2v.io.words import content_words, overlap


def test_forms_of_a_word_are_one_word():
    assert content_words("The dogs were running") == content_words("a dog runs")
    assert content_words("glass") != content_words("glas tower")


def test_the_overlap_of_words_has_known_answers():
    one, other = content_words("A red box on the grass"), content_words("two blue boxes on grass")
    assert (len(one), len(other)) == (3, 3)
    assert overlap(one, other) == pytest.approx(2 / 3)
    assert overlap(one, frozenset()) == overlap(frozenset(), frozenset()) == 0
