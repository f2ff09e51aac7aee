"""A real Django site, driven over HTTP; its commands run in a real worker."""

from __future__ import annotations

import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from redis import Redis

from support.ports import free_port
from support.processes import end, rqstack_command, start
from support.waiting import until

SITE = Path(__file__).resolve().parent.parent / "django_site"


class Site:
    """The site of tests/django_site with a database of its own, and the processes that a test starts for it."""

    def __init__(self, data: Path, **environment: str) -> None:
        self.data = data
        self.environment = os.environ | {
            "RQSTACK_HOME": str(data),
            "SITE_DATA": str(data),
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
            "PYTHONPATH": str(SITE),
            "PYTHONDONTWRITEBYTECODE": "1",
            **environment,
        }
        self.processes: list[subprocess.Popen[bytes]] = []
        self.port = 0

    def manage(self, *arguments: str) -> list[str]:
        return [sys.executable, str(SITE / "manage.py"), *arguments]

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, env=self.environment, cwd=self.data, capture_output=True, text=True, timeout=100, check=False
        )

    def start(self, command: list[str]) -> subprocess.Popen[bytes]:
        self.processes.append(start(command, self.data / "log", env=self.environment, cwd=self.data))
        return self.processes[-1]

    def prepare(self) -> None:
        done = self.run(self.manage("migrate", "--run-syncdb", "-v", "0"))
        assert done.returncode == 0, done.stderr

    def serve(self) -> None:
        self.port = free_port()
        self.start(self.manage("runserver", "--noreload", f"127.0.0.1:{self.port}"))

        def answers() -> bool:
            try:
                return self.ask("GET", "/nothing/")[0] == 404
            except OSError:
                return False

        self.until(answers)

    def ask(self, method: str, path: str, **form: str) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            connection.request(method, path, urlencode(form) if form else None, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        kind = answer.headers.get("Content-Type", "")
        return answer.status, json.loads(body) if kind == "application/json" else body.decode()

    def texts(self) -> list[str]:
        """All letters, as the database has them."""
        code = (
            "import django, json; django.setup()\n"
            "from letters.models import Letter\n"
            "print(json.dumps(list(Letter.objects.order_by('pk').values_list('text', flat=True))))"
        )
        done = self.run([sys.executable, "-c", code])
        assert done.returncode == 0, done.stderr
        found: list[str] = json.loads(done.stdout)
        return found

    def call(self, code: str) -> None:
        done = self.run([sys.executable, "-c", f"import django; django.setup()\n{code}"])
        assert done.returncode == 0, done.stderr

    def log(self) -> str:
        path = self.data / "log"
        return path.read_text() if path.exists() else ""

    def until(self, condition: Callable[[], object]) -> None:
        until(condition, 60, log=self.log)

    def close(self) -> None:
        end(*self.processes)


KINDS = ["rq-sqlite", "rq-postgres", "database-sqlite", "database-postgres", "redis-sqlite"]


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path, redis_url: str) -> Iterator[Site]:
    """The site: what carries the calls, and the database."""
    carrier, _, database = request.param.partition("-")
    made = Site(tmp_path, SITE_RQSTACK=json.dumps({"REDIS_URL": redis_url}))
    made.environment.pop("REDIS_URL", None)  # the site's settings say where Redis is
    if carrier != "rq":
        backend = {"database": "DatabaseQueue", "redis": "RedisQueue"}[carrier]
        made.environment["SITE_BACKEND"] = f"rqstack.backends.{backend}"
    if database == "postgres":
        made.environment["SITE_POSTGRES"] = request.getfixturevalue("postgres_url")
    made.prepare()
    try:
        yield made
    finally:
        made.close()


only = lambda *kinds: pytest.mark.parametrize("site", kinds, indirect=True)  # noqa: E731


def test_a_page_calls_a_command_and_the_worker_runs_it(site: Site) -> None:
    site.serve()
    site.start(rqstack_command("worker", "run", "-n", "2"))  # the queue is in the site's settings
    status, made = site.ask("POST", "/letters/", text="Dear Ada")
    assert status == 202
    page = f"/letters/{made['id']}/"
    site.until(lambda: site.ask("GET", page)[1]["times"])
    letter = site.ask("GET", page)[1]
    assert letter["text"] == "Dear Ada [direct]"
    assert letter["times"] == 1
    assert letter["delivered_by"] != made["pid"]

    status, made = site.ask("POST", "/letters/", text="Dear Bob", how="on_commit")
    page = f"/letters/{made['id']}/"
    site.until(lambda: site.ask("GET", page)[1]["times"])
    assert site.ask("GET", page)[1]["text"] == "Dear Bob [committed]"


