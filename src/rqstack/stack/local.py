"""Runs the stack without Docker: the processes of the Procfile with honcho, in the background."""

from __future__ import annotations

import math
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path

from honcho.environ import expand_processes, parse_procfile

from rqstack.errors import RqstackError, SettingsError
from rqstack.processes.liveness import WORKER, alive
from rqstack.processes.private_files import open_private, private_folder
from rqstack.processes.signals import is_alive, send_signal
from rqstack.registry.code_version import code_version, mark_deploy
from rqstack.settings import Settings, StackSettings, load
from rqstack.stack import choices, dependencies, env, locks, ports, processes, runner
from rqstack.stack.redis_users import RedisUsers
from rqstack.stack.reporting import JOBS_PAGE_LOGIN, Report

BASE = "Procfile"
MONITORING = "Procfile-monitor"
JOBS_PAGE = "Jobs page"
START_TIMEOUT = 120.0
"""Seconds within which all processes must be healthy."""

STOP_TIME = 30.0
"""Seconds that the processes of the monitoring get to end."""

DEPLOY_TIMEOUT = 60.0
"""Seconds within which all workers must have loaded new task code."""


class StartFailed(RqstackError):
    """A process did not start, or is unhealthy. The message has the end of its log."""


class TasksBroken(RqstackError):
    """A task module cannot be imported. The message names it."""


class StopFailed(RqstackError):
    """A process cannot be stopped."""


def process_names(root: Path, procfile: str, scale: Mapping[str, int]) -> list[str]:
    """honcho's names, such as `worker.1`, of the processes of a Procfile that this machine can run.

    Raises:
        RqstackError: `scale` names a process that the Procfile does not have.
    """
    lines = parse_procfile((root / procfile).read_text()).processes
    scalable = [name for name in lines if name in processes.SCALABLE]
    for name in scale:
        if name not in scalable and procfile == BASE:
            reason = "it can run once only" if name in lines else "no such process"
            raise RqstackError(f"--scale {name}: {reason}. These can run several times: {', '.join(scalable)}.")
    if shutil.which("prometheus") is None:
        lines.pop("prometheus", None)
    return [process.name for process in expand_processes(lines, concurrency=dict(scale))]


def start(root: Path, report: Report, *, monitoring: bool = False, scale: Mapping[str, int] | None = None) -> None:
    """Start the processes that do not run yet, and return when all are healthy.

    Args:
        monitoring: Include the processes of Procfile-monitor.
        scale: Number of instances by process name. Default: 1; of the worker, WORKERS.

    Raises:
        StartFailed: A process exited or is not healthy in time. The processes of its Procfile are stopped again.
        RqstackError: A requirement is missing, or the stack already runs with another number of instances.
    """
    asked, scale = scale or {}, with_workers(scale)
    users = RedisUsers(root)
    env.setup_and_report(root, report)
    dependencies.prepare_projects(root, report)
    dependencies.ensure_redis_server(root, report)
    check_tasks()
    names = process_names(root, BASE, scale)
    running = dict(locks.running_processes(root))
    if "redis.1" in running:
        report("The stack already runs. Changed settings, other than passwords, take effect after make stop.")
        for name, number in asked.items():
            if (now := sum(each.partition(".")[0] == name for each in running)) != number:
                raise RqstackError(f"{name} runs {now} times. To run it {number} times: make stop, then this again.")
        users.apply()
        _wait_until_healthy([name for name in running if name in names])
    else:
        _start_runner(root, BASE, scale)
        choices.remember_mode(root, "local")
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


def with_workers(scale: Mapping[str, int] | None) -> dict[str, int]:
    """Numbers of instances, with WORKERS for the process worker where they do not name it."""
    return {"worker": load(StackSettings).workers, **(scale or {})}


