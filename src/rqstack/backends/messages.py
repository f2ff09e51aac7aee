"""Encodes and decodes task calls as signed messages."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any
from uuid import uuid4

from rqstack.errors import InvalidJob
from rqstack.security import for_purpose, get_serializer
from rqstack.security.bounded import MIB, check_size
from rqstack.settings import Settings

FAILED = ":failed"
"""Suffix of the queue that keeps a queue's failed messages."""


@dataclass(frozen=True, slots=True)
class Message:
    """One call of a task.

    Args:
        task: The task's registered name.
        timeout: Seconds; -1 for no limit.
        retries: Retries left.
        id: Identifies the call in the consumer's log.
    """

    task: str
    args: tuple[Any, ...] = field(default=(), repr=False)
    kwargs: dict[str, Any] = field(default_factory=dict, repr=False)
    timeout: int = -1
    retries: int = 0
    id: str = field(default_factory=lambda: str(uuid4()))


def encode(message: Message, settings: Settings) -> bytes:
    """Serialize and sign a message.

    Raises:
        InvalidJob: An argument cannot be stored.
    """
    # Not dataclasses.asdict, which would deep-copy the arguments.
    values = {each.name: getattr(message, each.name) for each in fields(message)}
    try:
        return bytes(for_purpose(get_serializer(settings), "message").dumps(values))
    except InvalidJob:
        raise
    except Exception as error:
        raise InvalidJob(f"{message.task}: its arguments cannot be stored: {type(error).__name__}: {error}.") from error


def decode(data: bytes, settings: Settings) -> Message:
    """Verify the signature of a message, then deserialize it.

    Raises:
        Exception: The serializer rejects forged, altered or unsigned bytes.
        InvalidJob: The signature is valid, but the content is not a message.
        PayloadTooLarge: It is larger than RQSTACK_MAX_PAYLOAD.
    """
    check_size(data, settings.max_payload * MIB)
    values = for_purpose(get_serializer(settings), "message").loads(data)
    try:
        message = Message(**{**values, "args": tuple(values["args"])})
    except (TypeError, KeyError, ValueError) as error:
        raise InvalidJob(f"the message is not a task call: {error}") from None
    types = {"task": str, "kwargs": dict, "timeout": int, "retries": int, "id": str}
    for name, wanted in types.items():
        if not isinstance(getattr(message, name), wanted):
            raise InvalidJob(f"the message is not a task call: its {name} is not of type {wanted.__name__}")
    return message
