"""A PostgreSQL server."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from uuid import uuid4

from support.ports import free_port
from support.waiting import until

DEBIAN = Path("/usr/lib/postgresql")


def postgres_binaries() -> Path | None:
    """The folder of this machine's newest PostgreSQL server."""
    if path := shutil.which("postgres"):
        return Path(path).parent
    found = sorted(DEBIAN.glob("*/bin/postgres"), key=lambda path: int(path.parts[-3])) if DEBIAN.is_dir() else []
    return found[-1].parent if found else None


class PostgresServer:
    """A PostgreSQL that a test may kill and start again. It does not run as root, so root starts it as `postgres`."""

    def __init__(self, binaries: Path) -> None:
        self.binaries = binaries
        self.folder = Path(tempfile.mkdtemp(prefix="rqstack-postgres-"))
        self.port = free_port()
        self.owner = "postgres" if os.geteuid() == 0 else None
        self.process: subprocess.Popen[bytes] | None = None
        if self.owner:
            shutil.chown(self.folder, self.owner, self.owner)
        arguments = ["-D", f"{self.folder}/data", "-U", "rqstack", "--auth=trust", "--no-sync", "-E", "UTF8"]
        self._run("initdb", *arguments, "--no-locale")

    def _run(self, program: str, *arguments: str) -> None:
        command = [str(self.binaries / program), *arguments]
        done = subprocess.run(
            command, capture_output=True, text=True, cwd=self.folder, check=False, user=self.owner, group=self.owner
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and wait until it answers."""
        import psycopg

        command = [str(self.binaries / "postgres"), "-D", f"{self.folder}/data", "-p", str(self.port)]
        command += ["-h", "127.0.0.1", "-k", str(self.folder), "-c", "shared_buffers=16MB", "-c", "max_connections=200"]
        log = self.folder / "log"
        with log.open("ab") as file:
            self.process = process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                cwd=self.folder,
                start_new_session=True,
                user=self.owner,
                group=self.owner,
            )

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            return True

        until(answers, 30, errors=(psycopg.OperationalError,), log=log.read_text)

    def url(self, database: str) -> str:
        """The URL of a database of this server."""
        return f"postgresql://rqstack@127.0.0.1:{self.port}/{database}"

    def new_database(self) -> str:
        """The URL of a database of its own, empty."""
        import psycopg

        name = f"test_{uuid4().hex}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        return self.url(name)

    def kill(self) -> None:
        """kill -9 of the server; its children end by themselves."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def close(self) -> None:
        """Stop it, and delete its data."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)  # 'fast' shutdown: clients are cut off
            try:
                self.process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)
