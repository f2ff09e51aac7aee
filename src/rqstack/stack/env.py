"""Reads and writes a stack's settings files: `.env`, `.env.example`, `var/stack.env`, `var/secrets/`, Redis's users."""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from rqstack.errors import SettingsError
from rqstack.processes.private_files import private_folder
from rqstack.settings import Settings, StackSettings, load
from rqstack.settings.loader import SecretStr, Setting, declared_settings
from rqstack.settings.paths import home
from rqstack.settings.sources import read_env_file
from rqstack.stack import choices, generated, redis_tls
from rqstack.stack.acl import PASSWORDS, users_acl
from rqstack.stack.files import create, locked, write_atomically, write_in_place
from rqstack.stack.reporting import Report
from rqstack.stack.rq_settings import rq_settings
from rqstack.transport.keys import PREFIX

HEADER = """\
# The settings of rqstack. `make start` copies this file to .env, with random secrets, if there is no .env.
# A line that is commented out shows its default.
"""
NOTE = "# Written by the running stack, removed when it stops.\n"
OLD_PASSWORDS = "old_redis_passwords.json"
"""The file in var/secrets with the digests of replaced passwords that are still accepted."""

NOT_GENERATED = {"REDIS_PASSWORD"}  # each process gets the password of its role instead


def groups() -> Iterator[tuple[str, list[Setting]]]:
    """All settings by group, as (title, settings), in the order of their declaration."""
    for cls in (Settings, StackSettings):
        for title, settings in groupby(declared_settings(cls).values(), key=attrgetter("group")):
            yield title, list(settings)


def default(setting: Setting) -> str:
    """The default of a setting, formatted for `.env`."""
    value = setting.default
    if value is None:
        return ""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, bool):
        return str(int(value))
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


def generated_secrets() -> tuple[str, ...]:
    """Names of the secrets that `setup` generates: keys and passwords, but not URLs that contain one."""
    names = [setting.name for _, settings in groups() for setting in settings if setting.is_secret]
    return tuple(name for name in names if name.endswith(("_PASSWORD", "_KEY")) and name not in NOT_GENERATED)


def new_secret() -> str:
    """A random key or password, of characters that need no quoting in a shell, a URL or a compose file."""
    return secrets.token_urlsafe(24)


