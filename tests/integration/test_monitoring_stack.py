"""rq-exporter, Prometheus and the dashboards together: real workers, real jobs, every panel's query answered."""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
import shutil
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import pytest
from rq import Queue, RateLimit
from rq.webhook import Webhook

from support import waiting
from support.ports import free_port
from support.processes import end, rqstack_command, start
from support.redis_server import RedisServer

ROOT = Path(__file__).resolve().parents[2]
BOARDS = sorted((ROOT / "grafana" / "dashboards").glob("*.json"))
PROMETHEUS = shutil.which("prometheus")

T = TypeVar("T")

MAY_BE_EMPTY: set[str] = set()
"""Titles of panels that need not show anything on a stack that works."""


def get(url: str, **parameters: Any) -> str:
    query = f"?{urlencode(parameters, doseq=True)}" if parameters else ""
    with urllib.request.urlopen(f"{url}{query}", timeout=10) as answer:
        return str(answer.read().decode())


def until(condition: Callable[[], T | None], seconds: float = 30) -> T:
    """Wait until a condition is true; a failed assertion or request means 'not yet'."""
    return waiting.until(condition, seconds, errors=(OSError, AssertionError), pause=0.1)


class Processes:
    """Starts commands, and ends them all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / ".env").write_text("RQ_EXPORTER_LOG_LEVEL=INFO\n")  # a stack on a machine always has one
        self.running: list[subprocess.Popen[bytes]] = []

    def start(self, *command: object, **environment: object) -> subprocess.Popen[bytes]:
        log = self.folder / f"{len(self.running)}.log"
        given = os.environ | {"RQSTACK_HOME": str(self.folder)} | {k: str(v) for k, v in environment.items()}
        process = start([str(part) for part in command], log, env=given, cwd=self.folder)
        self.running.append(process)
        return process

    def logs(self) -> str:
        return "\n".join(f"--- {path.name}\n{path.read_text()[-2000:]}" for path in sorted(self.folder.glob("*.log")))

    def end(self) -> None:
        end(*self.running, seconds=15)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    folder = tmp_path / "processes"
    folder.mkdir()
    found = Processes(folder)
    try:
        yield found
    finally:
        found.end()


@pytest.fixture(scope="session")
def exporter_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The environment of rq-exporter that `make start` makes; made now if there is none."""
    from rqstack.stack import dependencies

    with (tmp_path_factory.getbasetemp().parent / "exporter.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return dependencies.ensure_environment(ROOT, "exporter", print) / "python"


@pytest.fixture
def exporter(processes: Processes, exporter_python: Path) -> Callable[..., str]:
    """Starts rq-exporter; returns the address of its metrics."""

    def start(**environment: object) -> str:
        port = free_port()
        processes.start(exporter_python, "-m", "rqstack.metrics.rq_exporter", RQ_EXPORTER_PORT=port, **environment)
        url = f"http://127.0.0.1:{port}/metrics"
        until(lambda: get(url))
        return url

    return start


def test_the_exporter_starts_without_redis_and_outlives_it(
    own_redis: RedisServer, exporter: Callable[..., str]
) -> None:
    own_redis.kill()
    url = exporter(REDIS_URL=own_redis.url)
    assert "redis_up 0.0" in get(url)
    assert "rq_jobs{" not in get(url)
    own_redis.start()
    Queue("default", connection=own_redis.client()).enqueue("time.sleep", 0)
    until(lambda: 'rq_jobs{queue="default",status="queued"} 1.0' in get(url))
    assert "redis_up 1.0" in get(url)
    own_redis.kill()
    until(lambda: "redis_up 0.0" in get(url))
    assert "rq_jobs{" not in get(url)


def test_the_exporter_needs_no_more_than_its_role_and_removes_nothing(
    own_redis: RedisServer, exporter: Callable[..., str], tmp_path: Path
) -> None:
    from rqstack.stack.acl import RULES

    client = own_redis.client()
    Queue("default", connection=client).enqueue("time.sleep", 0)
    client.sadd("rq:workers", "rq:worker:dead", "rq:worker:live")
    client.hset("rq:worker:live", mapping={"queues": "default", "state": "idle", "birth": "2026-01-01T00:00:00.0Z"})
    client.execute_command("ACL", "SETUSER", "exporter", "on", ">secret", "-@all", *RULES["exporter"].split())
    client.execute_command("ACL", "SETUSER", "default", "off")
    password = tmp_path / "password"
    password.write_text("secret\n")
    url = exporter(REDIS_URL=own_redis.url, REDIS_USERNAME="exporter", REDIS_PASSWORD_FILE=password)
    page = get(url)
    assert "redis_up 1.0" in page
    assert 'rq_jobs{queue="default",status="queued"} 1.0' in page
    assert 'rq_workers{name="live",queues="default",state="idle"} 1.0' in page
    assert "dead" not in page
    assert client.sismember("rq:workers", "rq:worker:dead")


def test_the_exporter_counts_what_rq_3_writes(
    own_redis: RedisServer, processes: Processes, exporter: Callable[..., str]
) -> None:
    """It is an RQ 2.12 itself: executions, rate limits, and the ready registry are unknown to it."""
    client = own_redis.client()
    given = {"REDIS_URL": own_redis.url, "RQSTACK_ALLOW_UNREGISTERED": 1}
    worker = processes.start(*rqstack_command("worker", "run", "default", "--name", "bob"), **given)
    queue = Queue("default", connection=client)
    webhook = Webhook("http://127.0.0.1:1/", "finished")
    for _ in range(3):
        queue.enqueue("time.sleep", 0, webhooks=[webhook])
    queue.enqueue("json.loads", "{")
    held = queue.enqueue("time.sleep", 60, rate_limit=RateLimit("narrow", 1))
    until(lambda: held.get_status(refresh=True) == "started")
    for _ in range(2):
        queue.enqueue("time.sleep", 0, rate_limit=RateLimit("narrow", 1))  # wait for the slot
        queue.enqueue_in(timedelta(hours=1), "time.sleep", 0)
    queue.enqueue("time.sleep", 0, depends_on=held)
    queue.enqueue("time.sleep", 0)
    page = get(exporter(REDIS_URL=own_redis.url))
    found = dict(re.findall(r'^rq_jobs{queue="default",status="(\w+)"} (\S+)$', page, re.MULTILINE))
    expected = {"finished": 3, "failed": 1, "started": 1, "scheduled": 2, "deferred": 1, "queued": 1}
    assert {status: float(found[status]) for status in expected} == expected
    assert 'rq_workers{name="bob",queues="default",state="busy"} 1.0' in page
    assert 'rq_workers_success_total{name="bob",queues="default"} 3.0' in page
    assert 'rq_workers_failed_total{name="bob",queues="default"} 1.0' in page
    worker.terminate()
    client.close()


def test_a_refused_password_is_an_error_of_the_exporter_not_a_lost_redis(
    own_redis: RedisServer, exporter_python: Path, processes: Processes
) -> None:
    own_redis.client().execute_command("ACL", "SETUSER", "exporter", "on", ">secret", "allkeys", "+@all")
    port = free_port()
    processes.start(
        exporter_python,
        "-m",
        "rqstack.metrics.rq_exporter",
        RQ_EXPORTER_PORT=port,
        REDIS_URL=own_redis.url,
        REDIS_USERNAME="exporter",
        REDIS_PASSWORD="wrong",
    )

    def code() -> int:
        try:
            get(f"http://127.0.0.1:{port}/metrics")
        except urllib.error.HTTPError as error:
            return error.code
        return 0

    assert until(code) == 500


def test_rq_exporters_own_variables_win(own_redis: RedisServer, exporter: Callable[..., str]) -> None:
    url = exporter(REDIS_URL="redis://127.0.0.1:1/0", RQ_REDIS_HOST="127.0.0.1", RQ_REDIS_PORT=own_redis.port)
    assert "redis_up 1.0" in get(url)
    url = exporter(REDIS_URL="redis://127.0.0.1:1/0", RQ_REDIS_URL=own_redis.url)
    assert "redis_up 1.0" in get(url)


def test_a_taken_port_is_said_in_a_line(own_redis: RedisServer, exporter_python: Path, tmp_path: Path) -> None:
    environment = os.environ | {"RQ_EXPORTER_PORT": str(own_redis.port), "RQSTACK_HOME": str(tmp_path)}
    command = [str(exporter_python), "-m", "rqstack.metrics.rq_exporter"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert len(done.stderr.strip().splitlines()) == 1
    assert str(own_redis.port) in done.stderr


# -- Every query of every dashboard


def prometheus(processes: Processes, exporter_url: str) -> str:
    """Start Prometheus with the files of the stack, but a scrape a second; return its address."""
    folder = processes.folder / "prometheus"
    shutil.copytree(ROOT / "prometheus", folder)
    path = folder / "prometheus.yml"
    path.write_text(re.sub(r"(scrape|evaluation)_(interval|timeout): \d+s", r"\1_\2: 1s", path.read_text()))
    port = free_port()
    places = {"rq": exporter_url.split("/")[2], "prometheus": f"127.0.0.1:{port}"}
    for name in ("rq", "prometheus", "alertmanager"):
        targets = [{"targets": [places[name]]}] if name in places else []
        (folder / "targets" / f"{name}.json").write_text(json.dumps(targets))
    processes.start(
        PROMETHEUS,
        f"--config.file={path}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    url = f"http://127.0.0.1:{port}"
    until(lambda: get(f"{url}/-/ready"))
    return url


class Board:
    """A dashboard's queries, asked as Grafana asks them."""

    def __init__(self, path: Path, prometheus_url: str) -> None:
        self.board = json.loads(path.read_text())
        self.url = prometheus_url
        self.values = {"__rate_interval": "10s", "__interval": "1s", "__range": "60s"}
        for variable in self.board["templating"]["list"]:
            if variable["type"] == "query":
                self.values[variable["name"]] = "(" + "|".join(self.labels(variable["query"])) + ")"

    def labels(self, query: str) -> list[str]:
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", query)
        assert found, f"a variable that is no label_values(): {query}"
        answer = get(f"{self.url}/api/v1/label/{found[2]}/values", **{"match[]": found[1]})
        values: list[str] = json.loads(answer)["data"]
        assert values, f"no values: {query}"
        return values

    def ask(self, target: dict[str, Any]) -> list[dict[str, Any]]:
        expression = re.sub(r"\$\{?(\w+)\}?", lambda match: self.values[match[1]], target["expr"])
        now = time.time()
        try:
            if target.get("instant"):
                answer = get(f"{self.url}/api/v1/query", query=expression, time=now)
            else:
                answer = get(f"{self.url}/api/v1/query_range", query=expression, start=now - 60, end=now, step=1)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{expression}: {error.read().decode()}") from None
        return json.loads(answer)["data"]["result"]  # type: ignore[no-any-return]

    def problems(self) -> list[str]:
        """What a person would see wrong, panel by panel."""
        found = []
        for panel in self.board["panels"]:
            for target in panel.get("targets") or []:
                what = f"{panel['title']} {target['refId']}"
                try:
                    series = self.ask(target)
                except AssertionError as error:
                    found.append(f"{what}: {error}")
                    continue
                if not series:
                    if panel["title"] not in MAY_BE_EMPTY:
                        found.append(f"{what}: no data")
                    continue
                values = [float(v) for one in series for _, v in one.get("values") or [one["value"]]]
                if all(math.isnan(value) for value in values):
                    found.append(f"{what}: not a number")
                for label in re.findall(r"\{\{\s*(\w+)\s*\}\}", target.get("legendFormat") or ""):
                    if not all(one["metric"].get(label) for one in series):
                        found.append(f"{what}: no label {label} for its legend")
        return found


@pytest.mark.slow
@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed")
def test_every_panel_shows_data_and_the_rules_evaluate(
    own_redis: RedisServer, processes: Processes, exporter: Callable[..., str]
) -> None:
    client = own_redis.client()
    environment = {"REDIS_URL": own_redis.url, "RQSTACK_ALLOW_UNREGISTERED": 1, "RQSTACK_SECRET_KEY": "k" * 40}
    worker = rqstack_command("worker", "run")
    processes.start(*worker, "short-running", "default", **environment)
    processes.start(*worker, "long-running", **environment)
    queues = [Queue(name, connection=client) for name in ("short-running", "long-running")]
    ran: dict[str, list[Any]] = {"finished": [], "failed": []}

    def enqueue() -> None:
        for queue in queues:
            ran["finished"] += [queue.enqueue("time.sleep", 0.02) for _ in range(3)]
            ran["failed"].append(queue.enqueue("json.loads", "{"))

    enqueue()
    url = prometheus(processes, exporter(REDIS_URL=own_redis.url))

    def no_problems() -> bool:
        enqueue()
        problems = [f"{path.stem}: {problem}" for path in BOARDS for problem in Board(path, url).problems()]
        assert not problems, "\n".join(problems)
        return True

    try:
        until(no_problems, seconds=60)
        for status, jobs in ran.items():
            for job in jobs:
                until(lambda job=job: str(job.get_status(refresh=True).value) in ("finished", "failed"))
                assert job.get_status().value == status, job.id
    except AssertionError as error:
        raise AssertionError(f"{error}\n{processes.logs()}") from None

    groups = json.loads(get(f"{url}/api/v1/rules"))["data"]["groups"]
    rules = {rule["name"]: rule for group in groups for rule in group["rules"]}
    assert len(rules) == 16
    assert {name: rule["lastError"] for name, rule in rules.items() if rule["health"] == "err"} == {}
    firing = until(lambda: json.loads(get(f"{url}/api/v1/alerts"))["data"]["alerts"])
    assert "RQWatchdog" in {alert["labels"]["alertname"] for alert in firing}


def test_the_check_finds_what_is_wrong(
    own_redis: RedisServer, processes: Processes, exporter: Callable[..., str]
) -> None:
    """A query that errs, one without data, one that is no number, and a legend without its label are each seen."""
    if PROMETHEUS is None:
        pytest.skip("prometheus is not installed")
    Queue("default", connection=own_redis.client()).enqueue("time.sleep", 0)
    url = prometheus(processes, exporter(REDIS_URL=own_redis.url))
    until(lambda: json.loads(get(f"{url}/api/v1/query", query="rq_jobs"))["data"]["result"])
    board = Board(BOARDS[0], url)
    bad = {"errs": "rate(rq_jobs)", "empty": "no_such_metric", "nan": "rq_jobs * NaN", "legend": "sum(rq_jobs)"}
    board.board["panels"] = [
        {"title": title, "targets": [{"refId": "A", "expr": expression, "legendFormat": "{{queue}}"}]}
        for title, expression in bad.items()
    ]
    found = board.problems()
    assert [problem.split(" ")[0] for problem in found] == list(bad), found
    assert [problem.split(": ")[-1] for problem in found[1:]] == [
        "no data",
        "not a number",
        "no label queue for its legend",
    ]
