"""A real Redis Cluster with a hash-tagged key prefix: every kind of job, failovers, and a slot that moves."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rqstack.stack.acl import RULES, users_acl
from support.processes import end, environment_without, rqstack_command, start
from support.projects import copy_project
from support.redis_cluster import RedisCluster
from support.waiting import until

pytestmark = pytest.mark.timeout(240)
PREFIX = "x:{rq}"

# Run by a process of its own, since RQ takes the prefix from the environment when it is imported.
ENQUEUE_ALL = """
import json
from datetime import timedelta
from rq import Callback, RateLimit, Retry
from rqstack.enqueue import get_queue
from rqstack.scheduling import Scheduler

queue, ids = get_queue("default"), {}

def add(kind, task, *args, **options):
    ids[kind] = queue.enqueue(f"harbour.tasks.{task}", args=args, **options).id

add("plain", "work")
ids["bulk"] = queue.enqueue_many([queue.prepare_data("harbour.tasks.work") for _ in range(3)])[-1].id
add("unique", "work", job_id="only", unique=True)
add("retry", "fail_once", retry=Retry(2))
add("retry later", "fail_once", retry=Retry(2, interval=1))
callbacks = {"on_success": Callback("harbour.tasks.succeeded"), "on_failure": Callback("harbour.tasks.failed")}
add("callback", "work", **callbacks)
add("failing", "fail", **callbacks)
add("base", "work", 0.2)
add("dependent", "work", depends_on=ids["base"])
add("dependent of it", "work", depends_on=ids["dependent"])
for number in range(3):
    add(f"limited {number}", "work", 0.1, rate_limit=RateLimit("quay", 1))
ids["delayed"] = queue.enqueue_in(timedelta(seconds=1), "harbour.tasks.work").id
with Scheduler() as scheduler:
    scheduler.cron("default", "* * * * * *", "harbour.tasks.work", name="often")
print(json.dumps(ids))
"""
ENQUEUE_MANY = """
import json, sys
from redis.exceptions import RedisError
from rq import Callback, RateLimit, Retry
from rq.job import Job
from rqstack.enqueue import get_queue
from rqstack.errors import BrokerUnavailable
queue = get_queue("default")
callbacks = dict(on_success=Callback("harbour.tasks.succeeded"), on_failure=Callback("harbour.tasks.failed"))

def options(number):
    return [
        dict(),
        dict(task="fail_once", retry=Retry(2)),
        callbacks,
        dict(rate_limit=RateLimit("quay", 2)),
        dict(task="fail_once", retry=Retry(2, interval=1), **callbacks),
        dict(rate_limit=RateLimit("pier", 2), retry=Retry(1)),
        dict(task="fail"),
        dict(),
        dict(task="fail_once", retry=Retry(1)),
        dict(depends_on=f"job-{{number - 1}}", **callbacks),
    ][number % 10 if {mixed} else 0]

for number in range({first}, {last}):
    # While a slot moves an enqueue may be refused; then nothing was enqueued, and a job is enqueued once with its id.
    while True:
        given = options(number)
        given = dict(given, unique=not {{"rate_limit", "depends_on"}} & set(given))
        task = given.pop("task", "work")
        try:
            if not given["unique"] and Job.exists(f"job-{{number}}", queue.connection):
                break
            queue.enqueue(f"harbour.tasks.{{task}}", args=({seconds},), job_id=f"job-{{number}}", **given)
            break
        except (BrokerUnavailable, RedisError) as error:
            print(error, file=sys.stderr)
