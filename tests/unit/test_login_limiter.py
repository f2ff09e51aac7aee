"""The limiter of login attempts, with a controlled clock."""

from __future__ import annotations

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from rqstack.api.login_limiter import LoginLimiter

steps = st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 30), st.booleans()), max_size=60)


@given(steps)
def test_no_address_tries_more_often_than_it_may(moves: list[tuple[str, float, bool]]) -> None:
    now = 0.0
    limiter = LoginLimiter(3, 60, clock=lambda: now)
    tried: defaultdict[str, list[float]] = defaultdict(list)
    for address, later, right in moves:
        now += later
        recent = [moment for moment in tried[address] if moment > now - 60]
        wait = limiter.acquire(address)
        assert (wait == 0) == (len(recent) < 3), "each address by itself, and no longer than it must"
        if wait:
            assert wait == recent[0] + 60 - now
            continue
        tried[address].append(now)
        if right:
            limiter.reset(address)
            tried[address].clear()


def test_it_remembers_no_more_addresses_than_it_is_told() -> None:
    limiter = LoginLimiter(1, 60, max_addresses=2, clock=lambda: 0.0)
    assert [limiter.acquire(address) for address in ("a", "b", "c")] == [0, 0, 0]
    assert limiter.acquire("c") == 60
    assert limiter.acquire("b") == 60
    assert limiter.acquire("a") == 0
