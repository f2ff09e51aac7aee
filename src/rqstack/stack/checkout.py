"""Tells whether a folder is a checkout of this project, which every command of the stack needs."""

from __future__ import annotations

from pathlib import Path

from rqstack.errors import RqstackError

NEEDED = ("Procfile", "services")
"""Parts of a checkout without which no stack starts."""


class NotACheckout(RqstackError):
    """The folder is not a checkout. The message says where to go."""


def check(root: Path) -> None:
    """Check the folder before anything is written to it.

    Raises:
        NotACheckout: It is not a checkout.
    """
    for name in NEEDED:
        if not (root / name).exists():
            raise NotACheckout(
                f"{root} is not a checkout of rqstack: it has no {name}. Go to the folder of your clone, or name it "
                "in RQSTACK_HOME."
            )
