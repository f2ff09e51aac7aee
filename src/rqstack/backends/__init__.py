"""Message queues behind one small interface: Redis, a database, or the user's own.

`QUEUE_BACKEND` selects one, which then carries task calls instead of RQ's queues; see docs/backends.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from rqstack.backends.base import BaseQueue
from rqstack.errors import BackendError

if TYPE_CHECKING:
    from rqstack.backends.database import DatabaseQueue
    from rqstack.backends.redis import RedisQueue
    from rqstack.settings import Settings

__all__ = ["BaseQueue", "DatabaseQueue", "RedisQueue", "backend_class", "open_queue"]

_LAZY_CLASSES = {"DatabaseQueue": "rqstack.backends.database", "RedisQueue": "rqstack.backends.redis"}


def __getattr__(name: str) -> Any:
    # Imported on first use, because RedisQueue must work without SQLAlchemy.
    if name in _LAZY_CLASSES:
        try:
            return getattr(import_module(_LAZY_CLASSES[name]), name)
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] in ("sqlalchemy", "psycopg"):
                raise BackendError(f"{name} needs the extra: pip install 'rqstack[database]'.") from None
            raise
    raise AttributeError(f"module 'rqstack.backends' has no attribute {name!r}")


def backend_class(path: str) -> type[BaseQueue]:
    """Import a backend class.

    Args:
        path: Dotted path, such as 'rqstack.backends.DatabaseQueue'.

    Raises:
        BackendError: It cannot be imported, or is not a class that implements `BaseQueue`.
    """
    module_name, _, name = path.rpartition(".")
    advice = "Set it to a dotted path like rqstack.backends.DatabaseQueue."
    if not module_name or not name:
        raise BackendError(f"QUEUE_BACKEND: {path!r} is not the dotted path of a class. {advice}")
    try:
        module = import_module(module_name)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"QUEUE_BACKEND: {path!r} cannot be imported: {type(error).__name__}: {error}. {advice}"
        ) from None
    found = getattr(module, name, None)
    if found is None:
        raise BackendError(f"QUEUE_BACKEND: module {module_name} has no {name!r}. {advice}")
    if not (isinstance(found, type) and issubclass(found, BaseQueue)):
        raise BackendError(f"QUEUE_BACKEND: {path!r} is not a subclass of rqstack.backends.BaseQueue.")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise BackendError(f"QUEUE_BACKEND: {path!r} does not implement {', '.join(missing)}.")
    return found


def open_queue(name: str, settings: Settings) -> BaseQueue:
    """Open a queue in the backend that the settings `queue_backend` and `queue_connection` select.

    Raises:
        BackendError: As `backend_class`, or the backend does not accept the connection.
    """
    assert settings.queue_backend, "QUEUE_BACKEND is not set"
    cls = backend_class(settings.queue_backend)
    try:
        return cls(name, settings.queue_connection)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"QUEUE_BACKEND: {settings.queue_backend} cannot open queue {name!r}: {type(error).__name__}: {error}."
        ) from None
