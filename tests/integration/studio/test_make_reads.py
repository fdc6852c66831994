"""What the make page waits for before it sends, and what it tells of files and fields by itself."""

import time

import pytest

from t2v.config.sampling import SampleConfig
from t2v.sampling import run

pytestmark = pytest.mark.slow
CLIP = {"mimeType": "video/mp4"}


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]", "max_upload=1")


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    folder, paths = tmp_path_factory.mktemp("film"), []
    settings = {"num_inference_steps": 2, "upscale": 1, "width": 64, "height": 48}
    for seed in (8, 9):
        paths.append(folder / f"film{seed}.mp4")
        config = SampleConfig(output=str(paths[-1]), seed=seed, **settings)
        run.sample(config, ["a green ring"])
    return paths


@pytest.fixture
def at_page(studio, page):
    for job in studio.queue.jobs():
        studio.queue.delete(job.id, "deleted")
    page.goto(studio.url + "/")
    page.wait_for_selector("#size option >> nth=2", state="attached")
    page.wait_for_selector("#nothing:not([hidden])")
    return page


def waited(what):
    end = time.monotonic() + 30
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def held(page, address):
    """The requests to an address, which wait until the test lets them go on."""
    found = []
    page.route(address, lambda route: found.append(route))
    return found


def drop(page, *paths):
    page.set_input_files("#file", [str(path) for path in paths])


def test_a_clip_that_is_read_and_a_question_are_waited_for(studio, at_page, films):
    page, requests = at_page, held(at_page, "**/v1/recipes")
    page.fill("#prompt", "a red ball")
    drop(page, films[0])
    page.wait_for_selector("#offer >> text=film8.mp4 is read…")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#go:disabled:text('Reading film8.mp4…')")
    assert studio.queue.jobs() == []
    requests[0].continue_()
    page.wait_for_selector("#form-wrong:text('choose first what is taken of film8.mp4')")
    assert page.is_enabled("#go") and page.inner_text("#go") == "Make"
    assert page.evaluate("document.activeElement.innerText") == "Take its settings"
    page.click("#go")
    assert studio.queue.jobs() == []
    page.click("#offer >> text=Go on from it")
    page.click("#go")
    (job,) = waited(studio.queue.jobs)
    assert job.settings["video"].startswith(str(studio.folder / "uploads"))


@pytest.mark.parametrize(("name", "more"), [("from", ""), ("continue", "/content")])
def test_what_the_address_names_is_waited_for(studio, at_page, name, more):
    id = studio.queue.add({"prompt": "a green ring", "settings": {"seed": 5}})
    page, requests = at_page, held(at_page, f"**/v1/videos/video_{id}{more}")
    page.goto(f"{studio.url}/?{name}=video_{id}")
    waited(lambda: page.evaluate("1") and requests)
    page.fill("#prompt", "typed before it came")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#go:disabled:text('Reading the settings…')")
    requests[0].abort()
    page.wait_for_selector("#form-wrong:text('Not sent')")
    assert len(studio.queue.jobs()) == 1


def test_two_presses_make_one_video(studio, at_page):
    page = at_page
    page.fill("#prompt", "a red ball")
    page.dblclick("#go")
    page.wait_for_selector("#said:text('The video waits.')")
    requests = held(page, "**/v1/videos")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#go:disabled:text('Sending…')")
    page.press("#prompt", "Control+Enter")
    page.fill("#prompt", "a blue ball")  # nothing else is frozen
    requests[0].continue_()
    page.wait_for_selector("#go:enabled:text('Make')")
    page.keyboard.down("Control")
    for _ in range(3):
        page.keyboard.down("Enter")  # held: but for the first they are repeats
    page.keyboard.up("Enter")
    page.keyboard.up("Control")
    waited(lambda: page.evaluate("1") and len(requests) > 1)
    for request in requests[1:]:
        request.continue_()
    page.wait_for_selector("#go:enabled:text('Make')")
    waited(lambda: len(studio.queue.jobs()) == 3)
    assert len(requests) == 2
    page.unroute("**/v1/videos")
    page.focus("#seed")
    for _ in range(3):
        page.keyboard.down("Enter")
    page.keyboard.up("Enter")
    waited(lambda: len(studio.queue.jobs()) == 4)
    page.locator("#queued >> text=Duplicate").first.dblclick()
    page.wait_for_selector("#said:text('It waits once more.')")
    page.locator("#queued >> text=Duplicate").first.click(delay=600)
    waited(lambda: len(studio.queue.jobs()) == 6)


def test_files_that_the_server_would_not_take_are_told_at_the_drop(studio, at_page, tmp_path):
    page = at_page
    given = [
        {"name": "notes.mp4", "buffer": b"no clip, but a text", **CLIP},
        {"name": "bad.png", "mimeType": "image/png", "buffer": b"no picture"},
        {"name": "big.mp4", "buffer": b"\0\0\0\x18ftypmp42" + bytes(2_500_000), **CLIP},
    ]
    page.set_input_files("#file", given)
    page.wait_for_selector("#offer", state="hidden")
    said = page.inner_text("#files-wrong")
    assert said == (
        "notes.mp4 is no picture or clip that can be read. "
        "bad.png is no picture or clip that can be read. "
        "big.mp4 has 2.6 MB; 1 MB are taken."
    )
    assert page.locator("#files li").count() == 0
    page.route("**/v1/recipes", lambda route: route.abort())
    small = {"name": "small.mp4", "buffer": b"\0\0\0\x18ftypmp42" + bytes(100), **CLIP}
    page.set_input_files("#file", small)
    page.wait_for_selector("#files-wrong:text('small.mp4 is not read. The server does not answer')")
    assert page.locator("#files li").count() == 0


