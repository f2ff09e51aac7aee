"""Task calls through a message backend: from a producer's call to a consumer's children, with the real command."""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rqstack.backends import BaseQueue, open_queue
from rqstack.settings import get_settings
from support.postgres_server import PostgresServer
from support.processes import end, is_alive, rqstack_command, start
from support.projects import copy_project
from support.waiting import until


class Site:
    """A home with one project, and the commands in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.started: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {"OUT": str(folder), "RQSTACK_SECRET_KEY": "a key of the tests"}
        copy_project("post", folder / "tasks")

    def call(self, code: str) -> str:
        """Run code of a producer, in a process of its own."""
        code = (
            "from rqstack.registry.discovery import autodiscover; autodiscover().check()\nfrom post.tasks import *\n"
            + code
        )
        done = subprocess.run(
            [sys.executable, "-c", code], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def consume(self, *arguments: str) -> subprocess.Popen[bytes]:
        command = rqstack_command("worker", "run", *arguments)
        self.started.append(start(command, self.folder / "log", env=self.environment))
        return self.started[-1]

    def burst(self, *arguments: str) -> None:
        assert self.consume("--burst", *arguments).wait(60) == 0, self.log()

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def until(self, condition: Callable[[], object], seconds: float = 30) -> None:
        until(condition, seconds, log=self.log)

    def close(self) -> None:
        end(*self.started, seconds=10)


@pytest.fixture(params=["redis", "sqlite", "postgres"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def site(kind: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Site]:
    """A project whose calls travel through a backend; dead consumers are noticed after a second."""
    made = Site(tmp_path)
    given = {
        "RQSTACK_DEAD_AFTER": "2",
        "RQSTACK_HEARTBEAT": "0.3",
        "RQSTACK_GRACE": "2",
        "RQSTACK_HOME": str(tmp_path),
    }
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
        given |= {"QUEUE_BACKEND": "rqstack.backends.RedisQueue"}
        given |= {"QUEUE_CONNECTION": url.removeprefix("redis://").replace("/", ":")}
    else:
        given |= {"QUEUE_BACKEND": "rqstack.backends.DatabaseQueue"}
        if kind == "postgres":
            given |= {"RQSTACK_DATABASE_URL": request.getfixturevalue("postgres_url")}
    # Nobody listens there: what needs Redis all the same fails.
    given |= {"REDIS_URL": "redis://127.0.0.1:1/0"}
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RQSTACK_SECRET_KEY", made.environment["RQSTACK_SECRET_KEY"])
    made.environment |= given
    get_settings.cache_clear()
    try:
        yield made
    finally:
        made.close()


@pytest.fixture
def backend() -> Iterator[Callable[[str], BaseQueue]]:
    """The site's own queues."""
    opened: list[BaseQueue] = []

    def opens(name: str = "default") -> BaseQueue:
        opened.append(open_queue(name, get_settings()))
        return opened[-1]

    yield opens
    for queue in opened:
        queue.close()


def test_commands_travel_through_the_backend(site: Site, backend: Callable[[str], BaseQueue]) -> None:
    ids = site.call(
        "calls = [letter(n) for n in range(10)] + [letter(10, to='me'), later(11), elsewhere.delay(12)]\n"
        "calls += letter.enqueue_many([(13,), letter.call(14, to='all')])\n"
        "print(*[call.id for call in calls])"
    ).split()
    assert len(set(ids)) == 15
    assert len(backend("default")) == 14
    site.burst("other", "default", "-n", "2")
    expected = [f"{n} you" for n in range(10)] + ["10 me", "11 async", "12 elsewhere", "13 you", "14 all"]
    assert sorted(site.lines("letters")) == sorted(expected)
    for id_ in ids:
        assert site.log().count(f"({id_}) done") == 1


def test_a_waiting_consumer_runs_what_comes(site: Site) -> None:
    consumer = site.consume("-n", "2", "default", "other")
    site.until(lambda: "Consuming" in site.log())
    site.call("letter(1); elsewhere.delay(2)")
    site.until(lambda: sorted(site.lines("letters")) == ["1 you", "2 elsewhere"])
    consumer.terminate()
    assert consumer.wait(20) == 0


def test_a_failure_is_tried_again_then_kept(site: Site, backend: Callable[[str], BaseQueue]) -> None:
    site.call("fails.delay(1); too_long.delay(); letter(3)")
    site.burst("default")
    assert site.lines("tries") == ["1", "1", "1"]
    assert site.lines("letters") == ["3 you"]
    assert len(backend("default:failed")) == 2
    assert "RuntimeError: never mind" in site.log()
    assert "JobTimeoutException" in site.log()


