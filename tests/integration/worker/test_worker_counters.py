"""What the workers have counted in `rqstack:metrics` is what ran."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from redis import Redis
from rq import Retry
from rq.command import send_stop_job_command

from rqstack.worker.horse.counters import Counters
from support.worker_site import Site


def test_counts_agree_with_what_ran(site: Site) -> None:
    site.add_project()
    queue, other = site.queue("default"), site.queue("other")
    site.redis.set("rq:suspended", 1)
    names: list[str] = []

    def add(function: str, count: int, *args: Any, to: Any = queue, **options: Any) -> None:
        for _ in range(count):
            names.append(f"job-{len(names)}")
            to.enqueue(f"shop.tasks.{function}", args=args, job_id=names[-1], **options)

    add("give", 50)
    add("give", 7, to=other)
    add("nap", 4, 0.06)
    add("fail", 5, "no", "KeyError")
    add("fail", 3)
    add("fail", 2, retry=Retry(2))
    process = site.worker("default", "other", "--processes", "2")
    site.until(lambda: "suspended" in {worker.get_state() for worker in site.workers()}, "the workers")
    site.redis.delete("rq:suspended")
    site.until_ended(*names)
    site.until_idle(2)  # a horse that is killed takes the counts of its last moments with it
    add("crash", 1)
    site.until_ended(*names)
    queue.enqueue("shop.tasks.hold", job_id="stopped")
    site.until(lambda: site.redis.llen("holding:stopped"), "the job to run")
    send_stop_job_command(site.redis, "stopped")
    site.until_ended("stopped")
    # Horses keep counts back for a moment; they are all there when the worker has ended.
    assert site.stop(process) == 0, site.output()
    counted = site.metrics()
    processed = {key[1:]: value for key, value in counted.items() if key[0] == "processed"}
    assert processed == {
        ("default", "shop.tasks.give", "finished"): 50,
        ("other", "shop.tasks.give", "finished"): 7,
        ("default", "shop.tasks.nap", "finished"): 4,
        ("default", "shop.tasks.fail", "failed"): 10,
        ("default", "shop.tasks.fail", "retried"): 4,
        ("default", "shop.tasks.crash", "killed"): 1,
        ("default", "shop.tasks.hold", "stopped"): 1,
    }
    failures = {key[1:]: value for key, value in counted.items() if key[0] == "failures"}
    assert failures == {
        ("default", "shop.tasks.fail", "KeyError"): 5,
        ("default", "shop.tasks.fail", "ValueError"): 9,
    }
    for kind in ("wait", "run"):
        observed: dict[tuple[str, str], float] = defaultdict(float)
        for key, value in counted.items():
            if key[0] == kind:
                observed[key[1], key[2]] += value
        assert observed == {
            ("default", "shop.tasks.give"): 50,
            ("other", "shop.tasks.give"): 7,
            ("default", "shop.tasks.nap"): 4,
            ("default", "shop.tasks.fail"): 14,
        }
    naps = {float(key[3]): value for key, value in counted.items() if key[:3] == ("run", "default", "shop.tasks.nap")}
    assert min(naps) >= 0.1  # the first bucket that 60 ms are in
    assert counted["run_sum", "default", "shop.tasks.nap"] >= 4 * 0.06


def test_a_job_is_counted_before_the_next_one_ends(site: Site) -> None:
    """Or a job that kills its horse, or runs for an hour, would take the counts of the one before along."""
    site.add_project()
    site.redis.set("rq:suspended", 1)
    queue = site.queue()
    queue.enqueue("shop.tasks.nap", 0.3, job_id="long")
    queue.enqueue("shop.tasks.hold", job_id="next")
    site.worker("default")
    site.redis.delete("rq:suspended")
    site.until(lambda: site.redis.llen("holding:next"), "the next job")
    assert site.metrics()["processed", "default", "shop.tasks.nap", "finished"] == 1
    site.redis.rpush("release:next", 1)
    site.until_ended("next")


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "fenced"])
def test_a_reply_that_is_lost_is_not_counted_twice(connection: Redis, recorded: bool) -> None:
    """The same call of settle.lua, sent again after its reply was lost."""
    from rq import Queue
    from rq.serializers import DefaultSerializer

    from rqstack.transport import keys
    from rqstack.transport.raw import RawConnection
    from rqstack.worker import Worker
    from rqstack.worker.outcome import Outcome
    from rqstack.worker.scripts import CLAIM, SETTLE
    from rqstack.worker.settle import claim_arguments, settle_arguments

    queue = Queue("counted", connection=connection)
    queue.enqueue("shop.tasks.give", job_id="one")
    worker = Worker([queue], name="w", connection=connection, serializer=DefaultSerializer)
    connection.zadd(keys.SUPERVISORS, {"s": 9e9})
    channel = RawConnection(connection)
    fixed_keys = (worker.key, keys.running("s"), keys.SUPERVISORS)
    status, job = channel.run(CLAIM, claim_arguments(fixed_keys, [queue.key], ("w", "s"), 1769860800.0))
    assert [status, *job[:2]] == [b"jobs", b"counted", b"one"]
    outcome = Outcome("finished", "one", job[2].decode(), "counted", ended=1769860800.5, ran=0.5, result_ttl=500)
    counts = ['["processed","default","t","finished"]', "1"]
    head = claim_arguments(fixed_keys, [queue.key], ("w", "s"), 1769860800.0)
    tail = (*head, *settle_arguments([outcome], claim=True), *counts)
    if not recorded:
        connection.delete(keys.running("s"))
    assert channel.run(SETTLE, tail) == [[b"finished" if recorded else b"fenced"], 0, b"empty"]
    # A call that was fenced leaves its mark too.
    assert channel.run(SETTLE, tail) == [[b"again"], 0, b"empty"]
    # What was not recorded is not counted; the horse has its counts still, and sends them with the next job.
    assert connection.hvals("rqstack:metrics") == ([b"1"] if recorded else [])
    assert connection.xlen("rq:results:one") == (1 if recorded else 0)
    channel.close()


def test_counts_that_were_not_added_are_kept() -> None:
    counters = Counters()
    counters.add("default", "a", "finished", run=0.3)
    taken = counters.take(0.0)
    counters.add("default", "a", "finished", run=0.4)
    counters.put_back(taken)
    pairs = counters.take(1.0)
    counts = {str(name): float(amount) for name, amount in zip(pairs[::2], pairs[1::2], strict=True)}
    assert sorted(counts.values()) == [0.7, 2, 2]
