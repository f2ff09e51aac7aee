"""Every key that a process reads is on the list of `rqstack.transport.known_keys`."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import Callback, RateLimit, Retry

from fuzz_run.stage import COMMANDS, SECRET, Stage, stage
from rqstack.enqueue import get_queue
from rqstack.settings import Settings, load
from rqstack.transport import keys
from rqstack.transport.known_keys import KNOWN_KEYS, is_known
from support.redis_commands import Command, parse_command

_LINE = re.compile(r"^\+[\d.]+ \[\d+ [^\]]+\] (?P<command>.*)$", re.DOTALL)


class Monitor:
    """What MONITOR shows, commands of scripts included.

    Args:
        port: Redis's.
    """

    def __init__(self, port: int) -> None:
        self.commands: set[Command] = set()
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.sendall(b"MONITOR\r\n")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        with self._socket.makefile("rb") as lines:
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # cut off by `close`
                if (match := _LINE.match(line.decode("ascii", "replace").rstrip("\r\n"))) is not None:
                    self.commands.add(parse_command(match["command"]))

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


@contextlib.contextmanager
def monitor(port: int) -> Iterator[Monitor]:
    """MONITOR, until the end of the block."""
    made = Monitor(port)
    try:
        yield made
    finally:
        made.close()


def keys_of(client: Any, commands: set[Command]) -> set[tuple[str, str]]:
    """The keys and channels of commands, each with the command's name, as Redis itself finds them."""
    found = {
        (channel.decode(errors="replace"), "SUBSCRIBE")
        for name, *channels in commands
        if name.upper() in (b"SUBSCRIBE", b"PUBLISH")
        for channel in (channels if name.upper() == b"SUBSCRIBE" else channels[:1])
    }
    listed = [
        command for command in commands if command[0].upper() not in (b"EVAL", b"EVALSHA", b"SUBSCRIBE", b"PUBLISH")
    ]
    with client.pipeline(transaction=False) as pipe:
        for command in listed:
            pipe.execute_command("COMMAND GETKEYS", *command)
        for command, reply in zip(listed, pipe.execute(raise_on_error=False), strict=True):
            if not isinstance(reply, Exception):
                found |= {(str(key), command[0].decode()) for key in reply}
    return found


def exercise(made: Stage) -> None:
    """Jobs of every kind, every command and every page."""
    made.horses_may_end = True
    queue = get_queue(
        "default", connection=made.client, settings=load(Settings, secret_key=SECRET, redis_url=made.server.url)
    )
    first = queue.enqueue("shop.tasks.give", 1, job_id="hostile-1")
    jobs = [
        first,
        queue.enqueue("shop.tasks.give", depends_on=first, job_id="hostile-2"),
        queue.enqueue("shop.tasks.fail", "no", retry=Retry(max=1), job_id="hostile-5"),
        queue.enqueue("shop.tasks.give", rate_limit=RateLimit("few", 1), job_id="hostile-3"),
        queue.enqueue("shop.tasks.give", on_success=Callback("shop.tasks.give"), meta={"a": 1}, job_id="hostile-4"),
        queue.enqueue("shop.tasks.rated", job_id="hostile-6"),
        queue.enqueue("shop.tasks.crash", job_id="hostile-7"),
    ]
    queue.enqueue_many([queue.prepare_data("shop.tasks.give", job_id="hostile-8")], group_id="some")
    ended = {b"finished", b"failed"}
    made._until(lambda: all(made.client.hget(job.key, "status") in ended for job in jobs), "not all jobs end")
    for command in COMMANDS:
        made.run_command(*command)
    made.check_pages(thorough=True)
    made.check_work(thorough=True)
    made.running["supervisor"].kill()
    made.running["supervisor"].wait()
    made.start("supervisor")
    made.check_work(thorough=True)


def test_every_key_that_is_read_is_on_the_list(tmp_path: Path) -> None:
    with stage(tmp_path) as made:
        with monitor(made.server.port) as seen:
            exercise(made)
        found = keys_of(made.client, seen.commands)
    unknown = sorted({(key, name) for key, name in found if not is_known(key)})
    assert not unknown, f"put these on the list in transport/known_keys.py: {unknown}"
    # And the test sees what it is there to see.
    used = {known.pattern for known in KNOWN_KEYS if any(known.matches(key) for key, _ in found)}
    assert len(used) > len(KNOWN_KEYS) * 0.8, sorted({known.pattern for known in KNOWN_KEYS} - used)


def test_the_table_of_keys_is_on_the_list() -> None:
    rows = re.findall(r"^\| `(rqstack:[^`…]+)` \|", keys.__doc__ or "", re.MULTILINE)
    assert len(rows) > 20
    assert [row for row in rows if not is_known(row)] == []


@pytest.mark.parametrize("key", ["rq:new:default", "rqstack:secret", "other", "rq:queues2"])
def test_what_is_not_on_the_list_is_unknown(key: str) -> None:
    assert not is_known(key)
