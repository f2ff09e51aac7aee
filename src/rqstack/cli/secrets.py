"""`rqstack secrets`: changes the signing key and the Redis passwords while the stack runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from rqstack.cli.output import echo, plural


@click.group()
def secrets() -> None:
    """Change the signing key and the Redis passwords without stopping the stack."""


def _which(command: Callable[..., Any]) -> Callable[..., Any]:
    for name, text in (("--redis", "Only the passwords of the Redis users."), ("--signing", "Only the signing key.")):
        command = click.option(name, is_flag=True, help=text)(command)
    return command


@secrets.command()
@_which
def rotate(redis: bool, signing: bool) -> None:
    """Make a new signing key and new Redis passwords. The old ones are still accepted, until `retire`."""
    from rqstack.settings.paths import home
    from rqstack.stack import rotation

    if redis or not signing:
        rotation.rotate_redis_passwords(home())
        echo("The Redis users have new passwords. The old ones are still accepted.")
    if signing or not redis:
        rotation.rotate_signing_key(home())
        echo("New jobs are signed with a new key. What the old key has signed is still accepted.")
    echo(f"Copy them from {home() / '.env'} to programs that have the old ones, then end those: rqstack secrets retire")


@secrets.command()
@_which
@click.option("--yes", "-y", is_flag=True, help="Do so even if jobs are left that an old key has signed.")
def retire(redis: bool, signing: bool, yes: bool) -> None:
    """Stop accepting the signing keys and the Redis passwords that `rotate` has replaced.

    Jobs and results that an old key has signed cannot be read any more by processes that start from now on. Refused
    while jobs or cron entries are left that an old key has signed.
    """
    from rqstack.errors import RqstackError
    from rqstack.settings.paths import home
    from rqstack.stack import rotation

    if (signing or not redis) and not yes and (count := rotation.count_signed_by_old_keys()):
        raise RqstackError(
            f"Redis has {plural(count, 'record')} of jobs and cron entries whose arguments the current key has not "
            "signed: workers that start from now on would refuse them. Restart the scheduler, which signs "
            "declared entries anew, and wait until the jobs are gone; --yes retires the old keys anyway."
        )
    if redis or not signing:
        count = rotation.retire_redis_passwords(home())
        echo(f"{plural(count, 'old Redis password')} no longer accepted.")
    if signing or not redis:
        count = rotation.retire_signing_keys(home())
        echo(f"{plural(count, 'old signing key')} no longer accepted by processes that start from now on.")
