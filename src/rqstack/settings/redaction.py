"""Hides passwords in URLs that are shown."""

from __future__ import annotations

import re
from typing import Any

_BEFORE_HOST = re.compile(r"^(\w+:/*)?.*@", re.DOTALL)
_IN_QUERY = re.compile(r"(\w*password=)[^&;#\s]*", re.IGNORECASE)


def safe_url(url: str) -> str:
    """A URL, or text such as host:port:db, as it may be shown: without its password."""
    url = _IN_QUERY.sub(r"\1***", url)
    # The last @: a password may contain others, and slashes, where it should not.
    head, at, rest = url.rpartition("@")
    # The first ://, for the same reason.
    scheme, separator, credentials = head.partition("://") if "://" in head else ("", "", head)
    if not at or ":" not in credentials:
        return url
    return f"{scheme}{separator}{credentials.partition(':')[0]}:***@{rest}"


def safe_repr(value: Any) -> str:
    """The `repr` of a value that is wrong, so that nobody knows what it has where: nothing before an @ is shown."""
    if isinstance(value, str):
        return repr(_BEFORE_HOST.sub(r"\1***@", _IN_QUERY.sub(r"\1***", value)))
    return f"[{', '.join(map(safe_repr, value))}]" if isinstance(value, list | tuple) else repr(value)
