"""Unsigned webhooks of one job share a time, whatever timeouts its record names; signed ones have their own."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from rqstack.settings import get_settings
from rqstack.worker.horse import webhooks


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that each request was given. Each takes all of them."""
    monkeypatch.setenv("RQSTACK_SECRET_KEY", "k" * 40)
    monkeypatch.setenv("RQSTACK_WEBHOOK_HOSTS", "slow.example")
    get_settings.cache_clear()
    given: list[float] = []

    @contextmanager
    def open_url(url: str, *, seconds: float, **_: Any) -> Iterator[SimpleNamespace]:
        given.append(seconds)
        yield SimpleNamespace(status_code=200)

    monkeypatch.setattr(webhooks, "open_url", open_url)
    monkeypatch.setattr(webhooks, "time", SimpleNamespace(monotonic=lambda: sum(given)))
    return given


def send(timeout: int, many: int) -> None:
    hook = {"url": "http://slow.example:81/", "job_status": "failed", "timeout": timeout}
    job: Any = SimpleNamespace(id="job")
    webhooks.send_webhooks(job, json.dumps([hook] * many).encode(), None, "failed")


@pytest.mark.parametrize(("timeout", "expected"), [(10**9, [30]), (20, [20, 10]), (1, [1] * 20)])
def test_unsigned_webhooks_share_a_time(sent: list[float], timeout: int, expected: list[float]) -> None:
    send(timeout, many=20)
    assert sent == expected


def test_the_rest_is_logged(sent: list[float], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        send(30, many=2)
    assert "Job job: its other webhooks are not sent" in caplog.text


def test_signed_webhooks_have_the_time_that_they_name(sent: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "is_signed", lambda *_: True)
    send(3600, many=3)
    assert sent == [3600] * 3
