"""Foils of time: captions made wrong in the order of events, in how they happen or how often.

The rules look at the words alone, so they fit any English caption; where one does not apply for
sure, there is no foil.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

from t2v.evaluation.hard_negatives import OPPOSITE, Found, articles, moves, phrases
from t2v.world.grammar import PREFIXES, pick

# `order`: events in the other order (TVTS, arXiv 2209.15280; HERO, arXiv 2005.00200); `adverb`:
# the opposite manner (Action Modifiers, arXiv 1912.06617; ReGaDa, arXiv 2309.15086); `repetition`:
# another number of times (TGIF-QA, arXiv 1704.04497)
TIME_KINDS = ("order", "adverb", "repetition")
OPPOSITES = {
    "slowly": ("quickly", "fast"),
    **dict.fromkeys(("quickly", "fast", "rapidly", "swiftly"), ("slowly",)),
    **dict.fromkeys(("gently", "softly"), ("forcefully",)),
    **dict.fromkeys(("forcefully", "violently"), ("gently",)),
    "quietly": ("loudly",),
    "loudly": ("quietly",),
    **dict.fromkeys(("partially", "partly"), ("completely",)),
    **dict.fromkeys(("completely", "fully"), ("partially",)),
    "carefully": ("carelessly",),
    "carelessly": ("carefully",),
    "suddenly": ("gradually",),
    "gradually": ("suddenly",),
    "upwards": ("downwards",),
    "downwards": ("upwards",),
    "forwards": ("backwards",),
    "backwards": ("forwards",),
}
NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
TIMES = {1: ("once",), 2: ("twice", "two times")} | {
    number: (f"{word} times",) for number, word in enumerate(NUMBERS, start=2) if number > 2
}
COUNTED = {wording: number for number, wordings in TIMES.items() for wording in wordings}
COUNTED |= {"thrice": 3} | {f"{number} times": number for number in range(2, 11)}

PRONOUN = r"(?:it|he|she|they|we|you|someone|something)"
ARTICLE = r"(?:the|a|an|his|her|its|their|this|that|these|those|another)"
VERB = r"(?:is|are|was|were|has|have|\w+[^\Ws]s|\w{2,}ed)"
# a clause begins with a pronoun, with an article and a noun that a verb's form follows, or with a
# verb in -ing; "then" goes without a subject too
CLAUSE = rf"(?={PRONOUN}\b|{ARTICLE} (?:[\w-]+ ){{1,3}}{VERB}\b|\w{{2,}}ing\b)"
PREFIX = "|".join(filter(None, PREFIXES))
LINK = re.compile(
    rf"(?P<then>,? (?:and )?then (?:(?P<verb>\w{{2,}}s)\b|{CLAUSE}))"
    rf"|(?P<before>,? before ){CLAUSE}|(?P<after>,? after ){CLAUSE}"
    rf"|^(?:{PREFIX})?(?P<first>after|before) {CLAUSE}(?=[^,]*, (?:{ARTICLE}|{PRONOUN})\b)",
    re.IGNORECASE,
)
# "fast" is an adverb at the end of its clause or before one of these; elsewhere, as in "a fast
# car", it is none
ENDS = (
    r"(?=$|[,.;]|\s(?:in|on|at|under|over|across|to|from|through|along|around|into|by|with|up|"
    r"down|away|towards?|and|then|while|before|after)\b)"
)
ADVERB = re.compile(rf"\b(?:{'|'.join(each for each in OPPOSITES if each != 'fast')}|fast{ENDS})\b")
# not "once it stops", "at once", "two times as big"
COUNT = re.compile(
    rf"(?<!at )\b(?:{'|'.join(sorted(COUNTED, key=len, reverse=True))})\b"
    rf"(?! (?:{PRONOUN}|{ARTICLE}|as|more|again|larger|bigger|smaller|faster)\b)",
    re.IGNORECASE,
)
EXCHANGED = ("motion", "colour", "background")  # what acts of the world differ in


class Link(NamedTuple):
    """The place where two clauses meet, and its word: "then", "before", "after" or "first".

    `verb` is that of a clause without a subject, in the form that "before" and "after" take; the
    place holds it too.
    """

    word: str
    start: int
    end: int
    verb: str = ""


def foil(caption: str, kind: str, generator: torch.Generator) -> str | None:
    """Return the caption made wrong in `kind`, one of `TIME_KINDS`; None where no rule applies.

    `order`: one connective is turned round ("then" and "before" to "after", "after" to "before"),
    or phrases of the world are exchanged between the clauses it joins. `adverb`: one adverb becomes
    its opposite. `repetition`: one count of times becomes another, from 1 to 3 where it is one of
    these, else the next lower or higher.
    """
    assert kind in TIME_KINDS, kind
    if kind == "order":
        options = list(disordered(caption))
        return pick(options, generator) if options else None
    found = list(timely(caption, kind))
    if not found:
        return None
    match, others = pick(found, generator)
    return caption[: match.start()] + pick(others, generator) + caption[match.end() :]


def restated(caption: str, generator: torch.Generator) -> str:
    """Return the caption with its events told in another way that means the same, or as it is.

    "A, then B" may become "A before B", and what is wrong in two ways is right: phrases exchanged
    and the connective turned round. So true captions have the connectives that foils have.
    """
    if not links(caption):
        return caption
    options = [caption]
    for link in links(caption):
        if link.word == "then":
            options.append(_joined(caption, link, " before "))
        elif link.word == "before":
            options.append(_joined(caption, link, ", then "))
        exchanged = _exchanged(caption, link)
        if exchanged and exchanged[0] == "motion":
            options += [_turned(exchanged[1], each) for each in _same_link(exchanged[1], link)]
    return pick(options, generator)


def has_direction(caption: str) -> bool:
    """Return whether the caption is false of the reversed clip.

    What rises, then falls does so backwards too; what falls, then bounces does not.
    """
    found = links(caption)
    if not found:
        return bool(moves(caption) & set(OPPOSITE))
    kinds = [each[0] for each in (_exchanged(caption, link) for link in found) if each]
    names = [phrase.name for _, phrase in phrases(caption) if phrase.kind == "motion"]
    backwards = [OPPOSITE.get(name, name) for name in reversed(names)]
    return backwards != names or kinds != ["motion"] * len(kinds)


def links(caption: str) -> list[Link]:
    """Return the words that order two clauses of a caption in time, in the order of the text."""
    found = []
    for match in LINK.finditer(caption):
        word = next(each for each in ("then", "before", "after", "first") if match[each])
        verb = _gerund(match["verb"]) if match["verb"] else ""
        found.append(Link(word, *match.span(word), verb))
    return found


def _gerund(verb: str) -> str:
    """The form in -ing of a verb of the third person: stands, moves, sits, goes, flies, is."""
    if verb == "is":
        return "being"
    stem = verb.removesuffix("s")
    if stem.endswith(("oe", "she", "che", "sse", "xe", "ie")):
        stem = re.sub("ie?$", "y", stem) if stem.endswith("ie") else stem[:-1]
    elif stem.endswith("e") and not stem.endswith("ee"):
        stem = stem[:-1]
    elif re.fullmatch("[^aeiou]*[aeiou][^aeiouwxy]", stem):
        stem += stem[-1]
    return f"{stem}ing"


def disordered(caption: str) -> Iterator[str]:
    """Yield the caption with the events around each connective in the other order."""
    for link in links(caption):
        exchanged = _exchanged(caption, link)
        if exchanged is not None:
            yield exchanged[1]
        if exchanged is None or exchanged[0] == "motion":
            # of a thing that changes its colour, "a red ball rises after it turns blue" is no
            # sentence whose truth is plain
            yield _turned(caption, link)


def timely(caption: str, kind: str) -> Iterator[tuple[re.Match[str], Sequence[str]]]:
    """Yield the adverbs or counts of times in a caption, each with what is false in its place."""
    for match in (ADVERB if kind == "adverb" else COUNT).finditer(caption):
        yield match, _manners(caption, match) if kind == "adverb" else _counts(match[0].lower())


def _turned(caption: str, link: Link) -> str:
    """The caption with its clauses told to be in the other order."""
    if link.word != "first":
        return _joined(caption, link, " before " if link.word == "after" else " after ")
    word = caption[link.start : link.end]
    other = {"after": "before", "before": "after"}[word.lower()]
    return _joined(caption, link, other.capitalize() if word[0].isupper() else other)


def _joined(caption: str, link: Link, words: str) -> str:
    return caption[: link.start] + words + link.verb + caption[link.end :]


def _same_link(caption: str, link: Link) -> list[Link]:
    """The link of another wording of a caption that has as many before it."""
    return [each for each in links(caption) if each.word == link.word][:1]


def _exchanged(caption: str, link: Link) -> tuple[str, str] | None:
    """The caption with the phrases of one kind exchanged between the two clauses, and the kind.

    None where the clauses do not name one each, or name the same.
    """
    every = links(caption)
    number = every.index(link)
    begin = every[number - 1].end if number else 0
    end = every[number + 1].start if number + 1 < len(every) else len(caption)
    middle = link.start
    if link.word == "first":
        begin, middle = link.end, caption.index(",", link.end)
    for kind in EXCHANGED:
        of_kind = [each for each in phrases(caption) if each[1].kind == kind]
        before = [each for each in of_kind if begin <= each[0].start() < middle]
        after = [each for each in of_kind if middle <= each[0].start() < end]
        if len(before) == len(after) == 1 and before[0][1].name != after[0][1].name:
            return kind, _swapped(caption, before[0], after[0])
    return None


def _swapped(caption: str, one: Found, other: Found) -> str:
    first, second = one[0], other[0]
    between = caption[first.end() : second.start()]
    text = f"{second[0]}{between}{first[0]}"
    return articles(caption[: first.start()] + text + caption[second.end() :])


def _manners(caption: str, match: re.Match[str]) -> tuple[str, ...]:
    others = OPPOSITES[match[0]]
    ends = re.match(ENDS, caption[match.end() :])
    return others if ends else tuple(each for each in others if each != "fast")


def _counts(words: str) -> list[str]:
    number = COUNTED[words]
    others = [1, 2, 3] if number <= 3 else [number - 1, number + 1]
    if words[0].isdigit():
        return [f"{other} times" for other in others if other not in (1, number)]
    return [text for other in others if other != number for text in TIMES.get(other, ())]
