"""`rqstack stack run NAME`: keeps one process of a local stack running. Every line of the Procfile is one of these.

honcho restarts nothing, ends everything when one process ends, and sends its SIGTERM to a whole process group at once.
A keeper therefore restarts its process, as compose's restart policy does, hands SIGTERM to that process alone (a
worker's horses go on with their jobs), and that of Redis waits until no worker is signed in any more.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from redis.exceptions import RedisError

from rqstack.settings import Settings, load
from rqstack.settings.paths import home
from rqstack.stack import env, locks, processes
from rqstack.transport.client import connect

HONCHO_KILL_WAIT = 5.0
"""Seconds after which honcho 2.0 kills what has not ended."""

FAILED_AT_ONCE = 3.0
"""Seconds within which a first start that ends in failure is a mistake to be told, not a crash to be mended."""

LONGEST_PAUSE = 5.0
_PR_SET_PDEATHSIG = 1


class RestartingProcess:
    """Runs a process until SIGTERM or SIGINT.

    Args:
        name: A key of `processes.PROCESSES`.
        root: The stack's home. Default: `home()`.
    """

    def __init__(self, name: str, root: Path | None = None) -> None:
        self.name = name
        self.root = root or home()
        self.process = processes.get(name)
        self.child: subprocess.Popen[bytes] | None = None
        self.command: Sequence[str] = ()
        self.stopping = threading.Event()
        # Not a setting: whoever started this process tells it how long it will wait. honcho itself does not say.
        self.kill_wait = float(os.environ.get("RQSTACK_KILL_WAIT", HONCHO_KILL_WAIT))

    def run(self) -> int:
        """Run until stopped.

        Returns:
            The exit code: 0 after a stop, else that of a process which failed as soon as it was first started.

        Raises:
            AlreadyRunning: The process runs already.
            RqstackError: It cannot be started; the message says why.
        """
        with locks.hold(self.root, os.environ.get("HONCHO_PROCESS_NAME", f"{self.name}.1"), os.getpid()):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            if self.process.role is not None:
                self._await_redis()
            pause, first = 0.1, True
            while not self.stopping.is_set():
                begun = time.monotonic()
                code = self._run_once()
                lived = time.monotonic() - begun
                if self.stopping.is_set():
                    break
                if first and code and lived < FAILED_AT_ONCE:
                    return code if code > 0 else 128 - code
                first = False
                pause = 0.1 if lived > LONGEST_PAUSE else min(pause * 2, LONGEST_PAUSE)
                processes.say(f"{self.name} ended with code {code}; starting it again.")
                self.stopping.wait(pause)
            if self.name == "redis":
                env.remove_stack_env(self.root)
        return 0

    def _run_once(self) -> int:
        # Made once: Redis must come back on the port it had.
        self.command = command = self.command or self.process.command(self.root)
        if self.stopping.is_set():
            return 0
        self.child = subprocess.Popen(
            command,
            env=processes.environment(self.root, self.process, self.kill_wait - 2),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            preexec_fn=_end_with_parent,
        )
        if self.stopping.is_set():  # the signal came while it was started
            self._end()
        return self.child.wait()

    def _await_redis(self) -> None:
        told = 0.0
        while not self.stopping.is_set():
            given = processes.environment(self.root, self.process, 1)
            password = Path(given["REDIS_PASSWORD_FILE"])
            if env.read_stack_env(self.root) and password.is_file():
                settings = load(
                    Settings,
                    redis_url=given["REDIS_URL"],
                    redis_username=given["REDIS_USERNAME"],
                    redis_password=password.read_text(),
                )
                with contextlib.suppress(RedisError), connect(settings, retries=0) as client:
                    client.ping()
                    return
            if time.monotonic() - told > 10:
                told = time.monotonic()
                processes.say("Waiting for Redis.")
            self.stopping.wait(0.1)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        again = self.stopping.is_set()
        self.stopping.set()
        if again:
            self._signal(signal.SIGTERM)  # a worker takes the second one as 'at once'
        else:
            # Not here: a handler must not wait.
            threading.Thread(target=self._end, daemon=True).start()

    def _end(self) -> None:
        deadline = time.monotonic() + self.kill_wait - 0.7
        if self.name == "redis":
            while time.monotonic() < deadline and self._workers_signed_in():
                time.sleep(0.05)
        self._signal(signal.SIGTERM)
        if self.child is not None:
            try:
                self.child.wait(max(0.5, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                processes.say(f"{self.name} did not end in time, so it is killed.")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.child.pid, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    def _workers_signed_in(self) -> bool:
        try:
            with connect(load(Settings), retries=0, socket_timeout=1) as client:
                return any(entry.get("user") == "worker" for entry in client.client_list())
        except RedisError:
            return False


def _end_with_parent() -> None:
    """In the child: be told to end when the keeper is killed. Linux knows how; elsewhere `stack stop` finds it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
