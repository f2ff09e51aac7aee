"""A program that enqueues until its standard input ends, then prints the outcome of each job as JSON.

It runs as long as a web application does: it reads its settings once, when it starts.

    python producer_loop.py TASK
"""

from __future__ import annotations

import json
import sys
import threading
import time

from rq.job import Job

from rqstack.enqueue import get_queue


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def main(task: str) -> None:
    ended = threading.Event()
    threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
    queue = get_queue("short-running")
    jobs: list[Job] = []
    while not ended.is_set():
        jobs.append(queue.enqueue(task, len(jobs), 1))
        print(jobs[-1].id, flush=True)
        time.sleep(0.005)
    outcomes = {}
    for job in jobs:
        result = job.latest_result(timeout=60)
        kind = None if result is None else result.type.name
        outcomes[job.id] = [kind, result.return_value if kind == "SUCCESSFUL" and result else None]
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1])
