"""What the form knows of models, prompts, LoRAs and films that are dropped on it."""

import shutil
import time
from pathlib import Path

import pytest

from t2v.config.sampling import SampleConfig
from t2v.sampling import run

pytestmark = pytest.mark.slow
TINY = Path(__file__).parents[3] / "assets" / "t2v-tiny"


@pytest.fixture(scope="module")
def studio(start, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    plain = folder / "plain"
    shutil.copytree(TINY, plain)
    shutil.rmtree(plain / "upscaler")
    loras = [folder / "ball.safetensors", folder / "<i>cube.safetensors"]
    for lora in loras:
        lora.write_bytes(b"")
    named = ",".join(map(str, loras))
    return start("devices=[]", "max_upload=1", f"models=[t2v-tiny,{plain}]", f"loras=[{named}]")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    settings = {"num_inference_steps": 2, "upscale": 1, "width": 64, "height": 48, "seed": 8}
    run.sample(SampleConfig(output=str(path), **settings), ["a green ring"])
    return path


@pytest.fixture
def at_page(studio, page):
    for job in studio.queue.jobs():
        studio.queue.delete(job.id, "deleted")
    page.goto(studio.url + "/")
    page.wait_for_selector("#size option >> nth=2", state="attached")
    return page


def waited(what):
    end = time.monotonic() + 30
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def made(studio, page):
    """The job that the button makes."""
    before = {job.id for job in studio.queue.jobs()}
    page.click("#go")
    (job,) = waited(lambda: [job for job in studio.queue.jobs() if job.id not in before])
    return job


def test_tokens_and_unknown_words_are_counted_as_one_types(studio, at_page):
    page = at_page
    page.fill("#prompt", "a red ball bouncs")
    page.wait_for_selector("#prompt-tokens:text('6 of 64 tokens · unknown: bouncs')")
    page.fill("#prompt", "ball " * 70)
    page.wait_for_selector("#prompt-tokens.wrong:text('more than the model takes')")
    page.click("#go")
    page.wait_for_selector("#prompt-wrong:text('the model takes 64')")
    assert studio.queue.jobs() == []
    page.fill("#prompt", "")
    waited(lambda: page.inner_text("#prompt-tokens") == "")


def test_fields_show_what_the_model_has_by_itself(studio, at_page):
    page = at_page
    shown = {name: page.get_attribute(f"#{name}", "placeholder")
             for name in ("seconds", "num_inference_steps", "guidance_scale")}  # fmt: skip
    assert shown == {"seconds": "2.125", "num_inference_steps": "8", "guidance_scale": "1.5"}
    page.click("#more summary")
    assert page.is_visible("#best_of")
    assert page.locator("#size option").all_inner_texts()[0] == "256 \u00d7 256"
    page.select_option("#size", "256x192")
    page.select_option("#model", "plain")
    page.wait_for_selector("#size option:text('64 \u00d7 64')", state="attached")
    assert page.is_hidden("#best_of") and page.input_value("#other-size") == "256x192"
    page.select_option("#size", "64x48")
    page.fill("#prompt", "a red ball")
    job = made(studio, page)
    assert job.settings["model"].endswith("/plain") and job.settings["width"] == 64
    for _ in range(2):
        page.reload()
        waited(lambda: page.input_value("#size") == "64x48")
        assert page.input_value("#model") == "plain" and page.is_visible("#guidance_scale")


def test_loras_have_a_slider_and_a_number_and_zero_is_off(studio, at_page):
    page = at_page
    page.fill("#prompt", "a red ball")
    page.click("#more summary")
    assert page.locator(".lora label").all_inner_texts() == ["ball", "<i>cube"]
    assert "lora" not in made(studio, page).settings
    slider, number = page.get_by_label("ball", exact=True), page.get_by_label("Strength of ball")
    number.fill("-0.5")
    assert slider.input_value() == "-0.5"
    slider.focus()
    page.keyboard.press("ArrowRight")
    assert number.input_value() == "-0.45"
    job = made(studio, page)
    assert [Path(path).name for path in job.settings["lora"]] == ["ball.safetensors"]
    assert job.settings["lora_scale"] == [-0.45]
    number.fill("9")
    page.click("#go")
    page.wait_for_selector("#lora-wrong:text('from -2 to 2')")
    page.reload()
    page.wait_for_selector(".lora")
    waited(lambda: number.input_value() == "9")


def test_a_film_of_ours_gives_its_settings_or_is_gone_on_from(studio, at_page, film, tmp_path):
    page = at_page
    page.set_input_files("#file", film)
    page.click("#offer >> text=Take its settings")
    waited(lambda: page.input_value("#prompt") == "a green ring")
    waited(lambda: page.input_value("#seed") == "8")
    assert page.input_value("#num_inference_steps") == "2"
    again = made(studio, page)
    assert {**again.settings, "model": "t2v-tiny"} == {
        **{"model": "t2v-tiny", "seed": 8, "num_inference_steps": 2},
        **{"width": 64, "height": 48, "upscale": 1, "duration": 2.125, "guidance_scale": 1.5},
    }
    page.set_input_files("#file", film)
    page.click("#offer >> text=Go on from it")
    page.wait_for_selector("#files video")
    assert page.inner_text("#files option >> nth=0") == "Go on from it"
    assert page.input_value("#seconds") == "2.125"  # of the settings; without them more is made
    page.fill("#seconds", "")
    waited(lambda: page.get_attribute("#seconds", "placeholder") == "4.25")
    on = made(studio, page)
    assert on.settings["duration"] == 4.25
    assert on.settings["video"].startswith(str(studio.folder / "uploads"))
    page.fill("#strength", "0.4")
    assert page.get_attribute("#seconds", "placeholder") == "2.125"
    assert page.inner_text("#files option >> nth=0") == "Change it"
    assert made(studio, page).settings["strength"] == 0.4
    page.click("#files >> text=Remove")
    assert page.is_hidden("#strength")
    assert "strength" not in made(studio, page).settings
    page.goto(f"{studio.url}/?from=video_{on.id}")  # as the page of a video leads here
    page.wait_for_selector("#files video")
    assert page.url == studio.url + "/"


def test_what_is_no_picture_is_refused_beside_the_files(studio, at_page, tmp_path):
    page = at_page
    page.fill("#prompt", "a red ball")
    (tmp_path / "notes.txt").write_text("no picture")
    page.set_input_files("#file", tmp_path / "notes.txt")
    page.wait_for_selector("#files-wrong:text('notes.txt is no picture or clip')")
    empty = {"name": "empty.mp4", "mimeType": "video/mp4", "buffer": b"\0\0\0\x18ftypmp42"}
    page.set_input_files("#file", empty)  # a container of nothing: the server finds that out
    page.wait_for_selector("#files li")
    page.click("#go")
    page.wait_for_selector("#files-wrong:text('can be read')")
    assert studio.queue.jobs() == []
