"""The same function as a task of rqstack."""

from mailroom import jobs
from rqstack import task


@task(queue="mail", retries=3)
def send(to: str) -> str:
    return jobs.send(to)
