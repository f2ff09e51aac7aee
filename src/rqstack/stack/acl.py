"""The Redis users of the stack: one per role with the least privileges that the role needs. The default user is off.

The rules allow the commands that RQ 3.0, rq-dashboard and this package send. They work with Redis 6.2 to 8: they use
no selectors, and no commands that are newer than 6.2.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256

from rqstack.errors import SettingsError
from rqstack.transport.keys import PREFIX, STACK

KEYS = f"resetkeys ~{PREFIX}:* ~{STACK}*"
CHANNELS = f"resetchannels &{PREFIX}:pubsub:* &{STACK}*"

# `@dangerous` contains FLUSHALL, CONFIG, KEYS, DEBUG and the like; `@scripting` also SCRIPT FLUSH and functions. In
# Redis 6.2 `@dangerous` contains all CLIENT subcommands, so those that clients need are allowed again.
_SAFE = "-@dangerous -@admin -@scripting"
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
ROLES = tuple(RULES)


def users_acl(passwords: Mapping[str, str]) -> str:
    """The text of Redis's ACL file, with one line per user.

    Args:
        passwords: The plaintext password of each of `ROLES`. The file contains only their SHA-256.

    Raises:
        SettingsError: A role has no password, or an empty one.
    """
    missing = [role for role in ROLES if not passwords.get(role)]
    if missing:
        names = ", ".join(f"REDIS_{role.upper()}_PASSWORD" for role in missing)
        raise SettingsError(f"{names}: no value. Set it in .env, or remove the line and run `make setup`.")
    # The default user is off, so no client can use it. But Redis replays its append-only file as this user, and skips
    # transactions that it may not run: without these rights a restart loses jobs.
    lines = ["user default off resetpass ~* &* +@all"]
    for role, rules in RULES.items():
        digest = sha256(passwords[role].encode()).hexdigest()
        lines.append(f"user {role} on resetpass #{digest} -@all {rules}")
    return "\n".join(lines) + "\n"
