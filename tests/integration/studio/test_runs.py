"""Trainings, evaluations and blind votes on the page."""

import http.client
import json
import os
import re
import socket
import subprocess
import sys
from urllib.parse import quote, urlsplit

import pytest
import torch
from PIL import Image

from t2v.config.load import save_config
from t2v.config.training import TrainDiTConfig
from t2v.evaluation.ballots import ballot_of, pairs_of
from t2v.evaluation.report.page import write_page
from t2v.evaluation.report.suite import by_topic
from t2v.evaluation.report.vote import write_vote_page
from t2v.evaluation.rows import MODEL, REAL
from t2v.io.video import save_image

TOKEN = "a-token-of-these-tests"
HOSTILE = "<img src=x onerror=alert(1)> &?#%2e"
PROMPTS = ["a <b>red</b> ball", "a blue cube", "</script><script>alert(1)</script>"]


def line(step, **figures):
    return {"step": step, "loss": 1 / step, "grad_norm": 0.5, "lr_factor": 1.0, "seconds": 0.5} | (
        figures
    )


def add(folder, rows):
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def training(folder, steps=20):
    """A folder as `t2v train` leaves it in the middle."""
    folder.mkdir(parents=True)
    config = TrainDiTConfig(output="x", data="world", vae="v", text="t", steps=100, batch_size=8)
    save_config(config, folder / "config.yaml")
    add(folder, [line(step) for step in range(1, steps)])
    figures = {"val_loss": 0.2, "val_train_loss": 0.1, "val_change": -0.1, "val_chance": 0.02}
    add(folder, [line(steps, **figures, verdict="learning: held-out loss 0.3 -> 0.2")])
    first = {"step": 0, "figures": {"val_loss": 0.3}, "losses": {"held_out": [0.3]}}
    (folder / "validations.jsonl").write_text(json.dumps(first) + "\n")
    (folder / "sheets").mkdir()
    for step in (0, steps):
        save_image(folder / "sheets" / f"{step:06d}.png", Image.new("RGB", (32, 16)))
    return folder


def films():
    """Films of one grey level a row, 1 s and 2 s long."""
    video = torch.full((3, 8, 32, 32, 3), 60, dtype=torch.uint8)
    return {MODEL: video, REAL: video.repeat(1, 2, 1, 1, 1)}


def evaluation(folder):
    folder.mkdir(parents=True)
    videos = [
        {"prompt": prompt, "topic": "", "values": {"f.sim": value}, "marks": []}
        for prompt, value in zip(PROMPTS, (0.2, 0.3, 0.1), strict=True)
    ]
    cell = {"value": 0.2, "low": 0.1, "high": 0.3, "n": 3, "better": "higher", "method": "net <x>"}
    suite = {"prompts": 3, "warnings": [], "ranking": "f.sim", "videos": videos}
    suite |= {"tables": {"f": {MODEL: {"sim": cell}}}} | by_topic(videos, "f.sim")
    report = {"protocol": {"model": "m"}, "suites": {"s": suite}}
    (folder / "eval.json").write_text(json.dumps(report))
    write_page(folder / "page.html", report, {"s": films()}, 8, most=3)


def comparison(folder):
    folder.mkdir(parents=True)
    runs = {"A": "runs/secret-old", "B": "runs/secret-new"}
    pairs = pairs_of({"s": PROMPTS}, list(runs), seed=0, most=3)
    ballot = ballot_of(pairs, ["k"], runs)
    (folder / "ballot.json").write_text(json.dumps(ballot))
    grey = {"A": 60, "B": 200}
    videos = {side: torch.full((3, 8, 32, 32, 3), grey[side], dtype=torch.uint8) for side in runs}
    write_vote_page(folder / "vote.html", ballot, pairs, {"s": videos}, 8)
    (folder / "compare.json").write_text('{"protocol": {}, "suites": {}, "rows": {}}')


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    runs = tmp_path_factory.mktemp("shown") / "runs"
    training(runs / "night" / "a")
    training(runs / HOSTILE)
    secret = training(runs.parent / "secret")
    (runs / "link").symlink_to(secret)
    (runs / "broken").mkdir()
    (runs / "broken" / "eval.json").write_text('{"suites": {"s": {"videos": 3}}}')
    return runs


@pytest.fixture(scope="module")
def measured(folder):
    """That folder with an evaluation and two comparisons."""
    evaluation(folder / "eval")
    comparison(folder / "steps")
    comparison(folder / "other")
    return folder


