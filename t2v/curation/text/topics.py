"""The topics stage: captions in named clusters, and the fit of each clip to its own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from einops import rearrange

from t2v.config.captions import TopicsConfig
from t2v.curation.stages import Score, Stage
from t2v.curation.text.caption import Stills
from t2v.errors import UserError
from t2v.io.manifest import Clip
from t2v.io.words import STOP, stem, words

DIMENSIONS = 100  # of a caption
SAMPLE = 2000  # captions that are clustered; all pairwise distances take n * n * 8 bytes
NAME_WORDS = 3
STILLS, SIDE = 4, 512  # of a clip, for a scorer


def topics(clips: list[Clip], config: TopicsConfig, folder: Path) -> list[Clip]:
    """Return the clips with their topic and their fit to it; those that fit too little are dropped.

    `extra["topic"]` is the name, `scores["topic_match"]` the cosine of the clip with it: with a
    scorer, of pictures and name; without one, of the caption and the mean of its topic, which does
    not depend on the pictures. `extra["topic_judge"]` names the scorer, or is "caption". A clip
    that is closer to another topic has the tag `off-topic`. Clips without caption have no topic.

    Raises:
        UserError: `config.count` is more than the distinct captions, or a model cannot be loaded.
    """
    captioned = [number for number, clip in enumerate(clips) if clip.caption]
    if not captioned:
        return list(clips)
    captions = [clips[number].caption for number in captioned]
    features = features_of(captions, config)
    labels = clusters(features, config)
    names = name_clusters(captions, labels)
    given = [clips[number] for number in captioned]
    scorer = config.scorer or "caption"
    matches = _by_pictures(given, names, config) if config.scorer else _by_caption(features, labels)
    result = list(clips)
    for number, clip, label, match in zip(captioned, given, labels, matches, strict=True):
        result[number] = _placed(clip, names[label], int(label), match, scorer, config.min_match)
    return result


STAGE = Stage("all", topics, {"topic_match": Score("cosine with the clip's topic", "min_match")})


def features_of(captions: Sequence[str], config: TopicsConfig) -> np.ndarray:
    """Features of captions, `n d`: the coordinates along their principal directions, in order.

    They come from a singular value decomposition (Deerwester et al., 1990) of the TF-IDF of content
    words, or of an encoder's vectors: captions that share no word can still be close.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.utils.extmath import randomized_svd

    if config.encoder:
        vectors = _encoded(captions, config)
    else:
        vectors = TfidfVectorizer(analyzer=_stems, sublinear_tf=True).fit_transform(captions)
    most = min(DIMENSIONS, *vectors.shape)
    left, strength, _ = randomized_svd(vectors, most, random_state=config.seed)
    return np.asarray(left * strength, dtype=np.float64)


def clusters(features: np.ndarray, config: TopicsConfig) -> np.ndarray:
    """The number of each caption's topic, `n`; topic 0 is the largest.

    Captions are merged into groups, the closest first (average linkage of cosine distances, Sokal
    and Michener, 1958), until `config.count` groups are left, or without it until all are
    `config.apart` from each other and there are at most `config.max_count`. Of more captions than
    `SAMPLE`, a part is clustered; the others join the nearest mean.
    """
    from threadpoolctl import threadpool_limits

    distinct = len(np.unique(features.round(4), axis=0))
    if config.count and config.count > distinct:
        raise UserError(
            f"topics.count={config.count}: there are {distinct} different captions. "
            "Set at most as many, or topics.count=null."
        )
    points = unit_rows(features)
    every = max(1, math.ceil(len(points) / SAMPLE))
    with threadpool_limits(1):  # sums in one order: the same topics on any machine
        labels = _joined(points[::every], config)
        if every > 1:
            means = [points[::every][labels == label].mean(0) for label in range(labels.max() + 1)]
            labels = (points @ unit_rows(np.stack(means)).T).argmax(1)
    sizes = Counter(labels.tolist())
    order = sorted(sizes, key=lambda label: (-sizes[label], labels.tolist().index(label)))
    return np.array([order.index(label) for label in labels])


def _joined(points: np.ndarray, config: TopicsConfig) -> np.ndarray:
    from sklearn.cluster import AgglomerativeClustering

    if len(points) < 2:
        return np.zeros(len(points), dtype=int)
    distances = 1 - points @ points.T
    join = partial(AgglomerativeClustering, metric="precomputed", linkage="average")
    if config.count is None:
        found = join(n_clusters=None, distance_threshold=config.apart).fit_predict(distances)
        if found.max() < config.max_count:
            return np.asarray(found)
    count = min(config.count or config.max_count, len(points))
    return np.asarray(join(n_clusters=count).fit_predict(distances))


