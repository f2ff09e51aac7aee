"""Runs the stack without Docker: the processes of the Procfile with honcho, in the background."""

from __future__ import annotations

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
from rqstack.processes.signals import is_alive, send_signal
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.loader import explicit_values
from rqstack.stack import dependencies, env, locks, ports, processes, runner
from rqstack.stack.reporting import Report

BASE = "Procfile"
MONITORING = "Procfile-monitor"
START_TIMEOUT = 120.0
"""Seconds within which all processes must be healthy."""


class StartFailed(RqstackError):
    """A process did not start, or is unhealthy. The message has the end of its log."""


class StopFailed(RqstackError):
    """A process cannot be stopped."""


def process_names(root: Path, procfile: str, scale: Mapping[str, int]) -> list[str]:
    """honcho's names, such as `worker.1`, of the processes of a Procfile that this machine can run.

    Raises:
        RqstackError: `scale` names a process that the Procfile does not have.
    """
    lines = parse_procfile((root / procfile).read_text()).processes
    for name in scale:
        if name not in lines and procfile == BASE:
            raise RqstackError(f"--scale {name}: no such process. Known are {', '.join(lines)}.")
    if shutil.which("prometheus") is None:
        lines.pop("prometheus", None)
    return [process.name for process in expand_processes(lines, concurrency=dict(scale))]


def start(root: Path, report: Report, *, monitoring: bool = False, scale: Mapping[str, int] | None = None) -> None:
    """Start the processes that do not run yet, and return when all are healthy.

    Args:
        monitoring: Include the processes of Procfile-monitor.
        scale: Number of instances by process name. Default: 1.

    Raises:
        StartFailed: A process exited or is not healthy in time. The processes of its Procfile are stopped again.
        RqstackError: A requirement is missing.
    """
    scale = scale or {}
    if env.setup(root):
        report(f"Created {root / '.env'} with random secrets.")
    dependencies.prepare_projects(root, report)
    dependencies.ensure_redis_server(root, report)
    running = dict(locks.running_processes(root))
    if "redis.1" in running:
        report("The stack already runs.")
        _wait_until_healthy([name for name in running if name in process_names(root, BASE, scale)])
    else:
        _start_runner(root, BASE, scale)
    if not monitoring:
        return
    wanted = process_names(root, MONITORING, {})
    if "prometheus.1" not in wanted:
        report("prometheus is not on PATH, so it is not started.")
    if any(name in running for name in wanted):
        report("Monitoring already runs.")
        return
    for name in ("exporter", "dashboard"):
        dependencies.ensure_environment(root, name, report)
    _choose_ports(root, report)
    _start_runner(root, MONITORING, {} if "prometheus.1" in wanted else {"prometheus": 0})


def _choose_ports(root: Path, report: Report) -> None:
    settings = load(StackSettings)
    explicit = explicit_values(StackSettings)
    chosen: dict[str, int] = {}
    for field in ("rq_exporter_port", "prometheus_port", "dashboard_port"):
        wanted = getattr(settings, field)
        name = field.upper()
        chosen[name] = ports.choose(name, wanted, is_explicit=field in explicit)
        if chosen[name] != wanted:
            report(f"Port {wanted} is in use, so {name} is {chosen[name]}.")
    env.update_stack_env(chosen, root)


def _start_runner(root: Path, procfile: str, scale: Mapping[str, int]) -> None:
    """Run a Procfile in the background, and wait until its processes are healthy."""
    wanted = [name for name in process_names(root, procfile, scale) if scale.get(name.partition(".")[0], 1)]
    folder = root / "var" / "log"
    folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "rqstack.stack.runner", str(root), procfile]
    command += [f"{name}={number}" for name, number in scale.items()]
    with (folder / f"{procfile}.log").open("w") as log:
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=root, start_new_session=True
        )
    try:
        _wait_until_healthy(wanted, lambda: "" if child.poll() is None else _failure(root, procfile))
    except (StartFailed, KeyboardInterrupt):
        if child.poll() is None:
            child.send_signal(signal.SIGTERM)
            child.wait(load(Settings).grace + runner.STOP_MARGIN + 5)
        raise


