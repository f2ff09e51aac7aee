"""The stack without Docker: the Procfile's processes under honcho, in the background."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from honcho.environ import expand_processes, parse_procfile

from rqstack.errors import RqstackError
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.loader import explicit_values
from rqstack.stack import dependencies, env, locks, ports, processes, runner

BASE = "Procfile"
MONITOR = "Procfile-monitor"
START_TIMEOUT = 120.0
"""Seconds within which everything must be well."""

Say = Callable[[str], None]


class StartFailed(RqstackError):
    """A process did not start, or is not well; the message has the end of its log."""


class StopFailed(RqstackError):
    """Something would not end."""


def names(root: Path, procfile: str, scale: Mapping[str, int]) -> list[str]:
    """The processes of a Procfile that this machine can run, by honcho's names: `worker.1`.

    Raises:
        RqstackError: A name of `scale` is none of the Procfile's.
    """
    lines = parse_procfile((root / procfile).read_text()).processes
    for name in scale:
        if name not in lines and procfile == BASE:
            raise RqstackError(f"--scale {name}: no such process. There are {', '.join(lines)}.")
    if shutil.which("prometheus") is None:
        lines.pop("prometheus", None)
    return [process.name for process in expand_processes(lines, concurrency=dict(scale))]


def start(root: Path, say: Say, *, monitoring: bool = False, scale: Mapping[str, int] | None = None) -> None:
    """Start what does not run yet, and return when it is well.

    Args:
        root: The stack's home.
        say: Told what happens, a line at a time.
        monitoring: Also what Procfile-monitor names.
        scale: How many of a process, by its name.

    Raises:
        StartFailed: A process ended, or is not well in time. Nothing that was started for it goes on.
        RqstackError: What it needs is missing; the message says what.
    """
    scale = scale or {}
    if env.setup(root):
        say(f"Made {root / '.env'} with random secrets.")
    dependencies.prepare(root, say)
    dependencies.redis_server(root, say)
    running = dict(locks.holders(root))
    if "redis.1" in running:
        say("The stack already runs.")
        _await([name for name in running if name in names(root, BASE, scale)], BASE, None)
    else:
        _launch(root, BASE, scale)
    if not monitoring:
        return
    wanted = names(root, MONITOR, {})
    if "prometheus.1" not in wanted:
        say("prometheus is not on PATH, so it is left out.")
    if any(name in running for name in wanted):
        say("Monitoring already runs.")
        return
    for name in ("exporter", "dashboard"):
        dependencies.environment(root, name, say)
    _choose_ports(root, say)
    _launch(root, MONITOR, {name.partition(".")[0]: 1 for name in wanted} | _left_out(wanted))


def _left_out(wanted: Sequence[str]) -> dict[str, int]:
    return {} if "prometheus.1" in wanted else {"prometheus": 0}


def _choose_ports(root: Path, say: Say) -> None:
    settings = load(StackSettings)
    given = explicit_values(StackSettings)
    chosen: dict[str, int] = {}
    for field in ("rq_exporter_port", "prometheus_port", "dashboard_port"):
        wanted = getattr(settings, field)
        name = field.upper()
        chosen[name] = ports.choose(name, wanted, given=field in given)
        if chosen[name] != wanted:
            say(f"Port {wanted} is taken, so {name} is {chosen[name]}.")
    env.update_stack_env(chosen, root)


def _launch(root: Path, procfile: str, scale: Mapping[str, int]) -> None:
    wanted = [name for name in names(root, procfile, scale) if scale.get(name.partition(".")[0], 1)]
    folder = root / "var" / "log"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rqstack.stack.runner", str(root), procfile]
    command += [f"{name}={number}" for name, number in scale.items()]
    with (folder / f"{procfile}.log").open("w") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=root, start_new_session=True
        )
    try:
        _await(wanted, procfile, child, root)
    except (StartFailed, KeyboardInterrupt):
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.wait(load(Settings).grace + runner.MARGIN + 5)
        raise


def _await(
    wanted: Sequence[str], procfile: str, child: subprocess.Popen[bytes] | None, root: Path | None = None
) -> None:
    """Wait until each process is well."""
    deadline = time.monotonic() + START_TIMEOUT
    left = list(wanted)
    reason = ""
    while left:
        reason = unwell(left[0])
        if not reason:
            left.pop(0)
            continue
        if child is not None and root is not None and child.poll() is not None:
            raise StartFailed(_told_by(root, procfile))
        if time.monotonic() > deadline:
            raise StartFailed(f"{left[0]} is not well after {START_TIMEOUT:.0f} s: {reason}")
        time.sleep(0.1)


def _told_by(root: Path, procfile: str) -> str:
    """Which process ended first, and the end of its log."""
    folder = root / "var" / "log"
    said = (folder / f"{procfile}.log").read_text().splitlines()
    for line in said:
        if " stopped (rc=" in line and "(rc=0)" not in line:
            name = line.split("|", 1)[1].split()[0]
            return f"{name} did not start. The end of {folder / name}.log:\n" + tail(folder / f"{name}.log", 12)
    return "The stack did not start: " + " ".join(said[-3:]).removeprefix("Error: ")


def unwell(name: str) -> str:
    """Why a process is not well; empty if it is."""
    health = processes.get(name).health()
    if isinstance(health, str):
        try:
            with urllib.request.urlopen(health, timeout=5):  # noqa: S310  # our own http address
                return ""
        except urllib.error.HTTPError as error:
            # The jobs page answers without a login by asking for one.
            return "" if error.code == 401 else f"{health} answers {error.code}"
        except OSError as error:
            return f"{health}: {error}"
    if not env.read_stack_env():
        return "Redis has not started"
    done = subprocess.run(processes.rqstack("health", *health), capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout).strip().removeprefix("Error: ")


def tail(path: Path, lines: int) -> str:
    """The last lines of a file; empty if there is none."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return ""