def example(values: Mapping[str, str] | None = None) -> str:
    """The text of `.env.example`, or of a new `.env`.

    Args:
        values: Settings that are written with this value instead of commented out.
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
    """All settings as Markdown tables, for docs/settings.md."""
    lines = []
    for title, settings in groups():
        lines += [f"### {title}", "", "| setting | default | what it is |", "|---|---|---|"]
        for setting in settings:
            shown = f"`{default(setting)}`" if default(setting) else "a secret" if setting.is_secret else "none"
            lines.append(f"| `{setting.name}` | {shown} | {setting.description} |")
        lines.append("")
    return "\n".join(lines)


def setup(root: Path | None = None) -> bool:
    """Create the files that a stack reads when it starts. An existing `.env` is kept, but for the generated block.

    Args:
        root: Default: `home()`.

    Returns:
        Whether `.env` was created.

    Raises:
        SettingsError: An existing `.env` lacks a secret, has an invalid value, or sets RQ_KEY_PREFIX; or Redis's
            certificates do not match, or its passwords are too short for REDIS_BIND.
    """
    root = root or home()
    is_new = False
    if not (root / ".env").exists():
        values = {name: new_secret() for name in generated_secrets()}
        create(root / ".env", example(values))
        is_new = True
    choices.complete(root, is_new=is_new)
    prefix = read_env_file(root / ".env").get("RQ_KEY_PREFIX")
    if prefix and prefix != PREFIX:
        raise SettingsError(
            f"RQ_KEY_PREFIX: {root / '.env'} sets it to {prefix!r}, but RQ reads it from the environment only. "
            "Export it, and remove the line."
        )
    known = {**secret_values(load(Settings)), **secret_values(load(StackSettings))}
    missing = [name for name in generated_secrets() if not known.get(name)]
    if missing:
        raise SettingsError(
            f"{root / '.env'} has no value for {', '.join(missing)}. Add a line `NAME=` with a long random value for "
            "each, for example from `openssl rand -hex 24`."
        )
    # Files from before this was so lie in it, too: the append-only file has the arguments of jobs.
    private_folder(root / "var")
    folder = private_folder(root / "var" / "secrets")
    for name in generated_secrets():
        # World-readable, because containers mount them as other users; the folder is private to its owner.
        write_in_place(folder / name.lower(), known[name], 0o444)
    redis_tls.write_files(root)
    redis_tls.check_passwords(redis_passwords())
    private_folder(root / "var" / "redis")
    passwords = {role: known[name] for role, name in PASSWORDS.items()}
    acl = users_acl(passwords, old_passwords(root))
    write_in_place(root / "var" / "redis" / "users.acl", acl, 0o644)
    return is_new


def setup_and_report(root: Path, report: Report) -> None:
    """Run `setup`, and report whether `.env` is new and whether Redis is exposed.

    Raises:
        SettingsError: As `setup`.
    """
    if setup(root):
        report(f"Created {root / '.env'} with random secrets.")
    if warning := redis_tls.exposure_warning():
        report(warning)


def old_passwords(root: Path) -> dict[str, list[str]]:
    """The digests of the Redis passwords that `rqstack secrets rotate` has replaced, and that are still accepted."""
    path = root / "var" / "secrets" / OLD_PASSWORDS
    try:
        found = {role: list(digests) for role, digests in json.loads(path.read_text()).items()}
        return {role: [each for each in found[role] if re.fullmatch("[0-9a-f]{64}", each)] for role in found}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"{path} cannot be read: {error}. Remove it: no old password is accepted then.") from None


def write_old_passwords(root: Path, digests: Mapping[str, Sequence[str]]) -> None:
    """Set what `old_passwords` returns."""
    write_atomically(root / "var" / "secrets" / OLD_PASSWORDS, json.dumps(digests), 0o600)


def set_values(root: Path, values: Mapping[str, str]) -> None:
    """Set values in `.env`. Its other lines, its owner and its permissions stay as they are.

    Args:
        root: The home of the stack.
        values: By environment variable; they need no quotation marks.

    Raises:
        SettingsError: The file cannot be written.
    """
    path = (root / ".env").resolve()
    with generated.lock(root):
        lines = path.read_text(encoding="utf-8").splitlines()
        for name, value in values.items():
            # The last line counts where there are several.
            is_set = re.compile(rf"\s*(export\s+)?{name}\s*=", re.IGNORECASE).match
            places = [at for at, line in enumerate(lines) if is_set(line)]
            if places:
                lines[places[-1]] = f"{name}={value}"
            else:
                lines.append(f"{name}={value}")
        status = path.stat()
        write_atomically(path, "\n".join(lines) + "\n", status.st_mode & 0o777)
        if os.geteuid() == 0:  # with sudo; otherwise its owner could not read it any more
            os.chown(path, status.st_uid, status.st_gid)


def redis_passwords() -> dict[str, str]:
    """The passwords of Redis's users that are set, by environment variable."""
    known = secret_values(load(StackSettings))
    return {name: password for name, password in known.items() if name.startswith("REDIS_")}


def secret_values(settings: Settings | StackSettings) -> dict[str, str]:
    """The secrets that are set, by environment variable."""
    values = {}
    for field, setting in declared_settings(type(settings)).items():
        value: Any = getattr(settings, field)
        if isinstance(value, SecretStr) and value:
            values[setting.name] = value.get_secret_value()
    return values


def write_stack_env(mode: str, values: Mapping[str, str | int], root: Path | None = None) -> None:
    """Write `var/stack.env`, where commands find the running stack and the credentials of Redis user `admin`.

    Args:
        mode: `local` or `compose`.
        values: REDIS_URL, without a password, and ports.
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
    private_folder(root / "var")
    remove_stack_env(root)
    update_stack_env(lines, root)


def read_stack_env(root: Path | None = None) -> dict[str, str]:
    """The content of `var/stack.env`; empty if no stack runs."""
    return read_env_file((root or home()) / "var" / "stack.env")


def update_stack_env(values: Mapping[str, str | int], root: Path | None = None) -> None:
    """Set values in `var/stack.env`. Several processes may do this at the same time.

    Args:
        root: Default: `home()`.
    """
    root = root or home()
    path = root / "var" / "stack.env"
    with locked(root / "var" / ".stack.env.lock"):
        lines = read_stack_env(root) | {name: str(value) for name, value in values.items()}
        write_atomically(path, NOTE + "".join(f"{name}={value}\n" for name, value in lines.items()), 0o600)
        if "REDIS_URL" in lines:
            names = ("redis_url", "redis_username", "redis_password")
            known = load(Settings, **{name: lines.get(name.upper()) or None for name in names})
            write_atomically(root / "var" / "rq_settings.py", rq_settings(known), 0o600)


def remove_stack_env(root: Path | None = None) -> None:
    """Remove the files that describe the running stack."""
    for name in ("stack.env", "rq_settings.py"):
        ((root or home()) / "var" / name).unlink(missing_ok=True)
