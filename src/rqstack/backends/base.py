"""The interface of a message queue: four required methods, and optional ones with defaults."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

MIN_POLL_INTERVAL = 0.02
MAX_POLL_INTERVAL = 0.5


class BaseQueue(ABC):
    """A first-in first-out queue of byte strings.

    A backend implements `write`, `read`, `flush` and `__len__`. With only these, a message leaves the store when it is
    read, so it is lost if its consumer is killed while running it. For at-least-once delivery a backend also implements
    `claim`, `ack`, `release`, `extend` and `held`: a claimed message belongs to its owner until it is acknowledged, and
    returns to the queue when the owner's lease expires.

    Args:
        connection: Where to connect, in a format that the class defines; '' for its default.
    """

    def __init__(self, name: str, connection: str = "") -> None:
        self.name = name
        self.connection = connection

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Add a message at the end."""

    @abstractmethod
    def read(self) -> bytes | None:
        """Remove and return the first message; None if the queue is empty."""

    @abstractmethod
    def flush(self) -> None:
        """Delete all waiting messages."""

    @abstractmethod
    def __len__(self) -> int:
        """The number of waiting messages."""

    def __bool__(self) -> bool:
        # Otherwise __len__ would make an empty queue false.
        return True

    def claim(self, owner: str, lease: float, timeout: float) -> bytes | None:
        """Claim the first message, and wait for one if the queue is empty.

        After an error it is unknown whether a message was claimed, so the caller must `release` before it claims again.

        Args:
            owner: A unique name of the consumer. An owner holds at most one message.
            lease: Seconds after which another owner may claim the message, unless `extend` is called.
            timeout: Seconds to wait for a message; 0: do not wait.

        Returns:
            The message, or None if there was none within the timeout.
        """
        deadline = time.monotonic() + timeout
        interval = MIN_POLL_INTERVAL
        while (data := self.read()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(interval, left))
            interval = min(interval * 2, MAX_POLL_INTERVAL)
        return data

    def ack(self, owner: str) -> None:  # noqa: B027 - optional
        """Delete the message that the owner holds. Does nothing if its lease has expired."""

    def release(self, owner: str) -> None:  # noqa: B027 - optional
        """Return the message that the owner holds to the front of the queue."""

    def extend(self, owners: Iterable[str], lease: float) -> None:  # noqa: B027 - optional
        """Extend the leases of these owners to `lease` seconds from now."""

    def held(self, owner: str) -> bytes | None:
        """The message that the owner holds; None if there is none, or if the backend does not track claims."""
        return None

    def join(self) -> bool:
        """Register that a consumer of this release uses the store; called when it starts, and with each heartbeat.

        Returns:
            False if that is not decided yet: call again.

        Raises:
            IncompatibleSchema: The data is of a version that this release cannot share.
        """
        return True

    def close(self) -> None:  # noqa: B027 - optional
        """Close the connections of this object. Using it again reopens them."""