@only("rq-sqlite", "database-sqlite")
def test_what_is_rolled_back_is_not_enqueued(site: Site) -> None:
    site.serve()
    assert site.ask("POST", "/letters/", text="Dear Eve", how="regret")[0] == 409
    assert site.ask("POST", "/letters/", text="Dear Bob", how="on_commit")[0] == 202
    site.call("from letters.tasks import count; count.delay()")
    done = site.run(site.manage("rqworker", "--burst", "post"))
    assert done.returncode == 0, done.stderr
    assert site.texts() == ["Dear Bob [committed]", "there were 1"]


@only("rq-sqlite")
def test_the_scheduler_of_manage_py(site: Site, connection: Redis) -> None:
    site.call("from letters.tasks import count; count.schedule(in_=1)")
    scheduler = site.start(site.manage("rqscheduler"))
    site.until(lambda: connection.llen("rq:queue:post"))
    scheduler.terminate()
    assert scheduler.wait(20) == 0
    assert site.run(site.manage("rqworker", "--burst")).returncode == 0
    assert site.texts() == ["there were 0"]


@only("rq-postgres", "database-postgres")
def test_connections_are_closed_around_jobs_and_forks(site: Site) -> None:
    """An app opened a connection before the fork: the children share none, and an idle worker holds none."""
    import psycopg

    site.environment["SITE_APPS"] = "broken"
    site.call("from letters.commands import note_connection\nfor _ in range(6):\n    note_connection()")
    worker = site.start(rqstack_command("worker", "run", "-n", "2", "post"))
    site.until(lambda: len(site.texts()) == 6)
    assert len(set(site.texts())) == 6  # CONN_MAX_AGE is 0: a connection a job
    query = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'mysite'"

    def connections() -> int:
        with psycopg.connect(site.environment["SITE_POSTGRES"]) as client:
            row = client.execute(query).fetchone()
            assert row is not None
            return int(row[0])

    site.until(lambda: connections() == 0)
    assert worker.poll() is None
    assert "broken.tasks: cannot be imported: RuntimeError: this module does not import" in site.log()


@only("database-sqlite")
def test_the_daemon_runs_a_site(site: Site) -> None:
    """The daemon of the command line: start -l -p, with the two environment variables."""
    paths = ["-l", str(site.data / "logs" / "queue.log"), "-p", str(site.data / "run" / "queue.pid")]
    done = site.run(rqstack_command("worker", "start", *paths))
    assert done.returncode == 0, done.stderr
    try:
        site.call(
            "from letters.models import Letter\nfrom letters.commands import deliver\n"
            "deliver(Letter.objects.create(text='Dear Ada'), 'daemon')"
        )
        site.until(lambda: site.texts() == ["Dear Ada [daemon]"])
    finally:
        done = site.run(rqstack_command("worker", "stop", *paths))
    assert "Stopped" in done.stdout


@only("rq-sqlite")
def test_the_command_line_knows_the_site(site: Site) -> None:
    listed = site.run(rqstack_command("tasks", "list"))
    assert "letters.commands.deliver" in listed.stdout, listed.stderr
    assert "letters.tasks.count" in listed.stdout
    assert site.run(rqstack_command("trigger", "letters.tasks.count")).returncode == 0
    assert site.run(rqstack_command("worker", "run", "--burst")).returncode == 0
    assert site.texts() == ["there were 0"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"DJANGO_SETTINGS_MODULE": "no.settings"}, "Django does not start with DJANGO_SETTINGS_MODULE=no.settings"),
        ({"SITE_APPS": "no_such_app"}, "No module named 'no_such_app'"),
        ({"SITE_RQSTACK": '{"QUEUE": ["a"]}'}, "RQSTACK_QUEUE is not a setting of rqstack"),
        ({"SITE_RQSTACK": '{"PROCESSES": "many"}'}, "RQSTACK_PROCESSES: 'many' is not allowed"),
        ({"SITE_BACKEND": "letters.queues.Pigeon"}, "QUEUE_BACKEND: 'letters.queues.Pigeon' cannot be imported"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, change: dict[str, str], said: str) -> None:
    site = Site(tmp_path, **change)
    # The two ways in take turns: both go through the same door.
    command = ["start"] if "SITE_RQSTACK" in change else ["run", "--burst"]
    done = site.run(rqstack_command("worker", *command))
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1, done.stderr


def test_the_environment_wins_over_the_site(tmp_path: Path) -> None:
    site = Site(tmp_path, RQSTACK_QUEUES="urgent,post", SITE_BACKEND="rqstack.backends.DatabaseQueue")
    code = (
        "import django; django.setup()\nfrom rqstack import get_settings\ns = get_settings()\n"
        "print(s.queues, s.grace, s.secret_key.get_secret_value(), s.database_url.get_secret_value())"
    )
    done = site.run([sys.executable, "-c", code])
    assert done.stdout.strip() == f"('urgent', 'post') 3 the site key 000 sqlite:///{tmp_path}/site.db", done.stderr