def name_clusters(captions: Sequence[str], labels: np.ndarray) -> list[str]:
    """A name for each topic, made of the words that set it apart (class-based TF-IDF).

    Its words come from the captions: `dog, meadow, runs`. No two names are the same.
    """
    stems: list[Counter[str]] = [Counter() for _ in range(int(labels.max()) + 1)]
    forms: dict[str, Counter[str]] = {}
    for caption, label in zip(captions, labels, strict=True):
        for word in words(caption):
            if _is_content(word):
                stems[label][stem(word)] += 1
                forms.setdefault(stem(word), Counter())[word] += 1
    everywhere = sum(stems, Counter())
    average = everywhere.total() / max(len(stems), 1)
    names: list[str] = []
    for counts in stems:
        weight = {
            each: number / counts.total() * math.log(1 + average / everywhere[each])
            for each, number in counts.items()
        }
        best = sorted(weight, key=lambda each: (-weight[each], each))[:NAME_WORDS]
        name = ", ".join(max(forms[each], key=lambda w: (forms[each][w], w)) for each in best)
        name = name or "other"
        names.append(name if name not in names else f"{name} ({len(names) + 1})")
    return names


def _placed(
    clip: Clip, name: str, label: int, match: np.ndarray, scorer: str, least: float
) -> Clip:
    own = round(float(match[label]), 4)
    clip = replace(
        clip,
        scores=clip.scores | {"topic_match": own},
        tags=clip.tags if int(match.argmax()) == label else (*clip.tags, "off-topic"),
        extra=clip.extra | {"topic": name, "topic_judge": scorer},
    )
    if own < least:
        return clip.drop("topics", f"fits its topic ({name}) by {own}, at least {least}")
    return clip


def _by_caption(features: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The cosine of each caption with the mean of each topic, `n k`."""
    features = unit_rows(features)
    means = [features[labels == label].mean(0) for label in range(int(labels.max()) + 1)]
    return features @ unit_rows(np.stack(means)).T


def _by_pictures(clips: Sequence[Clip], names: Sequence[str], config: TopicsConfig) -> np.ndarray:
    """The cosine of each clip's pictures with each topic's name, `n k`."""
    from t2v.models.device import pick_device
    from t2v.nets.matcher import matcher

    scorer = matcher(config.scorer, str(pick_device(config.device)))
    texts = [f"a video of {name}" for name in names]
    count = scorer.num_frames or STILLS
    return np.array([scorer.match(Stills(clip, count, SIDE).frames, texts) for clip in clips])


def unit_rows(vectors: np.ndarray) -> np.ndarray:
    """Each row at length 1; a row of zeros stays."""
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def _stems(caption: str) -> list[str]:
    return [stem(word) for word in words(caption) if _is_content(word)] or ["nothing"]


def _is_content(word: str) -> bool:
    return word not in STOP and len(word) > 1


def _encoded(captions: Sequence[str], config: TopicsConfig) -> np.ndarray:
    """The mean of an encoder's last hidden states over the tokens, `n d`, less the mean of all:
    the common part would make all captions similar (Mu and Viswanath, 2018)."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from t2v.models.device import pick_device
    from t2v.models.load import load_part, load_text, loading

    with loading(f"topics.encoder={config.encoder}"):
        if (Path(config.encoder) / "text_encoder").is_dir():  # a pipeline
            tokenizer, encoder = load_text(config.encoder)
        else:
            tokenizer = AutoTokenizer.from_pretrained(config.encoder)
            what = f"topics.encoder={config.encoder}"
            encoder = load_part(what, AutoModel, config.encoder, heads=True)
    device = pick_device(config.device)
    encoder = encoder.to(device).eval()
    vectors = []
    for caption in captions:
        tokens = tokenizer(caption, truncation=True, return_tensors="pt").to(device)
        with torch.inference_mode():
            hidden = encoder(**dict(tokens)).last_hidden_state
        vectors.append(rearrange(hidden, "1 m d -> m d").mean(0).float().cpu().numpy())
    points = np.stack(vectors)
    return unit_rows(points - points.mean(0))
