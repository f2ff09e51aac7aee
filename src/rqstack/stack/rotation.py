"""Changes the signing key and the Redis passwords while the stack runs.

What is new is accepted everywhere before it is used anywhere, and what was before is accepted until `retire`. Processes
read a changed file when they meet a signature that they do not know, and before they connect to Redis.
"""

from __future__ import annotations

import contextlib
import zlib
from itertools import islice
from pathlib import Path

from rqstack.errors import PayloadTooLarge, RqstackError, SettingsError
from rqstack.security.bounded import inflate, max_payload
from rqstack.security.keyring import KeyRing
from rqstack.security.signing import is_signed
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.sources import Sources, parse_env
from rqstack.stack import env
from rqstack.stack.acl import PASSWORDS, digest
from rqstack.stack.redis_users import RedisUsers
from rqstack.transport import keys
from rqstack.transport.client import connect

_CHUNK = 500
"""Records that are read at once."""

SIGNING = "RQSTACK_SECRET_KEY"


def rotate_signing_key(root: Path) -> None:
    """Sign by a new key from now on. What older keys have signed is still accepted.

    Raises:
        SettingsError: The key is not set in `.env`, or cannot be written there again.
    """
    _check_is_in_env_file(root, SIGNING)
    before = load(Settings).secret_keys()
    _write(root, {SIGNING: ",".join([env.new_secret(), *(key.decode() for key in before)])})


def rotate_redis_passwords(root: Path) -> None:
    """Give each Redis user a new password. The ones before are still accepted.

    Raises:
        SettingsError: A password is not set in `.env`.
        RqstackError: The stack does not run, or its Redis cannot be reached.
    """
    for name in PASSWORDS.values():
        _check_is_in_env_file(root, name)
    users = RedisUsers(root)
    if not users.url():
        raise RqstackError("The stack does not run, so Redis cannot be told new passwords. Start it first: make start")
    before = env.secret_values(load(StackSettings))
    new = {name: env.new_secret() for name in PASSWORDS.values()}
    old = env.old_passwords(root)
    kept = {role: [digest(before[name]), *old.get(role, ())] for role, name in PASSWORDS.items()}
    # Redis first accepts both: whoever is interrupted here has changed nothing for anybody.
    env.write_old_passwords(root, {role: [digest(new[name]), *kept[role]] for role, name in PASSWORDS.items()})
    try:
        users.apply()
    except BaseException:
        env.write_old_passwords(root, old)
        raise
    _write(root, new)
    env.write_old_passwords(root, kept)
    env.setup(root)
    users.apply()


def count_signed_by_old_keys() -> int:
    """The number of jobs and cron entries in Redis whose arguments an old key has signed, or nobody.

    Raises:
        redis.exceptions.RedisError: Redis cannot be reached.
    """
    settings = load(Settings)
    current = KeyRing(settings.secret_keys()[:1])
    count = 0
    with connect(settings) as client:
        for prefix in (keys.JOB, keys.CRON_JOB):
            names = client.scan_iter(match=f"{_escaped(prefix)}*", count=_CHUNK)
            while chunk := list(islice(names, _CHUNK)):
                with client.pipeline(transaction=False) as pipeline:
                    for name in chunk:
                        pipeline.hget(name, "data")
                    found = pipeline.execute(raise_on_error=False)
                count += sum(isinstance(data, bytes) and not _is_signed(data, current) for data in found)
    return count


def _is_signed(data: bytes, ring: KeyRing) -> bool:
    with contextlib.suppress(zlib.error):  # RQ reads payloads that are not compressed, too
        try:
            data = inflate(data, max_payload())
        except PayloadTooLarge:
            return False  # workers refuse it, whatever its signature
    return is_signed(data, ring)


def _escaped(prefix: str) -> str:
    return "".join(f"\\{char}" if char in "*?[]\\" else char for char in prefix)


def retire_signing_keys(root: Path) -> int:
    """Accept what the current key has signed, and nothing else. Returns the number of keys that were taken away.

    Running processes accept them until they start again.

    Raises:
        SettingsError: The key is not set in `.env`.
    """
    _check_is_in_env_file(root, SIGNING)
    known = load(Settings).secret_keys()
    if len(known) > 1:
        _write(root, {SIGNING: known[0].decode()})
    return max(len(known) - 1, 0)


def retire_redis_passwords(root: Path) -> int:
    """Accept the current Redis passwords, and no others. Returns the number of passwords that were taken away.

    Raises:
        RqstackError: The running Redis cannot be reached.
    """
    old = env.old_passwords(root)
    users = RedisUsers(root)
    env.write_old_passwords(root, {})
    env.setup(root)
    users.apply()
    return sum(map(len, old.values()))


def _check_is_in_env_file(root: Path, name: str) -> None:
    found = Sources().find(name, secret=True)
    if found is None:
        raise SettingsError(f"{name} has no value. Set it in {root / '.env'}, or run `make setup` for a new .env.")
    if found[1] != ".env":
        raise SettingsError(f"{name} comes from {found[1]}, not from {root / '.env'}. Change it there by hand.")


def _write(root: Path, values: dict[str, str]) -> None:
    env.set_values(root, {name: _as_written(root, name, value) for name, value in values.items()})
    env.setup(root)


def _as_written(root: Path, name: str, value: str) -> str:
    """A value as it stands in `.env`: a key of the user's may have characters that need quotation marks.

    Raises:
        SettingsError: It would be read as another value.
    """
    for text in (value, f"'{value}'"):
        with contextlib.suppress(SettingsError):
            if parse_env(f"{name}={text}", root / ".env") == {name: value}:
                return text
    raise SettingsError(
        f"{name} has characters that cannot be written to {root / '.env'} again. Put a new value before it there by "
        "hand: new,old."
    )
