"""Which servers are warned of."""

from __future__ import annotations

import pytest

from rqstack.transport.redis_version import lua_warning


@pytest.mark.parametrize("version", ["6.2.20", "6.2.21", "7.2.11", "7.4.6", "7.4.10", "8.0.4", "8.2.2", "9.0.0"])
def test_fixed_releases_of_redis(version: str) -> None:
    assert lua_warning({"redis_version": version}) == ""


@pytest.mark.parametrize("version", ["6.0.16", "6.2.14", "6.2.19", "7.0.15", "7.2.4", "7.4.5", "8.0.3", "8.2.1"])
def test_older_releases_of_redis(version: str) -> None:
    said = lua_warning({"redis_version": version})
    assert said.startswith(f"Redis {version} has known vulnerabilities")
    assert "8.2.2" in said
    assert version not in said.partition("fix them:")[2]


def test_valkey_is_judged_by_its_own_number() -> None:
    assert lua_warning({"redis_version": "7.2.4", "valkey_version": "8.1.4"}) == ""
    assert lua_warning({"redis_version": "7.2.4", "valkey_version": "9.0.1"}) == ""
    assert "Valkey 8.1.3" in lua_warning({"redis_version": "7.2.4", "valkey_version": "8.1.3"})


@pytest.mark.parametrize("info", [{}, {"redis_version": "unknown"}])
def test_what_is_no_version_is_not_warned_of(info: dict[str, str]) -> None:
    assert lua_warning(info) == ""
