"""One worker behind a proxy, which runs jobs of every kind while faults are injected."""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil
from rq import Queue

from rqstack.scheduling.delayed import DelayedJobs
from support.fault_proxy import FaultProxy
from support.fleet import Fleet
from support.journal import read_journal
from support.redis_server import RedisServer
from support.settled import Ended, forget_jobs, problems
from support.waiting import until

SETTINGS = {
    "RQSTACK_MODULES": "faulty.tasks,faulty.outcomes",
    "RQSTACK_SECRET_KEY": "",
    "RQSTACK_DEAD_AFTER": "2",
    "RQSTACK_HEARTBEAT": "1",
    "RQSTACK_PRIVATE_HOSTS": "127.0.0.1",
}


class Workbench:
    """A Redis, a proxy before it, and a worker of one horse behind the proxy, which is used for many tests.

    A worker in a state that a test found wrong is thrown away with its Redis.
    """

    def __init__(self) -> None:
        self._number = 0
        self._is_open = False

    def open(self) -> None:
        """Start it, unless it runs."""
        if self._is_open:
            return
        self._is_open = True
        self.folder = tempfile.TemporaryDirectory(prefix="rqstack-workbench-")
        self.server = RedisServer()
        self.server.start()
        self.redis = self.server.client()
        self.proxy = FaultProxy(self.server.port)
        self.fleet = Fleet(self.server, Path(self.folder.name))
        self.fleet.environment["REDIS_URL"] = f"redis://127.0.0.1:{self.proxy.port}/0"
        self.fleet.environment["FAULTS_REDIS_PORT"] = str(self.server.port)
        self.fleet.environment |= SETTINGS | {"RQSTACK_HOME": self.folder.name}
        self.start_worker()

    def close(self) -> None:
        """Kill and delete everything."""
        if self._is_open:
            self._is_open = False
            self.fleet.close()
            self.proxy.close()
            self.redis.close()
            self.server.close()
            self.folder.cleanup()

    def start_worker(self) -> None:
        """Start a worker if none runs, and wait until it works and the dead ones are taken over."""
        self.fleet.running[:] = [each for each in self.fleet.running if each.poll() is None]
        if not self.fleet.running:
            self.fleet.start(1, horses=1, queues=("default", "other"))
            self.pass_barrier()
        self.fleet.until(lambda: self.redis.zcard("rqstack:supervisors") == 1, 30)

    def queue(self, name: str = "default") -> Queue:
        """A queue of RQ's own, straight to Redis."""
        return Queue(name, connection=self.redis)

    def prefix(self) -> str:
        """The prefix of the next jobs' ids."""
        self._number += 1
        return f"case{self._number:05}-"

    def journal(self, prefix: str) -> Counter[tuple[str, str]]:
        """The number of times that each job with such an id began, and called back."""
        lines = read_journal(self.fleet.folder / "journal")
        return Counter((line.what, line.job) for line in lines if line.job.startswith(prefix))

    def move_due(self) -> None:
        """Move all delayed jobs as if some days had passed."""
        DelayedJobs(self.redis).move_due(time.time() + 1e6)

    # -- faults

    def kill_sender(self, port: int) -> bool:
        """kill -9 of the horse (or side job) that sent a command; of the horse, if the supervisor did."""
        horses = self.fleet.horses()
        senders = [pid for pid in horses if _has_port(pid, port)]
        for pid in senders or horses:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        return bool(senders)

    def kill_worker(self, port: int) -> bool:
        """kill -9 of the worker with all its processes."""
        supervisor = self.fleet.running[0]
        for pid in self.fleet.tree(supervisor):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        supervisor.wait()
        return True

    # -- waiting

    def until_settled(
        self,
        expected: Sequence[Mapping[str, Ended]],
        drive: Callable[[], object] = lambda: None,
        seconds: float = 15,
    ) -> list[str]:
        """Wait until all jobs have ended as expected or are late. Returns what is wrong.

        Args:
            expected: As `problems` takes; several, if each is allowed.
            drive: What the test does meanwhile; called again and again.
            seconds: After these it is a failure.
        """
        deadline = time.monotonic() + seconds
        while True:
            drive()
            found = [problems(self.redis, each) for each in expected]
            if not all(found):
                return []
            if time.monotonic() > deadline:
                return min(found, key=len)
            time.sleep(0.002)

    def pass_barrier(self) -> None:
        """Wait until the only horse has run another job, and so is done with all before it."""
        self._number += 1
        job_id = f"barrier{self._number:05}"
        self.queue().enqueue("faulty.outcomes.finish", job_id=job_id)
        until(lambda: self.redis.exists(f"rq:results:{job_id}"), 15, log=self.fleet.tail, pause=0.002)
        self.redis.unlink(f"rq:job:{job_id}", f"rq:results:{job_id}")
        self.redis.zrem("rq:finished:default", job_id)

    def forget(self) -> None:
        """Delete all jobs."""
        forget_jobs(self.redis)


def _has_port(pid: int, port: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return any(each.laddr.port == port for each in psutil.Process(pid).net_connections("tcp") if each.laddr)
    return False
