"""Tasks for a test of the pytest plugin, and what has run."""

from __future__ import annotations

from rqstack import queue_command, task

ran: list[object] = []


@task(queue="mail", rate_limit="1/day")
def send(to: str, subject: str = "hello") -> str:
    ran.append((to, subject))
    return f"{subject}, {to}"


@task(retries=2, backoff=60)
def flaky() -> None:
    ran.append("flaky")
    if ran.count("flaky") < 3:
        raise OSError("not yet")


@task
def broken(n: int) -> float:
    return 1 / n


@queue_command
def churn(n: int) -> None:
    ran.append(n)
    if n:
        churn(n - 1)


@task
async def waits(n: int) -> int:
    return n + 1
