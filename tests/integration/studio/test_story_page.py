"""Stories written in a browser."""

import pytest
from studio.made_up import until

pytestmark = pytest.mark.slow

HOSTILE = '<img src=x onerror="document.title=1"> on sand'


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]")


def prompts(page):
    return page.evaluate("[...document.querySelectorAll('.scene textarea')].map((e) => e.value)")


def write(page, *scenes):
    """Fill the scenes of an empty page."""
    for number, (prompt, seconds) in enumerate(scenes):
        if number:
            page.click("#add")
        page.fill(f"#scene-{number}-prompt", prompt)
        page.fill(f"#scene-{number}-seconds", seconds)


def test_scenes_are_moved_copied_removed_undone_and_outlive_a_reload(studio, page):
    page.goto(studio.url + "/story")
    write(page, ("one", "2"), ("two", "1"))
    page.locator("#scene-1-prompt").press("Alt+ArrowLeft")
    assert prompts(page) == ["two", "one"]
    page.click("[aria-label='Duplicate: scene 2']")
    page.click("[aria-label='Remove: scene 1']")
    assert prompts(page) == ["one", "one"]
    assert page.inner_text("#total") == "2 scenes, 4 s"
    page.reload()
    assert prompts(page) == ["one", "one"]
    page.click("#empty")
    page.click("#undo-edit")
    assert prompts(page) == ["one", "one"]


def test_tokens_and_unknown_words_are_told_as_one_types(studio, page):
    page.goto(studio.url + "/story")
    page.fill("#scene-0-prompt", "a red ball bouncez")
    page.wait_for_selector("#scene-0-tokens:has-text('unknown: bouncez')")
    assert "of 64 tokens" in page.inner_text("#scene-0-tokens")


def test_a_refusal_is_shown_at_its_scene(studio, page):
    page.goto(studio.url + "/story")
    write(page, ("a red ball", "2"), ("a blue ball", "11"))
    page.click("#make")
    page.wait_for_selector(".scene.bad")
    assert "0.001 to 10" in page.inner_text("#scene-1-wrong")
    assert studio.queue.jobs() == []
    page.fill("#scene-1-seconds", "1")
    page.fill("#scene-1-prompt", "")
    page.click("#make")
    until(page, "document.querySelector('#scene-1-wrong').textContent.startsWith('prompt')")


def test_a_file_is_saved_and_opened_and_its_mistakes_are_shown(studio, page, tmp_path):
    page.goto(studio.url + "/story")
    write(page, ("a red ball: it bounces", "2"), (HOSTILE, "1.5"))
    page.select_option("#scene-1-start", "cut")
    with page.expect_download() as got:
        page.click("#save")
    file = tmp_path / "story.yaml"
    got.value.save_as(file)
    assert "start: cut" in file.read_text()
    page.click("#empty")
    page.set_input_files("#file", file)
    until(page, "document.querySelectorAll('.scene').length == 2")
    assert prompts(page) == ["a red ball: it bounces", HOSTILE]
    assert page.input_value("#scene-1-start") == "cut"
    file.write_text(file.read_text().replace("seconds: 1.5", "seconds: none"))
    page.set_input_files("#file", file)
    page.wait_for_selector("[data-number='1'].bad")
    assert "takes a number" in page.inner_text("#scene-1-wrong")
    assert page.input_value("#scene-1-seconds") == "none"


def test_a_story_is_made_plays_and_its_scenes_are_clicked(start, page):
    studio = start()
    page.goto(studio.url + "/story")
    write(page, ("a red ball bounces on grass", "1"), (HOSTILE, "1"))
    page.click("summary")
    page.fill("#num_inference_steps", "2")
    page.fill("#seed", "3")
    page.press("#seed", "Control+Enter")
    page.wait_for_selector("#film video", timeout=120_000)
    until(page, "document.querySelector('#film video').currentTime > 0.1")
    marks = page.locator(".marks button")
    marks.nth(1).wait_for()
    assert marks.all_inner_texts() == ["a red ball bounces on grass", HOSTILE]
    marks.nth(1).click()
    page.wait_for_selector(".marks li:nth-child(2) [aria-current=true]")
    (job,) = studio.queue.jobs()
    assert job.settings["seed"] == 3
    assert [scene["prompt"] for scene in job.values["story"]["scenes"]][1] == HOSTILE
    page.reload()
    page.wait_for_selector("#film video")  # the address names the film
    page.goto(f"{studio.url}/story?from=video_{job.id}")
    assert prompts(page) == ["a red ball bounces on grass", HOSTILE]
    assert page.input_value("#seed") == "3"
    page.goto(f"{studio.url}/?from=video_{job.id}")  # the form of one video has no scenes
    page.wait_for_url(studio.url + "/story")
    assert prompts(page) == ["a red ball bounces on grass", HOSTILE]
    assert page.input_value("#seed") == "3"
    page.goto(studio.url + "/")
    page.set_input_files("#file", job.output)
    page.click("#offer >> text=Take its settings")
    page.wait_for_url(studio.url + "/story")
    assert prompts(page) == ["a red ball bounces on grass", HOSTILE]
