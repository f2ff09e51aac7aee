"""Messages in a table of PostgreSQL or SQLite."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    and_,
    delete,
    func,
    insert,
    literal,
    or_,
    select,
    update,
)
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError, SQLAlchemyError

from rqstack.backends.base import MAX_POLL_INTERVAL, MIN_POLL_INTERVAL, BaseQueue
from rqstack.database import CONNECT_TIMEOUT, database_url, open_database
from rqstack.errors import BackendError

if TYPE_CHECKING:
    from psycopg import Connection as PsycopgConnection
    from sqlalchemy import ColumnElement, Connection, Engine, Executable

CHANNEL = "rqstack_messages"

metadata = MetaData()
messages = Table(
    "rqstack_messages",
    metadata,
    Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("queue", String(255), nullable=False),
    Column("data", LargeBinary, nullable=False),
    # The consumer that claimed it, and the end of its lease in seconds since the epoch on the database's clock.
    Column("owner", String(64)),
    Column("lease_until", Double),
    Index("rqstack_messages_queue", "queue", "id"),
    Index("rqstack_messages_owner", "owner"),
    # Ids define the order of the queue, so SQLite must not reuse them after the table was empty.
    sqlite_autoincrement=True,
)


class DatabaseQueue(BaseQueue):
    """A queue in a table, created on first use. Messages survive the death of their consumer and of the database.

    On PostgreSQL, consumers skip each other's rows (FOR UPDATE SKIP LOCKED) and wait with LISTEN/NOTIFY. On SQLite they
    lock each other out, and poll at growing intervals of at most half a second.

    Args:
        name: At most 255 characters.
        connection: A database URL. Default: RQSTACK_DATABASE_URL.

    Raises:
        BackendError: The URL is not for PostgreSQL or SQLite.
    """

    def __init__(self, name: str, connection: str = "") -> None:
        super().__init__(name, connection)
        self._url = database_url(connection or None)
        self._postgres = self._url.get_backend_name() == "postgresql"
        self._engine: Engine | None = None
        self._listener: PsycopgConnection[Any] | None = None

    def write(self, data: bytes) -> None:
        row: Executable = insert(messages).values(queue=self.name, data=data)
        if self._postgres:
            new = insert(messages).values(queue=self.name, data=data).returning(messages.c.id).cte("new")
            row = select(func.pg_notify(CHANNEL, self.name)).select_from(new)
        with self._open() as connection:
            connection.execute(row)

    def read(self) -> bytes | None:
        with self._open() as connection:
            row = connection.execute(
                delete(messages).where(messages.c.id == self._first()).returning(messages.c.data)
            ).first()
        return None if row is None else bytes(row.data)

    def flush(self) -> None:
        with self._open() as connection:
            connection.execute(delete(messages).where(self._waiting()))

    def __len__(self) -> int:
        with self._open() as connection:
            return int(connection.execute(select(func.count()).where(self._waiting())).scalar_one())

    def claim(self, owner: str, lease: float, timeout: float) -> bytes | None:
        deadline = time.monotonic() + timeout
        interval = MIN_POLL_INTERVAL
        if self._postgres and timeout > 0:
            self._listen()  # before the first query, so that no notification is missed
        while True:
            data = self._claim_first(owner, lease)
            left = deadline - time.monotonic()
            if data is not None or left <= 0:
                return data
            if self._postgres:
                self._wait_for_notification(left)
            else:
                time.sleep(min(interval, left))
                interval = min(interval * 2, MAX_POLL_INTERVAL)

    def ack(self, owner: str) -> None:
        with self._open() as connection:
            connection.execute(delete(messages).where(messages.c.queue == self.name, messages.c.owner == owner))

    def release(self, owner: str) -> None:
        with self._open() as connection:
            connection.execute(
                update(messages)
                .where(messages.c.queue == self.name, messages.c.owner == owner)
                .values(owner=None, lease_until=None)
            )
            if self._postgres:
                connection.execute(select(func.pg_notify(CHANNEL, self.name)))

    def extend(self, owners: Iterable[str], lease: float) -> None:
        with self._open() as connection:
            connection.execute(
                update(messages)
                .where(messages.c.queue == self.name, messages.c.owner.in_(list(owners)))
                .values(lease_until=self._now() + lease)
            )

    def held(self, owner: str) -> bytes | None:
        with self._open() as connection:
            row = connection.execute(
                select(messages.c.data).where(messages.c.queue == self.name, messages.c.owner == owner)
            ).first()
        return None if row is None else bytes(row.data)

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._engine is not None:
            self._engine.dispose()
            self._engine = None

    # -- SQL

    def _now(self) -> ColumnElement[float]:
        """Seconds since the epoch on the database's clock, so the clocks of the consumers' machines may differ."""
        if self._postgres:
            return func.extract("epoch", func.clock_timestamp()).cast(Double)
        return (func.julianday("now") - literal(2440587.5)) * literal(86400.0)

    def _waiting(self) -> ColumnElement[bool]:
        free = or_(messages.c.lease_until.is_(None), messages.c.lease_until < self._now())
        return and_(messages.c.queue == self.name, free)

    def _first(self) -> Any:
        """The id of the first message without a lease."""
        query = select(messages.c.id).where(self._waiting()).order_by(messages.c.id).limit(1)
        # SQLite ignores this: a writing statement locks the whole database.
        return query.with_for_update(skip_locked=True).scalar_subquery()

    def _claim_first(self, owner: str, lease: float) -> bytes | None:
        statement = (
            update(messages)
            .where(messages.c.id == self._first())
            .values(owner=owner, lease_until=self._now() + lease)
            .returning(messages.c.data)
        )
        with self._open() as connection:
            row = connection.execute(statement).first()
        return None if row is None else bytes(row.data)

    # -- connections

    @contextlib.contextmanager
    def _open(self) -> Iterator[Connection]:
        """A connection in autocommit mode. Errors become a `BackendError`."""
        try:
            if self._engine is None:
                engine = open_database(self._url.render_as_string(hide_password=False), isolation_level="AUTOCOMMIT")
                create_table(engine)
                self._engine = engine
            with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            reason = error.orig if isinstance(error, DBAPIError) else error
            where = self._url.render_as_string(hide_password=True)
            first_line = str(reason).strip().partition("\n")[0]
            raise BackendError(
                f"The database at {where} failed: {first_line}. Is it running? Check RQSTACK_DATABASE_URL."
            ) from error

    def _listen(self) -> None:
        if self._listener is None:
            import psycopg

            url = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
            try:
                self._listener = psycopg.connect(url, autocommit=True, connect_timeout=CONNECT_TIMEOUT)
                self._listener.execute(f"LISTEN {CHANNEL}")
            except psycopg.Error as error:
                raise self._listener_failed(error) from error

    def _wait_for_notification(self, timeout: float) -> None:
        """Wait until a message is written to this queue, or the timeout (in seconds) expires."""
        import psycopg

        assert self._listener is not None
        deadline = time.monotonic() + timeout
        try:
            while (left := deadline - time.monotonic()) > 0:
                for notification in self._listener.notifies(timeout=left, stop_after=1):
                    if notification.payload == self.name:
                        return
        except psycopg.Error as error:
            raise self._listener_failed(error) from error

    def _listener_failed(self, error: Exception) -> BackendError:
        self._listener = None
        where = self._url.render_as_string(hide_password=True)
        return BackendError(f"The database at {where} cannot be reached: {str(error).strip()}.")


def create_table(engine: Engine) -> None:
    """Create the table if it does not exist. Two processes may do this at the same time."""
    for attempt in range(3):
        try:
            metadata.create_all(engine)
            return
        except (IntegrityError, ProgrammingError, DBAPIError):
            # Another process created it after we checked that it does not exist.
            if attempt == 2:
                raise
