"""Videos made on the page, with a worker: from the prompt to the film, through stops and kills."""

import time

import numpy as np
import pytest

from t2v.config.sampling import SampleConfig
from t2v.io.video import read_recipe, read_video
from t2v.sampling import run

pytestmark = pytest.mark.slow
PATIENCE = 240  # seconds
# a film is not blank where its pixels, drawn to a canvas, are not all alike
SPREAD = """film => {
  const canvas = document.createElement("canvas");
  canvas.width = film.videoWidth;
  canvas.height = film.videoHeight;
  const drawn = canvas.getContext("2d");
  drawn.drawImage(film, 0, 0);
  const pixels = drawn.getImageData(0, 0, canvas.width, canvas.height).data;
  return Math.max(...pixels.filter((_, at) => at % 4 === 0))
    - Math.min(...pixels.filter((_, at) => at % 4 === 0));
}"""


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[cpu]")


@pytest.fixture
def at_page(studio, page):
    for job in studio.queue.jobs():
        studio.queue.delete(job.id, "deleted")
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(studio.url + "/")
    page.wait_for_selector("#nothing:not([hidden])")
    return page


def waited(what):
    end = time.monotonic() + PATIENCE
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def ask(page, prompt, count=1, **fields):
    """Make videos at the model's plain size, which takes the least time."""
    page.select_option("#size", "other")
    page.fill("#other-size", "64x64")
    page.fill("#prompt", prompt)
    page.evaluate("document.querySelector('#more').open = true")
    for name, value in fields.items():
        page.fill(f"#{name}", str(value))
    page.select_option("#count", str(count))
    page.press("#prompt", "Control+Enter")


def same_as_sampled(job, path):
    """The video of a job is that of `t2v sample` with its settings, and so is its recipe."""
    settings = {**job.settings, "output": str(path), "device": "cpu"}
    (plain,) = run.sample(SampleConfig(**settings), [job.prompt])
    np.testing.assert_array_equal(read_video(job.output)[0], read_video(plain)[0])
    made, wanted = read_recipe(job.output), read_recipe(plain)
    for recipe in (made, wanted):
        del recipe["settings"]["output"]
    assert made == wanted


def done(studio):
    return [job for job in studio.queue.jobs() if job.state == "done"]


def test_a_prompt_becomes_previews_and_a_film_that_plays(studio, at_page, tmp_path):
    page = at_page
    ask(page, "a red ball bounces on grass", seed=3, num_inference_steps=30)
    seen = page.wait_for_selector("#running img:not([hidden])").get_attribute("src")
    assert seen.startswith("data:image/png;base64,")
    page.wait_for_selector("#running .quiet:text('Step')")
    page.fill("#prompt", "a blue ball")  # nothing is frozen while it runs
    film = page.wait_for_selector("#film video")
    page.wait_for_function("() => document.querySelector('#film video').currentTime > 0.3")
    state = film.evaluate("film => [film.muted, film.loop, film.paused, film.duration]")
    assert state == [True, True, False, 2.125]
    assert film.evaluate(SPREAD) > 100
    assert page.input_value("#prompt") == "a blue ball" and page.locator("#running *").count() == 0
    (job,) = done(studio)
    same_as_sampled(job, tmp_path / "plain.mp4")
    with page.expect_download() as told:
        page.click("#film >> text=Download")
    assert told.value.path().read_bytes() == job.output.read_bytes()

    page.fill("#seed", "")
    page.click("#film >> text=Keep seed")
    assert page.input_value("#seed") == "3"
    page.click("#film >> text=Vary")
    other = waited(lambda: [each for each in done(studio) if each.id != job.id])[0]
    changed = {name for name in job.settings if job.settings[name] != other.settings.get(name)}
    assert changed == {"seed"} and other.prompt == job.prompt
    page.wait_for_selector(f"#film video[src*='{other.id}']")
    page.click("#film >> text=Again")
    (twin,) = waited(lambda: [e for e in done(studio) if e.id not in (job.id, other.id)])
    assert twin.settings == other.settings
    np.testing.assert_array_equal(read_video(twin.output)[0], read_video(other.output)[0])

    page.click("#film >> text=Use settings")
    page.wait_for_function("() => document.querySelector('#prompt').value !== 'a blue ball'")
    assert page.input_value("#seed") == str(other.settings["seed"])
    assert page.input_value("#num_inference_steps") == "30"
    page.click(f".thumb >> nth={2}")  # an older one is shown, and stays at reload
    assert job.id in page.url
    page.reload()
    page.wait_for_selector(f"#film video[src*='{job.id}']")
    page.go_back()
    page.wait_for_selector(f"#film video[src*='{twin.id}']")


def test_jobs_that_wait_are_edited_and_cancelled_while_another_runs(studio, at_page):
    page = at_page
    ask(page, "a red ball bounces on grass", num_inference_steps=100)
    page.wait_for_selector("#running article")
    ask(page, "a blue cube slides", count=2, num_inference_steps=2, seed=4)
    page.wait_for_selector("#queued li >> nth=1")
    page.click("#queued li:nth-child(1) >> text=Edit")
    page.fill(".edit textarea >> nth=0", "a green ring rises at night")
    page.click(".edit >> text=Save")
    page.wait_for_selector("#queued .prompt:text('a green ring')")
    page.click("#queued li:nth-child(2) >> text=Cancel")
    page.wait_for_selector("#failed .why:text('Cancelled')")
    assert page.locator("#running article").count() == 1
    page.click("#running >> text=Cancel")
    film = page.wait_for_selector("#film video")
    assert film.get_attribute("aria-label") == "Film: a green ring rises at night"
    states = {(job.prompt, job.state) for job in studio.queue.jobs()}
    assert states == {
        ("a red ball bounces on grass", "cancelled"),
        ("a blue cube slides", "cancelled"),
        ("a green ring rises at night", "done"),
    }
    page.locator("#failed li", has_text="a blue cube").locator("text=Retry").click()
    waited(lambda: len(done(studio)) == 2)
    page.wait_for_selector("[aria-label='Film: a blue cube slides']")