def _wait_until_healthy(names: Sequence[str], failure: Callable[[], str] = lambda: "") -> None:
    """Wait until the processes are healthy.

    Args:
        failure: Returns why waiting is pointless, or "" if it is not.

    Raises:
        StartFailed: A process failed or is not healthy in time.
    """
    deadline = time.monotonic() + START_TIMEOUT
    for name in names:
        while problem := health_problem(name):
            if message := failure():
                raise StartFailed(message)
            if time.monotonic() > deadline:
                raise StartFailed(f"{name} is not healthy after {START_TIMEOUT:.0f} s: {problem}")
            time.sleep(0.1)


def _failure(root: Path, procfile: str) -> str:
    """The process that failed first and the end of its log, from the log of the runner."""
    folder = root / "var" / "log"
    lines = (folder / f"{procfile}.log").read_text().splitlines()
    for line in lines:
        if " stopped (rc=" in line and "(rc=0)" not in line:
            name = line.split("|", 1)[1].split()[0]
            return f"{name} did not start. The end of {folder / name}.log:\n" + tail(folder / f"{name}.log", 12)
    return "The stack did not start: " + " ".join(lines[-3:]).removeprefix("Error: ")


def health_problem(name: str) -> str:
    """Why a process is unhealthy; empty if it is healthy."""
    health = processes.get(name).health()
    if isinstance(health, str):
        try:
            with urllib.request.urlopen(health, timeout=5):  # noqa: S310  # our own http address
                return ""
        except urllib.error.HTTPError as error:
            # The jobs page responds, but requires a login.
            return "" if error.code == 401 else f"{health} responds with {error.code}"
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
    """The running processes as (name, process id, `health_problem`)."""
    for name, pid in locks.running_processes(root):
        if name not in (BASE, MONITORING):
            yield name, pid, health_problem(name)


def addresses() -> dict[str, str]:
    """The addresses of the running stack, by title."""
    values = env.read_stack_env()
    by_title = {"Redis": values.get("REDIS_URL", "")}
    for title, name in (("rq-exporter", "RQ_EXPORTER"), ("Prometheus", "PROMETHEUS"), ("Jobs page", "DASHBOARD")):
        if port := values.get(f"{name}_PORT"):
            by_title[title] = f"http://{ports.HOST}:{port}"
    return by_title


def stop(root: Path, report: Report) -> bool:
    """Stop all processes, however they were started. Workers get their grace period.

    Returns:
        Whether anything ran.

    Raises:
        StopFailed: A process does not end.
        RqstackError: A process belongs to another user.
    """
    running = dict(locks.running_processes(root))
    if not running:
        env.remove_stack_env(root)
        return False
    report(
        f"Stopping {', '.join(name for name in running if name not in (BASE, MONITORING)) or 'remaining processes'}."
    )
    signalled: set[int] = set()
    deadline = time.monotonic() + load(Settings).grace + runner.STOP_MARGIN + 5
    while running := dict(locks.running_processes(root)):
        # A runner passes the signal on to its processes. If none is alive, signal each process.
        runners = {name: pid for name, pid in running.items() if name in (BASE, MONITORING) and is_alive(pid)}
        is_late = time.monotonic() > deadline
        for pid in set((runners or running).values()) - (set() if is_late else signalled):
            signalled.add(pid)
            send_signal(pid, signal.SIGKILL if is_late else signal.SIGTERM)
        if time.monotonic() > deadline + 5:
            raise StopFailed(f"{', '.join(running)} do not end: processes {', '.join(map(str, running.values()))}.")
        time.sleep(0.05)
    env.remove_stack_env(root)
    return True


def logs(root: Path, only: Sequence[str], *, follow: bool, report: Report) -> None:
    """Print the logs, each line with the name of its process.

    Args:
        only: Names of processes; empty: all.
        follow: Keep printing until Ctrl-C.
        report: Called with each line.
    """
    folder = root / "var" / "log"
    offsets: dict[Path, int] = {}
    while True:
        for path in sorted(folder.glob("*.log")):
            if path.stem in (BASE, MONITORING) or (only and path.stem.partition(".")[0] not in only):
                continue
            size = path.stat().st_size
            if path not in offsets:
                for line in tail(path, 50).splitlines():
                    report(f"{path.stem:16} | {line}")
                offsets[path] = size
            elif size != offsets[path]:
                with path.open(errors="replace") as file:
                    file.seek(offsets[path] if size > offsets[path] else 0)
                    for line in file:
                        report(f"{path.stem:16} | {line.rstrip()}")
                    offsets[path] = file.tell()
        if not follow:
            return
        time.sleep(0.3)