def test_of_two_films_of_ours_each_has_its_own_question(studio, at_page, films):
    page = at_page
    drop(page, *films)
    page.wait_for_selector(".question >> nth=1 >> text=film9.mp4 tells")
    page.locator(".question", has_text="film9").get_by_text("Go on from it").click()
    page.wait_for_selector("#files small:text('film9.mp4')")
    page.locator(".question", has_text="film8").get_by_text("Take its settings").click()
    waited(lambda: page.input_value("#seed") == "8")
    assert page.locator("#files small").all_inner_texts() == ["film9.mp4"]
    assert page.is_hidden("#offer")


def test_large_seeds_are_neighbours_and_wrong_fields_are_told_together(studio, at_page):
    page, seed = at_page, 1234567890123456789
    page.fill("#prompt", "a red ball")
    page.fill("#seed", str(seed))
    page.select_option("#count", "3")
    page.click("#go")
    waited(lambda: len(studio.queue.jobs()) == 3)
    assert {job.settings["seed"] for job in studio.queue.jobs()} == {seed, seed + 1, seed + 2}
    page.fill("#seed", str(2**63 - 2))
    page.fill("#prompt", "")
    page.select_option("#size", "other")
    page.fill("#seconds", "99")
    page.click("#go")
    page.wait_for_selector("#prompt-wrong:not([hidden])")
    assert page.inner_text("#prompt-wrong") == "The prompt is empty; say what the video shows."
    assert page.inner_text("#size-wrong") == "Give width and height, as 640x384."
    assert page.inner_text("#seconds-wrong") == "Give a number over 0, and at most 10."
    assert "beyond 9223372036854775807" in page.inner_text("#seed-wrong")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.fill("#prompt", "b" * 3000)
    page.wait_for_selector("#prompt-tokens.wrong:text('3,000 of 2,000 characters')")
    assert len(studio.queue.jobs()) == 3


def test_what_is_typed_into_a_row_outlives_the_page_and_its_buttons_are_seen(studio, at_page):
    page = at_page
    id = studio.queue.add({"prompt": "a red ball", "settings": {"seed": 1234567890}})
    page.click("#queued >> text=Edit")
    prompt, seed = page.locator(".edit textarea >> nth=0"), page.get_by_label("Seed").last
    prompt.fill("a blue ball")
    page.reload()
    page.wait_for_selector(".edit")
    assert prompt.input_value() == "a blue ball" and seed.input_value() == "1234567890"
    assert seed.evaluate("each => each.scrollWidth <= each.clientWidth")
    box, end = page.locator(".edit >> text=Leave it").bounding_box(), page.viewport_size["height"]
    assert box["y"] + box["height"] <= end
    waited(lambda: "256x256" in page.inner_html(".edit"))
    own = page.locator(".edit input").evaluate_all("all => all.map(each => each.placeholder)")
    assert own == ["256x256", "2.125", "random", "8", "1.5"]
    page.click(".edit >> text=Save")
    waited(lambda: studio.queue.job(id).prompt == "a blue ball")
    page.wait_for_selector(".edit", state="detached")
    page.reload()
    page.wait_for_selector("#queued li")
    assert page.locator(".edit").count() == 0


def test_two_tabs_have_each_their_own_form_and_a_new_one_has_the_last(studio, at_page):
    page, other = at_page, at_page.context.new_page()
    other.goto(studio.url + "/")
    page.fill("#prompt", "tab one")
    other.fill("#prompt", "tab two")
    page.reload()
    page.wait_for_selector("#size option >> nth=2", state="attached")
    assert page.input_value("#prompt") == "tab one"
    new = page.context.new_page()
    new.goto(studio.url + "/")
    waited(lambda: new.input_value("#prompt") in ("tab one", "tab two"))


def test_why_a_video_waits_stands_in_the_middle(studio, at_page):
    page = at_page
    for prompt in ("a red ball", "a blue ball"):
        page.fill("#prompt", prompt)
        page.click("#go")
        page.wait_for_selector(f"#waits .prompt:text('{prompt}')")
        assert page.is_hidden("#nothing")
    page.wait_for_selector("#waits >> text=no worker is at work")
    assert "`" not in page.inner_text("main")


def test_what_was_said_of_a_server_that_was_away_goes_when_it_is_back(start, page):
    studio = start("devices=[cpu]")
    page.goto(studio.url + "/")
    page.wait_for_selector("#nothing:not([hidden])")
    page.fill("#prompt", "a red ball")
    page.select_option("#size", "other")
    page.fill("#other-size", "64x64")
    page.evaluate("document.querySelector('#more').open = true")
    page.fill("#num_inference_steps", "30")
    page.click("#go")
    page.wait_for_selector("#waits >> text=Waits: the worker is starting")
    page.wait_for_selector("#running article", timeout=240_000)
    page.wait_for_selector("#waits", state="hidden")
    studio.stop()
    page.wait_for_selector("#away:not([hidden])")
    page.click("#go")
    said = page.wait_for_selector("#form-wrong:text('does not answer')").inner_text()
    assert "`" not in said
    studio.start()
    page.wait_for_selector("#away", state="hidden")
    page.wait_for_selector("#form-wrong", state="hidden")
    page.wait_for_selector("#film video", timeout=240_000)
    studio.stop()
    page.evaluate("document.querySelector('#film video').src += '?anew'")
    page.wait_for_selector("#film > .wrong:text('does not answer')")
    studio.start()
    page.wait_for_selector("#film video")
