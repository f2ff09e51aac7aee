"""Why a page cannot be counted."""

from __future__ import annotations


class PageError(Exception):
    """A page cannot be counted; the message is one sentence of why, for the person who asked."""
