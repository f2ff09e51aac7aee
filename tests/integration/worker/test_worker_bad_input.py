"""What bad jobs get: they fail with a reason that a person understands, and the jobs behind them run."""

from __future__ import annotations

import json
import os
import pickle
import signal
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from rq import Retry

from support.worker_site import Site


def _data(value: Any) -> bytes:
    return pickle.dumps(value)


def _plain(site: Site, name: str, function: str, *args: Any, **options: Any) -> None:
    project = "shop" if function in ("give", "pid") else "misbehaving"
    site.queue().enqueue(f"{project}.tasks.{function}", args=args, job_id=name, **options)


def add_projects(site: Site) -> None:
    """The tasks that misbehave, and those behind them."""
    site.add_project("misbehaving")
    site.add_project("shop")


def _spoiled(**fields: Any) -> Callable[[Site, str], None]:
    """A good job whose record is then damaged; None takes a field away."""

    def make(site: Site, name: str) -> None:
        _plain(site, name, "give", 1)
        for field, value in fields.items():
            if value is None:
                site.redis.hdel(f"rq:job:{name}", field)
            else:
                site.redis.hset(f"rq:job:{name}", field, value)

    return make


def _call(function: str, *args: Any, **options: Any) -> Callable[[Site, str], None]:
    return lambda site, name: _plain(site, name, function, *args, **options)


def _named(dotted: str) -> Callable[[Site, str], None]:
    def make(site: Site, name: str) -> None:
        site.queue().enqueue(dotted, job_id=name)

    return make


FAILS: dict[str, tuple[Callable[[Site, str], None], str]] = {
    "no-data": (_spoiled(data=None), "the record of job no-data in Redis is damaged: it has no data"),
    "empty-data": (_spoiled(data=b""), "cannot be read"),
    "no-pickle": (_spoiled(data=b"no pickle"), "function and arguments cannot be read"),
    "cut-pickle": (_spoiled(data=_data(("shop.tasks.give", None, (1,), {}))[:-4]), "cannot be read"),
    "other-pickle": (_spoiled(data=_data(7)), "cannot be read"),
    "wrong-shape": (_spoiled(data=_data(("shop.tasks.give", None))), "cannot be read"),
    "no-name": (_spoiled(data=_data((None, None, (), {}))), "cannot be read"),
    "odd-arguments": (_spoiled(data=_data(("shop.tasks.give", None, 7, 8))), "cannot be read"),
    "class-is-gone": (_spoiled(data=b"cshop.tasks\nGone\n."), "Gone"),
    "garbage-timeout": (_spoiled(timeout="soon"), "Timeout must be an integer"),
    "garbage-result-ttl": (_spoiled(result_ttl="long"), "result_ttl"),
    "unknown-function": (_named("shop.tasks.nothing"), "shop.tasks.nothing"),
    "unknown-module": (_named("no.such.module"), "no.such.module"),
    "dangerous": (_named("os.getcwd"), "os.getcwd"),
    "no-dots": (_named("function"), "function"),
    "too-many-arguments": (_call("give", 1, 2, 3), "takes from 0 to 1 positional arguments but 3 were given"),
    "unpicklable": (_call("unpicklable"), "the task returned a function that cannot be stored"),
    "mute": (_call("mute"), "Mute"),
    "leaves": (_call("leave"), "SystemExit"),
    "leaves-with-code": (_call("leave", 3), "SystemExit: 3"),
    "leaves-with-text": (_call("leave", "enough"), "SystemExit: enough"),
    "interrupts": (_call("interrupt"), "KeyboardInterrupt"),
    "recurses": (_call("recurse"), "RecursionError"),
    "ends-its-process": (_call("end_process", 0), "Work-horse terminated unexpectedly"),
    "ends-its-process-as-recycled": (_call("end_process", 73), "Work-horse terminated unexpectedly"),
    "too-long": (_call("hang", job_timeout=1), "JobTimeoutException"),
}
"""Jobs that fail: how each is made, and what its reason says."""

