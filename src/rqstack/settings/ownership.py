"""Who may own the files that a process relies on. Imports next to nothing, because the health check uses it too."""

from __future__ import annotations

import os


def problem(status: os.stat_result) -> str:
    """Why a file or folder must not be relied on; "" if it may be.

    It must belong to this user or to root; for root also to the user who called sudo.

    Args:
        status: Of the file as opened, so that it cannot be replaced between the check and its use.
    """
    trusted = {os.geteuid(), 0}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdecimal():
        trusted.add(int(os.environ["SUDO_UID"]))
    if status.st_uid not in trusted:
        return f"it belongs to user {_name(status.st_uid)}, and this is user {_name(os.geteuid())}"
    return ""


def _name(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)
