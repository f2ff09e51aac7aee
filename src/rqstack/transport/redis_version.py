"""Tells which Redis servers have known vulnerabilities in their Lua scripting, fixed in later releases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FIXED = {
    "Redis": ((6, 2, 20), (7, 2, 11), (7, 4, 6), (8, 0, 4), (8, 2, 2)),
    "Valkey": ((7, 2, 11), (8, 0, 6), (8, 1, 4)),
}
"""The first release of each series without CVE-2025-49844, -46817, -46818 and -46819 and older ones, in order. Later
series have none of them; series between these got no fix."""


def lua_warning(info: Mapping[Any, Any]) -> str:
    """One sentence about a server with known vulnerabilities in its Lua scripting; "" for one without.

    Args:
        info: What `INFO server` says.
    """
    name = "Valkey" if "valkey_version" in info else "Redis"
    text = str(info.get("valkey_version") or info.get("redis_version") or "")
    try:
        version = tuple(int(part) for part in text.split(".")[:3])
    except ValueError:
        return ""
    fixed = FIXED[name]
    series = [each for each in fixed if each[:2] == version[:2]]
    if version >= (series[0] if series else fixed[-1]):
        return ""
    releases = ", ".join(".".join(map(str, each)) for each in fixed if each >= version)
    return (
        f"{name} {text} has known vulnerabilities in its Lua scripting: a user who may run scripts can run code in the "
        f"server. Releases that fix them: {releases} and later. A distribution may have backported the fixes."
    )
