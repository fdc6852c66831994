"""Curated clips reviewed by hand in a browser, and by forms without a script."""

import http.client
import json
import re
from urllib.parse import urlencode

import numpy as np
import pytest

from t2v.cli import main
from t2v.config.data import ClipsConfig
from t2v.data.dataset import load_latents
from t2v.io.manifest import Clip, read_manifest, write_manifest
from t2v.io.video import write_video

MARKUP = "<script>alert(1)</script> & <b>bold</b>"


def footage(folder, count):
    """Films of two seconds, each brighter than the one before."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        frames = np.full((16, 32, 48, 3), 40 + 20 * number, np.uint8)
        write_video(folder / f"{number}.mp4", frames, 8)
    return [str(folder / f"{number}.mp4") for number in range(count)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Three good clips, one with markup for a name and a caption, one that is no clip."""
    place = tmp_path_factory.mktemp("reviewed")
    paths = footage(place, 4)
    clips = [Clip(path=path, caption=f"film {n}") for n, path in enumerate(paths)]
    clips[1] = clips[1].drop("motion", "stands still")
    clips[3] = Clip(path=paths[3], caption=MARKUP, tags=(MARKUP,), source=MARKUP, scores={"a": 1.0})
    odd = {"cut_from": {"path": [1], "start": "x", "end": {}}, "candidates": 3, "id": MARKUP}
    clips.append(Clip(path="/etc/hostname", caption="half a character: \ud800", extra=odd))
    write_manifest(place / "manifest.jsonl", clips)
    return place


@pytest.fixture(scope="module")
def studio(start, folder):
    return start("devices=[]", f"reviews=[{folder}]")


def ask(studio, method, path, form=None, **headers):
    """The status, headers and text of an answer to a browser without a script."""
    line = http.client.HTTPConnection("127.0.0.1", int(studio.url.rpartition(":")[2]), timeout=20)
    given = {"Accept": "text/html", "Content-Type": "application/x-www-form-urlencoded"}
    given |= {name.replace("_", "-"): value for name, value in headers.items()}
    line.request(method, path, None if form is None else urlencode(form, doseq=True), given)
    answer = line.getresponse()
    content = answer.read()
    line.close()
    return answer.status, answer.headers, content


def keys_of(studio, address):
    return re.findall(r'id="clip-([0-9a-f]{32})"', ask(studio, "GET", address)[2].decode())


def address_of(studio):
    status, headers, _ = ask(studio, "GET", "/review")
    assert status == 303
    return headers["location"]


def test_forms_alone_keep_drop_caption_undo_and_write(studio, folder):
    address = address_of(studio)
    key, acts = keys_of(studio, address), f"{address}/acts"
    for form in (
        {"act": "drop", "clip": key[0]},
        {"act": "keep", "clip": key[1], "text": "it moves\r\nslowly"},
        {"act": "caption", "clip": key[2], "text": "a grey film"},
        {"act": "agree", "clip": key[:3]},
        {"act": "undo"},
        {"act": "drop", "clip": key[2], "show": "kept", "start": "0"},
    ):
        status, headers, _ = ask(studio, "POST", acts, form)
        assert (status, headers["location"].partition("?")[0]) == (303, address)
    assert "show=kept" in headers["location"]
    page = ask(studio, "GET", address)[2].decode()
    assert "<b>3</b> of 5 decided" in page
    assert MARKUP not in page
    assert "&lt;script&gt;alert(1)" in page
    original = (folder / "manifest.jsonl").read_bytes()
    status, headers, _ = ask(studio, "POST", f"{address}/manifest", {})
    assert (status, headers["location"].endswith("#summary")) == (303, True)
    assert "with every decision" in ask(studio, "GET", address)[2].decode()
    found = read_manifest(folder / "manifest.reviewed.jsonl")
    assert [clip.dropped for clip in found] == ["review", "", "review", "", ""]
    assert [clip.texts() for clip in found[1:3]] == [("it moves", "slowly"), ("a grey film",)]
    assert found[3].caption == MARKUP
    assert (folder / "manifest.jsonl").read_bytes() == original


