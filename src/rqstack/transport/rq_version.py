"""Refuses other versions of RQ than the one whose keys this package writes: they change between minor versions."""

from __future__ import annotations

from rq.version import VERSION

from rqstack.errors import RqstackError

SUPPORTED = "3.0"
"""RQ's minor series, as `pyproject.toml` has it."""


def check_rq_version() -> None:
    """Check that the installed RQ is of the supported series. Called where producers and workers first import RQ.

    Raises:
        RqstackError: It is another one.
    """
    if VERSION.split(".")[:2] != SUPPORTED.split("."):
        raise RqstackError(
            f"RQ {VERSION} is installed, and rqstack works with RQ {SUPPORTED} only. Install that: "
            f"pip install 'rq=={SUPPORTED}.*'"
        )
