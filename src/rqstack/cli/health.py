"""`rqstack health`: is this process alive, and does Redis answer? Exit code 0 or 1; for container health checks.

It runs every few seconds in every container, so it must cost next to no CPU: no click, msgspec, redis-py or RQ.
Liveness is read from a file (see `rqstack.processes.liveness`), so an outage of Redis restarts no worker; readiness
asks Redis. It answers within `TIMEOUT` seconds whatever hangs.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator

from rqstack.processes.liveness import MAX_AGE, SCHEDULER, WORKER, alive, folder
from rqstack.settings.paths import home

TIMEOUT = 2.0
"""Seconds within which there is an answer."""

USAGE = """\
Usage: rqstack health [OPTIONS]

  Tell whether Redis answers or, with --worker or --scheduler, whether these processes of this host are alive: by a file
  that they touch, without Redis. Exit code 0 if so, else 1.

Options:
  --ready          Ask Redis in any case: it answers, and has fresh heartbeats of what the other options name.
  --worker         A worker of this host is alive.
  -q, --queue Q    With --worker: it listens to this queue. Without: Redis knows a live worker that does, on any host.
                   May be repeated.
  --scheduler      A scheduler of this host is alive.
  --max-age S      Seconds after which a liveness file, or with --ready a heartbeat, is too old.
                   Default: 60, with --ready RQSTACK_DEAD_AFTER.
  -h, --help       Show this message and exit.
"""


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
        self.worker = self.scheduler = self.ready = self.help = False
        self.queues: list[str] = []
        self.max_age: float | None = None
        rest = [part for argument in arguments for part in _split(argument)]
        while rest:
            name = rest.pop(0)
            if name in ("-h", "--help"):
                self.help = True
            elif name == "--worker":
                self.worker = True
            elif name == "--ready":
                self.ready = True
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


def check(options: Options) -> str:
    """Run the check.

    Returns:
        One line that says what is healthy.

    Raises:
        Unhealthy: Something is not, or a setting is wrong.
    """
    if options.ready or not (options.worker or options.scheduler):
        from rqstack.cli import readiness

        try:
            return readiness.check(
                readiness.Question(options.worker, options.scheduler, options.queues, options.max_age)
            )
        except readiness.NotReady as error:
            raise Unhealthy(str(error)) from error
    return "ok: " + ", ".join(_signs_of_life(options))


def _signs_of_life(options: Options) -> Iterator[str]:
    max_age = options.max_age or MAX_AGE
    root = home()
    if options.worker:
        workers = list(alive(root, WORKER, max_age))
        if not workers:
            raise Unhealthy(f"no worker has touched its liveness file in {folder(root)} within {max_age:g} s")
        for queue in options.queues:
            if not any(queue in worker.queues for worker in workers):
                raise Unhealthy(f"no live worker of this host listens to the queue {queue!r}")
        if wanted := set(options.queues):
            workers = [worker for worker in workers if wanted & set(worker.queues)]
        yield f"{len(workers)} live worker{'s' * (len(workers) != 1)} of this host"
    if options.scheduler:
        if not list(alive(root, SCHEDULER, max_age)):
            raise Unhealthy(f"no scheduler has touched its liveness file in {folder(root)} within {max_age:g} s")
        yield "a live scheduler"


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
