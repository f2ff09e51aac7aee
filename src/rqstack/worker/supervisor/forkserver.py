"""The forkserver: a process that imports the tasks and forks horses, which share its memory.

The supervisor itself imports no task. So new code needs only a new forkserver beside the old one, and code that cannot
be imported ends a forkserver and nothing else.
"""

from __future__ import annotations

import contextlib
import gc
import os
import select
import signal
from collections.abc import Callable, Sequence
from multiprocessing import Pipe
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, Protocol

from rqstack.processes import hooks
from rqstack.processes.parent import die_with

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_AT_ONCE = 16
"""Children that are forked together, each with some connections open until then."""

Load = Callable[[], list[str]]
"""Imports the tasks; returns what failed, one line each."""


class Child(Protocol):
    """A process that is to be forked."""

    def run(self) -> int:
        """Do its work, in the child. Returns its exit code."""

    def close_copy(self) -> None:
        """In every other process: close the copies of what the child has open."""


Prepare = Callable[[int, Any], Child]
"""Prepares the horse of a slot, or a side job (its number is below 0)."""


class Ready(NamedTuple):
    """The tasks are imported; `failures` is what could not be, one line each."""

    failures: list[str]


class Failed(NamedTuple):
    """The tasks cannot be imported at all, and the forkserver has ended."""

    reason: str


class Forked(NamedTuple):
    """A horse was started."""

    slot: int
    pid: int


class Died(NamedTuple):
    """A horse has ended, with this wait status."""

    slot: int
    pid: int
    status: int


class Order(NamedTuple):
    """A request for a process.

    Args:
        slot: The horse's slot; below 0 the number of a side job.
        side_job: What to do instead of a horse's work.
    """

    slot: int
    side_job: Any = None


Message = Ready | Failed | Forked | Died


class Forkserver:
    """A forkserver process, seen by its supervisor.

    Args:
        load: Called in the process, first of all.
        prepare: Called in the process before each fork.
    """

    def __init__(self, load: Load, prepare: Prepare) -> None:
        self.ready = False
        self.connection, theirs = Pipe()
        parent = os.getpid()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                self.connection.close()
                _Process(theirs, prepare, parent).run(load)
                code = 0
            finally:
                os._exit(code)
        theirs.close()

    def fork(self, orders: Sequence[Order]) -> None:
        """Ask for processes. A `Forked` comes when one is there."""
        with contextlib.suppress(OSError):
            self.connection.send(orders)

    def end(self) -> None:
        """End, once its last horse has ended."""
        with contextlib.suppress(OSError):
            self.connection.send(None)

    def messages(self) -> list[Message]:
        """The messages since the last call."""
        received: list[Message] = []
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                received.append(self.connection.recv())
        return received

    def has_ended(self) -> bool:
        """Whether the process is gone. True once only."""
        if self.pid and os.waitpid(self.pid, os.WNOHANG)[0]:
            self.pid = 0
            self.connection.close()
            return True
        return False

    def kill(self) -> None:
        """End it and all its horses now."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            self.pid = 0
            self.connection.close()


class _Process:
    """The forkserver's own side."""

    def __init__(self, connection: Connection, prepare: Prepare, parent: int) -> None:
        self._connection = connection
        self._prepare = prepare
        self._horses: dict[int, int] = {}
        self._ending = False
        # The supervisor alone decides when horses end; a terminal's Ctrl-C comes to all.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
            signal.signal(number, signal.SIG_IGN)
        die_with(parent)

    def run(self, load: Load) -> None:
        """Load the tasks, then serve until told to end."""
        try:
            failures = load()
        except BaseException as error:
            self._connection.send(Failed(str(error) or type(error).__name__))
            return
        gc.freeze()
        wakeup, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, _note)
        self._connection.send(Ready(failures))
        while self._horses or not self._ending:
            waited: list[Any] = [wakeup] if self._ending else [wakeup, self._connection]
            readable, _, _ = select.select(waited, [], [])
            if wakeup in readable:
                os.read(wakeup, 4096)
                self._reap()
            if self._connection in readable:
                try:
                    asked: Any = self._connection.recv()
                except (EOFError, OSError):
                    return
                if asked is None:
                    self._ending = True
                else:
                    for at in range(0, len(asked), _AT_ONCE):
                        self._fork(asked[at : at + _AT_ONCE])

    def _fork(self, orders: Sequence[Order]) -> None:
        """Fork several, one right after the other.

        What this process writes to after a fork is no longer shared with that child, so all else is done before the
        first fork or after the last one.
        """
        hooks.run(hooks.before_fork)
        children = [self._prepare(order.slot, order.side_job) for order in orders]
        parent = os.getpid()
        # The horse unblocks it when it can act on it.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
        pids = []
        for child in children:
            pid = os.fork()
            if pid == 0:
                self._become(child, children, parent)
            pids.append(pid)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
        for order, child, pid in zip(orders, children, pids, strict=True):
            child.close_copy()
            with contextlib.suppress(OSError):
                os.setpgid(pid, pid)
            self._horses[pid] = order.slot
            self._connection.send(Forked(order.slot, pid))

    def _become(self, child: Child, children: Sequence[Child], parent: int) -> NoReturn:
        code = 1
        try:
            # A group of its own: killing a horse takes along what its job has started.
            os.setpgid(0, 0)
            die_with(parent)
            self._connection.close()
            for other in children:
                if other is not child:
                    other.close_copy()
            code = child.run()
        finally:
            os._exit(code)

    def _reap(self) -> None:
        for pid, index in list(self._horses.items()):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                del self._horses[pid]
                self._connection.send(Died(index, pid, status))


def _note(signum: int, frame: FrameType | None) -> None:
    """A handler that does nothing: the signal interrupts `select` by the wakeup descriptor."""
