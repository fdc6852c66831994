"""The measurements of docs/captions.md, on held-out clips of the world.

python docs/figures/captions.py choice CLIPS SCORER
python docs/figures/captions.py withheld CLIPS CAPTIONER
python docs/figures/captions.py timeline CAPTIONER
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from t2v.curation.shares import wilson
from t2v.curation.text.selection import Candidate, agreement
from t2v.curation.text.timeline import timeline
from t2v.data.world_shards import load_clips
from t2v.evaluation.hard_negatives import attributes, counterfactual
from t2v.evaluation.metrics.caption_back import FRAMES, shared_words
from t2v.io.manifest import read_manifest
from t2v.nets.captioner import Captioner
from t2v.nets.preprocessing import sample_frames
from t2v.nets.scorer import load_scorer
from t2v.world.grammar import MOTIONS, caption, pick
from t2v.world.render import render
from t2v.world.story import even_starts, random_story

OTHERS = 3  # wrong captions beside the right one


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
    {"choice": choice, "withheld": withheld, "timeline": acts}[sys.argv[1]](*sys.argv[2:])
