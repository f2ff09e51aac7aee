"""A worker in the background: started, stopped and looked at by its pid file (seed 001)."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from rqstack.daemon.logfile import LogFile
from rqstack.daemon.pidfile import PidFile
from rqstack.errors import DaemonError, RqstackError
from rqstack.settings import Settings
from rqstack.transport.client import connect, explain
from rqstack.transport.keys import WORKERS

log = logging.getLogger("rqstack.worker")

STEP = 0.05
MARGIN = 5.0
"""Seconds that a worker gets to end beyond the grace of its jobs."""
TAIL = 15
"""Lines of the log that are shown when a start fails."""

Run = Callable[[Callable[[], None]], int]
"""What the daemon does: called with a function to say that it is ready; returns the exit code."""


class Daemon:
    """One background worker: a pid file, and a log.

    Args:
        pid_file: Where the process's id is kept.
        log_file: Where its output goes.
        settings: The settings.
    """

    def __init__(self, pid_file: Path, log_file: Path, settings: Settings) -> None:
        self.pid_file = PidFile(pid_file.absolute())
        self.log_path = log_file.absolute()
        self.settings = settings

    def running(self) -> int | None:
        """Its process id, or None."""
        return self.pid_file.owner()

    def check(self) -> None:
        """See that it could be started.

        Raises:
            DaemonError: The library is not installed, or the pid file or the log cannot be written.
        """
        _libraries()
        self.pid_file.check()
        LogFile(self.log_path).close()

    def start(self, run: Run, *, wait: float) -> int:
        """Start it, and wait until it works.

        Args:
            run: What it does.
            wait: Seconds to wait for it to be registered in Redis, or to say that it is ready.

        Returns:
            Its process id.

        Raises:
            DaemonError: It already runs; or the pid file or log cannot be written; or it ended (with the reason, or
                the end of its log); or it is not registered after `wait` seconds. In this last case it goes on trying.
        """
        if (pid := self.running()) is not None:
            raise DaemonError(f"The worker already runs, as process {pid} ({self.pid_file.path}).")
        self.check()
        offset = self.log_path.stat().st_size
        news, tell = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(news)
            self._become_daemon(run, tell)
        os.close(tell)
        os.waitpid(child, 0)
        os.set_blocking(news, False)
        try:
            return self._await(news, offset, wait)
        finally:
            os.close(news)

    def stop(self) -> tuple[int, bool] | None:
        """Stop it: a warm stop, then by force once the grace is over.

        Returns:
            Its process id and whether it had to be killed; None if it did not run.

        Raises:
            DaemonError: It is another user's.
        """
        pid = self.running()
        if pid is None:
            self.pid_file.remove_stale()
            return None
        members = self._session(pid)
        _send(pid, signal.SIGTERM)
        deadline = time.monotonic() + self.settings.grace + MARGIN
        while self.running() == pid:
            if time.monotonic() > deadline:
                for member in {pid, *members, *self._session(pid)}:
                    _send(member, signal.SIGKILL)
                while self.running() == pid:
                    time.sleep(STEP)
                self.pid_file.remove_stale()
                return pid, True
            time.sleep(STEP)
        return pid, False

    def children(self, pid: int) -> list[int]:
        """The processes that work for it."""
        psutil = _libraries()[1]
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []

    # -- the parent

    def _await(self, news: int, offset: int, wait: float) -> int:
        """Until the daemon is ready, or has ended, or time is over."""
        deadline = time.monotonic() + wait
        told = b""
        pid: int | None = None
        while True:
            running = self.running()  # before the pipe is read: what ended has told all that it had to tell
            told, over = _read(news, told)
            lines = [json.loads(line) for line in told.split(b"\n")[:-1]]
            for line in lines:
                if "error" in line:
                    raise DaemonError(f"The worker did not start: {line['error']}")
            pid = running or pid
            if {"ready": True} in lines and pid is not None:
                return pid
            if over and running is None:
                raise self._ended(offset)
            problem = None
            if lines and pid is not None:
                found, problem = self._registered(pid)
                if found:
                    return pid
            if time.monotonic() > deadline:
                why = problem or "no worker of it is registered in Redis yet."
                raise DaemonError(
                    f"The worker runs as process {pid} and goes on trying, but {why} See {self.log_path}."
                )
            time.sleep(STEP)

    def _registered(self, pid: int) -> tuple[bool, str | None]:
        """Whether a worker of this daemon is in RQ's register; else the reason, if Redis is away."""
        if self.settings.queue_backend:
            return False, None  # a consumer says itself that it is ready
        try:
            session = os.getsid(pid)
            connection = connect(self.settings, retries=0)
            try:
                keys = connection.smembers(WORKERS)
                for key in keys:
                    host, worker = _texts(connection.hmget(key, "hostname", "pid"))
                    if not worker or host != socket.gethostname():
                        continue
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        if os.getsid(int(worker)) == session:
                            return True, None
            finally:
                connection.close()
        except RedisError as error:
            return False, str(explain(error, self.settings.redis_url))
        except ProcessLookupError:
            return False, None
        return False, None

    def _ended(self, offset: int) -> DaemonError:
        try:
            with self.log_path.open("rb") as file:
                file.seek(offset)
                lines = file.read().decode(errors="replace").strip().splitlines()[-TAIL:]
        except OSError:
            lines = []
        end = "\n".join(["The end of its log:", *lines]) if lines else "Its log is empty."
        return DaemonError(f"The worker ended at its start ({self.log_path}). {end}")

    def _session(self, pid: int) -> set[int]:
        """Every process of the daemon's session: horses have process groups of their own, but no sessions."""
        psutil = _libraries()[1]
        found = set()
        with contextlib.suppress(ProcessLookupError, PermissionError):
            session = os.getsid(pid)
            for process in psutil.process_iter():
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    if os.getsid(process.pid) == session:
                        found.add(process.pid)
        return found

    # -- the child

    def _become_daemon(self, run: Run, tell: int) -> None:
        """Detach, run, and end this process."""

        def say(**news: Any) -> None:
            with contextlib.suppress(OSError):
                os.write(tell, json.dumps(news).encode() + b"\n")

        code = 1
        try:
            context = _libraries()[0].DaemonContext(
                working_directory=str(Path.cwd()), umask=_umask(), detach_process=True, files_preserve=[tell]
            )
            context.open()
            os.set_inheritable(tell, False)
            output = LogFile(self.log_path)
            output.capture()
            signal.signal(signal.SIGHUP, lambda signum, frame: output.reopen())
            with self.pid_file:
                say(began=True)
                code = run(lambda: say(ready=True))
        except RqstackError as error:
            print(f"Error: {error}", file=sys.stderr)
            say(error=str(error))
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)


def _read(pipe: int, before: bytes) -> tuple[bytes, bool]:
    """All that the pipe has told, and whether its writer has ended."""
    while True:
        try:
            part = os.read(pipe, 65536)
        except BlockingIOError:
            return before, False
        if not part:
            return before, True
        before += part


def _texts(values: list[Any]) -> list[str]:
    return [(value or b"").decode() for value in values]


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise DaemonError(f"Process {pid} is another user's: stop the worker as the user who started it.") from None


def _libraries() -> tuple[Any, Any]:
    """python-daemon and psutil.

    Raises:
        DaemonError: One is not installed.
    """
    try:
        import daemon
        import psutil
    except ImportError:
        raise DaemonError("Background workers need the extra: pip install 'rqstack[daemon]'.") from None
    return daemon, psutil
