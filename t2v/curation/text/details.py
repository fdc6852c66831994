"""Entities that a caption names, and the kinds of detail it tells, by rules for English."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache

from t2v.io.words import STOP, WORD, content_words, stem, words
from t2v.world.grammar import BACKGROUNDS, COLOURS, MOTIONS, SHAPES, SIZES

COUNTS = frozenset(
    words(
        "two three four five six seven eight nine ten twelve dozen dozens pair couple trio several "
        "many few crowd group both"
    )
)
COLOUR_WORDS = frozenset(
    words(
        "red orange yellow green blue purple violet pink brown black white grey gray golden gold "
        "silver beige turquoise cyan magenta crimson scarlet teal navy colourful colorful"
    )
).union(*COLOURS.values())
ADJECTIVES = COLOUR_WORDS.union(
    *SIZES.values(),
    words(
        "young old elderly new long short tall high low wide narrow dark bright heavy wet dry "
        "warm cold hot empty full busy crowded quiet calm stormy sunny rainy snowy sandy grassy "
        "wooden green-eyed beautiful modern ancient rural urban open closed single same other"
    ),
)
PLACES = frozenset(
    words(
        "on in at under over above below near behind beside beneath through across along inside "
        "outside between among around against by past towards toward into onto from off before"
    )
)
OPENING = frozenset(
    words("a an the this that these those his her their its my your our some any each every one no")
) | (COUNTS - {"both", "dozens", "crowd", "group", "pair", "couple", "trio"})
SINGULAR = frozenset(words("a an the this that his her their its my your our each every one"))
LINKS = frozenset(
    words(
        "and or but while as then when with without for to of up down away out back left right "
        "still it they he she him them who which where there is are was were be been being has "
        "have had does do gets get becomes become goes go comes come very not also again than "
        "together quickly once twice"
    )
)
TIMES = frozenset(
    words(
        "night day morning noon afternoon evening sunset sunrise dusk dawn midnight twilight "
        "winter summer spring autumn today later first then finally after before while during "
        "until suddenly meanwhile"
    )
)
MOVES = frozenset(
    stem(form)
    for each in words(
        "walk run jump hop bounce roll slide glide move fly float fall drop rise climb swim dance "
        "spin turn rotate drive ride race chase throw catch kick push pull lift swing wave shake "
        "drift sail dive crawl skate ski march step stroll gallop flow pour grow shrink enter "
        "leave approach pass cross open close stand sit rest lie sleep kick score stir pour chop "
        "cut play wait look watch sing talk eat drink cook hold carry wear lead paint"
    )
    for form in (each, f"{each.removesuffix('y')}ies")
).union(stem(words(verb)[0]) for pairs in MOTIONS.values() for pair in pairs for verb in pair)
CAMERA = re.compile(
    r"\bcamera\b|\bzoom(?:s|ing|ed)?\b|\bpan(?:s|ning) (?:left|right|up|down|across|over|to)\b"
    r"|\btilt(?:s|ing) (?:up|down)\b|\bclose-?up\b"
    r"|\b(?:aerial|wide|tracking|drone|handheld|overhead|panning|low-angle) (?:shot|view|angle)\b"
    r"|\btime-?lapse\b|\bslow[- ]motion\b"
)
PARTICIPLE = re.compile(r"[aeiouy].*ing$")  # spinning, and no ring
BEFORE_NOUNS = ("and", "or", "of", "with", "while", "for")
KINDS = ("object", "count", "colour", "motion", "place", "camera", "time")


def entities(caption: str) -> frozenset[str]:
    """Return the things and places that a caption names, as stems of the heads of its noun phrases.

    A phrase opens with a determiner, a number or a preposition, or a sentence, and ends before a
    word of `LINKS`, a preposition, an adverb in -ly or a verb: a word in -s behind a singular noun,
    or in -ing or -ed behind any. Its last word is its head. Words of the synthetic world that mean
    one thing are one entity. What is said of the camera is no entity.
    """
    text = caption.lower()
    for phrase, name in _world().items():
        text = text.replace(phrase, f"in the {name}")
    return frozenset(_head(phrase) for part in _parts(text) for phrase in _noun_phrases(part))


def entity_recall(caption: str, reference: str) -> float | None:
    """Return the share of the reference's entities that a caption names, in [0, 1].

    It is the completeness of entities that the EntityScore of FAVD (arXiv 2303.15616) is about,
    with rules in place of a parser, and nothing but that. None where the reference names none.
    """
    wanted = entities(reference)
    return len(wanted & entities(caption)) / len(wanted) if wanted else None


def details(caption: str) -> tuple[str, ...]:
    """Return the kinds of detail that a caption tells, those of `KINDS` in their order.

    They are what a description should have by FAVD: what is there, how many, how it looks, what it
    does, where and when, and the camera.
    """
    plain = words(caption)
    every, stems = set(plain), {stem(each) for each in plain}
    camera = bool(CAMERA.search(caption.lower()))
    told = {
        "object": bool(entities(caption)),
        "count": bool(every & COUNTS) or any(each.isdigit() for each in plain),
        "colour": bool(every & COLOUR_WORDS),
        "motion": bool(stems & MOVES),
        "place": any(_tells_place(part) for part in _parts(caption.lower())),
        "camera": camera,
        "time": bool(every & TIMES),
    }
    return tuple(kind for kind in KINDS if told[kind])


def detail_shares(captions: Iterable[str]) -> dict[str, float]:
    """Return the share of captions that tell each kind of detail; nothing without a caption."""
    found = [details(each) for each in captions if each]
    return {kind: sum(kind in each for each in found) / len(found) for kind in KINDS if found}


def _parts(text: str) -> list[str]:
    """The clauses of a text, without those about the camera."""
    return [part for part in re.split(r"[.,;:!?()\n]+", text) if not CAMERA.search(part)]


def _noun_phrases(part: str) -> list[list[str]]:
    found: list[list[str]] = []
    phrase: list[str] | None = []  # a clause may begin with its subject
    opener = ""
    for word in [*WORD.findall(part), "and"]:
        if word in OPENING or word in PLACES:
            found += [phrase] if phrase else []
            phrase, opener = [], word
        elif phrase is not None and (verb := _ends(word, phrase, opener)) is not None:
            is_number = word == "of" and phrase and phrase[-1] in COUNTS  # a pair of stars
            found += [phrase] if phrase and not is_number else []
            phrase, opener = [] if verb or word in BEFORE_NOUNS else None, ""
        elif phrase is not None:
            phrase.append(word)
    return [each for each in found if _is_noun(each[-1])]


def _ends(word: str, phrase: list[str], opener: str) -> bool | None:
    """True for a verb that ends the phrase, False for another word; None: the phrase goes on."""
    if word in LINKS or word.endswith("ly"):
        return False
    if not phrase or phrase[-1] in ADJECTIVES or PARTICIPLE.search(phrase[-1]):
        return None
    is_verb = stem(word) in MOVES or bool(PARTICIPLE.search(word)) or word.endswith("ed")
    third = opener in SINGULAR and word.endswith("s") and not word.endswith("ss")
    return True if is_verb or third else None


def _is_noun(word: str) -> bool:
    return word not in ADJECTIVES and word not in STOP and not word.isdigit()


def _head(phrase: list[str]) -> str:
    head = phrase[-1]
    return _same().get(head, stem(head))


def _tells_place(part: str) -> bool:
    """True where a preposition of place stands before a noun that is no time."""
    found = re.findall(rf"\b(?:{'|'.join(sorted(PLACES - {'by', 'before', 'from'}))}) (.+)", part)
    return any(content_words(rest) - {stem(each) for each in TIMES} for rest in found)


@cache
def _same() -> dict[str, str]:
    """The names of each shape of the world, one and several, by its first."""
    return {name: shape for shape, pairs in SHAPES.items() for pair in pairs for name in pair}


@cache
def _world() -> dict[str, str]:
    """The phrases of each place of the world, by its name; the longest first."""
    phrases = {phrase: name for name, each in BACKGROUNDS.items() for phrase in each}
    return {phrase: phrases[phrase] for phrase in sorted(phrases, key=len, reverse=True)}
