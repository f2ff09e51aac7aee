"""The systems that are measured, and an environment for each: their requirements conflict."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "var" / "bench"
OWN = "rqstack"
_HIREDIS = "hiredis==3.5.0"  # everywhere, so that no system is held back by the pure Python parser


@dataclass(frozen=True, slots=True)
class System:
    """One column of the table.

    Args:
        name: Its name in the table.
        adapter: Its module in `bench.adapters`.
        packages: What its environment holds; none for rqstack, which runs in the one that runs the benchmark.
        environment: Environment variables of its processes.
        pace: The jobs of a measure are divided by this, for systems that are so much slower.
        recovers: Seconds after which it says it runs a lost job again; None where it does not say so.
        quick: Whether `QUICK=1` measures it.
    """

    name: str
    adapter: str
    packages: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    pace: float = 1.0
    recovers: int | None = None
    quick: bool = False

    @property
    def folder(self) -> Path:
        """Its virtual environment."""
        return PLACE / "venvs" / self.adapter if self.packages else Path(sys.prefix)

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python") if self.packages else sys.executable

    def install(self) -> None:
        """Make its environment, unless it is there with these very packages.

        Raises:
            SystemExit: They cannot be installed.
        """
        if not self.packages:
            return
        wanted, record = "\n".join(self.packages), self.folder / "wanted.txt"
        if record.is_file() and record.read_text() == wanted:
            return
        print(f"Installing {' '.join(self.packages)}", flush=True)
        venv.create(self.folder, with_pip=True, clear=True)
        command = [self.python, "-m", "pip", "install", "-qq", "--disable-pip-version-check", *self.packages]
        run = subprocess.run(command, capture_output=True, text=True, check=False)
        if run.returncode:
            raise SystemExit(f"{self.name}: cannot be installed: {run.stderr.strip()[-500:]}")
        record.write_text(wanted)

    def versions(self) -> str:
        """What its environment holds, as pip freezes it."""
        command = [self.python, "-m", "pip", "freeze", "--disable-pip-version-check", "--exclude-editable"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def variables(self, port: int) -> dict[str, str]:
        """The environment of its processes: nothing of the caller's own settings."""
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "RQ", "REDIS", "BENCH"))
        }
        paths = os.pathsep.join((str(ROOT), str(ROOT / "bench" / "tasks" / "bench")))
        binaries = os.pathsep.join((str(Path(self.python).parent), kept.get("PATH", "")))
        return {**kept, "BENCH_PORT": str(port), "PYTHONPATH": paths, "PATH": binaries, **self.environment}


def _rqstack() -> dict[str, str]:
    return {
        "RQSTACK_HOME": str(PLACE / "home"),
        "RQSTACK_TASKS_PATH": str(ROOT / "bench" / "tasks"),
        "RQSTACK_SECRET_KEY": "a key for the benchmark only: payloads are signed as in a deployment",
    }


_RQ = ("rq==3.0.0", _HIREDIS)
_DRAMATIQ = ("dramatiq[redis]==2.2.1", _HIREDIS)

SYSTEMS = (
    System(OWN, "rqstack", environment=_rqstack(), recovers=20, quick=True),
    System("rq Worker", "rq", _RQ, {"BENCH_WORKER": "rq.Worker"}, pace=20),
    System("rq SimpleWorker", "rq", _RQ, {"BENCH_WORKER": "rq.SimpleWorker"}, pace=4, quick=True),
    System("huey", "huey", ("huey==3.5.4", "redis==8.1.0", _HIREDIS), quick=True),
    System("dramatiq", "dramatiq", _DRAMATIQ, pace=2, recovers=110),
    System("dramatiq prefetch 64", "dramatiq", _DRAMATIQ, {"dramatiq_queue_prefetch": "64"}, recovers=110, quick=True),
    System("celery", "celery", ("celery[redis]==5.7.0", _HIREDIS), pace=4),
)
