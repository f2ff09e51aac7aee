"""The one place that opens the database."""

from __future__ import annotations

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
    """The database's URL, with the driver that rqstack uses and an absolute path for SQLite.

    Args:
        url: `postgresql://…` or `sqlite:///…`. Default: the setting RQSTACK_DATABASE_URL.

    Raises:
        BackendError: It is not a URL, or of another database, or SQLAlchemy is not installed.
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
            "The database URL is not one. Set RQSTACK_DATABASE_URL like postgresql://user:password@host/name "
            "or sqlite:///var/rqstack.db."
        ) from None
    kind = parsed.get_backend_name()
    if kind in ("postgres", "postgresql"):
        return parsed.set(drivername="postgresql+psycopg")
    if kind != "sqlite":
        raise BackendError(f"The database URL is for {kind}. rqstack works with postgresql and sqlite.")
    if parsed.database and parsed.database != ":memory:" and not Path(parsed.database).is_absolute():
        parsed = parsed.set(database=str(home() / parsed.database))
    return parsed


def open_database(url: str | None = None, **options: Any) -> Engine:
    """An engine for the database. Nothing is sent before its first use; a child process must open its own.

    Args:
        url: As `database_url`.
        options: Passed to `sqlalchemy.create_engine`, and win over what is set here.

    Raises:
        BackendError: as `database_url`, or the folder of an SQLite file cannot be made, or no driver is installed.
    """
    parsed = database_url(url)
    from sqlalchemy import create_engine, event

    if parsed.get_backend_name() != "sqlite":
        given: dict[str, Any] = {
            "pool_pre_ping": True,
            "connect_args": {"connect_timeout": CONNECT_TIMEOUT, "application_name": "rqstack"},
        }
        try:
            return create_engine(parsed, **(given | options))
        except ImportError:
            raise BackendError("PostgreSQL needs the extra: pip install 'rqstack[database]'.") from None
    if parsed.database and parsed.database != ":memory:":
        folder = Path(parsed.database).parent
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise BackendError(f"The folder {folder} of the database cannot be made: {error.strerror}.") from None
    engine = create_engine(parsed, **({"connect_args": {"timeout": BUSY_TIMEOUT}} | options))

    @event.listens_for(engine, "connect")
    def _pragmas(connection: Any, record: Any) -> None:
        # WAL lets readers and the one writer work side by side; FULL keeps what was accepted over a power cut.
        for pragma in ("journal_mode=WAL", "synchronous=FULL"):
            connection.execute(f"PRAGMA {pragma}")

    return engine
