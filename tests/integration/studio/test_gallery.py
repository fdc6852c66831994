"""The gallery and the page of one video, in a browser."""

import io
import zipfile

import av
import pytest
from studio.made_up import FRAMES, finished, until

HOSTILE = '<script>document.title="got in"</script><img src=x onerror=alert(1)>'


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]")


def card(page, id):
    return page.locator(f".film[data-id={id}]")


def frames_of(film):
    """The frames of the bytes of an mp4."""
    with av.open(io.BytesIO(film)) as container:
        return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]


def count(page):
    return page.locator(".film:not(.leaving)").count()


def test_videos_are_found_played_and_deleted_unless_that_is_taken_back(studio, page):
    ball = finished(studio.queue, "a red ball", age=2)
    cube = finished(studio.queue, HOSTILE, age=1)
    page.goto(studio.url + "/gallery?q=RED")
    assert [each.get_attribute("data-id") for each in page.locator(".film").all()] == [ball]
    page.goto(studio.url + "/gallery")
    assert card(page, cube).locator(".prompt").inner_text() == HOSTILE
    card(page, ball).locator(".poster").focus()
    until(page, "document.querySelector('.film video')?.currentTime > 0")
    page.keyboard.press("Delete")
    assert count(page) == 1
    page.click("#undo button")
    assert count(page) == 2
    card(page, ball).locator(".poster").focus()
    page.keyboard.press("Delete")
    page.goto(studio.url + f"/videos/{cube}")  # who leaves the page has not taken it back
    assert page.title() != "got in"
    assert page.locator("h1").inner_text() == HOSTILE
    until(page, "!document.querySelector('time').textContent.endsWith('Z')")  # scripts have run
    until(page, "!film.paused && film.currentTime > 0")
    page.keyboard.press(".")
    page.keyboard.press(".")
    until(page, "film.paused")
    until(page, "Math.abs(film.currentTime * 8 % 1 - 0.5) < 0.01")
    assert page.request.get(studio.url + f"/v1/videos/{ball}").status == 404


@pytest.mark.slow
def test_several_are_selected_by_mouse_and_keys_and_downloaded(studio, page):
    ids = [finished(studio.queue, f"number {number}", age=10 + number) for number in range(4)]
    page.goto(studio.url + "/gallery?q=number")
    page.locator(".pick input").nth(0).click()
    page.locator(".pick input").nth(2).click(modifiers=["Shift"])
    assert page.inner_text("#count") == "3 selected"
    page.keyboard.press("Escape")
    assert page.locator("#bar").is_hidden()
    page.locator(".poster").first.focus()
    page.keyboard.press("x")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("x")
    assert page.inner_text("#count") == "2 selected"
    with page.expect_download() as got:
        page.click("[name=download]")
    with zipfile.ZipFile(got.value.path()) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        assert [name.startswith(f"number-{n}-") for n, name in enumerate(names)] == [True, True]
        films = [archive.read(name) for name in names]
    for id, film in zip(ids, films, strict=False):
        assert page.request.get(studio.url + f"/v1/videos/{id}/content").body() == film
    page.click("[name=compare]")
    page.wait_for_url(lambda url: f"ids={ids[0]}" in url and ids[1] in url)


@pytest.mark.slow
def test_a_deletion_is_done_after_ten_seconds(studio, page):
    id = finished(studio.queue, "short lived", age=30)
    page.goto(studio.url + "/gallery?q=short")
    page.locator(".poster").focus()
    page.keyboard.press("Delete")
    page.wait_for_timeout(7_000)
    assert page.request.get(studio.url + f"/v1/videos/{id}").ok
    page.wait_for_timeout(5_000)
    assert page.request.get(studio.url + f"/v1/videos/{id}").status == 404
    assert "No video" in page.inner_text("main")


@pytest.mark.slow
def test_one_video_has_its_settings_star_and_neighbours(studio, page):
    old = finished(studio.queue, "the old one", age=1e6 + 1, num_inference_steps=7)
    new = finished(studio.queue, "the new one", age=1e6)
    page.goto(studio.url + f"/videos/{new}")
    page.keyboard.press("ArrowRight")
    page.wait_for_url(f"**/videos/{old}")
    assert "Steps\t7" in page.inner_text("table")
    page.click("#star")
    page.wait_for_selector("#star[aria-pressed=true]")
    page.goto(studio.url + "/gallery?starred")
    assert [each.get_attribute("data-id") for each in page.locator(".film").all()] == [old]
    page.goto(studio.url + f"/videos/{old}")
    page.keyboard.press("ArrowLeft")
    page.wait_for_url(f"**/videos/{new}")
    recipe = page.request.get(studio.url + f"/videos/{old}/recipe")
    assert recipe.json()["settings"]["num_frames"] == FRAMES
    assert str(studio.folder) not in recipe.text()
    assert str(studio.folder) not in page.content()
    page.click("#delete")
    page.click("#undo button")
    assert page.locator("#undo").is_hidden()
    assert page.request.get(studio.url + f"/videos/{new}").ok
    page.click("#delete")
    page.keyboard.press("ArrowRight")  # who leaves has not taken it back
    page.wait_for_url(f"**/videos/{old}")
    assert page.request.get(studio.url + f"/videos/{new}").status == 404