"""


def enqueue_many(first: int, last: int, seconds: float, *, mixed: bool = False) -> str:
    """Code that enqueues jobs: unique ones, or also with retries, callbacks, dependents and limits."""
    return ENQUEUE_MANY.format(first=first, last=last, seconds=seconds, mixed=mixed)


class Harbour:
    """A home whose Redis is a cluster.

    Args:
        folder: The home.
        cluster: The cluster; it runs.
    """

    def __init__(self, folder: Path, cluster: RedisCluster) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder
        self.cluster = cluster
        self.journal = folder / "journal"
        self.journal.touch()
        self.log = folder / "log"
        self.log.touch()
        self.processes: list[subprocess.Popen[bytes]] = []
        copy_project("harbour", folder / "tasks")
        self.environment = environment_without("RQSTACK_", "REDIS_", "RQ_") | {
            "RQSTACK_HOME": str(folder),
            "RQ_KEY_PREFIX": PREFIX,
            "REDIS_URL": cluster.url,
            "HARBOUR_JOURNAL": str(self.journal),
            "RQSTACK_HEARTBEAT": "0.5",
            "RQSTACK_DEAD_AFTER": "3",
            "RQSTACK_RESULT_TTL": "3600",
            "PYTHONUNBUFFERED": "1",
            "PYTHONPATH": str(folder / "tasks" / "harbour"),
        }

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """`rqstack …` in the background."""
        return self.start_command(rqstack_command(*arguments), **environment)

    def start_command(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        self.processes.append(start(command, self.log, env=self.environment | environment, cwd=self.folder))
        return self.processes[-1]

    def run(self, *arguments: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        """`rqstack …` to its end."""
        return self.run_command(rqstack_command(*arguments), check=check, **environment)

    def run_command(
        self, command: list[str], *, check: bool = True, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            command,
            env=self.environment | environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr + self.tail()
        return done

    def python(self, code: str) -> str:
        """Run code with the settings of the home."""
        return str(self.run_command([sys.executable, "-c", code]).stdout)

    def until_workers(self, number: int) -> None:
        """Wait until so many workers are there."""
        until(lambda: len(self.info()["workers"]) == number, 60, f"{number} workers", log=self.tail)

    def info(self) -> dict[str, Any]:
        """`rqstack info --json`."""
        shown: dict[str, Any] = json.loads(self.run("info", "--json").stdout)
        return shown

    def statuses(self, ids: list[str]) -> dict[str, str]:
        """The status of each job."""
        with self.cluster.client() as client, client.pipeline(transaction=False) as pipeline:
            for job_id in ids:
                pipeline.hget(f"{PREFIX}:job:{job_id}", "status")
            return {job_id: (row or b"gone").decode() for job_id, row in zip(ids, pipeline.execute(), strict=True)}

    def notes(self, what: str) -> Counter[str]:
        """How often each job has written something."""
        lines = (line.split() for line in self.journal.read_text().splitlines())
        return Counter(job_id for said, job_id, _ in lines if said == what)

    def members(self, registry: str) -> list[str]:
        """The members of a registry of the queue `default`."""
        with self.cluster.client() as client:
            return [name.decode() for name in client.zrange(f"{PREFIX}:{registry}:default", 0, -1)]

    def tail(self) -> str:
        return self.log.read_text(errors="replace")[-6000:]

    def close(self) -> None:
        end(*self.processes)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    made = RedisCluster()
    try:
        made.start()
        yield made
    finally:
        made.close()


@pytest.fixture
def harbour(tmp_path: Path, cluster: RedisCluster) -> Iterator[Harbour]:
    """A home on an empty cluster."""
    with cluster.client() as client:
        client.flushall()
    made = Harbour(tmp_path, cluster)
    try:
        yield made
    finally:
        made.close()


def test_every_kind_of_job(harbour: Harbour) -> None:
    worker = harbour.start("worker", "run", "default", "--processes", "2", "--with-scheduler")
    harbour.until_workers(2)
    ids: dict[str, str] = json.loads(harbour.python(ENQUEUE_ALL))
    expected = {job_id: "failed" if kind == "failing" else "finished" for kind, job_id in ids.items()}
    until(lambda: harbour.statuses(list(ids.values())) == expected, 60, log=harbour.tail)
    begun = harbour.notes("begin")
    assert {kind: begun[job_id] for kind, job_id in ids.items()} == {
        kind: 2 if kind.startswith("retry") else 1 for kind in ids
    }
    assert harbour.notes("succeeded") == {ids["callback"]: 1}
    assert harbour.notes("failed") == {ids["failing"]: 1}
    until(lambda: sum(job_id.startswith("cron-") for job_id in harbour.notes("end")) >= 2, 60, log=harbour.tail)
    for option in ("--worker", "--scheduler", "--queue=default"):
        assert harbour.run("health", option).stdout.startswith("ok: ")
    (queue,) = [queue for queue in harbour.info()["queues"] if queue["name"] == "default"]
    assert (queue["failed"], queue["workers"]) == (1, 2)
    worker.terminate()
    assert worker.wait(30) == 0, harbour.tail()
    with harbour.cluster.client() as client:
        keys = [key.decode() for key in client.scan_iter(count=1000)]
        assert [key for key in keys if not key.startswith((f"{PREFIX}:", f"{PREFIX}stack:"))] == []
        assert client.hget(f"{PREFIX}stack:schema", "version") is not None
    for port in harbour.cluster.ports:
        assert bool(harbour.cluster.clients[port].dbsize()) == (
            port == harbour.cluster.master or port == _replica(harbour)
        )


def _replica(harbour: Harbour) -> int:
    return next(port for port in harbour.cluster.ports if harbour.cluster.is_replica(port))


def test_the_commands(harbour: Harbour) -> None:
    """Without a worker first: empty, purge, suspend, requeue."""
    ids = [harbour.run("trigger", "harbour.tasks.fail").stdout.split()[-1] for _ in range(3)]
    harbour.run("suspend")
    worker = harbour.start("worker", "run", "default", "short-running")
    until(lambda: harbour.info()["worker_states"] == {"suspended": 1}, 60, log=harbour.tail)
    assert set(harbour.statuses(ids).values()) == {"queued"}
    harbour.run("resume")
    assert harbour.run("wait", *ids, "--timeout", "60", check=False).returncode == 1
    assert set(harbour.statuses(ids).values()) == {"failed"}
    queue = next(queue["name"] for queue in harbour.info()["queues"] if queue["failed"])
    harbour.run("requeue", "--queue", queue, "--yes")
    until(lambda: [harbour.notes("begin")[job_id] for job_id in ids] == [2, 2, 2], 60, log=harbour.tail)
    assert harbour.run("wait", *ids, "--timeout", "60", check=False).returncode == 1
    harbour.run("purge", queue, "--state", "failed", "--yes")
    assert set(harbour.statuses(ids).values()) == {"gone"}
    done = harbour.run("trigger", "harbour.tasks.work").stdout.split()[-1]
    harbour.run("wait", done, "--timeout", "60")
    assert json.loads(harbour.run("result", done, "--json").stdout)["value"] == done
    harbour.run("suspend")
    waiting = harbour.run("trigger", "harbour.tasks.work").stdout.split()[-1]
    harbour.run("empty", queue, "--yes")
    assert harbour.statuses([waiting]) == {waiting: "gone"}
    harbour.run("resume")
    worker.terminate()
    assert worker.wait(30) == 0


def test_the_commands_of_the_page(harbour: Harbour) -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "redis-cluster.md").read_text()
    (block,) = re.findall(r"```bash\n(.*?)```", page, re.DOTALL)
    block = re.sub(r"redis\+cluster://\S+", harbour.cluster.url, block).replace("{rq}", f"{PREFIX}")
    assert harbour.cluster.url in block
    block = block.replace("rqstack worker", f"exec {shlex.join(rqstack_command('worker'))}")
    harbour.start_command(["bash", "-c", block], RQ_KEY_PREFIX="", REDIS_URL="")
    harbour.until_workers(1)


def test_message_backend(harbour: Harbour) -> None:
    backend = {"QUEUE_BACKEND": "rqstack.backends.RedisQueue"}
    consumer = harbour.start("worker", "run", "default", "short-running", **backend)
    until(lambda: "Consuming" in harbour.log.read_text(), 60, log=harbour.tail)
    harbour.environment |= backend
    harbour.python("from harbour.tasks import greet; [greet.delay() for _ in range(3)]")
    until(lambda: harbour.notes("greeted")["nobody"] == 3, 60, log=harbour.tail)
    harbour.cluster.fail_over()
    harbour.python("from harbour.tasks import greet; greet.delay()")
    until(lambda: harbour.notes("greeted")["nobody"] == 4, 60, log=harbour.tail)
    consumer.terminate()
    assert consumer.wait(30) == 0


def test_rq_s_own_worker_beside(harbour: Harbour) -> None:
    """RQ's command knows nothing of clusters: it gets the address of the node that serves the prefix."""
    rq = [str(Path(sys.executable).parent / "rq"), "worker", "--url", f"redis://127.0.0.1:{harbour.cluster.master}"]
    harbour.start_command([*rq, "--name", "theirs", "default"])
    harbour.start("worker", "run", "default", "--name", "ours")
    harbour.until_workers(2)
    harbour.python(enqueue_many(0, 60, 0.02))
    ids = [f"job-{number}" for number in range(60)]
    until(lambda: harbour.statuses(ids) == dict.fromkeys(ids, "finished"), 60, log=harbour.tail)
    assert harbour.notes("end") == dict.fromkeys(ids, 1)
    assert sorted(harbour.members("finished")) == sorted(ids)


