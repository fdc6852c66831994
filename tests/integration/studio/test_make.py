"""The page on which videos are made: its form and its queue, without a worker."""

import json
import time

import pytest

HOSTILE = [
    "<script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">",
    "🎈🏖️ a red ball",
    "כדור אדום קופץ \u202e bounces",
]


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]", "max_queued=6")


@pytest.fixture
def at_page(studio, page):
    """The page of a queue that is empty."""
    for job in studio.queue.jobs():
        studio.queue.delete(job.id, "deleted")
    page.goto(studio.url + "/")
    page.wait_for_selector("#nothing:not([hidden])")
    return page


def waited(what):
    end = time.monotonic() + 20
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def test_a_prompt_waits_is_edited_in_its_place_and_cancelled(studio, at_page):
    page = at_page
    page.click("#examples button >> nth=0")
    page.fill("#seed", "7")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#queued li")
    (job,) = studio.queue.jobs()
    assert (job.prompt, job.settings["seed"]) == ("a red ball bounces on grass", 7)
    page.click("#queued >> text=Edit")
    page.keyboard.insert_text(" at night")  # the focus is at the end of the prompt
    page.fill(".edit >> text=Steps >> xpath=.. >> input", "3")
    page.click(".edit >> text=Save")
    page.wait_for_selector("#queued .prompt:text('at night')")
    (job,) = studio.queue.jobs()
    assert job.settings["num_inference_steps"] == 3 and "at night" in job.prompt
    assert page.input_value("#prompt") == "a red ball bounces on grass"  # the form is another one
    page.click("#queued >> text=Cancel")
    page.wait_for_selector("#failed .why:text('Cancelled')")
    assert [job.state for job in studio.queue.jobs()] == ["cancelled"]


@pytest.mark.slow
def test_what_is_typed_outlives_the_page_and_hostile_text_stays_text(studio, at_page):
    page = at_page
    for prompt in HOSTILE:
        page.fill("#prompt", prompt)
        page.click("#go")
        page.wait_for_function("text => document.querySelector('#queued').innerText.includes(text)",
                               arg=prompt)  # fmt: skip
    assert [job.prompt for job in studio.queue.jobs()] == HOSTILE
    page.click("#more summary")
    page.fill("#num_inference_steps", "3")
    page.reload()
    page.wait_for_selector("#queued li >> nth=2")
    assert page.input_value("#prompt") == HOSTILE[-1]
    assert page.input_value("#num_inference_steps") == "3" and page.is_visible("#guidance_scale")
    assert page.title() == "Make · t2v" and page.locator("main script, main img").count() == 0
    page.click("#reset")
    waited(lambda: page.input_value("#num_inference_steps") == "")
    assert page.input_value("#prompt") == HOSTILE[-1]


@pytest.mark.slow
def test_refusals_stand_beside_their_fields(studio, at_page):
    page = at_page
    page.click("#go")
    page.wait_for_selector("#prompt-wrong:not([hidden])")
    assert page.evaluate("document.activeElement.id") == "prompt"
    page.fill("#prompt", "a red ball")
    for field, value, said in (
        ("seconds", "99", "at most 10"),
        ("seed", "-1", "a whole number from 0"),
        ("num_inference_steps", "1000", "a whole number from 1 to 100"),
        ("guidance_scale", "-3", "a number from 0 to 100"),
    ):
        page.evaluate("document.querySelector('#more').open = false")
        page.evaluate(
            "([id, value]) => (document.getElementById(id).value = value)", [field, value]
        )
        page.click("#go")
        wrong = page.wait_for_selector(f"#{field}-wrong:not([hidden])")
        assert said in wrong.inner_text() and wrong.is_visible()
        assert page.get_attribute(f"#{field}", "aria-invalid") == "true"
        page.fill(f"#{field}", "")
    page.select_option("#size", "other")
    page.fill("#other-size", "65x65")
    page.click("#go")
    page.wait_for_selector("#size-wrong:not([hidden])")
    page.select_option("#size", "")
    page.select_option("#count", "8")
    page.click("#go")  # six of them may wait
    wrong = page.wait_for_selector("#form-wrong:not([hidden])").inner_text()
    assert "6 of 8 wait" in wrong and "try again in" in wrong
    assert len(studio.queue.jobs()) == 6
    assert len({job.settings["seed"] for job in studio.queue.jobs()}) == 6


@pytest.mark.slow
def test_the_order_changes_by_keys_and_by_dragging_and_the_focus_stays(studio, at_page):
    page, names = at_page, ["one", "two", "three"]
    for name in names:
        studio.queue.add({"prompt": name, "settings": {}})
    page.wait_for_selector("#queued li >> nth=2")
    page.focus("#queued li:nth-child(3) [aria-label=Earlier]")
    for _ in range(2):
        before = prompts(page)
        page.keyboard.press("Enter")
        waited(lambda: prompts(page) != before)  # noqa: B023
    assert prompts(page) == ["three", "one", "two"]
    focused = page.evaluate(
        "document.activeElement.closest('li').querySelector('.prompt').innerText"
    )
    assert focused == "three"
    page.locator("#queued li:nth-child(3) .handle").drag_to(page.locator("#queued li:nth-child(1)"))
    waited(lambda: prompts(page) == ["two", "three", "one"])
    assert [job.prompt for job in studio.queue.jobs()] == ["two", "three", "one"]


@pytest.mark.slow
def test_what_is_typed_into_a_video_that_goes_on_makes_another_one(studio, at_page):
    page = at_page
    id = studio.queue.add({"prompt": "a red ball", "settings": {"seed": 5}})
    page.click("#queued >> text=Edit")
    page.fill(".edit textarea >> nth=0", "a blue ball")
    studio.queue.delete(id, "deleted")
    page.click(".edit >> text=Make another one")
    page.wait_for_selector(".edit .wrong:not([hidden]):text('no video of this id')")
    page.click(".edit >> text=Leave it")
    page.wait_for_selector("#queued li", state="detached")
    id = studio.queue.add({"prompt": "a red ball", "settings": {"seed": 5}})
    page.click("#queued >> text=Edit")
    page.fill(".edit textarea >> nth=0", "a blue ball")
    studio.queue.cancel(id)
    page.click(".edit >> text=Make another one")
    page.wait_for_selector("#queued .prompt:text('a blue ball')")
    assert {job.prompt: job.state for job in studio.queue.jobs()} == {
        "a blue ball": "queued",
        "a red ball": "cancelled",
    }


def prompts(page):
    return page.locator("#queued .prompt").all_inner_texts()


@pytest.mark.slow
def test_the_stream_counts_among_those_that_may_be_open_and_the_page_does_without(start, page):
    studio = start("devices=[]", "max_streams=1")
    page.goto(studio.url + "/")
    page.wait_for_selector("#nothing:not([hidden])")
    other = page.context.new_page()
    other.goto(studio.url + "/")
    other.wait_for_selector("#nothing:not([hidden])")  # by the list, as one stream is open
    refused = page.request.get(studio.url + "/make/events")
    assert refused.status == 503 and refused.headers["retry-after"] == "5"
    studio.queue.add({"prompt": "a red ball", "settings": {}})
    for each in (page, other):
        each.wait_for_selector("#queued li")
        assert each.is_hidden("#away")
    told = page.request.get(studio.url + "/make/queue").json()
    assert [len(told[name]) for name in ("queued", "running", "done", "failed")] == [1, 0, 0, 0]
    assert str(studio.folder) not in json.dumps(told)
