"""The sessions, devices and addresses of the jobs page's login."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from rq.job import Job
from rq.serializers import DefaultSerializer
from rq_dashboard import web

from rqstack.api import login
from rqstack.api.jobs_page import create_app
from rqstack.api.login import Devices, Sessions, network
from rqstack.settings import Settings, StackSettings

HOUR = 3600.0


class Clock:
    """A clock that is set by hand."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(login, "time", made)
    return made


def test_a_session_ends_after_twelve_hours_however_much_it_is_used(clock: Clock) -> None:
    sessions = Sessions()
    name = sessions.begin()
    for _ in range(11):
        clock.now += HOUR
        assert sessions.is_alive(name)
    clock.now += HOUR - 1
    assert sessions.is_alive(name)
    clock.now += 2
    assert not sessions.is_alive(name)


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    """A browser on the jobs page, whose login is me and word."""
    # The page changes these in its process.
    for place, name in ((DefaultSerializer, "loads"), (DefaultSerializer, "dumps"), (Job, "dependency_ids")):
        monkeypatch.setattr(place, name, vars(place)[name])
    for name in ("Queue", "from_url", "serialize_current_job"):
        monkeypatch.setattr(web, name, getattr(web, name))
    stack = StackSettings(dashboard_password="word", dashboard_username="me")  # type: ignore[arg-type]
    return create_app(Settings(), stack).test_client()


def test_a_used_session_ends_over_http_too(clock: Clock, page: FlaskClient) -> None:
    browser = page
    assert browser.post("/login", data={"username": "me", "password": "word"}).status_code == 302
    for _ in range(11):
        clock.now += HOUR
        answer = browser.get("/logout")
        assert answer.status_code == 405, "logged in"
        assert "Set-Cookie" not in answer.headers, "the cookie is not renewed"
    clock.now += HOUR + 1
    assert browser.get("/logout").status_code == 401


def test_sessions_are_bounded_and_end_when_told(clock: Clock) -> None:
    sessions = Sessions(most=2)
    first, second, third = (sessions.begin() for _ in range(3))
    assert [sessions.is_alive(each) for each in (first, second, third)] == [False, True, True]
    sessions.end(second)
    sessions.end(second)
    assert [sessions.is_alive(each) for each in (second, third, None, 7, "x")] == [False, True, False, False, False]


DEVICES = Devices("word")


@given(st.text())
def test_no_other_token_is_a_device(token: str) -> None:
    assert DEVICES.name(token) is None


def test_a_token_is_good_for_one_password() -> None:
    token = DEVICES.make()
    assert DEVICES.name(token)
    assert Devices("word").name(token)
    assert Devices("other").name(token) is None
    assert DEVICES.name(token + "0") is None


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::9", "2001:db8:1:2::/64"),
        ("a socket", "a socket"),
    ],
)
def test_what_counts_as_one_address(address: str, expected: str) -> None:
    assert network(address) == expected


@pytest.mark.parametrize("origin", ["http://[", "null", "http://elsewhere.example", "http://localhost:1", ""])
def test_an_origin_that_is_not_the_page_is_refused(page: FlaskClient, origin: str) -> None:
    assert (
        page.post("/login", data={"username": "me", "password": "word"}, headers={"Origin": origin}).status_code == 403
    )


def test_the_origin_of_the_page_is_accepted(page: FlaskClient) -> None:
    answer = page.post("/login", data={"username": "me", "password": "word"}, headers={"Origin": "http://localhost"})
    assert answer.status_code == 302


def test_pages_of_several_stacks_keep_their_sessions_apart(page: FlaskClient) -> None:
    """Browsers send a cookie to each port of its host."""
    stack = StackSettings(dashboard_password="word", dashboard_username="me", dashboard_port=9999)  # type: ignore[arg-type]
    other = create_app(Settings(), stack).test_client()
    for browser in (page, other):
        assert browser.post("/login", data={"username": "me", "password": "word"}).status_code == 302
    assert page.get_cookie("rqstack_jobs_9181") is not None
    assert other.get_cookie("rqstack_jobs_9999") is not None
    assert other.get_cookie("rqstack_jobs_9181") is None
