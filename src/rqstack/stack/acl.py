"""The Redis users of the stack: one a role, each with the least that its role needs; the default user is off.

What each role needs was taken from the commands that RQ 2.12, rq-dashboard and this package send, and holds for
Redis 6.2 to 8: no selectors, no command that 6.2 does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from rqstack.errors import SettingsError

KEYS = "resetkeys ~rq:* ~rqstack:*"
CHANNELS = "resetchannels &rq:pubsub:* &rqstack:*"

# `@dangerous` holds FLUSHALL, CONFIG, KEYS, DEBUG and the like, `@scripting` also SCRIPT FLUSH and the functions; in
# Redis 6.2 the first takes all of CLIENT with it, so what clients say about themselves is named again.
_SAFE = "-@dangerous -@admin -@scripting"
_CONNECTION = "+@connection +@transaction"
_CLIENT = "+client|setname +client|getname +client|id +client|info +info +time"
_SCRIPTS = "+eval +evalsha +script|load +script|exists"

RULES: Mapping[str, str] = {
    # The commands that a person types, `doctor` and back-ups included.
    "admin": "~* &* +@all",
    # Enqueues, reads results (XREAD waits for one), cancels, requeues, tells workers to stop a job; also the jobs page.
    "producer": (
        f"{KEYS} {CHANNELS} +@read +@write {_CONNECTION} -@blocking {_SAFE} {_CLIENT} {_SCRIPTS} +xread +publish"
    ),
    # Claims and finishes jobs, listens for commands, ends the blocking reads of its own idle connections.
    "worker": (
        f"{KEYS} {CHANNELS} +@read +@write +@pubsub {_CONNECTION} {_SAFE} {_CLIENT} {_SCRIPTS}"
        " +client|list +client|unblock"
    ),
    # Reads. rq-exporter's `Worker.all()` removes dead workers from RQ's index: its image brings a class that does not.
    "exporter": (f"{KEYS} resetchannels +@read {_CONNECTION} {_SAFE} {_CLIENT} +client|list +slowlog|len"),
}
ROLES = tuple(RULES)


def users_acl(passwords: Mapping[str, str]) -> str:
    """The text of Redis's ACL file.

    Args:
        passwords: The password of each of `ROLES`, in clear. Only their SHA-256 is written.

    Returns:
        One line a user, the default user first and off.

    Raises:
        SettingsError: A role has no password, or an empty one.
    """
    missing = [role for role in ROLES if not passwords.get(role)]
    if missing:
        names = ", ".join(f"REDIS_{role.upper()}_PASSWORD" for role in missing)
        raise SettingsError(f"{names}: no value. Set it in .env, or remove the line and run `make setup`.")
    # Off, so nobody can be it; but Redis itself is, when it reads its append-only file at a start, and it leaves out
    # each transaction that this user may not run. Without these rights a restart loses jobs.
    lines = ["user default off resetpass ~* &* +@all"]
    for role, rules in RULES.items():
        digest = sha256(passwords[role].encode()).hexdigest()
        lines.append(f"user {role} on resetpass #{digest} -@all {rules}")
    return "\n".join(lines) + "\n"
