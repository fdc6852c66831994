"""Who may see the pages of a studio, and what they may load."""

import pytest

TOKEN = "a-token-of-these-tests"


@pytest.fixture(scope="module")
def studio(start):
    return start("devices=[]", token=TOKEN)


def test_the_token_is_given_once_and_opens_pages_and_the_endpoint(studio, page):
    page.goto(studio.url + "/")
    assert page.url == studio.url + "/login"
    page.fill("#token", "not-the-token-of-this-server")
    page.press("#token", "Enter")
    assert "not the token" in page.inner_text("[role=alert]")
    page.fill("#token", TOKEN)
    page.press("#token", "Enter")
    page.wait_for_url(studio.url + "/")
    assert page.request.get(studio.url + "/v1/videos").json()["data"] == []
    (cookie,) = page.context.cookies()
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    assert TOKEN not in cookie["value"]


def test_without_it_nothing_but_the_entrance_is_seen(studio, page):
    for path, status in {"/v1/videos": 401, "/": 401, "/static/../v1/videos": 401}.items():
        assert page.request.get(studio.url + path).status == status, path
    answer = page.request.get(studio.url + "/", headers={"Accept": "text/html"})
    assert "script-src 'self'" in answer.headers["content-security-policy"]
    assert "unsafe" not in answer.headers["content-security-policy"]
