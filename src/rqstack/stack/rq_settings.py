"""The settings file for RQ's own commands: `rq info -c var.rq_settings`, say."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit, urlunsplit

from rqstack.settings.paths import home

if TYPE_CHECKING:
    from rqstack.settings import Settings

HEAD = '''\
"""Settings for RQ's own commands; written by rqstack, so do not edit it. It holds a password: keep it to yourself.

    rq info -c var.rq_settings
    rq worker -c var.rq_settings -S rqstack.security.Default

Without -S they use plain pickle: no signature is checked, and none is written.
"""
'''


def rq_settings(settings: Settings) -> str:
    """The text of a module that RQ's commands take with `-c`: where Redis is, which queues a worker serves, and where
    the task projects are. It holds Redis's password: write it with mode 0600.

    Args:
        settings: Those of the running stack.
    """
    folder = (home() / settings.tasks_path).resolve()
    return f"""{HEAD}
import sys
from pathlib import Path

REDIS_URL = {_url(settings)!r}
QUEUES = {list(settings.queues)!r}

# As rqstack's own workers find tasks: each project's folder, or its src.
for _project in sorted(Path({str(folder)!r}).glob("*/pyproject.toml")):
    _source = _project.parent / "src"
    sys.path.append(str(_source if _source.is_dir() else _project.parent))
"""


def _url(settings: Settings) -> str:
    """REDIS_URL with the user and password that the settings have besides."""
    parts = urlsplit(settings.redis_url)
    user = parts.username or quote(settings.redis_username or "", safe="")
    secret = settings.redis_password.get_secret_value() if settings.redis_password else ""
    password = parts.password or quote(secret, safe="")
    if not password:
        return settings.redis_url
    host = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=f"{user}:{password}@{host}"))