def status(root: Path) -> Iterator[tuple[str, int, str]]:
    """Each process that runs: (name, process id, why it is not well)."""
    for name, pid in locks.holders(root):
        if name not in (BASE, MONITOR):
            yield name, pid, unwell(name)


def listening() -> dict[str, str]:
    """Where the running stack listens, by what it is."""
    found = env.read_stack_env()
    places = {"Redis": found.get("REDIS_URL", "")}
    for title, name in (("rq-exporter", "RQ_EXPORTER"), ("Prometheus", "PROMETHEUS"), ("Jobs page", "DASHBOARD")):
        if port := found.get(f"{name}_PORT"):
            places[title] = f"http://{ports.HOST}:{port}"
    return places


def stop(root: Path, say: Say) -> bool:
    """End everything, however it was started; workers get their grace.

    Args:
        root: The stack's home.
        say: Told what happens.

    Returns:
        Whether anything ran.

    Raises:
        StopFailed: A process cannot be ended.
    """
    running = dict(locks.holders(root))
    if not running:
        env.remove_stack_env(root)
        return False
    say(f"Stopping {', '.join(name for name in running if name not in (BASE, MONITOR)) or 'what is left'}.")
    told: set[int] = set()
    deadline = time.monotonic() + load(Settings).grace + runner.MARGIN + 5
    while running := dict(locks.holders(root)):
        # honcho passes it on to its processes; without one, tell each.
        chiefs = {name: pid for name, pid in running.items() if name in (BASE, MONITOR) and _alive(pid)}
        late = time.monotonic() > deadline
        for pid in set((chiefs or running).values()) - (set() if late else told):
            told.add(pid)
            _send(pid, signal.SIGKILL if late else signal.SIGTERM)
        if time.monotonic() > deadline + 5:
            raise StopFailed(
                f"{', '.join(running)} cannot be ended: processes {', '.join(map(str, running.values()))}."
            )
        time.sleep(0.05)
    env.remove_stack_env(root)
    return True


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        raise StopFailed(f"Process {pid} belongs to another user, who must stop it.") from None


def logs(root: Path, only: Sequence[str], *, follow: bool, say: Say) -> None:
    """Print the logs, each line with the name of its process.

    Args:
        root: The stack's home.
        only: Names of processes; empty for all.
        follow: Go on until Ctrl-C.
        say: Given each line.
    """
    folder = root / "var" / "log"
    places: dict[Path, int] = {}
    while True:
        for path in sorted(folder.glob("*.log")):
            if path.stem in (BASE, MONITOR) or (only and path.stem.partition(".")[0] not in only):
                continue
            size = path.stat().st_size
            if path not in places:
                for line in tail(path, 50).splitlines():
                    say(f"{path.stem:16} | {line}")
                places[path] = size
            elif size != places[path]:
                with path.open(errors="replace") as file:
                    file.seek(places[path] if size > places[path] else 0)
                    for line in file:
                        say(f"{path.stem:16} | {line.rstrip()}")
                    places[path] = file.tell()
        if not follow:
            return
        time.sleep(0.3)
