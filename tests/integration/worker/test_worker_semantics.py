"""RQ's semantics, seen by its own tools, of workers started by the command line."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from redis import Redis
from rq import Callback, Retry
from rq.command import (
    send_command,
    send_kill_horse_command,
    send_shutdown_command,
    send_stop_execution_command,
    send_stop_job_command,
)
from rq.group import Group
from rq.job import Dependency
from rq.repeat import Repeat

from support.worker_site import Site


@pytest.fixture
def running(pair: Site) -> Iterator[Site]:
    """A site with two horses on two queues, that go on after a test which failed while they were suspended."""
    yield pair
    pair.redis.delete("rq:suspended")


@pytest.fixture(scope="module")
def pair(shared_site: Site) -> Iterator[Site]:
    """Starts the horses."""
    shared_site.add_project()
    process = shared_site.worker("high", "default", "--processes", "2", "--name", "pair")
    shared_site.until_idle(2)
    yield shared_site
    assert shared_site.stop(process) == 0, shared_site.output()


def enqueue(site: Site, name: str, job_id: str, *args: Any, **options: Any) -> Any:
    queue = site.queue(options.pop("queue", "default"))
    kwargs = options.pop("named", {})
    return queue.enqueue(f"shop.tasks.{name}", args=args, kwargs=kwargs, job_id=job_id, **options)


def value(site: Site, job_id: str) -> Any:
    site.until_ended(job_id)
    assert site.status(job_id) == "finished", site.job(job_id).latest_result().exc_string
    return site.job(job_id).return_value()


def holding(site: Site, job_id: str) -> int:
    """Wait until a `hold` runs. Returns its process id."""
    site.until(lambda: site.redis.llen(f"holding:{job_id}"), f"{job_id} to run")
    return int(site.redis.lindex(f"holding:{job_id}", -1))


def test_a_traceback_begins_at_the_task(running: Site) -> None:
    """Unless the worker itself has raised it."""
    enqueue(running, "fail", "fails")
    enqueue(running, "of_no_such_name", "refused")
    running.until_ended("fails", "refused")
    head, place, *_ = running.job("fails").latest_result().exc_string.splitlines()
    assert head == "Traceback (most recent call last):"
    assert "/shop/tasks.py" in place
    assert running.job("refused").latest_result().exc_string.startswith(head)
    assert running.error("refused").startswith("rqstack.errors.UnknownTask")


# -- the current job


def test_the_current_job_is_all_there(running: Site) -> None:
    enqueue(running, "look", "look", job_timeout=50, retry=Retry(2), meta={"who": "me"}, description="a look")
    seen = value(running, "look")
    assert seen.pop("worker") in ("pair-1", "pair-2")
    assert seen == {
        "id": "look",
        "origin": "default",
        "args": (),
        "name": "shop.tasks.look",
        "timeout": 50,
        "status": "started",
        "description": "a look",
        "retries": 2,
        "started": True,
        "meta": {"who": "me"},
        "ttl": None,
        "missing": False,
        "same": True,
    }


def test_meta_is_written(running: Site) -> None:
    enqueue(running, "write_meta", "meta-new", named={"step": 1})
    enqueue(running, "write_meta", "meta-more", named={"step": 1}, meta={"who": "me"})
    enqueue(running, "assign_meta", "meta-assigned", named={"step": 2}, meta={"who": "me"})
    assert value(running, "meta-new") == {"step": 1} == running.job("meta-new").meta
    assert value(running, "meta-more") == {"who": "me", "step": 1} == running.job("meta-more").meta
    assert value(running, "meta-assigned") is None
    assert running.job("meta-assigned").meta == {"step": 2}


def test_a_job_that_saves_itself(running: Site) -> None:
    enqueue(running, "describe", "describe", "how it went")
    value(running, "describe")
    assert running.job("describe").description == "how it went"
    assert running.status("describe") == "finished"


def test_nested_and_async_tasks(running: Site) -> None:
    enqueue(running, "nested", "nested", 3)
    enqueue(running, "give_later", "later", 5)
    assert value(running, "nested") == "nested"
    assert value(running, "later") == (5, "later")


def test_a_job_may_take_its_retries_away(running: Site) -> None:
    enqueue(running, "give_up", "give-up", retry=Retry(3))
    enqueue(running, "fail_until", "behind-give-up", 3, retry=Retry(3))
    running.until_ended("give-up")
    running.until(lambda: running.status("behind-give-up") == "finished", "the job behind")
    assert running.status("give-up") == "failed"
    assert running.redis.get("runs-of-give-up") == b"1"


# -- how jobs end


def test_results_are_kept_as_long_as_asked(running: Site) -> None:
    enqueue(running, "give", "kept-ever", 1, result_ttl=-1)
    enqueue(running, "give", "kept", 1, result_ttl=1000)
    enqueue(running, "give", "not-kept", 1, result_ttl=0)
    assert value(running, "kept-ever") == 1
    assert value(running, "kept") == 1
    running.until(lambda: running.status("not-kept") == "gone", "the job to be deleted")
    assert running.redis.ttl("rq:job:kept-ever") == -1
    assert 0 < running.redis.ttl("rq:job:kept") <= 1000
    assert not running.redis.exists("rq:results:not-kept")
    assert running.queue().finished_job_registry.get_job_ids(cleanup=False).count("not-kept") == 0


def test_retries(running: Site) -> None:
    enqueue(running, "fail_until", "tries", 2, retry=Retry(3))
    enqueue(running, "fail_until", "tries-in-vain", 9, retry=Retry(2))
    enqueue(running, "once_more", "once-more")
    assert value(running, "tries") == 3
    assert value(running, "once-more") == 3
    running.until_ended("tries-in-vain")
    running.until(lambda: running.redis.get("tries:tries-in-vain") == b"3", "the last try")
    running.until(lambda: running.status("tries-in-vain") == "failed", "the end")
    assert running.job("tries").latest_result().type.name == "SUCCESSFUL"


def test_callbacks(running: Site) -> None:
    good, bad = Callback("shop.tasks.on_success"), Callback("shop.tasks.on_failure")
    enqueue(running, "give", "calls-good", 7, on_success=good, on_failure=bad)
    enqueue(running, "fail", "calls-bad", on_success=good, on_failure=bad)
    running.until_ended("calls-good", "calls-bad")
    assert running.redis.get("success:calls-good") == b"7"
    assert running.redis.get("failure:calls-bad") == b"ValueError"
    assert running.redis.keys("success:calls-bad") + running.redis.keys("failure:calls-good") == []


def test_dependents_added_before_and_while_the_job_runs(running: Site) -> None:
    enqueue(running, "hold", "parent")
    holding(running, "parent")
    # Both horses are busy: RQ leaves a job deferred whose parent has failed before, whatever the job allows.
    enqueue(running, "hold", "beside")
    holding(running, "beside")
    enqueue(running, "give", "added-late", 2, depends_on="parent")
    enqueue(running, "fail", "bad-parent")
    enqueue(running, "give", "after-bad", 3, depends_on=Dependency("bad-parent", allow_failure=True))
    enqueue(running, "add_child", "adds")
    assert running.status("added-late") == "deferred"
    for name in ("parent", "beside"):
        running.redis.rpush(f"release:{name}", 1)
        assert value(running, name) == "released"
    assert value(running, "added-late") == 2
    assert value(running, "after-bad") == 3
    assert value(running, "adds") == "parent"
    running.until(lambda: running.status("child-of-adds") == "finished", "the child")


def test_repeats_and_groups(running: Site) -> None:
    enqueue(running, "count_run", "repeated", repeat=Repeat(2))
    group = Group.create(connection=running.redis, name="g")
    data = [type(running.queue()).prepare_data("shop.tasks.give", (n,), job_id=f"of-group-{n}") for n in range(3)]
    group.enqueue_many(running.queue(), data)
    running.until(lambda: running.redis.llen("runs:repeated") == 3, "three runs")
    running.until_ended(*(f"of-group-{n}" for n in range(3)))
    assert [value(running, f"of-group-{n}") for n in range(3)] == [0, 1, 2]


def test_a_job_that_is_deleted_or_cancelled_while_it_runs(running: Site) -> None:
    for name in ("deleted", "cancelled"):
        enqueue(running, "hold", name)
        holding(running, name)
    running.job("deleted").delete()
    running.job("cancelled").cancel()
    for name in ("deleted", "cancelled"):
        enqueue(running, "give", f"behind-{name}", name)
        running.redis.rpush(f"release:{name}", 1)
    for name in ("deleted", "cancelled"):
        assert value(running, f"behind-{name}") == name
    running.until(lambda: running.status("cancelled") == "finished", "RQ records how it ended")
    assert running.status("deleted") == "gone"
    assert running.redis.keys("rq:*deleted*") == [b"rq:job:behind-deleted", b"rq:results:behind-deleted"] or not [
        key for key in running.redis.keys("rq:*:deleted*") if b"behind" not in key
    ]
    assert running.redis.zcard("rq:wip:default") == 0


# -- commands, and what RQ's tools show


def test_what_the_tools_show(running: Site) -> None:
    running.until_idle(2)
    enqueue(running, "hold", "shown")
    holding(running, "shown")
    states = Counter(worker.get_state() for worker in running.workers())
    assert states == {"busy": 1, "idle": 1}
    (busy,) = [worker for worker in running.workers() if worker.get_state() == "busy"]
    assert busy.get_current_job_id() == "shown"
    assert busy.name in ("pair-1", "pair-2")
    assert busy.queue_names() == ["high", "default"]
    assert running.queue().started_job_registry.get_job_ids() == ["shown"]
    text = running.rq("info", "--raw")
    assert re.search(f"^worker {busy.name} .* busy high, default", text, re.MULTILINE), text
    before = busy.successful_job_count
    running.redis.rpush("release:shown", 1)
    running.until_idle(2)
    busy.refresh()
    assert busy.successful_job_count == before + 1
    assert busy.get_current_executions(refresh=True) == []  # RQ keeps what it has read
    shown = json.loads(running.run("info", "--json").stdout)
    assert shown


@pytest.mark.parametrize("command", ["stop-job", "stop-execution"])
def test_stop_job(running: Site, command: str) -> None:
    enqueue(running, "hold", command, on_stopped=Callback("shop.tasks.on_stopped"), retry=Retry(3))
    pid = holding(running, command)
    if command == "stop-job":
        send_stop_job_command(running.redis, command)
    else:
        worker = running.job(command).worker_name
        send_command(running.redis, worker, "stop-execution", job_id=command, execution_id="another")
        (execution,) = running.job(command).get_executions()
        send_stop_execution_command(running.redis, command, execution.id)
    running.until(lambda: running.status(command) == "stopped", "it to be stopped")
    assert "stopped by user" in running.error(command)
    running.until(lambda: running.redis.get(f"stopped:{command}"), "its callback")
    after = f"after-{command}"
    enqueue(running, "hold", after)
    assert holding(running, after) != pid
    running.redis.rpush(f"release:{after}", 1)
    assert value(running, after) == "released"
    assert int(running.redis.hget(f"rqstack:crashes:{command}", "count") or 0) == 0


def test_kill_horse(running: Site) -> None:
    enqueue(running, "hold", "kill-me")
    holding(running, "kill-me")
    worker = running.job("kill-me").worker_name
    send_kill_horse_command(running.redis, worker)
    running.until(lambda: running.status("kill-me") == "failed", "it to fail")
    assert "Work-horse terminated unexpectedly" in running.error("kill-me")
    running.until_idle(2)
    send_kill_horse_command(running.redis, worker)  # of an idle one: nothing
    enqueue(running, "give", "after-kill", 1)
    assert value(running, "after-kill") == 1


def test_suspend_and_resume(running: Site) -> None:
    running.rq("suspend")
    enqueue(running, "give", "held-up", 1)
    running.until(lambda: "suspended" in {worker.get_state() for worker in running.workers()}, "a suspended worker")
    # The other horse may have been waiting still, and be about to give back what Redis moved to it.
    running.until(lambda: running.queue().job_ids == ["held-up"], "the job to be back on its queue")
    assert running.status("held-up") == "queued"
    running.rq("resume")
    assert value(running, "held-up") == 1


def test_requeue_and_empty(running: Site) -> None:
    enqueue(running, "fail_until", "requeued", 1)
    running.until_ended("requeued")
    assert running.status("requeued") == "failed"
    running.rq("requeue", "--queue", "default", "requeued")
    running.until(lambda: running.status("requeued") == "finished", "the second try")
    running.rq("suspend")
    for number in range(5):
        enqueue(running, "give", f"emptied-{number}")
    running.rq("empty", "default")
    running.rq("resume")
    enqueue(running, "give", "after-empty", 2)
    assert value(running, "after-empty") == 2
    assert all(running.status(f"emptied-{number}") == "gone" for number in range(5))


def test_a_lost_record_is_written_anew(running: Site) -> None:
    running.redis.delete("rq:worker:pair-1")
    running.redis.srem("rq:workers", "rq:worker:pair-1")
    running.until(lambda: len(running.workers()) == 2, "the worker's record")
    running.until_idle(2)


def test_queues_in_order(running: Site) -> None:
    running.rq("suspend")
    for number in range(6):
        enqueue(running, "count_run", f"low-{number}", queue="default")
        enqueue(running, "count_run", f"high-{number}", queue="high")
    running.rq("resume")
    names = [f"{queue}-{number}" for queue in ("high", "low") for number in range(6)]
    running.until_ended(*names)
    started = sorted(names, key=lambda name: running.job(name).started_at)
    # Two horses: two neighbours may begin at once, and no job of the lower queue begins before the higher is empty.
    assert {name.partition("-")[0] for name in started[:5]} == {"high"}


# -- options


def test_shutdown_ends_one_horse_after_its_job(site: Site) -> None:
    site.add_project()
    process = site.worker("default", "--processes", "2", "--name", "two")
    site.until_idle(2)
    enqueue(site, "hold", "last")
    holding(site, "last")
    send_shutdown_command(site.redis, site.job("last").worker_name)
    site.redis.rpush("release:last", 1)
    assert value(site, "last") == "released"
    enqueue(site, "give", "next", 1)
    assert value(site, "next") == 1
    assert process.poll() is None
    other = ({"two-1", "two-2"} - {site.job("last").worker_name}).pop()
    send_shutdown_command(site.redis, other)
    assert process.wait(60) == 0, site.output()
    assert site.workers() == []


def test_name_and_max_jobs_and_exception_handler(site: Site) -> None:
    site.add_project()
    for number in range(4):
        enqueue(site, "fail", f"bad-{number}")
    process = site.worker(
        "default", "--name", "one", "--max-jobs", "3", "--exception-handler", "shop.tasks.handler",
        PYTHONPATH=str(site.folder / "tasks" / "shop"),
    )  # fmt: skip
    assert process.wait(60) == 0, site.output()
    assert [site.status(f"bad-{number}") for number in range(4)] == ["failed"] * 3 + ["queued"]
    assert site.redis.lrange("handled", 0, -1) == [b"bad-0", b"bad-1", b"bad-2"]
    assert site.job("bad-0").worker_name == "one"
    refused = site.run("worker", "run", "--exception-handler", "no.such.thing", check=False)
    assert refused.returncode == 1
    assert "The exception handler no.such.thing cannot be imported" in refused.stderr


def test_idle_time_round_robin_and_a_taken_name(site: Site) -> None:
    site.add_project()
    for number in range(6):
        enqueue(site, "count_run", f"a-{number}", queue="a")
        enqueue(site, "count_run", f"b-{number}", queue="b")
    process = site.worker("a", "b", "--name", "turns", "--dequeue-strategy", "round_robin", "--max-idle-time", "4")
    names = [f"{queue}-{number}" for queue in "ab" for number in range(6)]
    site.until_ended(*names)
    second = site.run("worker", "run", "a", "--name", "turns", check=False)
    assert second.returncode == 1
    assert "Stop it first, or choose another --name." in second.stderr
    assert process.wait(60) == 0
    started = sorted(names, key=lambda name: site.job(name).started_at)
    assert "".join(name[0] for name in started) == "ab" * 6


def test_random_order_and_json_logs(site: Site) -> None:
    site.add_project()
    for number in range(30):
        enqueue(site, "count_run", f"a-{number}", queue="a")
        enqueue(site, "count_run", f"b-{number}", queue="b")
    arguments = ("a", "b", "--burst", "--dequeue-strategy", "random", "--logging-level", "DEBUG")
    assert site.worker(*arguments, RQSTACK_LOG_FORMAT="json").wait(60) == 0
    names = [f"{queue}-{number}" for queue in "ab" for number in range(30)]
    started = "".join(name[0] for name in sorted(names, key=lambda name: site.job(name).started_at))
    assert started not in ("a" * 30 + "b" * 30, "ab" * 30)
    lines = [json.loads(line) for line in site.output().splitlines()]
    assert {"DEBUG", "INFO"} <= {line["level"] for line in lines}


def test_with_scheduler_a_delayed_job_runs(site: Site) -> None:
    site.add_project()
    process = site.worker("default", "--with-scheduler")
    site.queue().enqueue_in(timedelta(seconds=1), "shop.tasks.give", 3, job_id="delayed")
    site.until(lambda: site.status("delayed") == "finished", "the delayed job")
    assert site.stop(process) == 0


@pytest.mark.parametrize("limit", [{"RQSTACK_MAX_JOBS": "5"}, {"RQSTACK_MAX_RSS": "1"}])
def test_horses_are_replaced_between_jobs(site: Site, limit: dict[str, str]) -> None:
    site.add_project()
    names = [f"job-{number}" for number in range(20)]
    for name in names:
        enqueue(site, "pid", name)
    process = site.worker("default", "--name", "stays", **limit)
    site.until_ended(*names)
    pids = [value(site, name) for name in names]
    assert set(Counter(pids).values()) == ({5} if "RQSTACK_MAX_JOBS" in limit else {1})
    assert {site.job(name).worker_name for name in names} == {"stays"}
    assert all(len(site.job(name).results()) == 1 for name in names)
    assert site.stop(process) == 0


def test_odd_names_of_queues(site: Site) -> None:
    site.add_project()
    names = ["two words", "a,b", "a:b:c", "größe-データ", "new\nline", "percent %s {0}", "'quoted\"", "=", "x" * 5000]
    for number, name in enumerate(names):
        enqueue(site, "give", f"good-{number}", name, queue=name)
        enqueue(site, "fail", f"bad-{number}", queue=name)
    assert site.worker(*names, "--burst").wait(60) == 0, site.output()
    for number, name in enumerate(names):
        assert value(site, f"good-{number}") == name
        assert site.status(f"bad-{number}") == "failed"
        assert site.queue(name).failed_job_registry.get_job_ids() == [f"bad-{number}"]


def test_an_odd_queue_s_job_runs_again_when_its_horse_dies(site: Site) -> None:
    import os

    site.add_project()
    enqueue(site, "hold", "held", queue="odd:\nname")
    process = site.worker("odd:\nname")
    os.kill(holding(site, "held"), signal.SIGKILL)
    site.until(lambda: site.redis.llen("holding:held") == 2, "the second run")
    site.redis.rpush("release:held", 1)
    assert value(site, "held") == "released"
    assert site.stop(process) == 0


def test_before_redis_and_after_a_flush(own_site: Site) -> None:
    site = own_site
    site.add_project()
    site.server.kill()
    process = site.worker("default")
    site.until(lambda: "Trying again" in site.output(), "the worker to wait")
    site.server.start()
    site.until_idle(1)
    site.redis.flushall()
    enqueue(site, "give", "after-flush", 1)
    assert value(site, "after-flush") == 1
    site.until_idle(1)
    assert site.stop(process) == 0


# -- what it costs


def commands(client: Redis) -> int:
    return int(client.info("stats")["total_commands_processed"])


def reads(client: Redis) -> int:
    return int(client.info("stats")["total_reads_processed"])


def test_idle_horses_are_quiet(own_site: Site) -> None:
    import psutil

    site = own_site
    site.add_project()
    process = site.worker("high", "default", "--processes", "8", RQSTACK_HEARTBEAT="5", RQSTACK_DEAD_AFTER="12")
    site.until_idle(8)
    parent = psutil.Process(process.pid)

    def used() -> float:
        """CPU seconds of all its processes, those that have ended too."""
        seconds = 0.0
        for each in [parent, *parent.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                seconds += sum(each.cpu_times()[:4])
        return seconds

    time.sleep(1)  # let the start's own work end
    before, begun, began = commands(site.redis), used(), time.monotonic()
    time.sleep(8)
    seconds = time.monotonic() - began
    assert (commands(site.redis) - before) / seconds < 20
    assert (used() - begun) / seconds < 0.1
    assert site.stop(process) == 0


def test_a_busy_queue_costs_one_round_trip_a_job(own_site: Site) -> None:
    site = own_site
    site.add_project()
    names = [f"job-{number}" for number in range(2000)]
    queue = site.queue()
    queue.enqueue_many([queue.prepare_data("shop.tasks.give", (1,), job_id=name) for name in names])
    site.redis.set("rq:suspended", 1)
    enqueue(site, "count_run", "the-last")
    process = site.worker("default")
    site.until(lambda: "suspended" in {worker.get_state() for worker in site.workers()}, "the worker")
    before = reads(site.redis)
    site.redis.delete("rq:suspended")
    assert site.redis.blpop("runs:the-last", 60), site.output()  # one read, however long it takes
    assert (reads(site.redis) - before) / len(names) < 1.1
    assert [name for name in names if site.status(name) != "finished"] == []
    assert site.stop(process) == 0


def test_a_task_that_seeds_random_numbers_harms_no_other(running: Site) -> None:
    ids = [enqueue(running, "seed", f"seed-{number}").id for number in range(20)]
    for job in ids:
        running.until_ended(job)
        assert running.status(job) == "finished"
    runs = [running.redis.xrange(f"rq:results:{job}")[0][1][b"execution_id"] for job in ids]
    assert len(set(runs)) == len(ids)


def test_users_code_may_save_the_job_when_it_has_ended(running: Site) -> None:
    """RQ's own documentation does: the status is written before the outcome is recorded."""
    failed = enqueue(running, "fail", "failed", on_failure=Callback("shop.tasks.save_failed"))
    finished = enqueue(running, "give", "finished", on_success=Callback("shop.tasks.save_finished"))
    again = enqueue(running, "fail", "again", retry=Retry(1), on_failure=Callback("shop.tasks.save_failed"))
    bad, good = running.queue().failed_job_registry, running.queue().finished_job_registry
    running.until(lambda: {"failed", "again"} <= set(bad.get_job_ids()) and "finished" in good.get_job_ids())
    for job, status, saved in ((failed, "failed", 1), (finished, "finished", 1), (again, "failed", 2)):
        assert running.status(job.id) == status
        assert running.job(job.id).meta["saved"] == saved


def test_the_registry_of_finished_jobs_keeps_no_expired_ones(site: Site) -> None:
    site.add_project()
    site.worker("default")
    queue = site.queue()
    ttls = {"short": 1, "never": -1, "none": 0, "long": 500}
    jobs = {f"{name}-{n}": ttl for name, ttl in ttls.items() for n in range(5)}
    for each, ttl in jobs.items():
        queue.enqueue("shop.tasks.give", job_id=each, result_ttl=ttl)
    site.until(lambda: site.redis.keys("rq:job:short-*") == [] == queue.job_ids, "the results to expire")
    kept = {each for each in jobs if each.startswith(("never", "long"))}

    def is_trimmed() -> bool:
        job = queue.enqueue("shop.tasks.give", result_ttl=-1)
        site.until_ended(job.id)
        kept.add(job.id)
        found = {raw.decode() for raw in site.redis.zrange("rq:finished:default", 0, -1)}
        assert kept <= found
        return found == kept

    site.until(is_trimmed, "expired ids to go")
    assert all(site.status(each) == "finished" for each in kept)
