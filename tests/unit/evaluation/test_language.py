"""Clauses, rising detail, rising falsehood: by rules, and found by a scorer that knows."""

import json
from itertools import pairwise

import pytest
import torch

from t2v.cli import main
from t2v.evaluation.clauses import alternatives, audit, clauses
from t2v.evaluation.details import detailed, hallucinated, rank_correlation
from t2v.evaluation.hard_negatives import meaning
from t2v.evaluation.language import language, language_table
from t2v.nets.scorer import Scorer, ScorerTowers


@pytest.mark.parametrize(
    ("caption", "parts"),
    [
        ("on grass, a red ball bounces while a blue cube spins, the camera pans left",
         ["on grass, a red ball bounces", "a blue cube spins", "the camera pans left"]),
        ("a video where a small ball slowly rises at dusk, then it turns blue and then it falls",
         ["a small ball slowly rises at dusk", "a small ball turns blue", "a small ball falls"]),
        ("a red cube and a blue ball rest on grass", ["a red cube and a blue ball rest on grass"]),
        ("A man sits down, then stands up. The dog barks twice.",
         ["A man sits down", "A man stands up", "The dog barks twice"]),
        ("after a red ball rises, it falls", ["a red ball rises", "a red ball falls"]),
        ("under the stars, a red ball hops twice", ["under the stars, a red ball hops twice"]),
        ("a dog runs", ["a dog runs"]),
    ],
)  # fmt: skip
def test_a_caption_is_cut_where_a_subject_and_a_verb_follow(caption, parts):
    found = clauses(caption)
    assert [each.text for each in found] == parts
    assert all(a.end <= b.start for a, b in pairwise(found))


class Knowing:
    """Knows one caption, and of any other how many of its words are in that one's place."""

    def __init__(self, caption: str):
        self.words = caption.split()

    def embed_text(self, texts):
        right = [
            sum(a == b for a, b in zip(text.split(), self.words, strict=False)) for text in texts
        ]
        return torch.tensor(right).float()[:, None] / len(self.words)


TRUE = "a red ball rises slowly on grass, then it falls"


def test_the_audit_names_the_clause_that_fails_and_what_is_seen_instead():
    told = audit(Knowing(TRUE), torch.ones(1), TRUE)
    assert [row["holds"] for row in told["clauses"]] == [True, True]
    assert told["score"] == 1 and all(each["margin"] > 0 for each in told["order"])
    assert {check["kind"] for check in told["clauses"][0]["checks"]} == {
        "colour", "shape", "motion", "adverb", "background",
    }  # fmt: skip
    told = audit(Knowing(TRUE), torch.ones(1), TRUE.replace("falls", "grows"))
    assert [row["holds"] for row in told["clauses"]] == [True, False]
    (check,) = told["clauses"][1]["checks"]
    assert (check["kind"], check["said"], check["seen"]) == ("motion", "grows", "falls")
    assert json.loads(json.dumps(told)) == told
    plain = audit(Knowing("an old man laughs"), torch.ones(1), "an old man laughs")
    assert plain["clauses"][0]["holds"] is None and plain["order"] == []


def test_every_alternative_is_another_meaning():
    for each in alternatives(TRUE):
        assert meaning(each.made(TRUE)) != meaning(TRUE)
    assert len({each.made(TRUE) for each in alternatives(TRUE)}) == len(alternatives(TRUE))


def test_captions_of_rising_detail_grow_and_end_with_the_whole():
    caption = "in the snow, a tiny red ball hops twice, then it turns blue"
    for seed in range(10):
        found = detailed(caption, torch.Generator().manual_seed(seed))
        assert found[0] == "a ball hops" and found[-1] == caption and len(found) == 6
        lengths = [len(text.split()) for text in found]
        assert lengths == sorted(set(lengths))
        assert all("  " not in text and " ," not in text for text in found)
    assert detailed("a dog barks", torch.Generator()) == ["a dog barks"]


def test_each_rung_of_falsehood_has_one_more_false_detail():
    for seed in range(10):
        found = hallucinated(TRUE, torch.Generator().manual_seed(seed))
        assert len(found) == 4 and found[0] == TRUE and len(set(found)) == 4
        false = [Knowing(TRUE).embed_text([text]).item() for text in found]
        assert false == sorted(false, reverse=True)


def test_rank_correlation_is_spearmans():
    assert rank_correlation(torch.tensor([0.1, 0.2, 0.9])) == pytest.approx(1)
    assert rank_correlation(torch.tensor([3.0, 2.0, 1.0, 0.0])) == pytest.approx(-1)
    assert rank_correlation(torch.tensor([1.0, 3.0, 2.0])) == pytest.approx(0.5)
    assert torch.tensor(rank_correlation(torch.tensor([1.0, 2.0]))).isnan()


class Reading:
    """A clip is the bag of words of its caption; a word elsewhere counts less than none."""

    def __init__(self, captions):
        self.vocabulary = sorted({word for text in captions for word in text.split()})

    def embed_text(self, texts):
        bags = [[word in text.split() for word in self.vocabulary] for text in texts]
        unknown = [len(set(text.split()) - set(self.vocabulary)) for text in texts]
        return torch.cat((torch.tensor(bags).float(), -torch.tensor(unknown)[:, None].float()), 1)


def test_a_scorer_that_reads_every_word_gets_full_marks():
    captions = ["a red ball rises slowly on grass, the camera pans left", "a big star hops twice"]
    scorer = Reading(captions)
    videos = scorer.embed_text(captions)
    videos[:, -1] = 1
    figures, trail = language(scorer, videos, captions, 0)
    assert figures["clauses hold"]["share"] == figures["false clause found"]["share"] == 1
    assert figures["false clause found"]["chance"] == 0.5
    assert figures["detail"]["mean"] == figures["hallucination"]["mean"] == pytest.approx(1)
    assert figures["foil: adverb"]["share"] == figures["foil: repetition"]["share"] == 1
    assert "foil: order" not in figures and len(trail) == 2
    assert "| detail | 1.000 [" in language_table(figures)


def test_the_command_writes_every_trail_and_no_other_file(
    tokenizer, text_encoder, clips, tmp_path, capsys
):
    sizes = {"channels": 8, "width": 16, "layers": 1, "heads": 2, "dim": 8}
    towers = ScorerTowers(**sizes, text_dim=text_encoder.config.d_model)
    Scorer(towers, tokenizer, text_encoder).save(tmp_path / "scorer")
    file = tmp_path / "told.json"
    words = ["eval", "language", str(clips), f"scorer={tmp_path / 'scorer'}"]
    words += ["count=4", f"json={file}"]
    assert main(words) == 0
    told = json.loads(file.read_text())
    assert told["n"] == len(told["clips"]) == 4 and "| clauses hold |" in capsys.readouterr().out
    assert main(words) == 0
    file.write_text("{}")
    assert main(words) == 2 and "holds no figures of `t2v eval language`" in capsys.readouterr().err
    assert main([*words[:3], "scorer=nowhere"]) == 2
    assert "scorer=nowhere: holds no scorer" in capsys.readouterr().err
