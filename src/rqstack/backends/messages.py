"""Task calls as messages: what a producer writes to a backend, and a consumer reads."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

from rqstack.errors import InvalidJob
from rqstack.security import get_serializer
from rqstack.settings import Settings

FAILED = ":failed"
"""What is added to a queue's name to get that of the queue of its failed messages."""


@dataclass(frozen=True, slots=True)
class Message:
    """One call of a task.

    Args:
        task: The task's registered name.
        args: Positional arguments.
        kwargs: Named arguments.
        timeout: Seconds it may run; -1 for ever.
        retries: How often it still runs again if it fails.
        id: Unique; in every line that the consumer logs about it.
    """

    task: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    timeout: int = -1
    retries: int = 0
    id: str = field(default_factory=lambda: str(uuid4()))


def encode(call: Message, settings: Settings) -> bytes:
    """The signed bytes of a call.

    Raises:
        InvalidJob: An argument cannot be stored.
    """
    # dataclasses.asdict would copy the arguments deeply.
    values = {each.name: getattr(call, each.name) for each in fields(call)}
    try:
        return bytes(get_serializer(settings).dumps(values))
    except InvalidJob:
        raise
    except Exception as error:
        raise InvalidJob(f"{call.task}: its arguments cannot be stored: {type(error).__name__}: {error}.") from error


def decode(data: bytes, settings: Settings) -> Message:
    """The call of signed bytes. Nothing is unpickled before the signature was checked.

    Raises:
        Exception: What the serializer raises for forged, altered or unsigned bytes.
        InvalidJob: They are signed, but no call.
    """
    values = get_serializer(settings).loads(data)
    try:
        return Message(**{**values, "args": tuple(values["args"])})
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidJob(f"the message is not a task call: {error}") from None
