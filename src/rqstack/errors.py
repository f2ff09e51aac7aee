"""Exceptions whose message is shown to the user: what was wrong, where, and what to do."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar


class RqstackError(Exception):
    """Base of every error that a command prints as one line, without a traceback.

    Args:
        message: What was wrong, where, and what to do, in one or two sentences.
    """

    exit_code = 1
    """The exit code of a command that ends with this error."""


class SettingsError(RqstackError):
    """A setting is missing or has a value that is not allowed; the message names it, the value and the remedy."""


class BrokerUnavailable(RqstackError):
    """Redis cannot be reached, or refuses the user or the password."""


class UnknownTask(RqstackError):
    """No task of that name is registered; the message lists near names."""


class UnknownQueue(RqstackError):
    """No queue of that name is known; the message lists those that are."""


class TaskImportError(RqstackError):
    """A module of a task project cannot be imported; the message names the module and its error."""


class InvalidJob(RqstackError):
    """A job cannot be enqueued as given: arguments that do not pickle, an option out of range."""


class BackendError(RqstackError):
    """A message backend cannot be loaded, or its store cannot be reached."""


class DaemonError(RqstackError):
    """The background worker could not be started or stopped, or is not running."""


class IncompatibleSchema(RqstackError):
    """The data in Redis has a schema version that this release cannot share."""


class WorkerError(RqstackError):
    """A worker cannot start as asked; the message says why."""


class PayloadTooLarge(RqstackError):
    """A payload is larger than the settings allow, before or after it is decompressed; nothing of it was read.

    Args:
        most: The limit in bytes.
        size: Its size in bytes; 0 where that is not known.
    """

    def __init__(self, most: int, size: int = 0) -> None:
        found = f"has {size / (1 << 20):.1f} MiB, " if size else "has "
        super().__init__(
            f"the payload {found}more than the {most >> 20} MiB that are allowed. Pass a reference to "
            "large data, or raise RQSTACK_MAX_PAYLOAD."
        )


class PayloadRejected(RqstackError):
    """A payload's signature is missing or wrong; nothing of it was read.

    Args:
        reason: A key of `_SENTENCES`, the label that metrics count it by.
    """

    _SENTENCES: ClassVar[dict[str, str]] = {
        "unsigned": "the payload has no signature, so it was not read. Enqueue it by `.delay()` of its task, or give "
        "RQ's Queue serializer=rqstack.security.Default and workers RQSTACK_ACCEPT_RQ_SIGNATURES=1; the producer needs "
        "the workers' RQSTACK_SECRET_KEY.",
        "bad_signature": "the payload's signature is of another key or other data, so it was not read. "
        "Producers and workers need the same RQSTACK_SECRET_KEY.",
        "other_purpose": "the payload was signed for another purpose, such as a result that stands in the place of "
        "arguments, so it was not read. To read results by Job.fetch(), give it "
        "serializer=rqstack.security.get_job_serializer().",
        "rq_signature": "the payload was signed by RQ's own queue or worker, so it was not read. Enqueue it by "
        "`.delay()` of its task, or set RQSTACK_ACCEPT_RQ_SIGNATURES=1 for workers and for what reads results.",
    }

    def __init__(self, reason: str) -> None:
        super().__init__(self._SENTENCES.get(reason, reason))
        self.reason = reason


def did_you_mean(word: str, known: Iterable[str], *, most: int = 1, prefix: str = "") -> str:
    """The end of a message about an unknown name, such as ' Did you mean retries?'; "" if no known name is similar.

    Args:
        most: How many names to suggest at most.
        prefix: Shown before each name. Pass names without it: a common prefix makes any two of them similar.
    """
    from difflib import get_close_matches  # here, because every producer imports this module

    near = [f"{prefix}{name}" for name in get_close_matches(word, list(known), n=most)]
    return f" Did you mean {' or '.join(near)}?" if near else ""
