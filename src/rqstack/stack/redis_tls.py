"""TLS and the published address of the stack's own Redis."""

from __future__ import annotations

import ssl
from ipaddress import IPv4Address
from pathlib import Path

from rqstack.errors import SettingsError
from rqstack.settings import Settings, StackSettings, load
from rqstack.stack import ports
from rqstack.stack.files import write_in_place

NAMES = ("redis_tls_cert", "redis_tls_key", "redis_tls_ca")
OPTIONS = "redis_tls_options"
"""File of Redis's options for TLS, which redis.conf includes in its container; empty without TLS."""

LEAST_PASSWORD = 16
"""Characters that a password needs before Redis is published to other hosts."""

_OPTIONS = """\
port 0
tls-port {port}
tls-cert-file {redis_tls_cert}
tls-key-file {redis_tls_key}
tls-ca-cert-file {redis_tls_ca}
tls-auth-clients no
"""


def write_files(root: Path) -> None:
    """Copy the certificates into `var/secrets`, where containers find them; empty files if there are none.

    Raises:
        SettingsError: A file is missing or does not match the others.
    """
    settings = load(Settings)
    folder = root / "var" / "secrets"
    contents = dict.fromkeys(NAMES, "")
    if settings.redis_tls_cert is not None:
        for name in NAMES:
            contents[name] = _read(root, name, getattr(settings, name))
        _check(root, settings)
    for name, text in contents.items():
        # World-readable, because containers mount them as other users; the folder is private to its owner.
        write_in_place(folder / name, text, 0o444)
    options = options_of_redis("/run/secrets", 6379) if contents["redis_tls_cert"] else ""
    write_in_place(folder / OPTIONS, options, 0o444)


def options_of_redis(folder: str, port: int) -> str:
    """Redis's options for TLS.

    Args:
        folder: Where it finds the files that `write_files` writes.
        port: Where it listens.
    """
    files = {name: quoted(f"{folder}/{name}") for name in NAMES}
    return _OPTIONS.format(port=port, **files)


def quoted(path: str | Path) -> str:
    """A path as redis.conf takes it, whatever characters it has."""
    return '"' + str(path).replace("\\", "\\\\").replace('"', '\\"') + '"'


def serves_tls() -> bool:
    """Whether the stack's Redis speaks TLS, and nothing else."""
    return load(Settings).redis_tls_cert is not None


def check_passwords(passwords: dict[str, str]) -> None:
    """Check that Redis's passwords are long enough for REDIS_BIND.

    Args:
        passwords: Of Redis's users, by setting.

    Raises:
        SettingsError: Other hosts would reach Redis, and a password is short.
    """
    bind = load(StackSettings).redis_bind
    if IPv4Address(bind).is_loopback:
        return
    if weak := [name for name, password in passwords.items() if len(password) < LEAST_PASSWORD]:
        raise SettingsError(
            f"REDIS_BIND={bind} would let other hosts reach Redis, but a password has fewer than {LEAST_PASSWORD} "
            f"characters: {', '.join(weak)}. Set a long random value, for example from `openssl rand -hex 24`."
        )


def exposure_warning() -> str:
    """A warning if other hosts reach Redis without TLS; else ""."""
    bind = load(StackSettings).redis_bind
    if IPv4Address(bind).is_loopback or serves_tls():
        return ""
    return (
        f"REDIS_BIND={bind}: other hosts reach Redis without TLS, so passwords and jobs can be read on the way. "
        "Set REDIS_TLS_CERT, REDIS_TLS_KEY and REDIS_TLS_CA."
    )


def bind_addresses() -> str:
    """The addresses on which Redis listens without Docker, 127.0.0.1 always among them."""
    bind = load(StackSettings).redis_bind
    return bind if IPv4Address(bind).is_unspecified else " ".join(dict.fromkeys((ports.HOST, bind)))


def redis_url(port: int) -> str:
    """The address of the stack's Redis for this machine, without a password.

    Args:
        port: Where it is published.
    """
    bind = IPv4Address(load(StackSettings).redis_bind)
    host = ports.HOST if bind.is_loopback or bind.is_unspecified else str(bind)
    return f"{'rediss' if serves_tls() else 'redis'}://{host}:{port}/0"


def _read(root: Path, name: str, path: Path | None) -> str:
    if path is None:
        raise SettingsError(
            f"{name.upper()} is not set. It names the certificate of the authority that signed REDIS_TLS_CERT; for a "
            "public one that is the system's, such as /etc/ssl/certs/ca-certificates.crt."
        )
    try:
        return (root / path).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not a text file in PEM format"
        raise SettingsError(f"{name.upper()}: {root / path} cannot be read: {reason}.") from None


def _check(root: Path, settings: Settings) -> None:
    assert settings.redis_tls_cert
    assert settings.redis_tls_key
    assert settings.redis_tls_ca
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        # An encrypted key would ask for its password on the terminal.
        context.load_cert_chain(root / settings.redis_tls_cert, root / settings.redis_tls_key, password=lambda: "")
    except ssl.SSLError as error:
        raise SettingsError(
            f"REDIS_TLS_CERT and REDIS_TLS_KEY do not belong together: {error.reason or error}. Both are PEM files, "
            "the key without a password."
        ) from None
    try:
        context.load_verify_locations(root / settings.redis_tls_ca)
    except ssl.SSLError as error:
        raise SettingsError(f"REDIS_TLS_CA: {root / settings.redis_tls_ca} contains no certificate: {error}.") from None