@pytest.fixture(scope="module")
def studio(start, folder):
    return start("devices=[]", f"runs={folder}")


@pytest.fixture(scope="module")
def guarded(start, folder):
    return start("devices=[]", f"runs={folder}", token=TOKEN)


def test_trainings_are_listed_and_drawn_whatever_they_are_called(studio, page):
    page.goto(studio.url + "/runs")
    assert page.locator("tbody tr").count() == 2
    row = page.locator("tr", has_text="night/a")
    assert "stopped" in row.inner_text() and "20 of 100" in row.inner_text()
    assert "learning" in row.inner_text() and "16" in row.inner_text()  # 8 samples in 0.5 s
    page.click(f"text={HOSTILE}")
    assert page.inner_text("h1") == HOSTILE
    assert page.locator("svg.plot").count() == 3
    assert "val_loss" in page.locator("svg.plot").first.get_attribute("aria-label")


def raw(url, path, method="GET", headers=()):
    """A request whose path no client has made safe."""
    connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=20)
    connection.putrequest(method, path, skip_host=True)
    connection.putheader("Host", urlsplit(url).netloc)
    for name, value in headers:
        connection.putheader(name, value)
    connection.endheaders()
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


@pytest.mark.slow
def test_nothing_outside_of_the_folder_is_served(studio, measured):
    secret = "/runs/link", "/runs/../secret", "/runs/..%2fsecret", "/runs/%2e%2e/secret"
    for path in (
        *secret,
        *("/runs/night/a/sheets/../../config.yaml", "/runs/night/a/sheets/1"),
        *("/runs/night%2fa%2fsheets%2f..%2fconfig.yaml", "/runs/%00", "/runs//etc/passwd"),
        *("/static/page.py", "/static/page.html.j2", "/static/../pages.py"),
        *("/evals/eval/films/99", "/evals/steps/films/0", "/votes/eval", "/vote/" + "a" * 43),
    ):
        assert raw(studio.url, path)[0] == 404, path
    numbers = "smooth=99", "smooth=-1", "smooth=" + "9" * 5000, "width=1e9", "width=9", "smooth=٣"
    for query in ("x=miles", "scale=cubic", *(quote(each, safe="=") for each in numbers)):
        status, body = raw(studio.url, f"/runs/night/a?{query}")
        assert status == 400 and query.partition("=")[0] in json.loads(body)["error"]["message"]
    status, body = raw(studio.url, "/runs/night/a?with=<b>gone")
    assert status == 200 and b'There is no training <q dir="auto">&lt;b&gt;gone</q>' in body
    for path in ("/runs/night/a/sheets/" + "9" * 5000, "/evals/eval/films/-1"):
        assert raw(studio.url, path)[0] == 400, path
    shown = raw(studio.url, "/runs/none", headers=[("Accept", "text/html")])
    assert shown[0] == 404 and b"There is no training of this name" in shown[1]
    assert b"cannot be shown" in raw(studio.url, "/evals/broken")[1]


@pytest.mark.slow
def test_the_page_follows_a_training_that_goes_on_and_a_server_that_comes_back(
    studio, folder, page
):
    own = training(folder / "going")
    holder = {"pid": os.getpid(), "host": socket.gethostname(), "command": "t2v train"}
    (own / ".t2v.lock").write_text(json.dumps(holder))
    page.goto(studio.url + "/runs/going")
    page.wait_for_selector("text=step 20 of 100")
    assert "running" in page.inner_text("#facts") and "left" in page.inner_text("#facts")
    add(own, [line(step, psnr=20.0 + step) for step in range(21, 41)])
    page.wait_for_selector("text=step 40 of 100")
    page.wait_for_selector("figure:has-text('psnr')")
    answer = page.request.get(studio.url + "/runs/going?part=1")
    tag = answer.headers["etag"]
    again = page.request.get(studio.url + "/runs/going?part=1", headers={"If-None-Match": tag})
    assert again.status == 304 and again.body() == b""
    listed = page.request.get(studio.url + "/runs?part=1").headers["etag"]
    again = page.request.get(studio.url + "/runs?part=1", headers={"If-None-Match": listed})
    assert again.status == 304

    assert page.inner_text("#sheet-step") == "20"
    page.fill("#sheet", "0")
    assert page.locator("#pictures img").get_attribute("src").endswith("/sheets/0")
    until(page, "document.querySelector('#pictures img').naturalWidth === 32")
    page.locator("svg.plot").first.hover()
    assert re.search(r"steps \d+.*: loss 0\.\d+", page.locator(".reading").first.inner_text())
    page.locator("label", has_text="seconds").locator("input").check()
    page.select_option("[name=x]", "hours")
    page.wait_for_selector("svg[data-x=hours]")
    page.reload()
    assert page.locator("svg[data-x=hours]").count() == page.locator("svg.plot").count() == 5
    page.select_option("[name=with]", "night/a")
    page.wait_for_selector("text=night/a: loss")
    assert page.locator("#pictures figure").count() == 2

    (own / ".t2v.lock").unlink()
    studio.kill()
    page.wait_for_selector("#said:has-text('does not answer')", timeout=30_000)
    add(own, [line(41)])
    studio.start()
    page.wait_for_selector("text=step 41 of 100", timeout=30_000)
    assert page.inner_text("#said") == ""


