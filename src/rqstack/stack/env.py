"""The files that hold a stack's settings: `.env`, `.env.example`, `var/stack.env`, `var/secrets/` and Redis's users."""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import Iterator, Mapping
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from dotenv import dotenv_values

from rqstack.errors import SettingsError
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.loader import SecretStr, Setting, declared_settings
from rqstack.settings.paths import home
from rqstack.stack.acl import ROLES, users_acl
from rqstack.stack.rq_settings import rq_settings

HEADER = """\
# The settings of rqstack. `make start` copies this file to .env, with random secrets, if there is no .env.
# A line that is commented out shows its default.
"""
NOTE = "# Written by the running stack, removed when it stops.\n"
NEVER_MADE = {"REDIS_PASSWORD"}  # it belongs to a role, and the processes get that of theirs


def groups() -> Iterator[tuple[str, list[Setting]]]:
    """Every setting by group, in the order of declaration: (title, its settings)."""
    for cls in (Settings, StackSettings):
        for title, settings in groupby(declared_settings(cls).values(), key=attrgetter("group")):
            yield title, list(settings)


def default(setting: Setting) -> str:
    """The default of a setting as it is written in `.env`."""
    value = setting.default
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def made_secrets() -> tuple[str, ...]:
    """The secrets that `setup` makes: keys and passwords, not addresses that hold one."""
    names = [setting.name for _, settings in groups() for setting in settings if setting.is_secret]
    return tuple(name for name in names if name.endswith(("_PASSWORD", "_KEY")) and name not in NEVER_MADE)


def example(values: Mapping[str, str] | None = None) -> str:
    """The text of `.env.example`, or of a first `.env`.

    Args:
        values: Lines that are set rather than commented out.
    """
    values = values or {}
    lines = [HEADER]
    for title, settings in groups():
        lines.append(f"# -- {title}\n")
        for setting in settings:
            name = setting.name
            lines.append(f"# {setting.description}")
            lines.append(f"{name}={values[name]}" if name in values else f"#{name}={default(setting)}")
        lines.append("")
    return "\n".join(lines)


def table() -> str:
    """Every setting as a table in Markdown, for docs/settings.md."""
    lines = []
    for title, settings in groups():
        lines += [f"### {title}", "", "| setting | default | what it is |", "|---|---|---|"]
        for setting in settings:
            shown = f"`{default(setting)}`" if default(setting) else "a secret" if setting.is_secret else "none"
            lines.append(f"| `{setting.name}` | {shown} | {setting.description} |")
        lines.append("")
    return "\n".join(lines)


def setup(root: Path | None = None) -> bool:
    """Make everything a stack reads before it starts. Nothing that a person may have edited is overwritten.

    Args:
        root: Default: `home()`.

    Returns:
        Whether `.env` was made.

    Raises:
        SettingsError: An existing `.env` lacks a secret, or has a value that is not allowed.
    """
    root = root or home()
    made = False
    if not (root / ".env").exists():
        # 24 random bytes as text that neither a shell, a URL nor compose reads in another way.
        values = {name: secrets.token_urlsafe(24) for name in made_secrets()}
        made = _create(root / ".env", example(values))
    known = {**secret_values(load(Settings)), **secret_values(load(StackSettings))}
    missing = [name for name in made_secrets() if not known.get(name)]
    if missing:
        raise SettingsError(
            f"{root / '.env'} has no value for {', '.join(missing)}. Add a line `NAME=` with a long random value for "
            "each, for example from `openssl rand -hex 24`."
        )
    folder = root / "var" / "secrets"
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    for name in made_secrets():
        # Readable by all inside a folder that only its owner may enter: containers mount them under other users.
        write(folder / name.lower(), known[name], 0o444)
    (root / "var" / "redis").mkdir(exist_ok=True)
    acl = users_acl({role: known[f"REDIS_{role.upper()}_PASSWORD"] for role in ROLES})
    write(root / "var" / "redis" / "users.acl", acl, 0o644)
    return made


def secret_values(settings: Settings | StackSettings) -> dict[str, str]:
    """The secrets that have a value, by environment variable."""
    found = {}
    for field, setting in declared_settings(type(settings)).items():
        value: Any = getattr(settings, field)
        if isinstance(value, SecretStr) and value:
            found[setting.name] = value.get_secret_value()
    return found


def write_stack_env(mode: str, values: Mapping[str, str | int], root: Path | None = None) -> None:
    """Write `var/stack.env`, by which commands find the running stack. They act as Redis's user `admin`.

    Args:
        mode: `local` or `compose`.
        values: What the stack chose: REDIS_URL (without a password) and ports.
        root: Default: `home()`.
    """
    root = root or home()
    password = load(StackSettings).redis_admin_password
    lines = {
        "RQSTACK_MODE": mode,
        "REDIS_USERNAME": "admin",
        "REDIS_PASSWORD": password.get_secret_value() if password else "",
        **values,
    }
    (root / "var").mkdir(exist_ok=True)
    remove_stack_env(root)
    update_stack_env(lines, root)


def read_stack_env(root: Path | None = None) -> dict[str, str]:
    """What the running stack wrote about itself; empty if none runs."""
    path = (root or home()) / "var" / "stack.env"
    return {name: value or "" for name, value in dotenv_values(path).items()} if path.is_file() else {}


def update_stack_env(values: Mapping[str, str | int], root: Path | None = None) -> None:
    """Add lines to `var/stack.env`; processes of the stack may do so at the same time.

    Args:
        values: The lines, which replace those of the same name.
        root: Default: `home()`.
    """
    root = root or home()
    path = root / "var" / "stack.env"
    with (root / "var" / ".stack.env.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lines = read_stack_env(root) | {name: str(value) for name, value in values.items()}
        write(path, NOTE + "".join(f"{name}={value}\n" for name, value in lines.items()), 0o600)
        if "REDIS_URL" in lines:
            names = ("redis_url", "redis_username", "redis_password")
            known = load(Settings, **{name: lines.get(name.upper()) or None for name in names})
            write(root / "var" / "rq_settings.py", rq_settings(known), 0o600)


def remove_stack_env(root: Path | None = None) -> None:
    """Forget the running stack."""
    for name in ("stack.env", "rq_settings.py"):
        ((root or home()) / "var" / name).unlink(missing_ok=True)


def write(path: Path, text: str, mode: int) -> None:
    """Replace a file in one step, if its text differs.

    Args:
        path: Its folder exists.
        text: What it shall hold.
        mode: Its permissions.
    """
    with contextlib.suppress(OSError):
        if path.read_text() == text and path.stat().st_mode & 0o777 == mode:
            return
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    _create(beside, text, mode)
    beside.replace(path)


def _create(path: Path, text: str, mode: int = 0o600) -> bool:
    try:
        # Private from its first byte on.
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(file.fileno(), mode)
    except OSError as error:
        raise SettingsError(f"cannot write {path}: {error.strerror}.") from error
    return True
