"""A blind vote: nothing on the page tells the sides, nothing in a file of votes is believed."""

import json
import re
import shutil

import pytest
import torch

from t2v.config.evaluation import VotesConfig
from t2v.curation.shares import wilson
from t2v.errors import UserError
from t2v.evaluation.ballots import ballot_of, pairs_of
from t2v.evaluation.report.vote import write_vote_page
from t2v.evaluation.votes import BALLOT, PAGE, QUESTIONS, count_votes

PROMPTS = [f"prompt <{number}>" for number in range(12)]
RUNS = {"A": "runs/secret-old", "B": "runs/secret-new"}


@pytest.fixture
def pairs():
    return pairs_of({"s": PROMPTS}, list(RUNS), seed=0, most=10)


@pytest.fixture
def compared(pairs, tmp_path):
    """A folder of a comparison with its ballot and page: 10 pairs of one grey level a run."""
    ballot = ballot_of(pairs, ["k1", "k2"], RUNS)
    (tmp_path / BALLOT).write_text(json.dumps(ballot))
    videos = {
        side: torch.full((12, 4, 32, 32, 3), level, dtype=torch.uint8)
        for side, level in (("A", 60), ("B", 200))
    }
    write_vote_page(tmp_path / PAGE, ballot, pairs, {"s": videos}, 8)
    return tmp_path


def cast(folder, name, preferred, voter="v", **other):
    """Write the file of a voter who prefers a run, or "same", by pair."""
    ballot = json.loads((folder / BALLOT).read_text())
    sides = {row["pair"]: {row["left"]: "left", row["right"]: "right"} for row in ballot["pairs"]}
    votes = {
        pair: dict.fromkeys(QUESTIONS, sides[pair].get(run, "same"))
        for pair, run in zip(sides, preferred, strict=False)
        if run
    }
    content = {"ballot": ballot["ballot"], "voter": voter, "votes": votes} | other
    (folder / name).write_text(json.dumps(content))
    return str(folder / name)


def test_left_and_right_are_even_by_chance_and_the_same_again(pairs):
    assert pairs == pairs_of({"s": PROMPTS}, list(RUNS), seed=0, most=10)
    assert sum(pair.first_is_left for pair in pairs) == 5
    assert [pair.index for pair in pairs] != sorted(pair.index for pair in pairs)
    other = pairs_of({"s": PROMPTS}, list(RUNS), seed=1, most=10)
    assert [each.first_is_left for each in other] != [each.first_is_left for each in pairs]
    three = pairs_of({"s": PROMPTS, "t": PROMPTS}, ["A", "B", "C"], seed=0, most=10)
    assert len(three) == 40 and {pair.other for pair in three} == {"B", "C"}


def test_the_page_escapes_texts_and_does_not_tell_which_run_is_where(compared):
    page = (compared / PAGE).read_text()
    assert "secret" not in page and "prompt &lt;3&gt;" in page and "prompt <" not in page
    assert len(re.findall("<video ", page)) == 20
    films = re.findall(r'src="(data:video/mp4;base64,[^"]+)"', page)
    assert len(set(films)) == 2  # the two runs' grey, in either place
    assert {films[0], films[1]} == set(films)


def test_a_share_is_of_the_pairs_whatever_the_side(compared):
    path = cast(compared, "a.json", ["B"] * 7 + ["A"] * 2 + ["same"])
    text = count_votes(VotesConfig(votes=(path,), compared=str(compared)))
    low, high = wilson(7.5, 10)
    row = f"| s | quality | B to A | 0.750 [{low:.3f}, {high:.3f}] | no difference shown"
    assert f"{row} | 10 | 1 | 0 |" in text
    assert "a.json: all 20 votes" in text
    assert "B: runs/secret-new" in text
    every = cast(compared, "b.json", ["B"] * 10)
    assert "| B is better | 10 | 0 | 0 |" in count_votes(
        VotesConfig(votes=(every,), compared=str(compared))
    )


def test_of_several_voters_most_decide_on_a_pair_and_what_is_missing_is_named(compared):
    files = (
        cast(compared, "1.json", ["B", "B", "A"], voter="1"),
        cast(compared, "2.json", ["B", "A", "A"], voter="2"),
        cast(compared, "3.json", ["A", None, "same"], voter="3"),
    )
    text = count_votes(VotesConfig(votes=files, compared=str(compared)))
    low, high = wilson(1.5, 3)  # B, a draw, A
    assert f"| 0.500 [{low:.3f}, {high:.3f}] | no difference shown | 3 | 1 | 7 |" in text
    assert "3 voters" in text
    first = json.loads((compared / BALLOT).read_text())["pairs"][1]["pair"]
    assert f"3.json: 4 of 20 votes; missing: {first}, " in text


