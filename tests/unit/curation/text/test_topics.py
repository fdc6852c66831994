"""Planted topics are found and named, and a clip that belongs elsewhere is noticed."""

import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from t2v.config.captions import TopicsConfig
from t2v.curation.text.demand import demand, demand_line
from t2v.curation.text.topics import clusters, features_of, name_clusters, topics
from t2v.errors import UserError
from t2v.io.manifest import Clip

PLANTED = {
    "cooking": (
        ("A chef", "An old woman", "A young man", "Someone"),
        ("chops onions", "stirs a soup", "kneads dough", "fries an egg", "bakes a cake"),
        ("in a kitchen", "on a stove with a pan", "in a restaurant kitchen", "with flour and salt"),
    ),
    "football": (
        ("A striker", "A goalkeeper", "A young man", "A team"),
        ("kicks the ball", "scores a goal", "runs past a defender", "saves a penalty"),
        ("in a stadium", "on the pitch", "before a cheering crowd", "during a football match"),
    ),
    "sea": (
        ("Waves", "A sailing boat", "Someone", "Dolphins"),
        ("drift on the ocean", "rise and fall in the swell", "roll towards the shore", "glide by"),
        ("at the coast", "under a stormy sky over the sea", "near a reef", "by a sandy beach"),
    ),
    "traffic": (
        ("Cars", "A bus", "A young man", "A cyclist"),
        ("waits at a traffic light", "drives through rain", "turns at a crossing", "overtakes"),
        ("on a highway", "in a crowded street", "on a city road at night", "near a bridge"),
    ),
    "orchestra": (
        ("A violinist", "A conductor", "An old woman", "A pianist"),
        ("plays a sonata", "rehearses a symphony", "tunes an instrument", "bows to applause"),
        ("on a concert stage", "with an orchestra", "in an opera house", "among musicians"),
    ),
}


def planted(*sizes: int) -> tuple[list[str], list[int]]:
    """As many captions of each topic; one size goes for all."""
    captions, truth = [], []
    for number, (who, does, where) in enumerate(PLANTED.values()):
        each = sizes[number % len(sizes)]
        phrases = list(itertools.product(who, does, where))
        step = len(phrases) / each
        chosen = [phrases[int(i * step)] for i in range(each)]
        captions += [f"{' '.join(phrase)}." for phrase in chosen]
        truth += [number] * each
    order = torch.randperm(len(captions), generator=torch.Generator().manual_seed(0)).tolist()
    return [captions[i] for i in order], [truth[i] for i in order]


@pytest.fixture(scope="module")
def found() -> tuple[list[str], list[int], np.ndarray]:
    captions, truth = planted(24)
    config = TopicsConfig(count=len(PLANTED))
    return captions, truth, clusters(features_of(captions, config), config)


@pytest.mark.parametrize("sizes", [(12,), (24,), (48,), (48, 12, 30, 20, 40)])
def test_planted_topics_are_recovered(sizes):
    captions, truth = planted(*sizes)
    config = TopicsConfig(count=len(PLANTED))
    labels = clusters(features_of(captions, config), config)
    assert adjusted_rand_score(truth, labels) >= 0.8


@pytest.mark.parametrize("sizes", [(48,), (48, 36, 48, 30, 40)])
def test_planted_topics_are_recovered_without_their_number(sizes):
    captions, truth = planted(*sizes)
    config = TopicsConfig()
    labels = clusters(features_of(captions, config), config)
    assert adjusted_rand_score(truth, labels) >= 0.8
    few = TopicsConfig(max_count=3)
    assert clusters(features_of(captions, few), few).max() == 2


def test_captions_beyond_the_sample_go_to_the_nearest_topic(monkeypatch):
    monkeypatch.setattr("t2v.curation.text.topics.SAMPLE", 100)
    captions, truth = planted(48)
    config = TopicsConfig(count=len(PLANTED))
    labels = clusters(features_of(captions, config), config)
    assert adjusted_rand_score(truth, labels) >= 0.8


def test_the_same_seed_gives_the_same_topics_from_the_largest_to_the_smallest(found):
    captions, _, labels = found
    config = TopicsConfig(count=len(PLANTED))
    np.testing.assert_array_equal(labels, clusters(features_of(captions, config), config))
    sizes = np.bincount(labels).tolist()
    assert sizes == sorted(sizes, reverse=True)


def test_names_are_words_of_the_topic_and_of_no_other(found):
    captions, _, labels = found
    names = name_clusters(captions, labels)
    assert len(set(names)) == len(names) == len(PLANTED)
    for number, name in enumerate(names):
        inside = " ".join(c for c, label in zip(captions, labels, strict=True) if label == number)
        for word in name.split(", "):
            everywhere = " ".join(captions).lower().count(word)
            assert inside.lower().count(word) >= 0.9 * everywhere


