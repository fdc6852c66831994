"""Who may see the pages of a studio, and what they may load."""

import pytest

from t2v.studio.login import own

TOKEN = "a-token-of-these-tests"


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]", token=TOKEN)


def test_the_token_is_given_once_and_opens_pages_and_the_endpoint(studio, page):
    page.goto(studio.url + "/gallery?q=red+ball")
    assert page.url.startswith(studio.url + "/login?next=")
    page.fill("#token", "not-the-token-of-this-server")
    page.press("#token", "Enter")
    assert "not the token" in page.inner_text("[role=alert]")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_url(studio.url + "/gallery?q=red+ball")
    assert page.request.get(studio.url + "/v1/videos").json()["data"] == []
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]
    assert cookie["name"].endswith(studio.url.rpartition(":")[2])  # of a host all ports share them


@pytest.mark.parametrize(
    "address",
    ["//example.org", "https://example.org", "/\\example.org", "/\t/example.org", "javascript:1"],
)
def test_the_entrance_leads_nowhere_else(address):
    assert own(address) == "/"
    assert own("/videos/video_1?next=%2F#") == "/"
    assert own("/compare?ids=video_1,video_2") == "/compare?ids=video_1,video_2"


def test_an_address_without_a_page_is_told_on_one(studio, page):
    asked = {"Authorization": f"Bearer {TOKEN}"}
    for accept, kind in (("text/html", "text/html"), ("*/*", "application/json")):
        answer = page.request.get(studio.url + "/nope", headers=asked | {"Accept": accept})
        assert (answer.status, answer.headers["content-type"].partition(";")[0]) == (404, kind)
    answer = page.request.get(studio.url + "/v1/prompts", headers=asked)
    assert (answer.status, answer.json()["error"]["type"]) == (405, "invalid_request_error")


def test_without_it_nothing_but_the_entrance_is_seen(studio, page):
    for path, status in {"/v1/videos": 401, "/": 401, "/static/../v1/videos": 401}.items():
        assert page.request.get(studio.url + path).status == status, path
    answer = page.request.get(studio.url + "/", headers={"Accept": "text/html"})
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
