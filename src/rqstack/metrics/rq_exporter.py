"""rq-exporter 3.1.0 as the stack runs it: `python -m rqstack.metrics.rq_exporter`.

The metrics are those of rq-exporter. Four things differ from its command:

- It signs in to Redis as an ACL user, with the settings of all other processes: REDIS_URL, REDIS_USERNAME,
  REDIS_PASSWORD or REDIS_PASSWORD_FILE. rq-exporter's own options include no user name.
- It survives a Redis outage: it then serves `redis_up` 0 and no RQ metrics. rq-exporter exits if Redis is down at its
  start, and answers 500 later, so nobody can tell which of the two is broken.
- A damaged record is left out and logged. rq-exporter would answer 500 until somebody deletes it.
- It only reads. RQ's `Worker.all()` removes dead workers from RQ's index, which the Redis user `exporter` may not do.

rq-exporter's environment variables take precedence: RQ_REDIS_URL, RQ_REDIS_HOST, _PORT, _DB, _PASS, _PASS_FILE,
RQ_SENTINEL_*, RQ_EXPORTER_HOST (default: 127.0.0.1), RQ_EXPORTER_PORT, RQ_EXPORTER_LOG_*, RQ_WORKER_CLASS,
RQ_QUEUE_CLASS.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from prometheus_client import start_wsgi_server
from prometheus_client.core import REGISTRY, GaugeMetricFamily
from redis import Redis, exceptions
from rq import Worker
from rq.utils import import_attribute
from rq_exporter import config
from rq_exporter.collector import RQCollector
from rq_exporter.utils import get_redis_connection

from rqstack.errors import RqstackError
from rqstack.security.rq_records import guard_client, guard_rq, log_once
from rqstack.settings import Settings, StackSettings, load
from rqstack.transport.client import connect

REDIS_TIMEOUT = 5.0
"""Seconds that a Redis command may take. A scrape must end before Prometheus times out."""

logger = logging.getLogger(__name__)


class ReadOnlyWorker(Worker):
    """RQ's Worker, except that looking it up does not remove an expired worker from RQ's index."""

    @classmethod
    def find_by_key(cls, worker_key: str, connection: Redis, *args: Any, **kwargs: Any) -> Any:
        try:
            if not connection.exists(worker_key):
                return None
            return super().find_by_key(worker_key, connection, *args, **kwargs)
        except (ValueError, TypeError, OverflowError) as error:
            log_once(f"worker {worker_key}", "The record of %.200r is damaged and is left out: %s", worker_key, error)
            return None


class Collector(RQCollector):  # type: ignore[misc]
    """rq-exporter's metrics and `redis_up`; only `redis_up` while Redis cannot be reached."""

    def describe(self) -> list[Any]:
        """Return nothing. Otherwise the registry would query Redis when the collector is registered."""
        return []

    def collect(self) -> Iterator[Any]:
        """All metrics of one scrape.

        Raises:
            redis.exceptions.RedisError: Redis refuses the command. The response is then an error 500, `up` is 0, and
                the log has the reason.
        """
        up = GaugeMetricFamily("redis_up", "Whether Redis answered when RQ's data was read: 1 or 0")
        found: list[Any] = []
        try:
            found = list(super().collect())
            up.add_metric([], 1)
        except exceptions.AuthenticationError:
            raise
        except (exceptions.ConnectionError, exceptions.TimeoutError) as error:
            logger.warning("Redis cannot be reached: %s", error)
            up.add_metric([], 0)
        yield up
        yield from found


def redis_connection() -> Redis:
    """Connect to the Redis of rq-exporter's own variables if one of them is set, else to that of the settings.

    Raises:
        SettingsError: A setting is invalid, or a password file cannot be read.
        OSError: The file of RQ_REDIS_PASS_FILE cannot be read.
    """
    own = ("RQ_REDIS_URL", "RQ_REDIS_HOST", "RQ_SENTINEL_HOST")
    if any(os.environ.get(name) for name in own):  # rq-exporter's variables are not settings of rqstack
        client: Redis = get_redis_connection(
            url=config.REDIS_URL or None,
            host=config.REDIS_HOST,
            port=config.REDIS_PORT,
            db=config.REDIS_DB,
            sentinel=config.REDIS_SENTINEL_HOST or None,
            sentinel_port=config.REDIS_SENTINEL_PORT,
            sentinel_master=config.REDIS_SENTINEL_MASTER,
            password=config.REDIS_PASS or None,
            password_file=config.REDIS_PASS_FILE or None,
        )
        return client
    return connect(load(Settings), retries=0, socket_timeout=REDIS_TIMEOUT)


def serve() -> int:
    """Serve the metrics until SIGTERM or SIGINT. Returns the exit code.

    Raises:
        RqstackError: A setting is invalid, a file cannot be read, or the port is in use.
    """
    logging.basicConfig(format=config.LOG_FORMAT, datefmt=config.LOG_DATEFMT, level=config.LOG_LEVEL)
    host = os.environ.get("RQ_EXPORTER_HOST") or "127.0.0.1"
    port = load(StackSettings).rq_exporter_port
    custom = os.environ.get("RQ_WORKER_CLASS")
    stop = threading.Event()

    def end(signum: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    try:
        worker_class = import_attribute(custom) if custom else ReadOnlyWorker
        queue_class = import_attribute(config.RQ_QUEUE_CLASS)
        guard_rq()
        REGISTRY.register(Collector(guard_client(redis_connection()), worker_class, queue_class))
        server, _ = start_wsgi_server(port, host)
    except (ImportError, AttributeError, ValueError) as error:
        raise RqstackError(f"rq-exporter cannot start: {error}. Check RQ_WORKER_CLASS and RQ_QUEUE_CLASS.") from error
    except OSError as error:
        where = error.filename or f"{host}:{port}"
        raise RqstackError(f"rq-exporter cannot start: {where}: {error.strerror}. Is the port in use?") from error
    logger.info("Serving metrics on http://%s:%d/metrics", host, port)
    stop.wait()
    server.shutdown()
    server.server_close()
    return 0


if __name__ == "__main__":
    try:
        sys.exit(serve())
    except RqstackError as problem:
        sys.exit(f"Error: {problem}")