def test_clips_get_topic_and_match_and_those_that_fit_little_are_dropped(tmp_path):
    captions, _ = planted(12)
    clips = [Clip(path=f"/{i}.mp4", caption=text) for i, text in enumerate(captions)]
    silent = Clip(path="/silent.mp4")
    placed = topics([*clips, silent], TopicsConfig(count=5), tmp_path)
    assert placed[-1] == silent
    matches = [clip.scores["topic_match"] for clip in placed[:-1]]
    assert all(clip.extra["topic_judge"] == "caption" for clip in placed[:-1])
    assert len({clip.extra["topic"] for clip in placed[:-1]}) == 5
    least = float(np.median(matches))
    strict = topics(clips, TopicsConfig(count=5, min_match=least), tmp_path)
    for clip, match in zip(strict, matches, strict=True):
        assert (clip.dropped == "topics") == (match < least)
        assert not clip.dropped or f"by {match}, at least {least}" in clip.reason


def test_few_captions_make_one_topic_and_no_caption_none(tmp_path):
    one = Clip(path="/x.mp4", caption="A dog runs")
    [placed] = topics([one], TopicsConfig(), tmp_path)
    assert placed.extra["topic"] == "dog, runs"
    assert topics([Clip(path="/x.mp4")], TopicsConfig(), tmp_path) == [Clip(path="/x.mp4")]
    with pytest.raises(UserError, match=r"count=3: there are 1 different"):
        topics([one, one], TopicsConfig(count=3), tmp_path)


def test_an_encoder_the_user_names_is_used(tmp_path, text_encoder, tokenizer):
    text_encoder.save_pretrained(tmp_path / "text_encoder")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    captions = ["a red ball", "a red ball rolls", "the blue box", "the blue box bounces"]
    config = TopicsConfig(encoder=str(tmp_path), count=2)
    features = features_of(captions, config)
    means = []
    for caption in captions:
        tokens = tokenizer(caption, return_tensors="pt")
        with torch.inference_mode():
            mean = text_encoder(input_ids=tokens.input_ids).last_hidden_state[0].mean(0)
        means.append(mean.numpy())
    centred = np.stack(means) - np.mean(means, axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    np.testing.assert_allclose(features @ features.T, centred @ centred.T, atol=1e-4)
    with pytest.raises(UserError, match=r"topics\.encoder=.*cannot be loaded"):
        features_of(captions, TopicsConfig(encoder=str(Path(tmp_path) / "missing")))


PROMPTS, ASKED = planted(24)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    file = tmp_path_factory.mktemp("asked") / "prompts.txt"
    file.write_text("\n".join(PROMPTS))
    return file


def clips_of(sizes):
    """Clips that tell as many captions of each planted topic."""
    captions, truth = planted(48)
    wanted = Counter(dict(enumerate(sizes)))
    chosen = []
    for caption, topic in zip(captions, truth, strict=True):
        if wanted[topic] > 0:
            wanted[topic] -= 1
            chosen.append(Clip(path=f"{len(chosen)}.mp4", caption=caption))
    return chosen


def planted_topic(row):
    """The planted topic of most of a found topic's prompts."""
    return Counter(ASKED[PROMPTS.index(text)] for text in row["examples"]).most_common(1)[0][0]


@pytest.mark.parametrize("missing", range(len(PLANTED)))
def test_a_topic_that_the_clips_miss_is_the_one_they_lack_most(prompts, missing):
    sizes = [0 if number == missing else 40 for number in range(len(PLANTED))]
    found = demand(clips_of(sizes), TopicsConfig(prompts=str(prompts)))
    first = found["topics"][0]
    assert planted_topic(first) == missing and first["ratio"] == 0 and first["lacking"]
    assert first["topic"] in demand_line(found)
    shares = {number: [0, 0] for number in range(len(PLANTED))}  # of prompts and clips, counted
    for row in found["topics"]:
        shares[planted_topic(row)][0] += row["prompts"]
        shares[planted_topic(row)][1] += row["clips"]
    ratios = [
        shown / found["clips"] / (asked / found["prompts"]) for asked, shown in shares.values()
    ]
    assert ratios[missing] < 0.3  # "in a crowded street" is near "a cheering crowd"
    assert all(ratio > 0.9 for number, ratio in enumerate(ratios) if number != missing)
    assert sum(row["prompts"] for row in found["topics"]) == found["prompts"] == len(PROMPTS)
    assert sum(row["clips"] for row in found["topics"]) + found["elsewhere"] == found["clips"]


def test_clips_about_other_things_belong_to_no_topic_of_the_prompts(tmp_path):
    captions, truth = planted(24)
    file = tmp_path / "prompts.txt"
    file.write_text("\n".join(text for text, topic in zip(captions, truth, strict=True) if topic))
    found = demand(clips_of([40, 0, 0, 0, 0]), TopicsConfig(prompts=str(file)))
    assert found["elsewhere"] >= 0.8 * found["clips"]


def test_dropped_clips_and_clips_without_caption_do_not_count(prompts):
    clips = clips_of([8] * len(PLANTED))
    beside = [replace(clips[0], dropped="dedup"), replace(clips[1], caption="")]
    config = TopicsConfig(prompts=str(prompts))
    assert demand([*clips, *beside], config) == demand(clips, config)
    nothing = demand(beside, config)
    assert nothing["clips"] == 0 and not any(row["lacking"] for row in nothing["topics"])


def test_a_file_without_prompts_is_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n \n")
    for name, message in (("empty.txt", "holds no prompt"), ("none.txt", "there is no such file")):
        with pytest.raises(UserError, match=f"topics.prompts .*{name}: {message}"):
            demand([], TopicsConfig(prompts=str(tmp_path / name)))
