"""Tasks of a module that is no project's."""

from __future__ import annotations

import os
import time
from pathlib import Path

from rqstack import task


@task
def speak(text: str) -> None:
    """Say something, and once more past Python's own buffers."""
    print(text)
    os.write(2, f"raw {text}\n".encode())


@task
def sleep(seconds: float) -> None:
    """Make a file named `asleep` in the home, and sleep."""
    Path(os.environ["RQSTACK_HOME"], "asleep").touch()
    time.sleep(seconds)