@pytest.mark.slow
def test_one_video_leads_to_the_form_to_a_clip_and_to_a_comparison(studio, page):
    one = finished(studio.queue, "led from", age=2e6 + 1, num_inference_steps=7)
    two = finished(studio.queue, "led to", age=2e6)
    page.goto(studio.url + f"/videos/{one}")
    page.click("text=Edit and make")
    until(page, "document.getElementById('prompt').value == 'led from'")
    until(page, "document.getElementById('num_inference_steps').value == '7'")
    page.goto(studio.url + f"/videos/{one}")
    page.click("text=Go on from here")
    page.wait_for_selector("#files li")
    page.goto(studio.url + f"/videos/{one}")
    page.click("text=Compare with")
    page.fill("#q", "led")
    page.press("#q", "Enter")
    page.click(f"[data-id={two}] .prompt a")
    page.wait_for_url(f"**/compare?ids={one},{two}")


@pytest.mark.slow
def test_on_a_phone_a_tap_plays_and_another_opens_and_nothing_is_wider_than_it(studio, browser):
    one, two = (finished(studio.queue, f"tapped {'word' * 60}", age=4e6 + n) for n in range(2))
    context = browser.new_context(
        viewport={"width": 360, "height": 700}, has_touch=True, is_mobile=True
    )
    page = context.new_page()
    page.goto(studio.url + "/gallery?q=tapped")
    page.tap(f"[data-id={one}] .poster")
    until(page, f"document.querySelector('[data-id={one}] video').currentTime > 0")
    page.tap(f"[data-id={two}] .poster")
    until(page, f"!document.querySelector('[data-id={one}] video')")
    page.tap(f"[data-id={two}] .poster")
    page.wait_for_url(f"**/videos/{two}")
    for path in ("/gallery", f"/videos/{one}", f"/compare?ids={one},{two}", "/story"):
        page.goto(studio.url + path)
        page.wait_for_timeout(300)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, path
    context.close()


@pytest.mark.slow
def test_a_damaged_file_hides_no_other(studio, page):
    good, bad = (finished(studio.queue, "damaged or not", age=3e6 + n) for n in range(2))
    (studio.queue.folder / "videos" / f"{bad.removeprefix('video_')}.mp4").write_bytes(b"no film")
    page.goto(studio.url + "/gallery?q=damaged")
    until(page, f"document.querySelector('[data-id={good}] img').naturalWidth > 0")
    page.goto(studio.url + f"/videos/{bad}")
    page.wait_for_selector("#said:has-text('cannot play')")
    page.goto(studio.url + f"/compare?ids={good},{bad}")
    page.wait_for_selector("#said:has-text('cannot be played')")


@pytest.mark.slow
def test_pages_say_when_the_server_is_away_and_come_back(start, page):
    studio = start("devices=[]")
    one = finished(studio.queue, "still here")
    for path in ("/gallery", f"/videos/{one}"):
        page.goto(studio.url + path)
        studio.kill()
        page.wait_for_selector("#said:has-text('does not answer')")
        studio.start()
        page.wait_for_selector("#said:has-text('does not answer')", state="detached")


def test_requests_that_cannot_be_answered_say_why(studio, page):
    for path, status, words in (
        ("/videos/video_1", 404, "no video"),
        ("/gallery?with=video_1", 404, "no video"),
        ("/gallery/download?ids=", 400, "None of these"),
        ("/gallery/download?ids=../../etc", 404, "no video"),
        ("/videos/x/recipe", 404, "no video"),
    ):
        answer = page.request.get(studio.url + path)
        assert answer.status == status, path
        assert words in answer.json()["error"]["message"]


@pytest.mark.slow
def test_what_is_made_shows_and_is_varied(start, page):
    studio = start()
    values = {"prompt": "a red ball bounces", "num_inference_steps": 2, "size": "64x64"}
    page.goto(studio.url + "/gallery")
    page.request.post(studio.url + "/v1/videos", data=values)
    page.wait_for_selector(".film", timeout=90_000)  # the empty gallery fills by itself
    page.click(".prompt a")
    page.wait_for_selector("#film")
    page.select_option("#seeds", "2")
    page.click("#vary button")
    until(page, "document.querySelectorAll('.results video').length == 2", 90)
    videos = page.request.get(studio.url + "/v1/videos").json()["data"]
    assert len({video["seed"] for video in videos}) == 3
    page.click("#again")
    until(page, "document.querySelectorAll('.results video').length == 3", 90)
    newest, *_, oldest = page.request.get(studio.url + "/v1/videos").json()["data"]
    assert newest["seed"] == oldest["seed"]
    films = [
        page.request.get(studio.url + f"/v1/videos/{video['id']}/content").body()
        for video in (newest, oldest)
    ]
    assert frames_of(films[0]) == frames_of(films[1])
