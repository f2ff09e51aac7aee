"""What `make start` chooses once and remembers in `.env`: the project, the names of its images, and free ports."""

from __future__ import annotations

import os
from pathlib import Path

from rqstack.settings import StackSettings
from rqstack.settings.loader import declared_settings
from rqstack.settings.sources import read_env_file
from rqstack.stack import generated, ports, project
from rqstack.stack.reporting import Report

_DEFAULTS = {setting.name: setting.default for setting in declared_settings(StackSettings).values()}
PROJECT = declared_settings(StackSettings)["project"].name
MODE = declared_settings(StackSettings)["mode"].name
PORTS = tuple(name for name in _DEFAULTS if name.endswith("_PORT"))
OWN_IMAGES = tuple(name for name, default in _DEFAULTS.items() if str(default).endswith(":local"))
"""Settings that name an image which is built here."""


def complete(root: Path, *, is_new: bool) -> None:
    """Choose what has not been chosen yet. What the user sets is left to them.

    Args:
        root: The home of the stack.
        is_new: Whether its `.env` has just been made.

    Raises:
        SettingsError: `.env` cannot be read or written.
    """
    root = Path(os.path.realpath(root))
    own, recorded, recorded_for = generated.own(root), generated.read(root), generated.folder(root)
    name = project.choose(root, is_new=is_new, recorded=recorded.get(PROJECT), recorded_for=recorded_for)
    is_copy = PROJECT in recorded and recorded[PROJECT] != name
    values: dict[str, str | int | None] = dict.fromkeys(own.keys() & recorded.keys())
    if PROJECT not in own and name is not None:
        values[PROJECT] = name
    if tag := own.get(PROJECT, name):
        for image in OWN_IMAGES:
            if image not in own:
                values[image] = f"{str(_DEFAULTS[image]).removesuffix('local')}{tag}"
    # A stack of a release that did not remember them may run.
    known = read_env_file(root / "var" / "stack.env") | ({} if is_copy else recorded)
    taken = {int(own.get(each) or known.get(each) or 0) for each in PORTS}
    # Where Redis finds its port in use, another clone probably has it, so leave it the other ports too.
    shift = 0 if ports.is_free(_DEFAULTS["REDIS_PORT"]) else ports.offset(root)
    for each in PORTS:
        if each in own or (each in recorded and not is_copy):
            continue
        wanted = _DEFAULTS[each] + shift
        port = int(known.get(each) or ports.choose(each, wanted, is_explicit=False, root=root, taken=taken))
        taken.add(port)
        values[each] = port
    generated.update(root, values)


def move_port(root: Path, name: str, port: int, report: Report) -> int:
    """Return the port if it is free; otherwise choose another one, remember it and report it.

    Args:
        root: The home of the stack.
        name: The setting.
        port: Its value.

    Raises:
        PortInUse: The user set the port, and another program listens on it.
    """
    is_explicit = generated.is_users(root, name)
    known = {int(value) for other, value in generated.read(root).items() if other in PORTS and other != name}
    chosen = ports.choose(name, port, is_explicit=is_explicit, root=root, taken=() if is_explicit else known)
    if not is_explicit:
        generated.update(root, {name: chosen})
    if chosen != port:
        report(f"Port {port} is in use, so {name} is {chosen} from now on.")
    return chosen


def remember_mode(root: Path, mode: str) -> None:
    """Remember where the stack runs: its jobs are there, so the next start must be there too.

    Args:
        mode: `local` or `compose`.
    """
    if not generated.is_users(root, MODE):
        generated.update(root, {MODE: mode})
