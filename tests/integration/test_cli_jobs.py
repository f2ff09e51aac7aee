"""`trigger`, `result`, `wait` and `health` through the real command line, with real workers and a real page."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from redis import Redis

from support.processes import rqstack_command
from support.projects import copy_project
from support.redis_server import RedisServer
from support.waiting import until
from support.web_server import serve

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A project with the word count, and with tasks for these tests."""
    copy_project("sample", tmp_path / "tasks")
    (tmp_path / "tasks" / "wordcount").symlink_to(ROOT / "tasks" / "wordcount")
    return tmp_path


@pytest.fixture
def rqstack(home: Path, redis_url: str) -> Run:
    """Runs the command in a process of its own."""

    def run(*arguments: str, stdin: str = "", timeout: float = 60, **env: str) -> subprocess.CompletedProcess[str]:
        command = rqstack_command(*arguments)
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            input=stdin,
            timeout=timeout,
            env=os.environ | {"RQSTACK_SECRET_KEY": "a key of the tests"} | env,
            cwd=home,
        )
        if arguments[0] != "worker":  # whose log holds the tracebacks of jobs
            assert "Traceback" not in done.stderr, done.stderr
        return done

    return run


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The address of a real HTTP server, whose index has seven words."""
    monkeypatch.setenv("RQSTACK_PRIVATE_HOSTS", "127.0.0.1")
    with serve(tmp_path / "site", "<title>A page</title><p>with five words in it</p>") as address:
        yield address


def enqueue(run: Run, *arguments: str) -> str:
    done = run("trigger", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def work(run: Run, *queues: str) -> None:
    done = run("worker", "run", *queues, "--burst")
    assert done.returncode == 0, done.stderr


def sentence(done: subprocess.CompletedProcess[str]) -> str:
    """The one line of an error."""
    assert done.returncode not in (0, 2), done.stdout
    lines = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(lines) == 1, done.stderr
    assert done.stdout == ""
    return lines[0]


def test_a_word_count_from_trigger_to_result(rqstack: Run, site: str) -> None:
    job = enqueue(rqstack, "--url", f"{site}/index.html")
    before = rqstack("result", "--jobid", job)
    assert (before.returncode, before.stdout) == (2, "queued\n")
    work(rqstack)
    after = rqstack("result", "--jobid", job)
    assert (after.returncode, after.stdout, after.stderr) == (0, "7\n", "")
    assert rqstack("result", job).stdout == "7\n"
    assert json.loads(rqstack("result", job, "--json").stdout) == {
        "id": job,
        "state": "finished",
        "value": 7,
        "reason": None,
    }


@pytest.mark.parametrize("job", ["nobody", "a b/c", "a:b", "", "ü", "*"])
def test_an_id_that_no_job_has_is_unknown(rqstack: Run, job: str) -> None:
    done = rqstack("result", "--jobid", job)
    assert done.returncode == 3
    assert sentence(done).startswith(f"Error: no job has the id {job!r}")


def test_a_damaged_record_is_a_sentence(rqstack: Run, connection: Redis) -> None:
    job = enqueue(rqstack, "say", "word")
    connection.hset(f"rq:job:{job}", "status", "soon")
    assert sentence(rqstack("result", job)) == f"Error: the record of {job} in Redis is damaged: its status is 'soon'."


def test_a_worker_of_a_queue_without_a_name_does_not_start(rqstack: Run) -> None:
    for names in ([""], ["default", " "]):
        assert "a queue's name is empty" in sentence(rqstack("worker", "run", *names, "--burst"))


def test_why_a_word_count_failed(rqstack: Run, site: str) -> None:
    missing = enqueue(rqstack, "--url", f"http://{site}/missing")
    scheme = enqueue(rqstack, "--url", "ftp://example.org/x")
    work(rqstack)
    done = rqstack("result", "--jobid", missing)
    assert (done.returncode, done.stdout) == (1, f"PageError: http://{site}/missing answered 404 File not found.\n")
    done = rqstack("result", scheme)
    assert done.returncode == 1
    assert done.stdout == "PageError: 'ftp://example.org/x' is not a web address: only http and https are fetched.\n"
    assert "Traceback (most recent call last)" in rqstack("result", scheme, "--traceback").stdout


def test_arguments_are_json_or_words(rqstack: Run) -> None:
    job = enqueue(
        rqstack, "sample.tasks.echo", "1", "word", '"5"', "[1, null]", "NaN", "--kw", 'a={"b": 2}', "--kw", "c=d=e"
    )
    work(rqstack)
    done = rqstack("result", job, "--json")
    assert json.loads(done.stdout)["value"] == [1, "word", "5", [1, None], "NaN", {"a": {"b": 2}, "c": "d=e"}]


def test_values_of_all_kinds_are_printed(rqstack: Run) -> None:
    word, none, own = enqueue(rqstack, "say", "höher"), enqueue(rqstack, "say", "null"), enqueue(rqstack, "point", "3")
    work(rqstack)
    assert rqstack("result", word).stdout == "höher\n"
    assert rqstack("result", none).stdout == "null\n"
    assert rqstack("result", own).stdout == "Point(3)\n"


def test_the_reason_is_one_line(rqstack: Run) -> None:
    words = {
        "one line": "one line",
        "two\nlines": "two",
        "colon: in it": "colon: in it",
        "[bold]no[/bold]": "[bold]no[/bold]",
    }
    jobs = {text: enqueue(rqstack, "fail", json.dumps(text)) for text in words}
    work(rqstack)
    for text, expected in words.items():
        done = rqstack("result", jobs[text])
        assert (done.returncode, done.stdout) == (1, f"Sorry: {expected}\n")


def test_an_unknown_job(rqstack: Run) -> None:
    done = rqstack("result", "--jobid", "no-such-job")
    assert done.returncode == 3
    assert "no job has the id 'no-such-job'" in sentence(done)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["count_words_at_ulr", "x"], "Did you mean wordcount.tasks.count_words_at_url?"),
        (["os.system", "true"], "no task named 'os.system'"),
        (["echo", "[1"], "'[1' is not valid JSON"),
        (["echo", "--kw", "novalue"], "'novalue' is not NAME=VALUE"),
        (["echo", "--kw", "a=1", "--kw", "a=2"], "--kw a is given twice"),
        (["say"], "missing a required argument: 'word'"),
        (["say", "a", "b"], "too many positional arguments"),
        (["say", "a", "--queue", "defualt"], "no queue is named 'defualt'. Did you mean default? Known are default, "),
    ],
)
def test_what_cannot_be_enqueued_is_said_in_a_sentence(
    rqstack: Run, connection: Redis, arguments: list[str], words: str
) -> None:
    assert words in sentence(rqstack("trigger", *arguments))
    assert connection.keys("rq:job:*") == []


@pytest.mark.parametrize("arguments", [[], ["echo", "--url", "x"], ["--nonsense"]])
def test_wrong_options_exit_2(rqstack: Run, arguments: list[str]) -> None:
    assert rqstack("trigger", *arguments).returncode == 2


def test_json_of_trigger(rqstack: Run, connection: Redis) -> None:
    done = json.loads(rqstack("trigger", "say", "x", "--queue", "long-running", "--json").stdout)
    assert done == {"id": done["id"], "task": "sample.tasks.say", "queue": "long-running"}
    assert connection.lrange("rq:queue:long-running", 0, -1) == [done["id"].encode()]


@pytest.mark.parametrize("command", [["trigger", "say", "x"], ["wait", "x"], ["empty", "default"]])
def test_redis_not_there(rqstack: Run, command: list[str]) -> None:
    assert "redis://127.0.0.1:1/0 cannot be reached" in sentence(rqstack(*command, REDIS_URL="redis://127.0.0.1:1/0"))


@pytest.mark.parametrize("command", [["trigger", "say", "x"], ["result", "x"], ["requeue", "-a"]])
def test_wrong_password(rqstack: Run, command: list[str]) -> None:
    done = rqstack(*command, REDIS_USERNAME="admin", REDIS_PASSWORD="sesame")
    message = sentence(done)
    assert "refused the user name or password" in message
    assert "sesame" not in message


def test_a_wrong_setting(rqstack: Run) -> None:
    done = rqstack("info", RQSTACK_GRACE="soon")
    assert "RQSTACK_GRACE: 'soon' is not allowed" in sentence(done)


def test_an_unknown_command(rqstack: Run) -> None:
    done = rqstack("tigger")
    assert done.returncode == 2
    assert "Did you mean trigger?" in done.stderr


# -- wait


def test_wait_until_all_have_ended(rqstack: Run) -> None:
    good, bad = enqueue(rqstack, "say", "x"), enqueue(rqstack, "fail", "no paper")
    done = rqstack("wait", good, bad, "--timeout", "0.3")
    assert done.returncode == 2
    assert done.stdout.splitlines() == [f"{good} queued", f"{bad} queued", "2 jobs: 2 queued"]
    work(rqstack)
    assert rqstack("wait", good).returncode == 0
    done = rqstack("wait", "-", stdin=f"{good}\n{bad}\n")
    assert done.returncode == 1
    assert done.stdout.splitlines() == [f"{bad} failed: Sorry: no paper", "2 jobs: 1 finished, 1 failed"]
    done = rqstack("wait", good, "no-such-job", bad, "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == [
        {"id": good, "state": "finished"},
        {"id": "no-such-job", "state": "unknown"},
        {"id": bad, "state": "failed"},
    ]


class Waiter:
    """A `wait` in the background."""

    def __init__(self, home: Path, *arguments: str, **env: str) -> None:
        command = rqstack_command("wait", *arguments)
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=home,
            env=os.environ | {"RQSTACK_SECRET_KEY": "a key of the tests"} | env,
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self.process

    def __exit__(self, *arguments: object) -> None:
        self.process.kill()
        self.process.communicate()


def blocked(connection: Redis) -> bool:
    """Whether somebody waits for a result."""
    return any(client["cmd"] == "xread" and "b" in client["flags"] for client in connection.client_list())


def test_wait_is_woken_by_results(rqstack: Run, home: Path, connection: Redis) -> None:
    jobs = [enqueue(rqstack, "say", str(n)) for n in range(3)]
    with Waiter(home, *jobs) as waiter:
        until(lambda: blocked(connection))
        work(rqstack)
        out, _ = waiter.communicate(timeout=30)
        assert (waiter.returncode, out) == (0, "3 jobs: 3 finished\n")


def test_wait_sees_what_announces_nothing(rqstack: Run, home: Path, connection: Redis) -> None:
    job = enqueue(rqstack, "say", "x")
    with Waiter(home, job) as waiter:
        until(lambda: blocked(connection))
        assert rqstack("empty", "default").returncode == 0
        out, _ = waiter.communicate(timeout=30)
        assert (waiter.returncode, out) == (3, f"{job} unknown\n1 job: 1 unknown\n")


def test_ctrl_c_in_wait_leaves_the_jobs(rqstack: Run, home: Path, connection: Redis) -> None:
    job = enqueue(rqstack, "say", "x")
    before = connection.hgetall(f"rq:job:{job}")
    with Waiter(home, job) as waiter:
        until(lambda: blocked(connection))
        waiter.send_signal(signal.SIGINT)
        out, err = waiter.communicate(timeout=30)
        assert (waiter.returncode, out, err) == (130, "", "Stopped waiting for 1 job; they keep running.\n")
    assert connection.hgetall(f"rq:job:{job}") == before
    assert connection.lrange("rq:queue:default", 0, -1) == [job.encode()]


def test_wait_outlives_redis(rqstack: Run, home: Path, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", own_redis.url)
    client = own_redis.client()
    client.config_set("appendfsync", "always")
    job = enqueue(rqstack, "say", "x")
    with Waiter(home, job) as waiter:
        until(lambda: blocked(client))
        own_redis.kill()
        assert waiter.stderr is not None
        assert waiter.stderr.readline().startswith("Redis is unavailable")
        own_redis.start()
        work(rqstack)
        assert waiter.wait(timeout=30) == 0


def test_a_closed_pipe_is_no_error(rqstack: Run, home: Path) -> None:
    job = enqueue(rqstack, "say", "x")
    command = f"{sys.executable} -m rqstack.cli.main result {job} | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=home)
    assert "Traceback" not in done.stderr