class Load:
    """Jobs that are enqueued while something happens to the cluster."""

    def __init__(self, harbour: Harbour, number: int) -> None:
        self.harbour = harbour
        self.ids = [f"job-{index}" for index in range(number)]
        half = number // 2
        self.codes = [enqueue_many(*part, 0.02, mixed=True) for part in ((0, half), (half, number))]
        self.producers = [harbour.start_command([sys.executable, "-c", code]) for code in self.codes]

    def finish(self) -> None:
        """Wait until all have ended, and account for every one."""
        for producer in self.producers:
            assert producer.wait(120) == 0, self.harbour.tail()
        fail = [job_id for number, job_id in enumerate(self.ids) if number % 10 == 6]
        finish = [job_id for job_id in self.ids if job_id not in fail]
        expected = dict.fromkeys(finish, "finished") | dict.fromkeys(fail, "failed")
        until(lambda: self.harbour.statuses(self.ids) == expected, 120, log=self.harbour.tail)
        assert {job_id for job_id in finish if not self.harbour.notes("end")[job_id]} == set()
        assert sorted(self.harbour.members("finished")) == sorted(finish)
        assert sorted(self.harbour.members("failed")) == sorted(fail)
        # A retried job has a result of its last run only.
        with self.harbour.cluster.client() as client, client.pipeline(transaction=False) as pipeline:
            for job_id in self.ids:
                pipeline.xlen(f"{PREFIX}:results:{job_id}")
            assert pipeline.execute() == [1] * len(self.ids)
        # A callback comes before the record, and so once more if the connection was lost in between.
        called = [job_id for number, job_id in enumerate(self.ids) if number % 10 in (2, 4, 9)]
        assert {job_id for job_id in called if not self.harbour.notes("succeeded")[job_id]} == set()
        for process in self.harbour.processes:
            process.terminate()
        assert {process.wait(60) for process in self.harbour.processes} == {0}, self.harbour.tail()
        assert self.harbour.members("wip") == []
        with self.harbour.cluster.client() as client:
            assert client.llen(f"{PREFIX}:queue:default") == 0
            assert list(client.scan_iter(f"{PREFIX}:execution:*", count=1000)) == []
            assert list(client.scan_iter(f"{PREFIX}stack:claim:*", count=1000)) == []
            for limit in ("quay", "pier"):
                assert client.exists(f"{PREFIX}:rl:{limit}")
                assert client.zcard(f"{PREFIX}:rl:{limit}:allowed") == 0
                assert client.zcard(f"{PREFIX}:rl:{limit}:rate_limited") == 0
            assert client.zcard(f"{PREFIX}:deferred:default") == client.zcard(f"{PREFIX}:scheduled:default") == 0


