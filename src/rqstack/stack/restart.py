"""`rqstack stack run NAME`: runs one process of a local stack and restarts it. The Procfile uses only this command.

honcho does not restart processes, stops all of them when one ends, and sends SIGTERM to whole process groups. So this
process restarts its child, as compose's restart policy does, and sends SIGTERM to the child only, so that a worker's
horses finish their jobs. For Redis it first waits until no worker is connected.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from redis.exceptions import RedisError

from rqstack.errors import SettingsError
from rqstack.processes.parent import die_with
from rqstack.processes.private_files import UMASK
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.paths import home
from rqstack.stack import env, locks, processes
from rqstack.transport.client import connect

HONCHO_KILL_WAIT = 5.0
"""Seconds after which honcho 2.0 kills its processes."""

STARTUP_WINDOW = 3.0
"""If the first start fails within these seconds, it is reported as an error and not retried."""

MAX_BACKOFF = 5.0
"""Maximum seconds between two starts."""


class RestartingProcess:
    """A process of the stack that is restarted until SIGTERM or SIGINT.

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
        # Not a setting: the starter of this process passes its own timeout. honcho itself passes none.
        self.kill_wait = float(os.environ.get("RQSTACK_KILL_WAIT", HONCHO_KILL_WAIT))

    def run(self) -> int:
        """Run until stopped.

        Returns:
            The exit code: 0 after a stop, else that of a child which failed within `STARTUP_WINDOW`.

        Raises:
            AlreadyRunning: The process already runs.
            RqstackError: It cannot be started.
        """
        with locks.acquire(self.root, os.environ.get("HONCHO_PROCESS_NAME", f"{self.name}.1"), os.getpid()):
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, self._stop)
            if self.process.role is not None:
                self._wait_for_redis()
            siblings = self._start_siblings()
            pause, first = 0.1, True
            while not self.stopping.is_set():
                started = time.monotonic()
                code = self._run_once()
                uptime = time.monotonic() - started
                if self.stopping.is_set():
                    break
                if first and code and uptime < STARTUP_WINDOW:
                    return code if code > 0 else 128 - code
                first = False
                pause = 0.1 if uptime > MAX_BACKOFF else min(pause * 2, MAX_BACKOFF)
                processes.log_line(f"{self.name} exited with code {code}; restarting it.")
                self.stopping.wait(pause)
            if self.name == "redis":
                env.remove_stack_env(self.root)
            # They have got the signal too, which honcho sends to the whole group; a second one would hurry them.
            for sibling in siblings:
                sibling.wait()
        return 0

    def _start_siblings(self) -> list[subprocess.Popen[bytes]]:
        """Start the other workers of WORKERS, where honcho was started by hand: it does not know that setting."""
        number = os.environ.get("HONCHO_PROCESS_NAME", "")
        if self.name != "worker" or number != "worker.1" or "RQSTACK_KILL_WAIT" in os.environ:
            return []
        wanted = {f"worker.{number}" for number in range(2, load(StackSettings).workers + 1)}
        # Those of `honcho start -c worker=4` run already.
        missing = sorted(wanted - dict(locks.running_processes(self.root)).keys())
        command = processes.rqstack("stack", "run", self.name)
        more = {"RQSTACK_KILL_WAIT": str(self.kill_wait)}
        stop = partial(die_with, os.getpid(), signal.SIGTERM)
        return [
            subprocess.Popen(command, env={**os.environ, **more, "HONCHO_PROCESS_NAME": name}, preexec_fn=stop)
            for name in missing
        ]

    def _run_once(self) -> int:
        # Computed once, so that a restarted Redis keeps its port.
        self.command = command = self.command or self.process.command(self.root)
        if self.stopping.is_set():
            return 0
        self.child = subprocess.Popen(
            command,
            env=processes.environment(self.root, self.process, self.kill_wait - 2),
            cwd=self.root,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            umask=-1 if self.process.runs_tasks else UMASK,
            # If this process is killed. Linux only; elsewhere `stack stop` finds the child.
            preexec_fn=partial(die_with, os.getpid(), signal.SIGTERM),
        )
        if self.stopping.is_set():  # the signal arrived during the start
            self._stop_child()
        return self.child.wait()

    def _wait_for_redis(self) -> None:
        last_log = 0.0
        while not self.stopping.is_set():
            environ = processes.environment(self.root, self.process, 1)
            password = Path(environ["REDIS_PASSWORD_FILE"])
            if env.read_stack_env(self.root) and password.is_file():
                settings = load(
                    Settings,
                    redis_url=environ["REDIS_URL"],
                    redis_username=environ["REDIS_USERNAME"],
                    redis_password=password.read_text(),
                )
                with contextlib.suppress(RedisError), connect(settings, retries=0) as client:
                    client.ping()
                    return
            if time.monotonic() - last_log > 10:
                last_log = time.monotonic()
                processes.log_line("Waiting for Redis.")
            self.stopping.wait(0.1)

    def _stop(self, signum: int, frame: FrameType | None) -> None:
        is_second = self.stopping.is_set()
        self.stopping.set()
        if is_second:
            self._signal(signal.SIGTERM)  # a worker stops at once on the second signal
        else:
            # In a thread, because a signal handler must not wait.
            threading.Thread(target=self._stop_child, daemon=True).start()

    def _stop_child(self) -> None:
        deadline = time.monotonic() + self.kill_wait - 0.7
        if self.name == "redis":
            while time.monotonic() < deadline and self._has_connected_workers():
                time.sleep(0.05)
        self._signal(signal.SIGTERM)
        if self.child is not None:
            try:
                self.child.wait(max(0.5, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                processes.log_line(f"{self.name} did not stop in time: killing it.")
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.child.pid, signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.child is not None and self.child.poll() is None:
            self.child.send_signal(number)

    def _has_connected_workers(self) -> bool:
        try:
            with connect(load(Settings), retries=0, socket_timeout=1) as client:
                return any(entry.get("user") == "worker" for entry in client.client_list())
        except RedisError:
            return False
        except SettingsError:
            # A setting is wrong by now, so Redis cannot be asked.
            return any(name.partition(".")[0] in processes.WORKERS for name, _ in locks.running_processes(self.root))
