"""`rqstack health`: are Redis, the workers and the scheduler alive? Exit code 0 or 1; for container health checks.

It runs every few seconds in every container, so it must cost next to no CPU: no click, msgspec, redis-py or RQ, only
a socket and hiredis. It takes its settings from the same sources as every other process, and answers within `TIMEOUT`
seconds whatever hangs.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from collections.abc import Callable

from rqstack.cli.resp import Client, RespError, open_client
from rqstack.errors import SettingsError
from rqstack.settings.defaults import DEAD_AFTER, REDIS_URL
from rqstack.settings.sources import Sources
from rqstack.transport import keys
from rqstack.transport.timestamps import parse

TIMEOUT = 2.0
"""Seconds within which there is an answer."""

USAGE = """\
Usage: rqstack health [OPTIONS]

  Tell whether Redis answers, and whether workers and scheduler are alive. Exit code 0 if so, else 1.

Options:
  --worker         A worker of this host has a fresh heartbeat.
  -q, --queue Q    A live worker listens to this queue; may be repeated. With --worker: one of this host.
  --scheduler      A scheduler of this host has a fresh heartbeat.
  --max-age S      Seconds after which a heartbeat is old. Default: RQSTACK_DEAD_AFTER.
  -h, --help       Show this message and exit.
"""

SETTINGS = ("REDIS_URL", "REDIS_USERNAME", "REDIS_PASSWORD", "RQSTACK_DEAD_AFTER")
SECRETS = {"REDIS_PASSWORD"}
WORKER_FIELDS = ("hostname", "last_heartbeat", "queues", "death")


class Unhealthy(Exception):
    """The check failed; the message is one sentence for the person on call."""


class Usage(Exception):
    """An option is not known, or its value is missing or wrong."""


class Options:
    """The parsed options of `rqstack health`.

    Args:
        arguments: Without the name of the command.

    Raises:
        Usage: An option is not known, or its value is missing or wrong.
    """

    def __init__(self, arguments: list[str]) -> None:
        self.worker = self.scheduler = self.help = False
        self.queues: list[str] = []
        self.max_age: float | None = None
        rest = [part for argument in arguments for part in _split(argument)]
        while rest:
            name = rest.pop(0)
            if name in ("-h", "--help"):
                self.help = True
            elif name == "--worker":
                self.worker = True
            elif name == "--scheduler":
                self.scheduler = True
            elif name in ("-q", "--queue", "--max-age"):
                if not rest:
                    raise Usage(f"Option {name} needs a value.")
                value = rest.pop(0)
                if name == "--max-age":
                    self.max_age = _seconds(name, value)
                else:
                    self.queues.append(value)
            else:
                raise Usage(f"No such option: {name}")


def _split(argument: str) -> list[str]:
    """Splits '--queue=q' into the option and its value."""
    return argument.split("=", 1) if argument.startswith("--") and "=" in argument else [argument]


def _seconds(name: str, value: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0
    if not number > 0:
        raise Usage(f"{name}: {value!r} is not a number of seconds above 0.")
    return number


def read_settings() -> dict[str, str]:
    """The settings that the check needs, by environment variable; without those left at their default.

    Raises:
        Unhealthy: A file cannot be read or parsed.
    """
    try:
        sources = Sources()
        found = {name: sources.find(name, secret=name in SECRETS) for name in SETTINGS}
    except SettingsError as error:
        raise Unhealthy(str(error)) from error
    return {name: given[0] for name, given in found.items() if given}


def check(options: Options) -> str:
    """Run the check.

    Returns:
        One line that says what is healthy.

    Raises:
        Unhealthy: Something is not, or a setting is wrong.
    """
    settings = read_settings()
    url = settings.get("REDIS_URL", REDIS_URL)
    try:
        max_age = options.max_age or float(settings.get("RQSTACK_DEAD_AFTER", DEAD_AFTER))
    except ValueError:
        raise Unhealthy(f"RQSTACK_DEAD_AFTER: {settings['RQSTACK_DEAD_AFTER']!r} is not a number.") from None
    client = None
    try:
        client = open_client(url, settings.get("REDIS_USERNAME"), settings.get("REDIS_PASSWORD"), TIMEOUT)
        if options.worker or options.queues or options.scheduler:
            return "ok: " + ", ".join(_findings(client, options, max_age))
        client.call(["PING"])
        return "ok: Redis answers"
    except RespError as error:
        raise Unhealthy(f"Redis answers with an error: {error}.") from error
    except (OSError, ValueError) as error:
        raise Unhealthy(f"Redis cannot be reached: {error}.") from error
    finally:
        if client is not None:
            client.close()


def _findings(client: Client, options: Options, max_age: float) -> list[str]:
    found = []
    if options.worker or options.queues:
        workers = _alive(client, keys.WORKERS, max_age)
        host = socket.gethostname()
        if options.worker:
            workers = [worker for worker in workers if worker["hostname"] == host]
            if not workers:
                raise Unhealthy(f"no worker of this host ({host}) has sent a heartbeat within {max_age:g} s")
        for queue in options.queues:
            if not any(queue in worker["queues"].split(",") for worker in workers):
                raise Unhealthy(f"no live worker{' of this host' * options.worker} listens to the queue {queue!r}")
        found.append(f"{len(workers)} live worker{'s' * (len(workers) != 1)}{' of this host' * options.worker}")
    if options.scheduler:
        host = socket.gethostname()
        mine = [each for each in _alive(client, keys.SCHEDULERS, max_age) if each["hostname"] == host]
        if not mine:
            raise Unhealthy(f"no scheduler of this host ({host}) has sent a heartbeat within {max_age:g} s")
        found.append("a live scheduler")
    return found


def _alive(client: Client, index: str, max_age: float) -> list[dict[str, str]]:
    """The registered workers or schedulers that have a fresh heartbeat and are not marked as dead.

    Args:
        index: The set of their keys.
    """
    members = [key.decode() for key in client.call(["SMEMBERS", index])[0]]
    if not members:
        return []
    rows = client.call(*(["HMGET", key, *WORKER_FIELDS] for key in members))
    records = [dict(zip(WORKER_FIELDS, ((v or b"").decode() for v in row), strict=True)) for row in rows]
    now = time.time()
    return [r for r in records if not r["death"] and now - heartbeat_time(r["last_heartbeat"]) <= max_age]


def heartbeat_time(text: str) -> float:
    """Unix time of a heartbeat, written as ISO 8601 in UTC or as a number; 0 if it is neither."""
    try:
        return float(text)
    except ValueError:
        pass
    return parse(text) or 0.0


def main(arguments: list[str], emit: Callable[[str], object] = print) -> int:
    """Run the command.

    Args:
        arguments: Without the name of the command.
        emit: Gets the line for stdout.

    Returns:
        The exit code: 0 if healthy, 1 if not, 2 for a wrong option.
    """
    try:
        options = Options(arguments)
    except Usage as error:
        print(f"{USAGE.splitlines()[0]}\n\nError: {error}", file=sys.stderr)
        return 2
    if options.help:
        emit(USAGE.rstrip())
        return 0
    answer: list[str] = []
    problem: list[str] = []

    def ask() -> None:
        try:
            answer.append(check(options))
        except Unhealthy as error:
            problem.append(str(error).rstrip("."))
        except Exception as error:  # a check that fails itself says so, and never ends without an answer
            problem.append(f"the check itself failed: {type(error).__name__}: {error}")

    # In a thread, because nothing else limits a DNS lookup, which can hang for half a minute.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    if answer:
        emit(answer[0])
        return 0
    reason = problem[0] if problem else f"no answer from Redis within {TIMEOUT:g} s"
    print(f"Error: {reason}.", file=sys.stderr, flush=True)
    if thread.is_alive():
        os._exit(1)
    return 1