def test_forged_and_unknown_messages_never_run(site: Site, backend: Callable[[str], BaseQueue]) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(site.folder / "trapped"),)

    queue = backend("default")
    queue.write(pickle.dumps(Trap()))
    queue.write(b"no pickle at all")
    site.call(
        "from rqstack.backends.messages import Message, encode\n"
        "from rqstack.backends import open_queue\n"
        "from rqstack import get_settings\n"
        "s = get_settings()\n"
        "open_queue('default', s).write(encode(Message('os.mkdir', (s.queue_backend,)), s))\n"
        "letter(1)"
    )
    site.burst("default")
    assert not (site.folder / "trapped").exists()
    assert site.lines("letters") == ["1 you"]
    assert len(backend("default:failed")) == 3
    assert site.log().count("rejected a message") == 3
    assert "os.mkdir" in site.log()


def test_a_killed_reader_gives_back_its_message(site: Site) -> None:
    site.call("once_slow.delay()")
    site.consume("default")
    site.until(lambda: site.lines("began"))
    (site.folder / "go").touch()
    os.kill(int(site.lines("began")[0]), signal.SIGKILL)
    site.until(lambda: site.lines("ended"))
    assert len(site.lines("began")) == 2
    assert "ended by SIGKILL" in site.log()


def test_a_killed_consumer_loses_nothing(site: Site) -> None:
    """The consumer and with it its reader are gone; another consumer runs the message when the lease has ended."""
    site.call("once_slow.delay(); letter(1)")
    site.consume("default").kill()
    first = site.consume("default")
    site.until(lambda: site.lines("began"))
    first.kill()
    reader = int(site.lines("began")[0])
    site.until(lambda: not is_alive(reader))
    (site.folder / "go").touch()
    site.consume("default", "-n", "2")
    site.until(lambda: site.lines("ended") and site.lines("letters"))
    assert site.lines("letters") == ["1 you"]
    assert len(site.lines("ended")) == 1


def test_a_long_job_is_not_run_twice(site: Site) -> None:
    """It takes longer than its lease, which is extended; a second consumer looks on."""
    site.call("slow.delay(4)")
    site.consume("default")
    site.consume("default")
    site.until(lambda: site.lines("ended"))
    assert len(site.lines("began")) == 1


def test_a_message_that_kills_is_failed(site: Site, backend: Callable[[str], BaseQueue]) -> None:
    site.call("deadly.delay(); letter(1)")
    consumer = site.consume("default")
    site.until(lambda: site.lines("letters") and len(backend("default:failed")))
    consumer.terminate()
    consumer.wait(20)
    assert len(site.lines("began")) == 3
    assert len(backend("default")) == 0


def test_a_stop_lets_jobs_end_and_puts_back_what_does_not(site: Site, backend: Callable[[str], BaseQueue]) -> None:
    site.call("slow.delay(1); slow.delay(60)")
    consumer = site.consume("default", "-n", "2")
    site.until(lambda: len(site.lines("began")) == 2)
    consumer.terminate()
    assert consumer.wait(30) == 0
    assert len(site.lines("ended")) == 1
    assert len(backend("default")) == 1


def test_what_needs_rq_is_refused_by_name(site: Site) -> None:
    out = site.call(
        "from datetime import timedelta\n"
        "from rqstack.errors import InvalidJob\n"
        "for call in (alone.delay, lambda: letter.schedule(1, in_=5), lambda: letter.delay(1, 2), \n"
        "             lambda: letter.delay(lambda: 0)):\n"
        "    try:\n        call()\n    except InvalidJob as error:\n        print(error)\n"
    ).splitlines()
    assert len(out) == 4
    assert "unique needs RQ" in out[0]
    assert "in_ needs RQ" in out[1] or "at needs RQ" in out[1]
    assert "positional" in out[2]
    assert "cannot be stored" in out[3]


def test_it_goes_on_after_an_outage(own_postgres: PostgresServer, tmp_path: Path) -> None:
    made = Site(tmp_path)
    made.environment |= {
        "RQSTACK_HOME": str(tmp_path),
        "RQSTACK_DATABASE_URL": own_postgres.new_database(),
        "QUEUE_BACKEND": "rqstack.backends.DatabaseQueue",
        "RQSTACK_HEARTBEAT": "0.3",
    }
    with contextlib.closing(made):
        consumer = made.consume("default")
        made.call("letter(1); slow.delay(2); letter(2)")
        made.until(lambda: made.lines("began"))
        own_postgres.kill()  # in mid-job: its end is recorded later
        made.until(lambda: made.lines("ended"))
        own_postgres.start()
        made.until(lambda: made.lines("letters") == ["1 you", "2 you"])
        made.call("letter(3)")
        made.until(lambda: made.lines("letters") == ["1 you", "2 you", "3 you"])
        assert consumer.poll() is None
        assert len(made.lines("ended")) == 1


def test_a_backend_that_does_not_import_is_one_line(tmp_path: Path) -> None:
    environment = os.environ | {"QUEUE_BACKEND": "shop.queues.Nothing"}
    for command in (["run"], ["run", "--backend", "shop.queues.Nothing"]):
        arguments = rqstack_command("worker", *command)
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 1
        assert done.stderr.startswith("Error: QUEUE_BACKEND: 'shop.queues.Nothing' cannot be imported")
        assert done.stderr.count("\n") == 1
