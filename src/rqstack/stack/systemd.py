"""systemd units for the processes of the Procfile, so that a stack without Docker comes back when the machine does.

Not by `honcho export systemd`: its units copy every secret of `.env`, restart nothing, and kill after systemd's default
time. The Procfile is read by honcho's parser all the same.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from honcho.environ import expand_processes, parse_procfile

from rqstack.settings import Settings, load
from rqstack.stack import env, runner

TARGET = "rqstack.target"


def units(root: Path, procfile: str, scale: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """The units of a Procfile: (file name, text), the target that holds them together last.

    Args:
        root: The stack's home.
        procfile: The file's name in it.
        scale: How many of a process, by its name; 1 where it is not named.
    """
    lines = parse_procfile((root / procfile).read_text()).processes
    wait = load(Settings).grace + runner.MARGIN
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
WorkingDirectory={_escaped(root)}
Environment="RQSTACK_HOME={_escaped(root)}"
Environment="RQSTACK_KILL_WAIT={wait:g}"
Environment="HONCHO_PROCESS_NAME={process.name}"
ExecStart="{_escaped(root / program)}" {rest}
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
    """Write the units into a folder.

    Args:
        root: The stack's home.
        procfile: The file's name in it.
        scale: How many of a process, by its name.
        folder: Where systemd looks, for example `~/.config/systemd/user`; made if need be.

    Returns:
        The files.
    """
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in units(root, procfile, scale):
        env.write(folder / name, text, 0o644)
        written.append(folder / name)
    return written


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