def test_failovers_while_jobs_run(harbour: Harbour) -> None:
    for _ in range(2):
        harbour.start("worker", "run", "default", "--processes", "2")
    scheduler = harbour.start("scheduler")
    harbour.until_workers(4)
    load = Load(harbour, 900)
    for share in (50, 300, 600):
        until(lambda: len(harbour.notes("end")) >= share, 60, log=harbour.tail)  # noqa: B023
        harbour.cluster.fail_over()
    assert scheduler.poll() is None
    load.finish()


def test_a_slot_that_moves_while_jobs_run(harbour: Harbour) -> None:
    """Key by key, as `redis-cli --cluster reshard` does it. Scripts wait meanwhile, and none is done by half."""
    for _ in range(2):
        harbour.start("worker", "run", "default", "--processes", "2")
    scheduler = harbour.start("scheduler")
    harbour.until_workers(4)
    load = Load(harbour, 900)
    until(lambda: len(harbour.notes("end")) >= 50, 60, log=harbour.tail)
    source, target = harbour.cluster.begin_move()
    while harbour.cluster.move_keys(source, target):
        pass
    harbour.cluster.end_move(source, target)
    assert scheduler.poll() is None
    load.finish()


def test_a_master_that_is_killed(tmp_path: Path) -> None:
    cluster = RedisCluster()
    try:
        cluster.start()
        harbour = Harbour(tmp_path, cluster)
        try:
            harbour.start("worker", "run", "default")
            harbour.until_workers(1)
            harbour.python(enqueue_many(0, 5, 0))
            until(lambda: len(harbour.notes("end")) == 5, 60, log=harbour.tail)
            cluster.kill_master()
            harbour.python(enqueue_many(5, 10, 0))
            ids = [f"job-{number}" for number in range(5, 10)]
            until(lambda: harbour.statuses(ids) == dict.fromkeys(ids, "finished"), 60, log=harbour.tail)
            assert harbour.run("health", "--worker").returncode == 0
        finally:
            harbour.close()
    finally:
        cluster.close()