def test_answers_line_by_line_count_as_those_that_a_browser_saved(compared):
    saved = cast(compared, "a.json", ["B"] * 7 + ["A"] * 2)
    content = json.loads((compared / "a.json").read_text())
    lines = [{"ballot": content["ballot"], "voter": "v"}]
    for pair, votes in content["votes"].items():
        for question, answer in votes.items():
            lines.append({"pair": pair, "question": question, "answer": "same"})
            lines.append({"pair": pair, "question": question, "answer": answer})
    path = compared / "v.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"pair": "to')
    texts = [
        count_votes(VotesConfig(votes=(file,), compared=str(compared)))
        for file in (saved, str(path))
    ]
    assert texts[0].replace(saved, str(path)) == texts[1]
    for words, broken in (("is no file of votes", lines[1:]), ("is no pair", [lines[0], {}])):
        path.write_text("".join(json.dumps(line) + "\n" for line in broken))
        with pytest.raises(UserError, match=words):
            count_votes(VotesConfig(votes=(str(path),), compared=str(compared)))


def test_without_a_vote_there_is_no_share(compared):
    path = cast(compared, "a.json", [])
    text = count_votes(VotesConfig(votes=(path,), compared=str(compared)))
    assert "| s | text | B to A |  | no difference shown | 0 | 0 | 10 |" in text


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("no json", "cannot be read as JSON"),
        ("[1]", "is no file of votes"),
        ('{"votes": {}, "voter": 3}', "is no file of votes"),
        ('{"votes": {}, "voter": "v", "ballot": "x"}', "is of another page than compared="),
        ({"votes": {"s 99 B": {}}}, "'s 99 B' is no pair of the page"),
        ({"votes": {"\x1b[31m": {}}}, r"\\x1b\[31m' is no pair"),
        ({"votes": {"PAIR": 7}}, "needs an answer by question"),
        ({"votes": {"PAIR": {"quality": "B"}}}, r"\('quality', 'B'\).*answers left, right, same"),
        ({"votes": {"PAIR": {"beauty": "left"}}}, r"\('beauty', 'left'\).*Questions are quality"),
        ({"votes": {"PAIR": {"quality": ["left"]}}}, r"\('quality', \['left'\]\)"),
    ],
)
def test_a_file_that_no_page_saved_is_refused(content, words, compared, pairs):
    path = compared / "votes.json"
    if isinstance(content, str):
        path.write_text(content)
    else:
        cast(compared, "votes.json", [], **content)
        path.write_text(path.read_text().replace("PAIR", pairs[0].name))
    with pytest.raises(UserError, match=words):
        count_votes(VotesConfig(votes=(str(path),), compared=str(compared)))


def test_votes_that_count_twice_and_folders_without_a_page_are_refused(compared, tmp_path):
    files = tuple(cast(compared, name, ["A"]) for name in ("a.json", "b.json"))
    with pytest.raises(UserError, match=r"a\.json and .*b\.json are of the same voter"):
        count_votes(VotesConfig(votes=files, compared=str(compared)))
    with pytest.raises(UserError, match=r"holds no ballot\.json"):
        count_votes(VotesConfig(votes=files[:1], compared=str(tmp_path / "elsewhere")))
    (compared / BALLOT).write_text("{}")
    with pytest.raises(UserError, match="was not written by `t2v eval compare`"):
        count_votes(VotesConfig(votes=files[:1], compared=str(compared)))
    with pytest.raises(UserError, match="name at least one file"):
        VotesConfig(votes=(), compared="x")


@pytest.mark.slow
def test_in_a_browser_votes_outlive_the_page_and_are_saved_as_a_file(compared):
    api = pytest.importorskip("playwright.sync_api")
    browser = shutil.which("chromium") or pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        window = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = window.new_page()
        errors = []
        tab.on("console", lambda each: errors.append(each.text) if each.type == "error" else None)
        tab.goto((compared / PAGE).as_uri())
        tab.wait_for_timeout(1_500)
        assert tab.evaluate("films.filter(film => film.readyState > 1).length") >= 2
        for _ in range(2):  # the second time after the page was loaded anew
            for section in tab.locator("section").all():
                for field in section.locator("fieldset").all():
                    field.locator("input[value=left]").check()
            tab.reload()
            assert tab.inner_text("#count") == "20 of 20 answers"
            assert tab.locator("input:checked").count() == 20
        with tab.expect_download() as download:
            tab.click("#save")
        download.value.save_as(compared / "votes.json")
        window.close()
    assert not errors
    text = count_votes(VotesConfig(votes=(str(compared / "votes.json"),), compared=str(compared)))
    assert text.count("| 0.500 [") == 2 and "all 20 votes" in text  # half of A's were left