def test_what_is_wrong_is_said_on_a_page_and_changes_nothing(studio, folder):
    address = address_of(studio)
    key, journal = keys_of(studio, address)[0], folder / "manifest.review.jsonl"
    before = journal.read_bytes() if journal.exists() else None
    cases = [
        ({"act": "caption", "clip": key, "text": " "}, 400, "is empty"),
        ({"act": "keep", "clip": "0" * 32}, 400, "no such clip"),
        ({"act": "keep"}, 400, "No clip was named"),
        ({"act": "erase", "clip": key}, 400, "give keep, drop"),
        ({"act": "undo", "count": "999"}, 409, "Somebody else"),
        ({"act": "keep", "clip": key, "start": "-1"}, 400, "a whole number"),
        ({"act": "keep", "clip": [key] * 60}, 400, "Too many fields"),
    ]
    for form, status, message in cases:
        answer = ask(studio, "POST", f"{address}/acts", form)
        assert (answer[0], message in answer[2].decode()) == (status, True), form
        told = ask(studio, "POST", f"{address}/acts", form, Accept="application/json")
        assert (told[0], message in json.loads(told[2])["error"]["message"]) == (status, True)
    for query in ("sort=b", "show=x", "start=a", "start=9999999999"):
        status, _, page = ask(studio, "GET", f"{address}?{query}")
        assert (status, "Not done" in page.decode()) == (400, True)
    for path in ("/review/other", f"{address}/clips/x.jpg", f"{address}/clips/..%2fx.mp4"):
        assert ask(studio, "GET", path)[0] == 404
    site = {"Origin": "http://example.org"}
    assert ask(studio, "POST", f"{address}/acts", {"act": "drop", "clip": key}, **site)[0] == 403
    assert (journal.read_bytes() if journal.exists() else None) == before


def test_only_pixels_of_clips_are_sent_and_films_in_parts(studio):
    address = address_of(studio)
    clips = [f"{address}/clips/{key}" for key in keys_of(studio, address)]
    status, headers, whole = ask(studio, "GET", f"{clips[0]}.mp4")
    assert (status, headers["content-type"], whole[4:8]) == (200, "video/mp4", b"ftyp")
    status, _, part = ask(studio, "GET", f"{clips[0]}.mp4", Range="bytes=4-7")
    assert (status, part) == (206, b"ftyp")
    assert ask(studio, "GET", f"{clips[0]}.jpg")[2][:2] == b"\xff\xd8"
    status, _, told = ask(studio, "GET", f"{clips[4]}.jpg")
    assert (status, "not a video" in json.loads(told)["error"]["message"]) == (404, True)


@pytest.mark.slow
def test_a_review_round_trip(start, page, tmp_path, scene, vae, tokenizer):
    """Curation, a review that is killed and goes on, and a training that reads what it wrote."""
    films, curated = tmp_path / "films", tmp_path / "curated"
    films.mkdir()
    for number in range(4):
        write_video(films / f"{number}.mp4", scene(number, 48, pan=2), 24)
        (films / f"{number}.txt").write_text(f"a pan over scene {number}\n")
    line = ["curate", str(films), "-o", str(curated), "files=cut", "quality.min_sharpness=0"]
    assert main([*line, "scenes.min_seconds=0.5", "skip=[topics,balance]", "workers=1"]) == 0
    before = read_manifest(curated)
    assert [clip.dropped for clip in before] == [""] * 4
    studio = start("devices=[]", f"reviews=[{curated}]")
    page.goto(studio.url + "/review/curated")
    clips = page.locator(".clip")
    for number in (0, 1):
        clips.nth(number).locator("text=Drop").click()
        page.wait_for_selector(f"text=Clip {number + 1}: dropped.")
    clips.nth(2).locator("textarea").fill("a slow pan\nthe camera moves")
    clips.nth(2).locator("text=Keep").click()
    page.wait_for_selector("text=Clip 3: kept, caption edited.")
    studio.kill()
    studio.start()
    page.goto(studio.url + "/review/curated?show=dropped")
    assert clips.count() == 2
    page.click("text=undecided")
    assert clips.count() == 1
    for left in ("Clip 3: undecided, caption", "Clip 3: undecided.", "Clip 2: undecided."):
        page.keyboard.press("u")
        page.wait_for_selector(f"text={left}")
    page.goto(studio.url + "/review/curated")
    clips.nth(2).locator("textarea").fill("a slow pan\nthe camera moves")
    clips.nth(3).locator("textarea").click()  # what was typed is kept when one goes elsewhere
    page.wait_for_selector("text=Clip 3: undecided, caption edited.")
    clips.nth(3).locator("textarea").fill("a still of scene 3")
    place = page.locator("text=Write the manifest").bounding_box()
    page.mouse.move(place["x"] + 9, place["y"] + 9)
    page.mouse.down()  # which takes the focus from what was typed, so that it is sent
    page.wait_for_selector("text=Clip 4: undecided, caption edited.")
    page.mouse.up()
    page.wait_for_selector("text=with every decision")
    written = curated / "manifest.reviewed.jsonl"
    assert [clip.dropped for clip in read_manifest(written)] == ["review", "", "", ""]
    assert read_manifest(curated) == before
    sizes = ClipsConfig(fps=8, resolution=64, num_frames=9, workers=1, aspects=("16:9",))
    given = {"precision": "fp32", "max_length": 12, "batch_size": 1, "held_out": 1, "seed": 0}
    rows = load_latents(str(written), sizes, vae, tokenizer, **given).rows
    assert [row["captions"] for row in rows] == [
        *(before[1].texts(), ("a slow pan", "the camera moves"), ("a still of scene 3",))
    ]


