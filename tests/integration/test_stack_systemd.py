"""The units that are written for systemd: run as systemd would run them, and stopped as it would stop them."""

from __future__ import annotations

import configparser
import json
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rqstack.stack import systemd
from support.ports import free_port
from support.processes import environment_without
from support.waiting import until

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).resolve().parents[2]


class Unit(configparser.ConfigParser):
    """systemd's files: keys may be given several times, and case matters."""

    def __init__(self, path: Path) -> None:
        super().__init__(interpolation=None, strict=False, delimiters="=")
        self.environment: dict[str, str] = {}
        for line in path.read_text().splitlines():
            if line.startswith("Environment="):
                name, _, value = shlex.split(line.removeprefix("Environment="))[0].partition("=")
                self.environment[name] = value
        self.read(path)


def test_the_units_run_the_stack_and_stop_it(tmp_path: Path) -> None:
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in ("Procfile", "pyproject.toml"):
        shutil.copy(ROOT / name, root)
    shutil.copytree(ROOT / "services" / "redis", root / "services" / "redis")
    (root / ".venv").symlink_to(sys.prefix)
    port = free_port()
    clean = environment_without("RQSTACK_", "REDIS_")
    rqstack = str(root / ".venv" / "bin" / "rqstack")
    given = clean | {"RQSTACK_HOME": str(root)}
    units = tmp_path / "units"
    command = [rqstack, "stack", "systemd", str(units), "--scale", "worker=2"]
    done = subprocess.run(command, env=given, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with (root / ".env").open("a") as file:
        file.write(f"\nREDIS_PORT={port}\n")

    services = sorted(units.glob("*.service"))
    target = Unit(units / "rqstack.target")
    assert sorted(target["Unit"]["Wants"].split()) == [path.name for path in services]
    assert [path.stem for path in services] == [
        "rqstack-long-worker-1",
        "rqstack-redis-1",
        "rqstack-scheduler-1",
        "rqstack-worker-1",
        "rqstack-worker-2",
    ]
    assert not any("PASSWORD" in path.read_text() or "SECRET" in path.read_text() for path in services)
    if verify := shutil.which("systemd-analyze"):
        checked = subprocess.run([verify, "verify", *map(str, services)], capture_output=True, text=True)
        assert "Unknown" not in checked.stderr, checked.stderr

    def all_run() -> bool:
        status = subprocess.run([rqstack, "stack", "status", "--json"], env=given, capture_output=True, text=True)
        return status.returncode == 0 and len(json.loads(status.stdout)["processes"]) == len(services)

    running: list[subprocess.Popen[bytes]] = []
    try:
        for path in services:
            unit = Unit(path)
            assert unit["Service"]["Restart"] == "always"
            environment = clean | unit.environment
            start = shlex.split(unit["Service"]["ExecStart"])
            where = unit["Service"]["WorkingDirectory"]
            running.append(subprocess.Popen(start, env=environment, cwd=where, start_new_session=True))
        until(all_run, 60, "the status of all services")
        for process in running:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(60) for process in running] == [0] * len(running)
        assert not (root / "var" / "stack.env").exists()
    finally:
        for process in running:
            process.kill()


def test_another_key_prefix_reaches_each_process(monkeypatch: pytest.MonkeyPatch) -> None:
    line = 'Environment="RQ_KEY_PREFIX={shop}"'
    assert not any(line in text for _, text in systemd.units(ROOT, "Procfile", {}))
    monkeypatch.setattr(systemd, "PREFIX", "{shop}")
    services = [text.splitlines() for name, text in systemd.units(ROOT, "Procfile", {}) if name != systemd.TARGET]
    assert services
    assert all(line in lines for lines in services)
