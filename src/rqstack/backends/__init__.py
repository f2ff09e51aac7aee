"""Simple queues of messages behind one small interface: Redis, a database, or the user's own.

`QUEUE_BACKEND` chooses one, and task calls then travel through it in place of RQ's queues; see docs/backends.md.
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

_HOMES = {"DatabaseQueue": "rqstack.backends.database", "RedisQueue": "rqstack.backends.redis"}


def __getattr__(name: str) -> Any:
    # Lazily: RedisQueue needs no SQLAlchemy.
    if name in _HOMES:
        try:
            return getattr(import_module(_HOMES[name]), name)
        except ModuleNotFoundError as error:
            if error.name and error.name.partition(".")[0] in ("sqlalchemy", "psycopg"):
                raise BackendError(f"{name} needs the extra: pip install 'rqstack[database]'.") from None
            raise
    raise AttributeError(f"module 'rqstack.backends' has no attribute {name!r}")


def backend_class(path: str) -> type[BaseQueue]:
    """The backend class of a dotted path.

    Args:
        path: Like 'rqstack.backends.DatabaseQueue', or one of your own.

    Raises:
        BackendError: It does not import, or is not a class with the methods of `BaseQueue`. The message names it.
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
            f"QUEUE_BACKEND: {path!r} does not import: {type(error).__name__}: {error}. {advice}"
        ) from None
    found = getattr(module, name, None)
    if found is None:
        raise BackendError(f"QUEUE_BACKEND: module {module_name} has no {name!r}. {advice}")
    if not (isinstance(found, type) and issubclass(found, BaseQueue)):
        raise BackendError(f"QUEUE_BACKEND: {path!r} is not a subclass of rqstack.backends.BaseQueue.")
    if missing := sorted(getattr(found, "__abstractmethods__", ())):
        raise BackendError(f"QUEUE_BACKEND: {path!r} lacks {', '.join(missing)}. A backend has them all.")
    return found


def open_queue(name: str, settings: Settings) -> BaseQueue:
    """The queue of that name in the backend of the settings (`queue_backend`, `queue_connection`).

    Raises:
        BackendError: as `backend_class`, or the connection is not one of the backend's form.
    """
    assert settings.queue_backend, "QUEUE_BACKEND is not set"
    cls = backend_class(settings.queue_backend)
    try:
        return cls(name, settings.queue_connection)
    except BackendError:
        raise
    except Exception as error:
        raise BackendError(
            f"QUEUE_BACKEND: {settings.queue_backend} did not open queue {name!r}: {type(error).__name__}: {error}."
        ) from None
