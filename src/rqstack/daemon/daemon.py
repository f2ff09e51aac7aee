"""Starts, stops and inspects a background worker through its pid file."""

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
from rqstack.processes.signals import send_signal
from rqstack.settings import Settings
from rqstack.transport.client import connect, explain
from rqstack.transport.keys import WORKERS
from rqstack.transport.replies import decode_all

log = logging.getLogger("rqstack.worker")

POLL_INTERVAL = 0.05
STOP_MARGIN = 5.0
"""Seconds that a worker may take to exit after the grace period of its jobs."""
LOG_TAIL = 15
"""Lines of the log that are shown when a start fails."""

Run = Callable[[Callable[[], None]], int]
"""The main function of the daemon. It calls its argument when it is ready, and returns the exit code."""


class Daemon:
    """A background worker, identified by its pid file."""

    def __init__(self, pid_file: Path, log_file: Path, settings: Settings) -> None:
        self.pid_file = PidFile(pid_file.absolute())
        self.log_path = log_file.absolute()
        self.settings = settings

    def pid(self) -> int | None:
        """Its process id; None if it does not run."""
        return self.pid_file.owner()

    def check(self) -> None:
        """Check that it can be started.

        Raises:
            DaemonError: A library is missing, or the pid file or the log cannot be written.
        """
        _libraries()
        self.pid_file.check()
        LogFile(self.log_path).close()

    def start(self, run: Run, *, wait: float) -> int:
        """Start it, and wait until it is ready.

        Args:
            wait: Seconds to wait until it is registered in Redis or reports that it is ready.

        Returns:
            Its process id.

        Raises:
            DaemonError: It already runs; the pid file or log cannot be written; it exited (with the reason, or the end
                of its log); or it is not ready after `wait` seconds. In the last case it keeps running.
        """
        if (pid := self.pid()) is not None:
            raise DaemonError(f"The worker already runs, as process {pid} ({self.pid_file.path}).")
        self.check()
        offset = self.log_path.stat().st_size
        reports, report_to = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        child = os.fork()
        if child == 0:
            os.close(reports)
            self._run_daemon(run, report_to)
        os.close(report_to)
        os.waitpid(child, 0)
        os.set_blocking(reports, False)
        try:
            return self._wait_until_ready(reports, offset, wait)
        finally:
            os.close(reports)

    def stop(self) -> tuple[int, bool] | None:
        """Stop it gracefully; kill it if it still runs after the grace period.

        Returns:
            Its process id and whether it was killed; None if it did not run.

        Raises:
            RqstackError: It belongs to another user.
        """
        pid = self.pid()
        if pid is None:
            self.pid_file.remove_stale()
            return None
        members = self._session_pids(pid)
        send_signal(pid, signal.SIGTERM)
        deadline = time.monotonic() + self.settings.grace + STOP_MARGIN
        while self.pid() == pid:
            if time.monotonic() > deadline:
                for member in {pid, *members, *self._session_pids(pid)}:
                    send_signal(member, signal.SIGKILL)
                while self.pid() == pid:
                    time.sleep(POLL_INTERVAL)
                self.pid_file.remove_stale()
                return pid, True
            time.sleep(POLL_INTERVAL)
        return pid, False

    def children(self, pid: int) -> list[int]:
        """The ids of all its descendants."""
        psutil = _libraries()[1]
        with contextlib.suppress(psutil.Error):
            return [child.pid for child in psutil.Process(pid).children(recursive=True)]
        return []

    # -- the parent

    def _wait_until_ready(self, reports: int, offset: int, wait: float) -> int:
        """Wait until the daemon is ready. Returns its process id.

        Args:
            reports: A pipe with one JSON document per line from the daemon.
            offset: Size of the log before the start.
            wait: Seconds.
        """
        deadline = time.monotonic() + wait
        received = b""
        pid: int | None = None
        while True:
            # Before the pipe is read: if the daemon has ended, the pipe then holds all its reports.
            current = self.pid()
            received, is_closed = _read_available(reports, received)
            lines = [json.loads(line) for line in received.split(b"\n")[:-1]]
            for line in lines:
                if "error" in line:
                    raise DaemonError(f"The worker did not start: {line['error']}")
            pid = current or pid
            if {"ready": True} in lines and pid is not None:
                return pid
            if is_closed and current is None:
                raise self._exit_error(offset)
            problem = None
            if lines and pid is not None:
                is_registered, problem = self._is_registered(pid)
                if is_registered:
                    return pid
            if time.monotonic() > deadline:
                reason = problem or "none of its workers is registered in Redis yet."
                raise DaemonError(
                    f"The worker runs as process {pid} and keeps trying, but {reason} See {self.log_path}."
                )
            time.sleep(POLL_INTERVAL)

    def _is_registered(self, pid: int) -> tuple[bool, str | None]:
        """Whether a worker of this daemon is in RQ's index of workers; if Redis is unavailable, also the reason."""
        if self.settings.queue_backend:
            return False, None  # a consumer reports that it is ready
        try:
            session = os.getsid(pid)
            connection = connect(self.settings, retries=0)
            try:
                keys = connection.smembers(WORKERS)
                for key in keys:
                    host, worker = decode_all(connection.hmget(key, "hostname", "pid"))
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

    def _exit_error(self, offset: int) -> DaemonError:
        try:
            with self.log_path.open("rb") as file:
                file.seek(offset)
                lines = file.read().decode(errors="replace").strip().splitlines()[-LOG_TAIL:]
        except OSError:
            lines = []
        end = "\n".join(["The end of its log:", *lines]) if lines else "Its log is empty."
        return DaemonError(f"The worker exited during its start ({self.log_path}). {end}")

    def _session_pids(self, pid: int) -> set[int]:
        """All processes of the daemon's session. Horses have their own process groups, but stay in the session."""
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

    def _run_daemon(self, run: Run, report_to: int) -> None:
        """Detach, run, and exit this process."""

        def report(**values: Any) -> None:
            with contextlib.suppress(OSError):
                os.write(report_to, json.dumps(values).encode() + b"\n")

        code = 1
        try:
            context = _libraries()[0].DaemonContext(
                working_directory=str(Path.cwd()), umask=_umask(), detach_process=True, files_preserve=[report_to]
            )
            context.open()
            os.set_inheritable(report_to, False)
            output = LogFile(self.log_path)
            output.capture()
            signal.signal(signal.SIGHUP, lambda signum, frame: output.reopen())
            with self.pid_file:
                report(started=True)
                code = run(lambda: report(ready=True))
        except RqstackError as error:
            print(f"Error: {error}", file=sys.stderr)
            report(error=str(error))
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


def _read_available(pipe: int, received: bytes) -> tuple[bytes, bool]:
    """Append what a non-blocking pipe holds to what was received before. Also returns whether its writer closed it."""
    while True:
        try:
            chunk = os.read(pipe, 65536)
        except BlockingIOError:
            return received, False
        if not chunk:
            return received, True
        received += chunk


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _libraries() -> tuple[Any, Any]:
    """Import python-daemon and psutil.

    Raises:
        DaemonError: One is not installed.
    """
    try:
        import daemon
        import psutil
    except ImportError:
        raise DaemonError("Background workers need the extra: pip install 'rqstack[daemon]'.") from None
    return daemon, psutil
