"""The order of jobs that depend on each other."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rq.job import Job


class DependencyCycle(ValueError):
    """A job depends on itself, or on one that waits for it."""

    def __init__(self, job_id: str, dependency_id: str) -> None:
        if job_id == dependency_id:
            super().__init__(f"Job '{job_id}' cannot depend on itself.")
        else:
            super().__init__(f"Job '{job_id}' cannot wait for job '{dependency_id}', which waits for it.")


def in_order(jobs: Sequence[Job]) -> list[Job]:
    """The jobs, those that others of them depend on first, and otherwise in the order given.

    Raises:
        DependencyCycle: Jobs depend on each other in a cycle.
    """
    by_id = {job.id: job for job in jobs}
    order: dict[str, Job] = {}
    open_ids: list[tuple[str, Iterator[str]]] = []
    path: set[str] = set()

    def enter(job_id: str) -> None:
        if job_id in path:
            raise DependencyCycle(job_id, open_ids[-1][0])
        if job_id in by_id and job_id not in order:
            path.add(job_id)
            open_ids.append((job_id, iter(by_id[job_id]._dependency_ids)))

    for job in jobs:
        enter(job.id)
        while open_ids:  # a chain may be longer than Python's recursion limit
            job_id, dependencies = open_ids[-1]
            dependency = next(dependencies, None)
            if dependency is not None:
                enter(dependency)
            else:
                open_ids.pop()
                path.discard(job_id)
                order[job_id] = by_id[job_id]
    return list(order.values())
