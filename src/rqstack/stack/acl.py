"""The Redis users of the stack: one per role with the least privileges that the role needs. The default user is off.

The rules allow the commands that RQ 3.0, rq-dashboard and this package send. They work with Redis 6.2 to 8: they use
no selectors, and no commands that are newer than 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256

from rqstack.errors import SettingsError
from rqstack.transport.keys import PREFIX, STACK

KEYS = f"resetkeys ~{PREFIX}:* ~{STACK}*"
CHANNELS = f"resetchannels &{PREFIX}:pubsub:* &{STACK}*"

# `@dangerous` contains FLUSHALL, CONFIG, KEYS, DEBUG and the like; `@scripting` also SCRIPT FLUSH and functions. In
# Redis 6.2 `@dangerous` contains all CLIENT subcommands, so those that clients need are allowed again. SCAN, RANDOMKEY
# and DBSIZE show keys that a user may not read; neither RQ nor this package needs them.
_SAFE = "-@dangerous -@admin -@scripting -scan -randomkey -dbsize"
_CONNECTION = "+@connection +@transaction"
_CLIENT = "+client|setname +client|getname +client|id +client|info +info +time"
_SCRIPTS = "+eval +evalsha +script|load +script|exists"

RULES: Mapping[str, str] = {
    # Commands of operators.
    "admin": "~* &* +@all",
    # Enqueues, reads results (XREAD waits for one), cancels, requeues, sends commands to workers. Also the jobs page.
    "producer": (
        f"{KEYS} {CHANNELS} +@read +@write {_CONNECTION} -@blocking {_SAFE} {_CLIENT} {_SCRIPTS} +xread +publish"
    ),
    # Claims and finishes jobs, listens for commands, unblocks its own idle connections.
    "worker": (
        f"{KEYS} {CHANNELS} +@read +@write +@pubsub {_CONNECTION} {_SAFE} {_CLIENT} {_SCRIPTS}"
        " +client|list +client|unblock"
    ),
    # Reads only: see `rqstack.metrics.rq_exporter.ReadOnlyWorker`.
    "exporter": (f"{KEYS} resetchannels +@read {_CONNECTION} {_SAFE} {_CLIENT} +client|list +slowlog|len"),
}
PASSWORDS: Mapping[str, str] = {role: f"REDIS_{role.upper()}_PASSWORD" for role in RULES}
"""The setting of each role's password."""


def digest(password: str) -> str:
    """How Redis stores a password: its SHA-256, in hexadecimal digits."""
    return sha256(password.encode()).hexdigest()


def password_digests(passwords: Mapping[str, str], old: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """The digests of all passwords that each role may log in with, the current one first.

    Args:
        passwords: The current password of each role.
        old: Digests of passwords that are still accepted, by role.

    Raises:
        SettingsError: A role has no password, or an empty one.
    """
    missing = [name for role, name in PASSWORDS.items() if not passwords.get(role)]
    if missing:
        raise SettingsError(f"{', '.join(missing)}: no value. Set it in .env, or remove the line and run `make setup`.")
    return {role: list(dict.fromkeys((digest(passwords[role]), *old.get(role, ())))) for role in RULES}


def users_acl(passwords: Mapping[str, str], old: Mapping[str, Sequence[str]] | None = None) -> str:
    """The text of Redis's ACL file, with one line per user. It contains digests, and no password.

    Args:
        passwords: As for `password_digests`.
        old: As for `password_digests`. Default: none.

    Raises:
        SettingsError: A role has no password, or an empty one.
    """
    digests = password_digests(passwords, old or {})
    # The default user is off, so no client can use it. But Redis replays its append-only file as this user, and skips
    # transactions that it may not run: without these rights a restart loses jobs.
    lines = ["user default off resetpass ~* &* +@all"]
    for role, rules in RULES.items():
        accepted = " ".join(f"#{each}" for each in digests[role])
        lines.append(f"user {role} on resetpass {accepted} -@all {rules}")
    return "\n".join(lines) + "\n"
