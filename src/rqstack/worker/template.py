"""The template: a process that has imported the tasks and does nothing but fork horses, so that they share its memory.

The supervisor itself imports no task: so new code needs only a new template beside the old one, and code that does
not import ends a template and nothing else.
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

from rqstack.worker import hooks
from rqstack.worker.parent import die_with

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

_AT_ONCE = 16
"""Children that are forked together, each with some connections open until then."""

Load = Callable[[], list[str]]
"""Imports the tasks; returns what failed, a line each."""


class Child(Protocol):
    """A process to be."""

    def run(self) -> int:
        """What the child does. Returns its exit code."""

    def leave(self) -> None:
        """What every other process does that has it by a fork: close what is the child's alone."""


Prepare = Callable[[int, Any], Child]
"""Makes the horse of an index, or an errand (its index is below 0)."""


class Ready(NamedTuple):
    """The tasks are imported; `failures` is what could not be, a line each."""

    failures: list[str]


class Failed(NamedTuple):
    """The tasks cannot be imported at all, and the template has ended."""

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
    """A process that is wanted.

    Args:
        slot: The horse's; or, below 0, the errand's.
        errand: What to do, in place of a horse's work.
    """

    slot: int
    errand: Any = None


Message = Ready | Failed | Forked | Died


class Template:
    """A template process, seen by its supervisor.

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
        """What it has said since."""
        said: list[Message] = []
        with contextlib.suppress(EOFError, OSError):
            while self.connection.poll():
                said.append(self.connection.recv())
        return said

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
    """The template's own side."""

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
        children = [self._prepare(order.slot, order.errand) for order in orders]
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
            child.leave()
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
                    other.leave()
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
    """Only to be woken: a horse has ended."""
