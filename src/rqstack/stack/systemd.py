"""Writes systemd units for the processes of the Procfile, so that a stack without Docker starts at boot.

`honcho export systemd` does not suffice: its units copy all secrets of `.env`, restart nothing, and kill after the
default timeout of systemd.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from honcho.environ import expand_processes, parse_procfile

from rqstack.settings import Settings, load
from rqstack.stack import runner
from rqstack.stack.files import write_atomically
from rqstack.transport.keys import PREFIX

TARGET = "rqstack.target"


def units(root: Path, procfile: str, scale: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The units of a Procfile as (file name, text), followed by the target that groups them.

    Args:
        procfile: Its name in `root`.
        scale: Number of instances by process name. Default: 1.
    """
    lines = parse_procfile((root / procfile).read_text()).processes
    wait = load(Settings).grace + runner.STOP_MARGIN
    # RQ reads it from its environment, and systemd passes none on.
    prefix = "" if PREFIX == "rq" else f'\nEnvironment="RQ_KEY_PREFIX={PREFIX}"'
    names = []
    for process in expand_processes(lines, concurrency=dict(scale)):
        name = f"rqstack-{process.name.replace('.', '-')}.service"
        names.append(name)
        command = process.cmd.removeprefix("exec ")
        program, _, rest = command.partition(" ")
        yield (
            name,
            f"""\
[Unit]
Description=rqstack {process.name}
PartOf={TARGET}
After=network.target

[Service]
Type=exec
WorkingDirectory={_escape(root)}
Environment="RQSTACK_HOME={_escape(root)}"{prefix}
Environment="RQSTACK_KILL_WAIT={wait:g}"
Environment="HONCHO_PROCESS_NAME={process.name}"
ExecStart="{_escape(root / program)}" {rest}
Restart=always
RestartSec=1
KillMode=mixed
TimeoutStopSec={wait + 5:g}

[Install]
WantedBy={TARGET}
""",
        )
    yield (
        TARGET,
        f"""\
[Unit]
Description=rqstack: background jobs
Wants={" ".join(names)}

[Install]
WantedBy={"multi-user.target" if os.geteuid() == 0 else "default.target"}
""",
    )


def export(root: Path, procfile: str, scale: Mapping[str, int], folder: Path) -> list[Path]:
    """Write the units into a folder. Returns their paths.

    Args:
        procfile: Its name in `root`.
        scale: Number of instances by process name. Default: 1.
        folder: Created if needed. systemd reads, for example, `~/.config/systemd/user`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in units(root, procfile, scale):
        write_atomically(folder / name, text, 0o644)
        written.append(folder / name)
    return written


def _escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