RUNS: dict[str, tuple[Callable[[Site, str], None], Any]] = {
    "garbage-dates": (_spoiled(created_at="long ago", enqueued_at="lately", started_at="x"), 1),
    "garbage-meta": (_spoiled(meta=b"\x00\x01"), 1),
    "garbage-ttl": (_spoiled(ttl="forever"), 1),
    "garbage-status": (_spoiled(status="\x00"), 1),
    "no-origin": (_spoiled(origin=None), 1),
    "garbage-origin": (_spoiled(origin=b"\xff\xfe"), 1),
    "huge": (_call("huge", 20_000_000), b"x" * 20_000_000),
    "spoils-its-process": (_call("spoil_process"), "spoiled"),
    "describes-itself-oddly": (_call("describe_oddly"), "odd"),
    "few-files": (_call("no_more_files"), "few"),
}
"""Odd jobs that can run all the same, and what they return."""


@pytest.fixture(scope="module")
def results(shared_site: Site) -> Iterator[Site]:
    """Two horses have got all of these, each with a good job behind it."""
    site = shared_site
    add_projects(site)
    names = [*FAILS, *RUNS]
    for name in names:
        (FAILS.get(name) or RUNS[name])[0](site, name)
        _plain(site, f"behind-{name}", "give", name)
    process = site.worker("default", "--processes", "2")
    site.until_ended(*(f"behind-{name}" for name in names), *FAILS)
    site.until(lambda: site.queue().count == 0 and site.redis.zcard("rq:wip:default") == 0, "the queue to be empty")
    assert process.poll() is None, site.output()
    yield site
    assert site.stop(process) == 0, site.output()


@pytest.mark.parametrize("name", FAILS)
def test_a_bad_job_fails_with_a_reason(results: Site, name: str) -> None:
    assert results.status(name) == "failed"
    assert results.redis.zscore("rq:failed:default", name) is not None
    assert results.status(f"behind-{name}") == "finished"
    reason = rq_result(results, name)
    # What it raised, without the lines of code that led there.
    raised = [line for line in reason.splitlines() if line and not line.startswith((" ", "Traceback"))]
    assert FAILS[name][1] in raised[-1], reason
    assert not results.redis.exists(f"rq:executions:{name}")


@pytest.mark.parametrize("name", ["no-data", "no-pickle", "garbage-timeout", "unpicklable", "mute", "ends-its-process"])
def test_a_person_reads_the_reason(results: Site, name: str) -> None:
    done = results.run("result", name, check=False)
    assert done.returncode != 0
    assert "Traceback (most recent call last)" not in done.stderr.splitlines()[:1]
    assert FAILS[name][1] in " ".join((done.stdout + done.stderr).split()), done.stdout + done.stderr


def rq_result(site: Site, name: str) -> str:
    """The exception of the last result, from the stream itself: RQ's own reader may not read a damaged record."""
    import base64
    import zlib

    ((_, fields),) = site.redis.xrevrange(f"rq:results:{name}", count=1)
    return zlib.decompress(base64.b64decode(fields[b"exc_string"])).decode()


@pytest.mark.parametrize("name", RUNS)
def test_an_odd_job_runs(results: Site, name: str) -> None:
    assert results.status(name) == "finished", rq_result(results, name)
    assert results.status(f"behind-{name}") == "finished"
    import base64

    ((_, fields),) = results.redis.xrevrange(f"rq:results:{name}", count=1)
    assert pickle.loads(base64.b64decode(fields[b"return_value"])) == RUNS[name][1]


def test_what_is_left_is_in_order(results: Site) -> None:
    names = {*FAILS, *RUNS}
    failed = {member.decode() for member in results.redis.zrange("rq:failed:default", 0, -1)}
    finished = {member.decode() for member in results.redis.zrange("rq:finished:default", 0, -1)}
    assert failed == set(FAILS)
    assert finished == set(RUNS) | {f"behind-{name}" for name in names}
    shown = json.loads(results.run("info", "--json").stdout)
    assert shown