COMMANDS = {
    "worker": ["worker", "run", "default"],
    "scheduler": ["scheduler"],
    "producer": ["trigger", "harbour.tasks.work"],
    "info": ["info"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_prefix_without_a_hash_tag_is_refused(harbour: Harbour, command: str) -> None:
    for prefix in ("rq", "a{}b", "a}b{c"):
        done = harbour.run(*COMMANDS[command], check=False, RQ_KEY_PREFIX=prefix)
        assert done.returncode == 1
        assert done.stderr == (
            "Error: REDIS_URL is a Redis Cluster, where all keys must be in one slot, "
            f"and RQ_KEY_PREFIX is {prefix!r}. "
            "Set RQ_KEY_PREFIX to one with a hash tag, such as {rq}, for every process.\n"
        )


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("prefix", ["rq", PREFIX])
def test_a_node_s_plain_address_is_refused(harbour: Harbour, command: str, prefix: str) -> None:
    other = next(port for port in harbour.cluster.ports if port != harbour.cluster.master)
    done = harbour.run(*COMMANDS[command], check=False, RQ_KEY_PREFIX=prefix, REDIS_URL=f"redis://127.0.0.1:{other}")
    assert done.returncode == 1
    assert "is a node of a Redis Cluster. Set REDIS_URL to redis+cluster:// with its nodes" in done.stderr
    assert ("hash tag" in done.stderr) == (prefix == "rq")
    assert "Traceback" not in done.stderr


def test_no_node_can_be_reached(harbour: Harbour) -> None:
    url = "redis+cluster://bob:secret@127.0.0.1:1,127.0.0.1:2"
    done = harbour.run("info", check=False, REDIS_URL=url)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: Redis at redis+cluster://bob:***@127.0.0.1:1,127.0.0.1:2 cannot be reached: ")
    done = harbour.run("health", check=False, REDIS_URL=url)
    assert done.returncode == 1
    assert "Redis cannot be reached" in done.stderr


def test_one_node_of_the_url_is_enough(harbour: Harbour) -> None:
    first = harbour.cluster.ports[0]
    for port in harbour.cluster.ports:
        url = f"redis+cluster://127.0.0.1:1,127.0.0.1:{port}"
        assert harbour.run("health", REDIS_URL=url).stdout == "ok: Redis answers\n"
    done = harbour.run("trigger", "harbour.tasks.work", REDIS_URL=f"redis+cluster://127.0.0.1:1,127.0.0.1:{first}/0")
    job_id = done.stdout.split()[-1]
    assert harbour.statuses([job_id]) == {job_id: "queued"}


def test_tls(tmp_path: Path) -> None:
    """The address in a node's answer is that of its port for TLS; its certificate is checked."""
    done = subprocess.run(["redis-server", "--tls-port", "nonsense"], capture_output=True, text=True, check=False)
    if "Bad directive" in done.stdout + done.stderr or shutil.which("openssl") is None:
        pytest.skip("no Redis server with TLS, or no openssl, on this machine")
    command = "openssl req -x509 -newkey rsa:2048 -nodes -keyout key -out cert -days 2 -subj /CN=localhost"
    command += " -addext subjectAltName=IP:127.0.0.1"
    subprocess.run(command.split(), cwd=tmp_path, check=True, capture_output=True)
    cluster = RedisCluster(certificate=tmp_path)
    try:
        cluster.start()
        harbour = Harbour(tmp_path / "home", cluster)
        harbour.environment["REDIS_URL"] = cluster.tls_url
        try:
            harbour.start("worker", "run", "default")
            harbour.until_workers(1)
            assert harbour.run("health", "--worker").returncode == 0
            harbour.python(enqueue_many(0, 5, 0))
            until(lambda: len(harbour.notes("end")) == 5, 60, log=harbour.tail)
            cluster.fail_over()
            harbour.python(enqueue_many(5, 10, 0))
            ids = [f"job-{number}" for number in range(10)]
            until(lambda: harbour.statuses(ids) == dict.fromkeys(ids, "finished"), 60, log=harbour.tail)
            refused = harbour.run("info", check=False, REDIS_URL=cluster.tls_url.partition("?")[0])
            assert "cannot be verified" in refused.stderr
        finally:
            harbour.close()
    finally:
        cluster.close()


def test_the_generated_users(tmp_path: Path) -> None:
    """Each process with the rights of its role alone."""
    passwords = {role: f"secret-of-{role}" for role in RULES}
    rules = users_acl(passwords).replace("~rq:*", f"~{PREFIX}:*").replace("~rqstack:*", f"~{PREFIX}stack:*")
    rules = rules.replace("&rq:", f"&{PREFIX}:").replace("&rqstack:", f"&{PREFIX}stack:")
    code = f"from rqstack.stack.acl import users_acl; print(users_acl({passwords!r}), end='')"
    environment = environment_without("RQ_") | {"RQ_KEY_PREFIX": PREFIX}
    written = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert written.stdout == rules
    (tmp_path / "users.acl").write_text(rules)
    arguments = ["--aclfile", str(tmp_path / "users.acl")]
    arguments += ["--masteruser", "admin", "--masterauth", passwords["admin"]]
    cluster = RedisCluster("rq", *arguments, login=("admin", passwords["admin"]))
    try:
        cluster.start()
        harbour = Harbour(tmp_path / "home", cluster)
        harbour.environment |= {"REDIS_USERNAME": "producer", "REDIS_PASSWORD": passwords["producer"]}
        as_worker = {"REDIS_USERNAME": "worker", "REDIS_PASSWORD": passwords["worker"]}
        try:
            harbour.start("worker", "run", "default", "--with-scheduler", **as_worker)
            harbour.until_workers(1)
            ids: dict[str, str] = json.loads(harbour.python(ENQUEUE_ALL))
            expected = {job_id: "failed" if kind == "failing" else "finished" for kind, job_id in ids.items()}
            until(lambda: harbour.statuses(list(ids.values())) == expected, 60, log=harbour.tail)
            cluster.fail_over()
            late = harbour.run("trigger", "harbour.tasks.work", "--queue", "default").stdout.split()[-1]
            until(lambda: harbour.statuses([late]) == {late: "finished"}, 60, log=harbour.tail)
            assert "permission" not in harbour.log.read_text()
        finally:
            harbour.close()
    finally:
        cluster.close()
