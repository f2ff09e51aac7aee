"""Functions of a project that was written for RQ alone."""

from pathlib import Path

OUTBOX = Path("outbox.txt")


def send(to: str) -> str:
    with OUTBOX.open("a") as file:
        file.write(f"sent to {to}\n")
    return to.upper()


def bounce(to: str) -> None:
    raise ValueError(f"no mailbox {to}")


def note_success(job, connection, result) -> None:
    with OUTBOX.open("a") as file:
        file.write(f"success: {result}\n")


def note_failure(job, connection, kind, value, traceback) -> None:
    with OUTBOX.open("a") as file:
        file.write(f"failure: {value}\n")
