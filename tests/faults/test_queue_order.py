"""Several queues, many producers: no job starts while one of a higher queue has been waiting."""

from __future__ import annotations

import os
import random
import threading
import time
from datetime import datetime
from typing import NamedTuple

import pytest

from support.fleet import Fleet

pytestmark = pytest.mark.timeout(400)

QUEUES = ("high", "default", "low")


class Start(NamedTuple):
    """When a job was certainly in its queue, when the horse asked for work and got it, and when it began."""

    rank: int
    waiting: float
    asked: float
    began: float
    job: str


def produce(fleet: Fleet, number: int, most: float) -> dict[str, float]:
    """Many producers at once, each with a connection of its own; when each job's call had returned."""
    done: dict[str, float] = {}

    def run(producer: int) -> None:
        from rqstack.enqueue import get_queue

        draw = random.Random(producer)
        with fleet.server.client() as client:
            queues = {name: get_queue(name, connection=client, settings=fleet.settings) for name in QUEUES}
            for n in range(number):
                name = draw.choice(QUEUES)
                job = f"{name}-{producer}-{n}"
                queues[name].enqueue("faulty.tasks.work", job_id=job)
                done[job] = time.time()
                if most:
                    time.sleep(draw.uniform(0, most))

    threads = [threading.Thread(target=run, args=(producer,)) for producer in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return done


# Without a pause the queues are never empty; with one the horse is idle most of the time, and Redis wakes it.
@pytest.mark.parametrize("most", [0.0, 0.04], ids=["busy", "idle"])
def test_strict_order(fleet: Fleet, most: float) -> None:
    fleet.start(horses=1, queues=QUEUES)
    fleet.until(lambda: fleet.horses())
    done = produce(fleet, 300, most)
    fleet.until(lambda: fleet.ended(QUEUES) == len(done))
    starts = []
    for job, waiting in done.items():
        asked = datetime.fromisoformat(fleet.client.hget(f"rq:job:{job}", "started_at").decode()).timestamp()
        ((_, result),) = fleet.client.xrange(f"rq:results:{job}")
        began = float(result[b"execution_started_at"])
        starts.append(Start(QUEUES.index(job.partition("-")[0]), waiting, asked, began, job))
    starts.sort(key=lambda start: start.began)
    passed = [
        (start.job, other.job)
        for index, start in enumerate(starts)
        for other in starts[index + 1 :]
        if other.rank < start.rank and other.waiting < start.asked
    ]
    assert passed == []
    assert [start.job for start in starts] == [line.job for line in fleet.journal() if line.what == "begin"]
    fleet.finish(list(done), QUEUES)
    waited = sum(start.asked > start.waiting for start in starts)
    print(f"{len(done)} jobs, {waited} of them waited in their queue")


def test_an_idle_horse_takes_the_higher_of_two(fleet: Fleet) -> None:
    """Redis moves a job to an idle horse, and another one is put before it: the claim is of the one that is first."""
    from rqstack.transport import keys
    from rqstack.transport.raw import RawConnection
    from rqstack.worker.horse.waiting_claim import WaitingClaim
    from rqstack.worker.scripts import CLAIM
    from rqstack.worker.settle import claim_arguments

    client = fleet.client
    queue_keys = ["rq:queue:high", "rq:queue:low"]
    client.zadd(keys.SUPERVISORS, {"supervisor": time.time()})
    channel, waiting = RawConnection(client), WaitingClaim(client, "worker", "rq:queue:low", 5.0)
    channel.load(CLAIM)
    begin, end = os.pipe()
    try:
        fixed_keys = ("rq:worker:worker", keys.running("supervisor"), keys.SUPERVISORS)
        tail = claim_arguments(fixed_keys, queue_keys, ("worker", "supervisor"), None, idle=True)
        waiting.begin(tail)
        with client.pipeline(transaction=True) as pipe:  # the wait ends when both are there
            for job_id, queue in (("low-1", "low"), ("low-2", "low"), ("high-1", "high")):
                pipe.hset(f"rq:job:{job_id}", mapping={"data": "", "origin": queue, "status": "queued"})
                pipe.rpush(f"rq:queue:{queue}", job_id)
            pipe.execute()
        status, job = waiting.wait(begin, 20)
        assert [status, *job[:2]] == [b"jobs", b"high", b"high-1"]
        assert client.lrange("rq:queue:low", 0, -1) == [b"low-1", b"low-2"]
        assert client.keys("rqstack:claim:*") == []
        # The same call again, as after a lost reply, is the same job.
        assert channel.run(CLAIM, tail)[1][:3] == job[:3]
    finally:
        waiting.close()
        channel.close()
        os.close(begin)
        os.close(end)


@pytest.mark.parametrize("idle", [False, True], ids=["busy", "idle"])
def test_a_job_moved_to_the_supervisor_keeps_its_place(fleet: Fleet, idle: bool) -> None:
    """Whichever horse asks first, busy or idle: neither a lower queue nor a later job is served before it."""
    from rqstack.transport import keys
    from rqstack.transport.raw import RawConnection
    from rqstack.worker.scripts import CLAIM
    from rqstack.worker.settle import claim_arguments

    client = fleet.client
    queue_keys = [f"rq:queue:{queue}" for queue in QUEUES]
    client.zadd(keys.SUPERVISORS, {"supervisor": time.time()})
    for queue in QUEUES[1:]:
        fleet.enqueue([f"{queue}-1", f"{queue}-2"], queue=queue)
        key = f"rq:queue:{queue}"
        client.lmove(key, keys.claim("supervisor", key), "LEFT", "RIGHT")
    fleet.enqueue(["high-1"], queue="high")
    channel = RawConnection(client)
    taken = []
    for number in range(6):
        fixed_keys = (f"rq:worker:w{number}", keys.running("supervisor"), keys.SUPERVISORS)
        names = (f"w{number}", "supervisor")
        _, *jobs = channel.run(CLAIM, claim_arguments(fixed_keys, queue_keys, names, time.time(), idle=idle))
        taken += [job[1] for job in jobs]
        assert client.keys("rqstack:claim:*") == []
    channel.close()
    assert taken == [b"high-1", b"default-1", b"default-2", b"low-1", b"low-2"]
