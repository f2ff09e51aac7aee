"""A Redis for each measure, and the workers' processes: started, looked at, killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import IO, Any

from bench.resp import Redis

TICKS = os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """An empty Redis with the persistence that a deployment has: AOF, synced every second."""

    def __init__(self) -> None:
        binary = shutil.which("redis-server") or shutil.which("valkey-server")
        if binary is None:
            raise SystemExit("The benchmark needs redis-server (7 or newer). On Debian: apt-get install redis-server")
        self.port = free_port()
        self.folder = tempfile.mkdtemp(prefix="rqstack-bench-")
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        # As services/redis/redis.conf has it, for every system alike.
        command += ["--appendonly", "yes", "--appendfsync", "everysec", "--stream-node-max-bytes", "256"]
        command += ["--hash-max-ziplist-value", "1024"]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(1000):
            try:
                self.client = Redis(self.port)
                self.client("PING")
                return
            except (OSError, RuntimeError):
                time.sleep(0.01)
        self.close()
        raise SystemExit("redis-server did not start")

    def counters(self) -> tuple[int, int]:
        """Commands done and reads from clients so far. A pipeline is one read, so reads are round trips."""
        stats = self.client.info("stats")
        return int(stats["total_commands_processed"]), int(stats.get("total_reads_processed", 0))

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Workers:
    """A system's worker processes, each command in a session of its own, so that all its children are known.

    Args:
        commands: The commands.
        environment: Their environment.
        log: Where they write.
    """

    def __init__(self, commands: list[list[str]], environment: dict[str, str], log: IO[Any], folder: Path) -> None:
        self.started = time.perf_counter()
        self.roots = [
            subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, executable=shutil.which(command[0], path=environment["PATH"]),
            )
            for command in commands
        ]  # fmt: skip

    def processes(self) -> dict[int, float]:
        """Each living process of ours and the CPU seconds it and its ended children have used."""
        sessions = {root.pid for root in self.roots}
        found = {}
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError, IndexError):
                fields = stat.read_text().rpartition(") ")[2].split()
                if int(fields[3]) in sessions and fields[0] != "Z":
                    found[int(stat.parent.name)] = sum(map(int, fields[11:15])) / TICKS
        return found

    def cpu_seconds(self) -> float:
        return sum(self.processes().values())

    def memory_mb(self) -> float:
        """Memory in MB (PSS: what processes share is counted once)."""
        total = 0
        for process in self.processes():
            with contextlib.suppress(OSError):
                lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        return total / 1024

    def kill(self) -> None:
        """kill -9 of every process, until none is left."""
        while left := self.processes():
            for process in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
            for root in self.roots:
                root.poll()
            time.sleep(0.01)
        for root in self.roots:
            root.wait()
