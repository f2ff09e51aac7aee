"""Tasks that tell which release and which container ran them."""

import importlib
import socket
import time

from probe.version import VERSION
from rqstack import task


@task(queue="short-running")
def nap(seconds: float) -> list:
    """Sleep; the version before and, from a module that is first imported then, after; and the container."""
    time.sleep(seconds)
    return [VERSION, importlib.import_module("probe.late").VERSION, socket.gethostname()]


@task(queue="long-running")
def where() -> str:
    """The container that ran this."""
    return socket.gethostname()
