"""Opens the database."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rqstack.errors import BackendError
from rqstack.settings import get_settings
from rqstack.settings.paths import home

if TYPE_CHECKING:
    from sqlalchemy import URL, Engine

CONNECT_TIMEOUT = 5
BUSY_TIMEOUT = 30.0


def database_url(url: str | None = None) -> URL:
    """Parse a database URL, set the driver, and make the path of an SQLite file absolute.

    Args:
        url: `postgresql://…` or `sqlite:///…`. Default: RQSTACK_DATABASE_URL.

    Raises:
        BackendError: The URL is invalid or for another database, or SQLAlchemy is not installed.
    """
    try:
        from sqlalchemy.engine import make_url
        from sqlalchemy.exc import ArgumentError
    except ImportError:
        raise BackendError("A database needs the extra: pip install 'rqstack[database]'.") from None
    text = url or get_settings().database_url.get_secret_value()
    try:
        parsed = make_url(text)
    except ArgumentError:
        raise BackendError(
            "The database URL is invalid. Set RQSTACK_DATABASE_URL, such as postgresql://user:password@host/name "
            "or sqlite:///var/rqstack.db."
        ) from None
    kind = parsed.get_backend_name()
    if kind in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise BackendError(f"The database URL is for {kind}. rqstack supports postgresql and sqlite.")
    if parsed.database and parsed.database != ":memory:" and not Path(parsed.database).is_absolute():
        parsed = parsed.set(database=str(home() / parsed.database))
    return parsed


def open_database(url: str | None = None, **options: Any) -> Engine:
    """Make an engine for the database. It connects on first use. A child process must not use its parent's engine.

    Args:
        url: As `database_url`.
        options: Passed to `sqlalchemy.create_engine`; they override the defaults set here.

    Raises:
        BackendError: As `database_url`, an SQLite file cannot be created, or a driver is missing.
    """
    parsed = database_url(url)
    from sqlalchemy import create_engine, event

    if parsed.get_backend_name() != "sqlite":
        defaults: dict[str, Any] = {
            "pool_pre_ping": True,
            "connect_args": {"connect_timeout": CONNECT_TIMEOUT, "application_name": "rqstack"},
        }
        try:
            return create_engine(parsed, **(defaults | options))
        except ImportError:
            raise BackendError("PostgreSQL needs the extra: pip install 'rqstack[database]'.") from None
    if parsed.database and parsed.database != ":memory:":
        folder = Path(parsed.database).parent
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if not Path(parsed.database).exists():
                _create(parsed.database)
        except OSError as error:
            raise BackendError(f"Cannot create the database {parsed.database}: {error.strerror}.") from None
    engine = create_engine(parsed, **({"connect_args": {"timeout": BUSY_TIMEOUT}} | options))

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, record: Any) -> None:
        # WAL lets readers work while one process writes; FULL keeps committed data across a power failure.
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


def _create(path: str) -> None:
    """Make an empty file that only its owner may read; SQLite gives its other files the permissions of this one.

    A file that exists is not opened: closing it would end the POSIX locks that other connections of this process have
    on it, and another process would then delete the log from which they read.
    """
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
