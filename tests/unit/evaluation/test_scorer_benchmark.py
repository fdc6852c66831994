"""The benchmark gives full marks to a scorer that knows and none to one that is blind."""

import torch

from t2v.evaluation.scorer_benchmark import benchmark, benchmark_table
from t2v.evaluation.suites import heldout_prompts

COUNT = 40


class Knowing:
    """Knows every clip and every caption, and nothing else."""

    def __init__(self, video, captions):
        self.frames = {each.numpy().tobytes(): i for i, each in enumerate(video)}
        self.captions = {text: i for i, text in enumerate(captions)}

    def embed_video(self, video):
        numbers = [self.frames.get(each.numpy().tobytes()) for each in video]
        return self._vectors(numbers).unsqueeze(1)

    def embed_text(self, texts):
        return self._vectors([self.captions.get(text) for text in texts])

    def _vectors(self, numbers):
        vectors = torch.zeros(len(numbers), COUNT)
        for row, number in enumerate(numbers):
            if number is not None:
                vectors[row, number] = 1
        return vectors


class Blind(Knowing):
    """Everything looks alike to it."""

    def _vectors(self, numbers):
        return torch.ones(len(numbers), COUNT)


def sample():
    _, captions = heldout_prompts(COUNT, 0)
    frames = torch.arange(5, dtype=torch.uint8).reshape(1, 5, 1, 1, 1).expand(COUNT, 5, 1, 1, 3)
    clip = torch.arange(COUNT, dtype=torch.uint8).reshape(-1, 1, 1, 1, 1)
    return (9 * frames + clip).contiguous(), captions


def test_a_scorer_that_knows_is_always_right_and_a_blind_one_never():
    video, captions = sample()
    assert len(set(captions)) == COUNT
    knowing = benchmark(Knowing(video, captions), video, captions, 0)
    blind = benchmark(Blind(video, captions), video, captions, 0)
    tests = [name for name, each in knowing.items() if isinstance(each, dict) and each["n"]]
    assert {"video_r1", "text_r5", "counterfactual", "shuffle", "reverse: travel"} <= set(tests)
    assert "counterfactual: binding" in tests
    assert all(knowing[name]["share"] == 1 and blind[name]["share"] == 0 for name in tests)
    assert knowing["video_r1"]["chance"] == 1 / COUNT and knowing["reverse"]["n"] < COUNT
    assert "| shuffle: camera | 100.0 [" in benchmark_table(knowing)


def test_orders_adverbs_and_counts_are_asked_where_captions_have_them():
    video, _ = sample()
    captions = ["a red ball rises, then it falls", "a cube spins slowly", "a star hops twice"]
    captions += ["a cube slides to the left after it spins", "a ball rests", "a cube spins fast"]
    video = video[: len(captions)]
    knowing = benchmark(Knowing(video, captions), video, captions, 0)
    assert {name: each["n"] for name, each in knowing.items() if name.startswith("foil")} == {
        "foil: order": 2,
        "foil: adverb": 2,
        "foil: repetition": 1,
    }
    assert knowing["foil: adverb"]["share"] == knowing["foil: repetition"]["share"] == 1
    assert knowing["blind: adverb"]["share"] == 0 and "blind: repetition" not in knowing


def test_only_clips_that_a_test_can_tell_apart_are_asked():
    video, captions = sample()
    video[:] = video[:, :1]  # nothing moves: disorder and reversal show nothing
    report = benchmark(Knowing(video, captions), video, captions, 0)
    assert report["shuffle"]["n"] == report["reverse"]["n"] == 0
    assert "shuffle" not in benchmark_table(report) and "counterfactual" in benchmark_table(report)


def test_the_ceiling_of_retrieval_allows_for_captions_that_mean_the_same():
    video, _ = sample()
    captions = ["a red ball rests on grass", "on the grass, a red sphere lies"]
    captions += [f"a {colour} cube rests at dusk" for colour in ("red", "pink")]
    report = benchmark(Knowing(video[:4], captions), video[:4], captions, 0)
    assert report["text_r1"]["ceiling"] == 0.75 and report["text_r5"]["ceiling"] == 1.0
    assert report["text_r1"]["chance"] == 0.25 and report["text_r5"]["chance"] == 1.0