def test_a_function_that_does_not_import_is_named(site: Site) -> None:
    """With RQSTACK_ALLOW_UNREGISTERED a worker imports what a job names."""
    (site.folder / "lib").mkdir()
    (site.folder / "lib" / "breaks.py").write_text("import nothing_of_that_name\ndef f(): pass\n")
    (site.folder / "lib" / "leaves.py").write_text("raise SystemExit(4)\n")
    (site.folder / "lib" / "works.py").write_text("def f(): return 5\n")
    for name in ("breaks.f", "leaves.f", "gone.f", "works.g", "works.f"):
        site.queue().enqueue(name, job_id=name.replace(".", "-"))
    allowed = {"RQSTACK_ALLOW_UNREGISTERED": "1", "PYTHONPATH": str(site.folder / "lib")}
    assert site.worker("default", "--burst", **allowed).wait(60) == 0, site.output()
    reasons = {name: rq_result(site, name) for name in ("breaks-f", "leaves-f", "gone-f", "works-g")}
    assert "nothing_of_that_name" in reasons["breaks-f"]
    assert "SystemExit" in reasons["leaves-f"]
    assert "gone" in reasons["gone-f"]
    assert "Invalid attribute name: g" in reasons["works-g"]
    assert site.job("works-f").return_value() == 5


def test_a_task_that_takes_the_horse_s_signals(site: Site) -> None:
    add_projects(site)
    process = site.worker("default", RQSTACK_GRACE="600")
    _plain(site, "spoils", "spoil_signals")
    _plain(site, "too-long", "hang", job_timeout=1)
    _plain(site, "behind", "pid")
    site.until_ended("spoils", "too-long", "behind")
    assert "JobTimeoutException" in rq_result(site, "too-long")
    assert site.job("behind").return_value() == site.job("spoils").return_value(), "another horse: nothing was shown"
    site.until_idle(1)
    assert site.stop(process) == 0  # long before the grace is over


def test_a_task_that_forks_and_lets_the_child_go_on(site: Site) -> None:
    """The child must not go on as a second horse, and put back what its parent runs."""
    add_projects(site)
    for number in range(40):
        _plain(site, f"before-{number}", "pid")
    _plain(site, "forks", "fork")
    behind = [f"behind-{number}" for number in range(20)]
    for name in behind:
        _plain(site, name, "pid")
    process = site.worker("default")
    site.until_ended("forks", *behind)
    site.until(lambda: site.output().count("a process that it has forked has not ended itself") == 1, "the child's end")
    horse = site.job("forks").return_value()
    assert {site.job(name).return_value() for name in behind} == {horse}
    assert {len(site.job(name).results()) for name in ("forks", *behind)} == {1}
    assert "was given to another worker" not in site.output()
    assert site.stop(process) == 0


def test_a_task_that_leaves_a_daemon_with_the_worker_s_connections(site: Site) -> None:
    """They stay open when the idle horse is killed. Redis must give no job to a wait of a horse that is gone."""
    add_projects(site)
    process = site.worker("default")
    _plain(site, "leaves", "leave_a_daemon")
    site.until_ended("leaves")
    site.until(lambda: any(each["cmd"] == "blmove" for each in site.redis.client_list()), "the wait")
    site.until(lambda: len(site.horses(process)) == 1, "the end of the cleaning")
    try:
        (horse,) = site.horses(process)
        os.kill(horse, signal.SIGKILL)
        site.until(lambda: site.horses(process) - {horse}, "another horse")
        _plain(site, "behind", "give", 2)
        site.until_ended("behind")
    finally:
        os.kill(site.job("leaves").return_value(), signal.SIGKILL)
    assert site.redis.keys("rqstack:crashes:*") == []
    assert "still recorded as running" not in site.output()
    assert site.stop(process) == 0


