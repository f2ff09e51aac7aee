"""Text that a terminal may show: what comes from Redis may hold sequences that clear the screen or forge lines."""

from __future__ import annotations

import re

# Controls but newline and tab; what changes the direction or the line of a text; halves of a character.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""The text with control characters as escapes, such as \u001b. Inside of JSON strings they mean the same."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