@pytest.mark.slow
def test_a_training_that_was_killed_or_failed_says_so(studio, folder, page):
    own = training(folder / "killed")
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    holder = {"pid": ended.pid, "host": socket.gethostname()}
    (own / ".t2v.lock").write_text(json.dumps(holder))
    page.goto(studio.url + "/runs/killed")
    assert "killed" in page.inner_text("#facts") and "last checkpoint" in page.inner_text("#facts")
    (own / ".t2v.lock").unlink()
    (own / "failed.json").write_text(json.dumps({"message": "Step 21: <b>nan</b>"}))
    page.reload()
    page.wait_for_selector("#facts:has-text('Step 21: <b>nan</b>')")
    assert page.inner_text("#facts .state") == "failed"


@pytest.mark.slow
def test_an_evaluation_sorts_and_plays_in_step(studio, measured, page):
    page.set_viewport_size({"width": 1280, "height": 2000})  # films in view play
    page.goto(studio.url + "/evals")
    page.locator("td a", has_text=re.compile("^eval$")).click()
    assert "0.2 [0.1, 0.3]" in page.inner_text(".report")
    assert "a <b>red</b> ball" in page.inner_text(".report")
    until(page, "films.length === 6 && films.every(film => film.readyState > 0)")
    page.wait_for_timeout(2500)
    times = page.evaluate("films.map(film => [film.duration, film.currentTime])")
    long = [time for length, time in times if length > 1.5]
    assert max(long) - min(long) < 0.125 and len(long) == 3
    page.wait_for_timeout(500)
    assert page.evaluate("films.map(film => film.currentTime)") != [time for _, time in times]
    column = "[...document.querySelector('.videos').tBodies[0].rows].map(r => r.cells[5].innerText)"
    assert page.evaluate(column) == ["0.1", "0.2", "0.3"]
    heading = page.locator("th[data-sort]", has_text="f.sim")
    for _ in range(2):
        heading.focus()
        page.keyboard.press("Enter")
    assert page.evaluate(column) == ["0.3", "0.2", "0.1"]
    assert heading.get_attribute("aria-sort") == "descending"


def until(page, script):
    """Wait for a script to be true; the pages' policy lets nothing else evaluate text in them."""
    for _ in range(200):
        if page.evaluate(script):
            return
        page.wait_for_timeout(100)
    raise AssertionError(script)


def enter(page, url):
    page.goto(url + "/login")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_url(url + "/")


def choose(page, answers):
    """Give the answers in the order that this voter sees, and wait until they are kept."""
    fields = page.locator("fieldset").all()
    for field, answer in zip(fields, answers, strict=False):
        field.locator(f"input[value={answer}]").check()
    until(page, "waiting.size === 0")