def test_a_task_that_closes_all_files(site: Site) -> None:
    add_projects(site)
    process = site.worker("default")
    site.until_idle(1)
    for number in range(2):
        _plain(site, f"closes-{number}", "close_all")
        _plain(site, f"behind-{number}", "give", number)
    names = [f"{name}-{number}" for number in range(2) for name in ("closes", "behind")]
    site.until_ended(*names)
    assert [site.job(name).return_value() for name in names] == ["closed", 0, "closed", 1]
    assert [len(site.job(name).results()) for name in names] == [1] * 4
    assert site.redis.keys("rqstack:crashes:*") == []
    assert "Traceback" not in site.output()
    assert site.output().count("a job has closed files of its worker") == 2
    site.until_idle(1)
    assert site.stop(process) == 0


@pytest.mark.parametrize("task", ["close_pipes", "close_and_open"])
def test_a_task_that_closes_files_of_the_worker(site: Site, task: str) -> None:
    """Only what the horse sleeps with is gone; or other files have the numbers of its connections."""
    add_projects(site)
    process = site.worker("default")
    site.until_idle(1)
    _plain(site, "closes", task)
    site.until_ended("closes")
    site.until(lambda: "a job has closed files of its worker" in site.output(), "the worker to see it")
    _plain(site, "behind", "pid")
    site.until_ended("behind")
    assert site.job("behind").return_value() != site.job("closes").return_value()
    assert (site.status("closes"), len(site.job("closes").results())) == ("finished", 1)
    assert site.redis.keys("rqstack:crashes:*") == []
    assert "Traceback" not in site.output()
    assert site.stop(process) == 0


@pytest.mark.parametrize("kind", ["wip", "finished", "failed", "scheduled", "queue"])
def test_a_job_whose_origin_names_other_data_fails(site: Site, kind: str) -> None:
    """The keys of a queue of that name hold something else: nothing is written there, and the next job runs."""
    add_projects(site)
    key = f"rq:{kind}:elsewhere"
    site.redis.hset(key, "precious", 1)
    _plain(site, "hostile", "give", 1, retry=Retry(1))
    site.redis.hset("rq:job:hostile", "origin", "elsewhere")
    _plain(site, "behind", "give", 2)
    process = site.worker("default")
    site.until_ended("hostile", "behind")
    assert site.redis.hgetall(key) == {b"precious": b"1"}
    assert (site.status("hostile"), site.status("behind")) == ("failed", "finished")
    assert site.redis.zscore("rq:failed:default", "hostile") is not None
    assert "record of job hostile in Redis is damaged: its origin is no queue" in rq_result(site, "hostile")
    assert "its origin is no queue" in site.output()
    assert site.redis.zcard("rq:wip:default") == 0
    assert site.stop(process) == 0


@pytest.mark.parametrize("damage", ["no hash", "no JSON", "no workers"])
def test_a_damaged_record_of_a_dead_supervisor_holds_up_no_other(site: Site, damage: str) -> None:
    """It is dropped, RQ's registries are cleaned after it, and jobs run."""
    site.add_project("shop")
    record = {"queues": '["default"]', "workers": '["ghost-1"]', "hostname": "gone"}
    site.redis.hset("rqstack:supervisor:ghost", mapping=record)
    if damage == "no hash":
        site.redis.set("rqstack:running:ghost", "damaged")
    elif damage == "no JSON":
        site.redis.hset("rqstack:supervisor:ghost", "workers", "damaged")
    else:
        site.redis.hdel("rqstack:supervisor:ghost", "workers")
    site.redis.zadd("rqstack:supervisors:dead", {"ghost": 1000})
    site.redis.zadd("rqstack:supervisors", {"ghost": 1000, "alive": 9e9})
    site.worker("default")
    site.until(lambda: "cleaning registries" in site.output(), "RQ's registries to be cleaned")
    assert site.redis.zscore("rqstack:supervisors", "ghost") is None
    if damage == "no hash":  # the key is dropped, and the supervisor is like any other that is dead
        assert site.redis.exists("rqstack:running:ghost") == 0
    else:
        assert site.redis.zscore("rqstack:supervisors:dead", "ghost") is None
        assert site.output().count("The record of dead supervisor ghost is damaged") == 1
    site.queue().enqueue("shop.tasks.give", 1, job_id="after")
    site.until_ended("after")
    assert site.status("after") == "finished"