def test_why_a_video_was_not_made_stands_there_and_it_is_edited_and_tried_again(studio, at_page):
    page = at_page
    # the endpoint refuses it at once, but another program may have queued it
    small = {"width": 64, "height": 64, "upscale": 1, "num_inference_steps": 2}
    studio.queue.add({"prompt": "ball " * 100, "settings": small})
    page.wait_for_selector("#failed .why.wrong:text('64 fit')")
    assert str(studio.folder) not in page.content()
    page.click("#failed >> text=Edit")
    page.fill(".edit textarea >> nth=0", "a red ball")
    page.click(".edit >> text=Save and retry")
    page.wait_for_selector("[aria-label='Film: a red ball']")
    assert page.is_hidden("#failed-head")


def test_a_picture_that_is_dropped_begins_the_video(studio, at_page, tmp_path):
    page = at_page
    page.fill("#prompt", "a red ball bounces on grass")
    dropped = page.evaluate_handle("""async () => {
      const canvas = document.createElement("canvas");
      canvas.width = canvas.height = 64;
      const drawn = canvas.getContext("2d");
      drawn.fillStyle = "rgb(0, 0, 255)";
      drawn.fillRect(0, 0, 64, 64);
      const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
      const given = new DataTransfer();
      given.items.add(new File([blob], "<b>blue</b>.png", { type: "image/png" }));
      return given;
    }""")
    page.dispatch_event("#drop", "dragover", {"dataTransfer": dropped})
    assert "over" in page.get_attribute("#drop", "class")
    page.dispatch_event("#drop", "drop", {"dataTransfer": dropped})
    page.wait_for_selector("#files li img")
    assert page.inner_text("#files small") == "<b>blue</b>.png"
    assert page.input_value("#files select") == "input_reference"
    page.evaluate(
        "given => dispatchEvent(new ClipboardEvent('paste', { clipboardData: given }))", dropped
    )
    assert page.input_value("#files li:nth-child(2) select") == "last_reference"
    page.click("#files li:nth-child(2) >> text=Remove")
    ask(page, "a red ball bounces on grass", num_inference_steps=2)
    page.wait_for_selector("#film video")
    (job,) = done(studio)
    assert job.settings["image"].startswith(str(studio.folder / "uploads"))
    frames = read_video(job.output)[0]
    first = frames[0].reshape(-1, 3).mean(axis=0)
    assert first[2] > first[0] + 30, first  # it begins blue
    page.click("#files >> text=Remove")
    page.click("#film >> text=Use settings")
    page.wait_for_selector("#files li img")  # the picture comes back with the settings
    page.click("#files >> text=Remove")
    assert page.locator("#files li").count() == 0


def test_the_page_outlives_a_stop_and_the_job_ends_with_the_bits_of_sample(start, page, tmp_path):
    studio = start("devices=[cpu]")
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(studio.url + "/")
    ask(page, "a red ball bounces on grass", num_inference_steps=30, seed=11)
    waited(lambda: any((job.progress.get("step") or 0) > 3 for job in studio.queue.jobs()))
    assert studio.stop() == 0
    page.wait_for_selector("#away:not([hidden])")
    page.fill("#prompt", "typed while it is away")
    page.press("#prompt", "Control+Enter")
    page.wait_for_selector("#form-wrong:not([hidden]):text('does not answer')")
    (job,) = studio.queue.jobs()
    assert job.state == "queued" and job.output.with_suffix(".latents.safetensors").exists()
    studio.start()
    page.wait_for_selector("#away", state="hidden")
    page.wait_for_selector("#film video")
    assert page.input_value("#prompt") == "typed while it is away"
    (job,) = done(studio)
    same_as_sampled(job, tmp_path / "plain.mp4")


def test_twenty_jobs_outlive_the_kill_of_server_and_worker(start, page, tmp_path):
    studio = start("devices=[cpu]")
    page.set_default_timeout(PATIENCE * 1000)
    page.goto(studio.url + "/")
    wanted = 0
    for count, prompt in ((8, "a red ball bounces"), (8, "a blue cube"), (4, "a green ring")):
        wanted += count
        ask(page, prompt, count=count, num_inference_steps=6)
        waited(lambda: len(studio.queue.jobs()) == wanted)  # noqa: B023
    ids = {job.id for job in studio.queue.jobs()}
    for least in (3, 8):
        waited(lambda: len(done(studio)) >= least)  # noqa: B023
        waited(lambda: any(job.progress.get("step") for job in studio.queue.jobs({"running"})))
        studio.kill()
        page.wait_for_selector("#away:not([hidden])")
        studio.start()
        page.wait_for_selector("#away", state="hidden")
    waited(lambda: len(done(studio)) == 20)
    page.wait_for_selector("#queue-none:not([hidden])")
    assert {job.id for job in studio.queue.jobs()} == ids
    for number, job in enumerate(done(studio)):
        same_as_sampled(job, tmp_path / f"plain-{number}.mp4")