@pytest.mark.slow
def test_two_people_vote_blind_by_a_link_and_are_counted_as_on_the_command_line(
    guarded, measured, page, browser
):
    enter(page, guarded.url)
    page.goto(guarded.url + "/votes/steps/result")
    assert "Nobody has voted yet" in page.inner_text("main")
    page.click("button:has-text('Make a link')")
    assert "this machine alone" in page.inner_text("main")  # as it is opened at 127.0.0.1
    link = page.input_value("#link")
    assert re.fullmatch(re.escape(guarded.url) + r"/vote/[\w-]{43}", link)

    orders = []
    for number in range(2):
        context = browser.new_context()
        voter = context.new_page()
        voter.goto(link)
        text = voter.content()
        assert "secret" not in text and "/votes/" not in text and "<b>red" not in text
        orders.append([each.get_attribute("data-pair") for each in voter.locator("section").all()])
        until(voter, "films.filter(film => film.readyState > 1).length >= 2")
        choose(voter, ["left", "right", "same"])
        assert voter.inner_text("#count") == "3 of 6 answers"
        voter.reload()  # the server has kept them, for this browser
        assert voter.inner_text("#count") == "3 of 6 answers"
        assert voter.locator("input:checked").count() == 3
        choose(voter, ["right"] * 6 if number else ["left"] * 5)
        for path in ("/", "/runs", "/votes/steps", "/votes/steps/result", "/evals/steps"):
            assert voter.request.get(guarded.url + path).status == 401, path
            voter.goto(guarded.url + path)
            assert voter.url.startswith(guarded.url + "/login"), path
        context.close()
    assert sorted(orders[0]) == sorted(orders[1]) == ["0", "1", "2"]

    files = sorted(map(str, (measured / "steps" / "votes").glob("*.jsonl")))
    assert len(files) == 2
    line = [sys.executable, "-m", "t2v", "eval", "votes", *files, f"compared={measured / 'steps'}"]
    told = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    page.goto(guarded.url + "/votes/steps/result")
    rows = [
        "| " + " | ".join(cell.inner_text() for cell in row.locator("td").all()) + " |"
        for row in page.locator("tbody tr").all()
    ]
    assert len(rows) == 2 and all(row in told for row in rows)
    assert [each in told for each in ("all 6 votes", "5 of 6 votes")] == [True, True]
    assert "all 6 votes" in page.inner_text("main") and "5 of 6" in page.inner_text("main")

    page.click("button:has-text('Withdraw')")
    page.wait_for_selector("button:has-text('Make a link')")
    context = browser.new_context()
    assert context.request.get(link).status == 404
    assert context.request.get(link + "/films/0").status == 404
    closed = context.new_page()
    closed.goto(link)
    assert "closed" in closed.inner_text("main")
    context.close()


@pytest.mark.slow
def test_answers_that_are_none_and_those_of_other_sites_are_refused(studio, measured, page):
    base, answers = studio.url + "/votes/other", studio.url + "/votes/other/answers"
    page.goto(base)
    ballot = page.get_attribute("#votes", "data-ballot")
    good = {"ballot": ballot, "pair": "0", "question": "quality", "answer": "left"}
    for given, word in (
        (good | {"ballot": "x"}, "changed"),
        (good | {"pair": "3"}, "pair"),
        (good | {"pair": 0}, "pair"),
        (good | {"pair": "../x"}, "pair"),
        (good | {"question": ["quality"]}, "question"),
        (good | {"answer": "A"}, "answer"),
        ([], "changed"),
        (good | {"more": "x" * 3000}, "bytes"),
    ):
        answer = page.request.post(answers, data=given)
        assert 400 <= answer.status < 500 and word in answer.json()["error"]["message"], given
    assert page.request.post(answers, data=b"{", headers={"Content-Type": "x"}).status == 400
    other = {"Origin": "http://evil.example"}
    assert page.request.post(answers, data=good, headers=other).status == 403
    assert raw(studio.url, "/votes/other/answers", "POST", [("Content-Length", "0")])[0] == 400
    assert not list((measured / "other").glob("votes/*"))
    page.request.post(answers, data=good)
    (path,) = (measured / "other" / "votes").iterdir()
    (cookie,) = [each for each in page.context.cookies() if each["name"] == "t2v_voter"]
    assert cookie["httpOnly"] and cookie["value"] not in path.read_text()


@pytest.mark.slow
def test_an_answer_that_does_not_get_there_is_sent_again(studio, measured, page):
    page.goto(studio.url + "/votes/other")
    page.route("**/answers", lambda route: route.abort())
    page.locator("fieldset").nth(3).locator("input[value=same]").check()
    page.wait_for_selector("#count:has-text('does not answer')")
    page.unroute("**/answers")
    until(page, "waiting.size === 0")
    assert "does not answer" not in page.inner_text("#count")
    page.reload()
    assert page.locator("fieldset").nth(3).locator("input[value=same]").is_checked()


@pytest.mark.slow
def test_no_page_is_wider_than_a_phone(studio, measured, page):
    page.set_viewport_size({"width": 360, "height": 700})
    for path in (
        *("/runs", "/runs/night/a?with=" + quote(HOSTILE), "/evals", "/evals/eval"),
        *("/votes/steps", "/votes/steps/result"),
    ):
        page.goto(studio.url + path)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path
