"""Gives a running Redis the passwords of `.env`, so that they can change without a restart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from redis import Redis
from redis.exceptions import AuthenticationError, RedisError

from rqstack.errors import RqstackError
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.sources import Sources
from rqstack.stack import env
from rqstack.stack.acl import PASSWORDS, password_digests
from rqstack.transport.client import connect, explain


class RedisUsers:
    """The users of the running stack's Redis.

    Args:
        root: The home of the stack. The password of `admin` is taken from there now, before `env.setup` replaces it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known = _admin_password(root)

    def apply(self) -> bool:
        """Set the passwords of all users in the running Redis to those that the settings accept.

        Connections that are open stay. Commands find the new password of `admin` afterwards.

        Returns:
            False if no stack runs here.

        Raises:
            RqstackError: Redis cannot be reached, or knows neither the old nor the new password of `admin`.
        """
        url = self.url()
        if not url:
            return False
        values = env.read_stack_env(self._root)
        stack = env.secret_values(load(StackSettings))
        passwords = {role: stack.get(name, "") for role, name in PASSWORDS.items()}
        accepted = password_digests(passwords, env.old_passwords(self._root))
        self._set(url, [values.get("REDIS_PASSWORD", ""), self._known, passwords["admin"]], accepted)
        if values:
            env.update_stack_env({"REDIS_PASSWORD": passwords["admin"]}, self._root)
        return True

    def url(self) -> str:
        """Where the Redis of this stack is; "" if no stack runs here."""
        if url := env.read_stack_env(self._root).get("REDIS_URL"):
            return url
        # One that was started by compose alone has left no file.
        found = Sources().find("REDIS_URL")
        return str(found[0]) if found is not None and found[1] == "the stack" else ""

    def _set(self, url: str, candidates: Sequence[str], accepted: Mapping[str, Sequence[str]]) -> None:
        refused: Exception | None = None
        for password in dict.fromkeys(candidates):
            settings = load(Settings, redis_url=url, redis_username="admin", redis_password=password or None)
            with connect(settings, retries=1) as client:
                try:
                    _set_passwords(client, accepted)
                    return
                except AuthenticationError as error:
                    refused = error
                except RedisError as error:
                    raise explain(error, url) from error
        raise RqstackError(
            f"Redis at {url} accepts neither the password of admin in {self._root / '.env'} nor the one before "
            f"({refused}). Stop the stack and start it again: make stop, make start."
        )


def _set_passwords(client: Redis, accepted: Mapping[str, Sequence[str]]) -> None:
    with client.pipeline(transaction=True) as pipeline:
        for role, digests in accepted.items():
            pipeline.execute_command("ACL", "SETUSER", role, "resetpass", *(f"#{each}" for each in digests))
        pipeline.execute()


def _admin_password(root: Path) -> str:
    try:
        return (root / "var" / "secrets" / "redis_admin_password").read_text().strip()
    except OSError:
        return ""
