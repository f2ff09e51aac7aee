"""The interface of a message queue: four methods are required, the rest has defaults that work."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable

LEAST_WAIT = 0.02
MOST_WAIT = 0.5


class BaseQueue(ABC):
    """A first-in first-out queue of byte strings.

    A backend of your own implements `write`, `read`, `flush` and `__len__`. With no more than these a message is gone
    from the store once it is read, so one whose consumer is killed in mid-job is lost. A backend that can do better
    implements `claim`, `ack`, `release`, `extend` and `held` too: a claim is a message that its owner has in hand, and
    that goes back to the queue when the owner's lease ends.

    Args:
        name: The queue's name. Queues of different names share nothing.
        connection: What to connect to, in the form that the class defines; '' for its default.
    """

    def __init__(self, name: str, connection: str = "") -> None:
        self.name = name
        self.connection = connection

    @abstractmethod
    def write(self, data: bytes) -> None:
        """Add a message at the end."""

    @abstractmethod
    def read(self) -> bytes | None:
        """Take the first message off the queue. None if the queue is empty, which is no error."""

    @abstractmethod
    def flush(self) -> None:
        """Delete every message that waits."""

    @abstractmethod
    def __len__(self) -> int:
        """Messages that wait."""

    def __bool__(self) -> bool:
        # An empty queue is still a queue.
        return True

    def claim(self, owner: str, lease: float, timeout: float) -> bytes | None:
        """Take the first message in hand; wait for one if there is none.

        Args:
            owner: Who takes it: a unique name. An owner has at most one message in hand.
            lease: Seconds after which the message may go to somebody else, unless `extend` is called.
            timeout: Seconds to wait for a message; 0 for not at all.

        After an error nobody knows whether a message was taken: the caller calls `release` before it claims again.

        Returns:
            The message, or None if there was none in that time.
        """
        deadline = time.monotonic() + timeout
        pause = LEAST_WAIT
        while (data := self.read()) is None:
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            time.sleep(min(pause, left))
            pause = min(pause * 2, MOST_WAIT)
        return data

    def ack(self, owner: str) -> None:  # noqa: B027 - optional
        """The owner has done its message: delete it. Does nothing if the lease ended before."""

    def release(self, owner: str) -> None:  # noqa: B027 - optional
        """Put what the owner has in hand back at the front of the queue, at once."""

    def extend(self, owners: Iterable[str], lease: float) -> None:  # noqa: B027 - optional
        """Let the leases of these owners end `lease` seconds from now."""

    def held(self, owner: str) -> bytes | None:
        """The message that the owner has in hand; None if there is none, or if the backend does not know."""
        return None

    def close(self) -> None:  # noqa: B027 - optional
        """Close the connections of this object. It may be used again, and then opens them again."""
