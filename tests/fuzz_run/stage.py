"""All processes of a stack on one Redis, and the proof that they are alive and work."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import timedelta
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from redis.exceptions import RedisError

from rqstack.backends.messages import Message, encode
from rqstack.enqueue import get_queue
from rqstack.errors import RqstackError
from rqstack.settings import Settings, load
from rqstack.stack import dependencies
from support.paths import ROOT
from support.ports import free_ports
from support.processes import environment_without, rqstack_command, start
from support.projects import copy_project
from support.redis_server import RedisServer
from support.waiting import until

SECRET = "a key that no attacker has in the fuzz run"
PATIENCE = 60.0
"""Seconds after which what has not happened is stuck."""

KINDS = ("supervisor", "scheduler", "consumer", "exporter", "jobs page")
COMMANDS: tuple[tuple[str, ...], ...] = (
    ("info",),
    ("info", "--json", "--by-queue"),
    ("result", "hostile-1"),
    ("result", "hostile-2", "--traceback"),
    ("wait", "hostile-3", "hostile-4", "--timeout", "0.1"),
    ("requeue", "hostile-5"),
    ("requeue", "--queue", "nobody", "--yes"),
    ("purge", "nobody", "--state", "failed", "--yes"),
    ("empty", "nobody", "--yes"),
    ("health", "--worker", "--scheduler"),
    ("health", "--ready", "--worker", "--scheduler"),
)
"""What a person types. Their exit code may say that a record is damaged; a traceback may not."""

PAGES = (
    *("/", "/0/data/queues.json", "/0/data/workers.json", "/0/view/jobs", "/0/view/workers"),
    *(
        f"/0/data/jobs/{queue}/{state}/8/asc/1.json"
        for queue in ("default", "other")
        for state in ("queued", "failed", "started")
    ),
    "/0/view/job/hostile-1",
    "/0/data/job/hostile-1.json",
)


class Stuck(AssertionError):
    """A process has ended, or does not do its work."""


class Stage:
    """A stack's processes.

    Args:
        server: Their Redis, which runs.
        folder: For task code and logs.
    """

    def __init__(self, server: RedisServer, folder: Path) -> None:
        self.server = server
        self.folder = folder
        self.client: Any = server.client()
        self.starts: Counter[str] = Counter()
        """How often each kind of process was started."""
        self.commands: Counter[str] = Counter()
        """How often each command was run."""
        self.canaries = 0
        """Jobs that were enqueued between the attacks, and have ended as they should."""
        self.marker = folder / "unpickled"
        self._exporter_port, self._page_port = free_ports(2)
        for project in ("shop", "periodic"):
            copy_project(project, folder / "tasks")
        python = {
            name: dependencies.ensure_environment(ROOT, name, print) / "python" for name in ("exporter", "dashboard")
        }
        self._command = {
            "supervisor": rqstack_command("worker", "run", "default", "other", "-n", "2"),
            "scheduler": rqstack_command("scheduler"),
            "consumer": rqstack_command("worker", "run", "letters"),
            "exporter": [str(python["exporter"]), "-m", "rqstack.metrics.rq_exporter"],
            "jobs page": [
                *(str(python["dashboard"]), "-m", "rqstack.cli.main", "dashboard", "--port", str(self._page_port))
            ],
        }
        kept = environment_without("RQSTACK_", "REDIS_", "RQ_", "POSTGRES_", "DJANGO_")
        self.environment = kept | {
            "RQSTACK_HOME": str(folder),
            "RQSTACK_SECRET_KEY": SECRET,
            "RQSTACK_MAX_PAYLOAD": "16",
            "RQSTACK_HEARTBEAT": "0.5",
            "RQSTACK_DEAD_AFTER": "2",
            "RQSTACK_GRACE": "10",
            "REDIS_URL": server.url,
            "DASHBOARD_PASSWORD": "secret",
            "RQ_EXPORTER_PORT": str(self._exporter_port),
            "PYTHONUNBUFFERED": "1",
        }
        self._of_kind = {"consumer": {"QUEUE_BACKEND": "rqstack.backends.redis.RedisQueue"}}
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._opener: urllib.request.OpenerDirector | None = None
        self._page_process: subprocess.Popen[bytes] | None = None
        self._number = 0
        self.horses_may_end = False
        """Whether jobs may end their process."""

    # -- processes

    def start(self, kind: str) -> None:
        """Start a process."""
        environment = self.environment | self._of_kind.get(kind, {})
        self.running[kind] = start(self._command[kind], self.log(kind), env=environment, cwd=self.folder)
        self.starts[kind] += 1

    def restart(self) -> None:
        """Stop all processes as an operator does, and start them again on what is in Redis."""
        for process in self.running.values():
            process.send_signal(signal.SIGTERM)
        for kind, process in self.running.items():
            try:
                code = process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                raise Stuck(f"the {kind} does not stop\n{self.tail(kind)}") from None
            if code != 0:
                raise Stuck(f"the {kind} has ended with {code}\n{self.tail(kind)}")
        for kind in KINDS:
            self.start(kind)

    def check_alive(self) -> None:
        """Every process that was started still runs.

        Raises:
            Stuck: One does not, or a horse has failed.
        """
        for kind, process in self.running.items():
            if process.poll() is not None:
                raise Stuck(f"the {kind} has died with {process.returncode}\n{self.tail(kind)}")
        if self.marker.exists():
            raise Stuck("a payload of the attacker was unpickled")
        log = self.log("supervisor").read_text(errors="replace")
        for sign in ("the horse has failed", "The forkserver has ended", "the horse has ended"):
            if sign in log and not self.horses_may_end:
                raise Stuck(f"supervisor: {sign}\n{log[max(log.index(sign) - 3000, 0) : log.index(sign) + 3000]}")

    def close(self) -> None:
        """Kill all that is left."""
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.client.close()

    def log(self, kind: str) -> Path:
        return self.folder / f"{kind.replace(' ', '-')}.log"

    def tail(self, kind: str) -> str:
        """The end of a process's log."""
        path = self.log(kind)
        return path.read_text(errors="replace")[-6000:] if path.exists() else ""

    # -- the work that must go on

    def check_work(self, *, thorough: bool) -> None:
        """Enqueue jobs, and wait until each has ended as it should.

        Args:
            thorough: Also a delayed job, and the cron table.

        Raises:
            Stuck: One has not.
        """
        self._number += 1
        number = self._number
        # Workers that are suspended, and locks of RQ's schedulers, are no damage but what their keys are for.
        self.client.delete("rq:suspended", *self._keys("rq:scheduler-lock:*"))
        settings = load(Settings, secret_key=SECRET, redis_url=self.server.url)

        def enqueue(queue_name: str, job_id: str, delay: timedelta | None = None) -> str:
            def run() -> Any:
                queue = get_queue(queue_name, connection=self.client, settings=settings)
                if delay is not None:
                    return queue.enqueue_in(delay, "shop.tasks.give", number, job_id=job_id)
                return queue.enqueue("shop.tasks.give", number, job_id=job_id)

            self._until_taken(run)
            return job_id

        jobs = [enqueue(queue, f"canary-{queue}-{number}") for queue in ("default", "other")]
        if thorough:
            jobs.append(enqueue("other", f"canary-later-{number}", timedelta(seconds=1)))
        message = Message("shop.tasks.note", (str(self.folder / "letters"), number), id=f"letter-{number}")
        data = encode(message, settings)
        self._until_taken(lambda: self.client.rpush("rqstack:messages:letters", data))
        for job_id in jobs:
            self._until(lambda job_id=job_id: self._status(job_id) == b"finished", f"{job_id} is not finished")  # type: ignore[misc]
            self.canaries += 1
        letters = self.folder / "letters"
        self._until(lambda: letters.exists() and f"{number}\n" in letters.read_text(), f"letter {number} is not read")
        self.canaries += 1
        if thorough:
            before = self._fired()
            self._until(lambda: self._fired() != before, "no cron entry is fired")

    def check_pages(self, *, thorough: bool) -> None:
        """Ask the exporter for its metrics, and the jobs page for its pages.

        Args:
            thorough: All its pages.

        Raises:
            Stuck: One does not answer.
        """
        metrics = self._until_answer(f"http://127.0.0.1:{self._exporter_port}/metrics", urllib.request.build_opener())
        if "redis_up 1.0" not in metrics or 'rq_jobs{queue="default"' not in metrics:
            raise Stuck(f"the exporter shows no queue\n{self.tail('exporter')}")
        page = f"http://127.0.0.1:{self._page_port}"
        if self._page_process is not self.running["jobs page"]:
            self._opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
            self._until_answer(f"{page}/health", self._opener)
            form = urlencode({"username": "admin", "password": "secret"}).encode()
            self._until_answer(f"{page}/login", self._opener, form)
            self._page_process = self.running["jobs page"]
        assert self._opener is not None
        for path in PAGES if thorough else PAGES[:3]:
            self._until_answer(page + path, self._opener)

    def run_command(self, *arguments: str) -> None:
        """Run `rqstack …` to its end.

        Raises:
            Stuck: It ends with a traceback, or not at all.
        """
        try:
            done = subprocess.run(
                rqstack_command(*arguments),
                env=self.environment,
                cwd=self.folder,
                capture_output=True,
                timeout=PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise Stuck(f"rqstack {' '.join(arguments)} does not end") from None
        output = (done.stdout + done.stderr).decode(errors="replace")
        if done.returncode not in (0, 1, 2, 3) or "Traceback (most recent" in done.stderr.decode(errors="replace"):
            raise Stuck(f"rqstack {' '.join(arguments)} has ended with {done.returncode}\n{output[-4000:]}")
        self.commands[arguments[0]] += 1

    # -- helpers

    def _status(self, job_id: str) -> bytes | None:
        found: bytes | None = self.client.hget(f"rq:job:{job_id}", "status")
        return found

    def _fired(self) -> bytes:
        for entry in self._keys("rqstack:cron:state:each-second*"):
            with contextlib.suppress(RedisError):
                return bytes(self.client.hget(entry, "last") or b"")
        return b""

    def _keys(self, pattern: str) -> list[bytes]:
        return list(self.client.scan_iter(pattern, count=5000))

    def _until_taken(self, call: Callable[[], Any]) -> Any:
        """A producer tries again while a damaged key is in its way."""

        def attempt() -> Any:
            try:
                return call() or True
            except (RedisError, RqstackError) as error:
                self.check_alive()
                last.append(error)
                return None

        last: list[Exception] = []
        return self._until(attempt, "a producer is refused", lambda: f"{last[-1] if last else None} {self._types()}")

    def _types(self) -> dict[str, bytes]:
        """The types of the keys that a producer writes to."""
        return {key: self.client.type(key) for key in ("rq:queues", "rq:queue:default", "rq:queue:other")}

    def _until_answer(self, url: str, opener: urllib.request.OpenerDirector, form: bytes | None = None) -> str:
        def ask() -> str:
            self.check_alive()
            try:
                with opener.open(url, form, timeout=30) as answer:
                    return answer.read().decode() or " "
            except urllib.error.HTTPError as error:
                body = error.read().decode(errors="replace")
                if error.code in (404, 503):  # no such job; or Redis does not answer, which the page says
                    return body
                raise Stuck(f"{url} answers {error.code}: {body[:500]}\n{self.tail('jobs page')}") from None
            except OSError:
                return ""  # it is starting

        found: str = self._until(ask, f"{url} does not answer")
        return found

    def _until(self, condition: Callable[[], Any], what: str, more: Callable[[], str] = str) -> Any:
        def check() -> Any:
            found = condition()
            if not found:
                self.check_alive()
            return found

        try:
            return until(check, PATIENCE, what, pause=0.05)
        except Stuck:
            raise
        except AssertionError as error:
            logs = "\n".join(f"== {kind}\n{self.tail(kind)[-2500:]}" for kind in KINDS)
            raise Stuck(f"{what} {more()}\n{logs}") from error


@contextlib.contextmanager
def stage(folder: Path) -> Iterator[Stage]:
    """A stack of its own, whose processes run."""
    server = RedisServer("--appendonly", "no")
    try:
        server.start()
        made = Stage(server, folder)
        try:
            for kind in KINDS:
                made.start(kind)
            made.check_work(thorough=True)
            made.check_pages(thorough=True)
            yield made
        finally:
            made.close()
    finally:
        server.close()
