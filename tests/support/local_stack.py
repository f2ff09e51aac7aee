"""A stack without Docker, by the commands that `make` calls."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
from redis import Redis

from support.paths import ROOT
from support.ports import free_port
from support.processes import environment_without
from support.projects import copy_project


class LocalStack:
    """A checkout in a folder of its own, with a task project and the commands of its environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("Procfile", "Procfile-monitor", "pyproject.toml"):
            shutil.copy(ROOT / name, root)
        for name in ("requirements", "prometheus", "services"):
            shutil.copytree(ROOT / name, root / name)
        (root / ".venv").symlink_to(sys.prefix)
        copy_project("demo", root / "tasks")
        self.environment = environment_without("RQSTACK_", "REDIS_")
        self.environment |= {"RQSTACK_HOME": str(root), "REDIS_PORT": str(free_port()), "RQSTACK_GRACE": "2"}

    def rqstack(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(self.root / ".venv" / "bin" / "rqstack"), *arguments]
        given = self.environment | environment
        return subprocess.run(command, cwd=self.root, env=given, capture_output=True, text=True, timeout=240)

    def start(self, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return self.rqstack("stack", "start", "--mode", "local", *options, **environment)

    def stop(self) -> subprocess.CompletedProcess[str]:
        return self.rqstack("stack", "stop", "--mode", "local")

    def trigger(self, *arguments: str) -> str:
        done = self.rqstack("trigger", *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()[-1]

    def result(self, job: str, seconds: int = 40) -> str:
        assert self.rqstack("wait", job, "--timeout", str(seconds)).returncode == 0
        return self.rqstack("result", "--jobid", job).stdout.strip()

    def processes(self) -> list[psutil.Process]:
        """Whatever runs for this project: each has its folder in the command line or the environment."""
        found = []
        for process in psutil.process_iter():
            try:
                home = process.environ().get("RQSTACK_HOME")
                if process.pid != os.getpid() and (home == str(self.root) or str(self.root) in process.cmdline()):
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def pid(self, name: str) -> int:
        """The process id of `rqstack stack run NAME`."""
        status = json.loads(self.rqstack("stack", "status", "--mode", "local", "--json").stdout)
        return int(next(row["pid"] for row in status["processes"] if row["process"] == name))

    def child(self, name: str) -> psutil.Process:
        """The process that it keeps running."""
        children: list[psutil.Process] = psutil.Process(self.pid(name)).children()
        assert len(children) == 1
        return children[0]

    def redis(self) -> Redis:
        values = dict(line.split("=", 1) for line in (self.root / "var" / "stack.env").read_text().splitlines()[1:])
        return Redis.from_url(values["REDIS_URL"], username="admin", password=values["REDIS_PASSWORD"])

    def close(self) -> None:
        self.stop()
        for process in self.processes():
            process.kill()
