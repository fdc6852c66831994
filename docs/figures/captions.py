"""The measurements of docs/captions.md, on held-out clips of the world.

python docs/figures/captions.py choice CLIPS SCORER
python docs/figures/captions.py withheld CLIPS CAPTIONER
python docs/figures/captions.py timeline CAPTIONER
python docs/figures/captions.py style CLIPS SCORER
python docs/figures/captions.py entities CLIPS ENCODER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2v.curation.shares import wilson
from t2v.curation.text.details import entity_recall
from t2v.curation.text.selection import Candidate, agreement, choose
from t2v.curation.text.style import Style
from t2v.curation.text.timeline import timeline
from t2v.data.world_shards import load_clips
from t2v.evaluation.captioner_benchmark import entity_score
from t2v.evaluation.hard_negatives import attributes, counterfactual
from t2v.evaluation.metrics.caption_back import FRAMES, shared_words
from t2v.io.manifest import read_manifest
from t2v.nets.captioner import Captioner
from t2v.nets.preprocessing import sample_frames
from t2v.nets.scorer import load_scorer
from t2v.nets.sentences import SentenceEncoder
from t2v.world.grammar import (
    BACKGROUNDS,
    COLOURS,
    MOTIONS,
    SHAPES,
    SIZES,
    caption,
    pick,
    random_scene,
)
from t2v.world.render import render
from t2v.world.story import even_starts, random_story

OTHERS = 3  # wrong captions beside the right one
PROMPTS = 200  # of users, in the style that is asked
# ways to say of a thing `n` what it does, `v` or `b`, and where, `p`
STYLES = {
    "plain": "a {n} {v} {p}",
    "place first": "{p}, a {n} {v}",
    "sentence": "A {n} {v} {p}.",
    "video": "a video where a {n} {v} {p}",
    "request": "make a {n} {b} {p} please",
    "noun": "{n} {p}",
    "tags": "{n}, {v}, {p}",
    "prose": "In this clip we see a {n}, which {v}. All of it is {p}, and nothing else is shown.",
}


def choice(clips: str, scorer: str) -> None:
    """Print how often each way to choose finds the right one of four captions of a clip.

    All four are worded on their own; one phrase of each wrong one is exchanged.
    """
    rows, video = read_manifest(clips), load_clips(clips).video
    generator, judge = torch.Generator().manual_seed(0), load_scorer(scorer)
    right: dict[str, list[bool]] = {
        name: [] for name in ("scorer", "agreement", "longest", "random")
    }
    for row, frames in zip(rows, video, strict=True):
        wrong = [counterfactual(text, generator) for text in row.captions[1 : 1 + OTHERS]]
        texts = [row.captions[0], *filter(None, wrong)]
        order = torch.randperm(len(texts), generator=generator).tolist()
        mixed = [texts[i] for i in order]
        scores = {
            "scorer": judge.match(list(frames.numpy()), mixed),
            "agreement": agreement([Candidate(author=str(i), text=t) for i, t in enumerate(mixed)]),
            "longest": [float(len(text.split())) for text in mixed],
            "random": torch.rand(len(mixed), generator=generator).tolist(),
        }
        for name, each in scores.items():
            right[name].append(order[each.index(max(each))] == 0)
    _line("| chosen by | right, % | n |\n| --- | --- | --- |")
    for name, found in right.items():
        _line(f"| {name} | {_share(found)} | {len(found)} |")


def withheld(clips: str, captioner: str) -> None:
    """Print the rank of each topic where a generator shows something else for it.

    The topics are motions. The clips of one are exchanged for others of the set, which show other
    motions, as those of a generator that never saw it; all others stay the real ones.
    """
    rows, video = read_manifest(clips), load_clips(clips).video
    one = [i for i, row in enumerate(rows) if len(row.extra["truth"]["things"]) == 1]
    topics = [rows[i].extra["truth"]["things"][0]["motion"] for i in one]
    model, generator = Captioner(captioner, "cpu"), torch.Generator().manual_seed(0)
    said = [_said(model, video[i]) for i in one]
    own = torch.stack([shared_words(rows[i].caption, [said[n]])[0] for n, i in enumerate(one)])
    _line("| withheld | similarity, real | without it | rank of 9 |\n| --- | --- | --- | --- |")
    worst = []
    for topic in MOTIONS:
        others = [n for n, each in enumerate(topics) if each != topic]
        values = own.clone()
        for n, each in enumerate(topics):
            if each == topic:
                told = said[pick(others, generator)]
                values[n] = shared_words(rows[one[n]].caption, [told])[0]
        means = {each: _mean(values, topics, each) for each in MOTIONS}
        rank = sorted(means, key=lambda each: means[each]).index(topic) + 1
        worst.append(rank <= len(MOTIONS) / 4)
        _line(f"| {topic} | {_mean(own, topics, topic):.3f} | {means[topic]:.3f} | {rank} |")
    _line(f"in the worst quarter: {_share(worst)} % of {len(worst)}")


def acts(captioner: str, stories: int = 16, count: int = 3, window: int = 16) -> None:
    """Print how many acts of stories of the world are found, and told right, beside chance.

    Chance is as many boundaries drawn evenly, and the captions of another story.
    """
    model, generator = Captioner(captioner, "cpu"), torch.Generator().manual_seed(0)
    near, drawn, right, chance, counted, told = [], [], [], [], [], []
    for number in range(stories):
        story = random_story(generator, even_starts(count))
        num_frames = story.starts[-1] + 17
        frames = render(story, num_frames)[0]
        scenes = timeline(lambda a, b, f=frames: _said(model, f[a:b]), num_frames, window)
        truth = [caption(scene, generator) for scene in story.scenes]
        starts = [each["start"] for each in scenes]
        near += [min(abs(s - each) for each in starts) <= 4 for s in story.starts[1:]]
        drawn.append(1 - (1 - 9 / num_frames) ** (len(starts) - 1))
        spans = story.spans(num_frames)
        said = [_of_span(scenes, *span) for span in spans]
        right += [_f1(a, b) for a, b in zip(said, truth, strict=True)]
        chance += [_f1(a, b) for a, b in zip(told, truth, strict=False)]
        counted.append(len(scenes) == count)
        told = said
        _line(f"{number}: {starts} of {list(story.starts)}")
    _line(f"boundaries within 4 frames, %: {_share(near)} of {len(near)}")
    _line(f"of boundaries drawn evenly, %: {100 * sum(drawn) / len(drawn):.1f}")
    _line(f"right number of scenes, %: {_share(counted)} of {len(counted)}")
    _line(f"F1 of attributes: {sum(right) / len(right):.3f} of {len(right)}")
    _line(f"F1 of attributes of another story: {sum(chance) / len(chance):.3f}")


def styles(clips: str, scorer: str) -> None:
    """Print how often the caption in the style of users' prompts is chosen, of one in each style.

    Then beside as many of another clip's content, one phrase exchanged: right are those that are
    true and in the style. The prompts are of other scenes.
    """
    generator, judge = torch.Generator().manual_seed(0), load_scorer(scorer)
    rows, video = read_manifest(clips), load_clips(clips).video
    one = [i for i, row in enumerate(rows) if len(row.extra["truth"]["things"]) == 1]
    scenes = [rows[i].extra["truth"] for i in one]
    others = [random_scene(generator) for _ in range(4 * PROMPTS)]
    seen = [each.truth() for each in others if len(each.things) == 1][:PROMPTS]
    right: dict[str, list[bool]] = {}
    for style in STYLES:
        prompts = [_worded(scene, generator)[style] for scene in seen]
        asked, length = Style.of(prompts), _median_words(prompts)
        for i, scene in zip(one, scenes, strict=True):
            told = _worded(scene, generator)
            wrong = {name: counterfactual(text, generator) for name, text in told.items()}
            texts = [*told.values()]
            far = [asked.distance(text) for text in texts]
            scores = {
                "style": [-each for each in far],
                "number of words": [-abs(len(text.split()) - length) for text in texts],
                "agreement": agreement([Candidate(author=t, text=t) for t in texts]),
                "longest": [len(text.split()) for text in texts],
                "random": torch.rand(len(texts), generator=generator).tolist(),
            }
            for name, each in scores.items():
                found = list(told)[each.index(max(each))] == style
                right.setdefault(name, []).append(found)
            mixed = [*texts, *filter(None, wrong.values())]
            match = judge.match(list(video[i].numpy()), mixed)
            candidates = [
                Candidate(author=t, text=t, score=score, style=asked.distance(t))
                for t, score in zip(mixed, match, strict=True)
            ]
            for within in (None, 0.2, 0.1, 0.05, 0.0):
                chosen = choose(candidates, within)
                assert chosen is not None
                name = f"among true and false, style within {within}"
                right.setdefault(name, []).append(chosen.text == told[style])
    for name, found in right.items():
        _line(f"| {name} | {_share(found)} | {len(found)} |")


def _worded(truth: dict[str, Any], generator: torch.Generator) -> dict[str, str]:
    """A scene of one thing told in each of `STYLES`, with the same words for the same thing."""
    thing = truth["things"][0]
    size, colour = pick(SIZES[thing["size"]], generator), pick(COLOURS[thing["colour"]], generator)
    noun = f"{size} {colour} {pick(SHAPES[thing['shape']], generator)[0]}".strip()
    verb, base = pick(MOTIONS[thing["motion"]], generator)
    place = pick(BACKGROUNDS[truth["background"]], generator)
    return {name: form.format(n=noun, v=verb, b=base, p=place) for name, form in STYLES.items()}


def _median_words(texts: Sequence[str]) -> int:
    return sorted(len(text.split()) for text in texts)[len(texts) // 2]


def entities(clips: str, encoder: str) -> None:
    """Print how high another wording of a caption scores, and how often above what is false.

    False are another clip's caption, and the other wording with one phrase exchanged.
    """
    rows, sentences = read_manifest(clips), SentenceEncoder(encoder)
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(len(rows), generator=generator).tolist()

    def scored(text: str, reference: str) -> dict[str, float]:
        return {
            "entities, exact": entity_recall(text, reference) or 0.0,
            "cosine": (1 + sentences.similarity(reference, [text]).item()) / 2,
            "EntityScore": entity_score(text, reference, sentences),
        }

    values: dict[str, list[list[float]]] = {}
    for number, row in enumerate(rows):
        reference, wording = row.captions[:2]
        false, other = counterfactual(wording, generator), order[number]
        if false is None or other == number:
            continue
        for name, found in scored(wording, reference).items():
            far = scored(rows[other].captions[0], reference)[name]
            values.setdefault(name, []).append([found, far, scored(false, reference)[name]])
    head = "another wording", "another clip", "above another clip, %", "above one phrase false, %"
    _line(f"| score | {' | '.join(head)} |\n| --- | --- | --- | --- | --- |")
    for name, each in values.items():
        own, far, false = torch.tensor(each).T
        above = [_share((own > low).tolist()) for low in (far, false)]
        _line(f"| {name} | {own.mean():.3f} | {far.mean():.3f} | {' | '.join(above)} |")
    _line(f"{len(each)} clips")


def _of_span(scenes: Sequence[dict[str, Any]], start: int, end: int) -> str:
    """The caption of the scene that has most of a span."""
    most = max(scenes, key=lambda each: min(each["end"], end) - max(each["start"], start))
    return str(most["caption"])


def _f1(one: str, other: str) -> float:
    a, b = attributes(one), attributes(other)
    return 2 * (a & b).total() / max(a.total() + b.total(), 1)


def _line(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def _said(model: Captioner, frames: Tensor) -> str:
    count = model.num_frames or FRAMES
    shown = sample_frames(frames[None], min(count, len(frames)))[0]
    return " ".join(model.describe(list(shown.numpy()), "Describe this video.", 64))


def _mean(values: Tensor, topics: Sequence[str], topic: str) -> float:
    return values[[each == topic for each in topics]].mean().item()


def _share(found: Sequence[bool]) -> str:
    low, high = wilson(sum(found), len(found))
    return f"{100 * sum(found) / len(found):.1f} [{100 * low:.1f}, {100 * high:.1f}]"


if __name__ == "__main__":
    ways = {"choice": choice, "withheld": withheld, "timeline": acts, "style": styles}
    (ways | {"entities": entities})[sys.argv[1]](*sys.argv[2:])