@pytest.mark.slow
def test_the_page_fits_a_phone_and_says_what_cannot_be_shown(studio, page):
    page.set_viewport_size({"width": 360, "height": 700})
    page.goto(studio.url + "/review")
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    page.locator(".clip").last.scroll_into_view_if_needed()
    assert "not a video" in page.inner_text(".film.blank")
    for button in page.locator(".verdicts button").all():
        assert button.bounding_box()["height"] >= 44
    page.keyboard.press("?")
    assert page.is_visible("dialog")
    assert page.locator("dialog").bounding_box()["width"] <= 360


def test_keys_decide_and_the_film_plays(studio, folder, page):
    (folder / "manifest.review.jsonl").unlink(missing_ok=True)
    page.goto(studio.url + "/review")
    page.wait_for_selector("a.film.plays video")
    for key in "nkxe":
        page.keyboard.press(key)
    page.keyboard.type(" anew")
    page.keyboard.press("Escape")
    page.wait_for_selector("text=Clip 3: undecided, caption edited.")
    for left in ("Clip 3: undecided.", "Clip 2: undecided.", "Clip 1: undecided."):
        page.keyboard.press("u")
        page.wait_for_selector(f"text={left}")
    page.keyboard.press("x")
    page.wait_for_selector("text=Clip 1: dropped.")
    page.click("text=Write the manifest")
    page.wait_for_selector("text=with every decision")
    assert [clip.dropped for clip in read_manifest(folder / "manifest.reviewed.jsonl")] == [
        *("review", "motion", "", "", "")
    ]


@pytest.mark.slow
def test_two_studios_over_one_folder_see_each_other_and_take_back_nothing_unseen(start, tmp_path):
    paths = footage(tmp_path / "shared", 3)
    write_manifest(tmp_path / "shared" / "manifest.jsonl", [Clip(path=each) for each in paths])
    one, other = (start("devices=[]", f"reviews=[{tmp_path / 'shared'}]") for _ in range(2))
    key = keys_of(one, "/review/shared")
    for studio, number in ((one, 0), (other, 1)):
        form = {"act": "drop", "clip": key[number]}
        assert ask(studio, "POST", "/review/shared/acts", form)[0] == 303
    for studio in (one, other):
        assert "<b>2</b> of 3 decided" in ask(studio, "GET", "/review/shared")[2].decode()
    status, _, said = ask(one, "POST", "/review/shared/acts", {"act": "undo", "count": "1"})
    assert (status, "Somebody else" in said.decode()) == (409, True)
    assert ask(one, "POST", "/review/shared/acts", {"act": "undo", "count": "2"})[0] == 303
    assert ask(other, "POST", "/review/shared/manifest", {})[0] == 303
    found = read_manifest(tmp_path / "shared" / "manifest.reviewed.jsonl")
    assert [clip.dropped for clip in found] == ["review", "", ""]