def check_tasks() -> None:
    """Import the task modules as a worker and the scheduler do, in a process of its own.

    Raises:
        TasksBroken: A module cannot be imported. The message names it.
    """
    command = [sys.executable, "-m", "rqstack.stack.import_check", "--local"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        # The last line: a module may print too.
        output = (done.stdout.strip() or done.stderr.strip() or "the import failed").splitlines()[-1]
        raise TasksBroken(output)


def deploy_tasks(root: Path, report: Report) -> None:
    """Make the running workers and the scheduler load the task code again, as they do after a commit.

    Raises:
        TasksBroken: A module cannot be imported. The running code stays.
        RqstackError: Dependencies cannot be installed, or a worker does not load the code in time.
    """
    dependencies.prepare_projects(root, report)
    try:
        check_tasks()
    except TasksBroken as error:
        raise TasksBroken(f"{error}. The workers keep the code that they have.") from None
    mark_deploy()
    version = code_version(load(Settings))
    workers = [name for name, _ in locks.running_processes(root) if name.partition(".")[0] in processes.WORKERS]
    if not workers:
        report("No worker runs. The next start loads this code.")
        return
    deadline = time.monotonic() + DEPLOY_TIMEOUT
    while missing := len(workers) - sum(each.code == version for each in alive(root, WORKER)):
        if time.monotonic() > deadline:
            raise RqstackError(
                f"{missing} of {len(workers)} workers have not loaded the new code within {DEPLOY_TIMEOUT:.0f} s. "
                "See `make logs`."
            )
        time.sleep(0.05)
    report("The workers have loaded the new code. Jobs that run end on the old one.")


def _choose_ports(root: Path, report: Report) -> None:
    settings = load(StackSettings)
    chosen: dict[str, int] = {}
    for field in ("rq_exporter_port", "prometheus_port", "dashboard_port"):
        name = field.upper()
        chosen[name] = choices.move_port(root, name, getattr(settings, field), report)
    env.update_stack_env(chosen, root)


def _start_runner(root: Path, procfile: str, scale: Mapping[str, int]) -> None:
    """Run a Procfile in the background, and wait until its processes are healthy."""
    wanted = [name for name in process_names(root, procfile, scale) if scale.get(name.partition(".")[0], 1)]
    folder = root / "var" / "log"
    private_folder(folder)
    command = [sys.executable, "-m", "rqstack.stack.runner", str(root), procfile]
    command += [f"{name}={number}" for name, number in scale.items()]
    with open(folder / f"{procfile}.log", "w", opener=open_private) as log:
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
            last = tail(folder / f"{name}.log", 1)
            if message := re.fullmatch(r"[\d-]+ [\d:]+ Error: (.+)", last):
                # What a process says to the person; the lines before it are of earlier starts.
                return f"{name} did not start: {message[1]}"
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


def addresses(root: Path) -> dict[str, str]:
    """The addresses of the running stack, by title."""
    values = env.read_stack_env()
    by_title = {"Redis": values.get("REDIS_URL", "")}
    running = {name.partition(".")[0] for name, _ in locks.running_processes(root)}
    for title, name in (("rq-exporter", "rq-exporter"), ("Prometheus", "prometheus"), (JOBS_PAGE, "dashboard")):
        port = values.get(f"{name.upper().replace('-', '_')}_PORT")
        if port and name in running:
            by_title[title] = f"http://{ports.HOST}:{port}"
    return by_title


def login() -> str:
    """How to log in to the jobs page."""
    return JOBS_PAGE_LOGIN.format(user=load(StackSettings).dashboard_username)


def stop_monitoring(root: Path, report: Report) -> None:
    """Stop the processes of Procfile-monitor. The stack stays.

    Raises:
        StopFailed: A process does not end.
        RqstackError: A process belongs to another user.
    """
    names = {MONITORING, *parse_procfile((root / MONITORING).read_text()).processes}
    running = _running(root, names)
    if not running:
        report("No monitoring runs.")
        return
    _stop(root, names, STOP_TIME)
    shown = ", ".join(name for name in running if name != MONITORING)
    report(f"Stopped {shown}. The stack still runs.")


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
    try:
        seconds = load(Settings).grace + runner.STOP_MARGIN + 5
    except SettingsError as error:
        # The processes keep to the grace that they were started with, which may be any.
        report(f"Warning: {error}")
        seconds = math.inf
    _stop(root, None, seconds)
    env.remove_stack_env(root)
    return True


def _running(root: Path, names: Collection[str] | None) -> dict[str, int]:
    """The process ids of runners and processes by name; of those that `names` has without their numbers, or of all."""
    found = dict(locks.running_processes(root))
    return {name: pid for name, pid in found.items() if names is None or name.partition(".")[0] in names}


def _stop(root: Path, names: Collection[str] | None, seconds: float) -> None:
    """Stop processes, and wait until they have ended.

    Args:
        names: As `_running` takes them.
        seconds: After these they are killed.

    Raises:
        StopFailed: A process does not end.
        RqstackError: A process belongs to another user.
    """
    signalled: set[int] = set()
    deadline = time.monotonic() + seconds
    while running := _running(root, names):
        # A runner passes the signal on to its processes. If none is alive, signal each process.
        runners = {name: pid for name, pid in running.items() if name in (BASE, MONITORING) and is_alive(pid)}
        is_late = time.monotonic() > deadline
        for pid in set((runners or running).values()) - (set() if is_late else signalled):
            signalled.add(pid)
            send_signal(pid, signal.SIGKILL if is_late else signal.SIGTERM)
        if time.monotonic() > deadline + 5:
            raise StopFailed(f"{', '.join(running)} do not end: processes {', '.join(map(str, running.values()))}.")
        time.sleep(0.05)


def logs(root: Path, only: Sequence[str], *, follow: bool, report: Report) -> None:
    """Print the logs, each line with the name of its process.

    Args:
        only: Names of processes; empty: all.
        follow: Keep printing until Ctrl-C.
        report: Called with each line.

    Raises:
        UnknownProcess: The stack has no such process.
    """
    for name in only:
        processes.get(name)
    folder = root / "var" / "log"
    offsets: dict[Path, int] = {}
    while True:
        for path in sorted(folder.glob("*.log")):
            if path.stem in (BASE, MONITORING):
                continue
            if only and path.stem not in only and path.stem.partition(".")[0] not in only:
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
