"""The Redis keys of the schedule, and its scripts.

rqstack:cron:next          sorted set: entry id -> its next firing (seconds since the epoch)
rqstack:cron:entry:<id>    hash: what the entry is (`Entry.fields`)
rqstack:cron:job:<id>      hash: the job that each firing makes, as RQ writes it
rqstack:cron:state:<id>    hash: last (firing that was decided), last_job, fired, skipped (counts)
rqstack:cron:mark          string: there while the declared table is in Redis; gone after a FLUSHALL
rqstack:schedulers         set: the keys of scheduler processes
rqstack:scheduler:<name>   hash: hostname, pid, birth, last_heartbeat; expires when the process is dead
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from redis.exceptions import ResponseError

if TYPE_CHECKING:
    from redis import Redis
    from redis.commands.core import Script

NEXT = "rqstack:cron:next"
MARK = "rqstack:cron:mark"
ENTRY = "rqstack:cron:entry:"
TEMPLATE = "rqstack:cron:job:"
STATE = "rqstack:cron:state:"
SCHEDULERS = "rqstack:schedulers"
SCHEDULER = "rqstack:scheduler:"

# RQ's
QUEUES = "rq:queues"
QUEUE = "rq:queue:"
SCHEDULED = "rq:scheduled:"
JOB = "rq:job:"
LOCK = "rq:scheduler-lock:"


@cache
def source(name: str) -> str:
    """The text of a script in `lua/`."""
    return (files(__package__) / "lua" / f"{name}.lua").read_text()


_CODE = re.compile(r": -([A-Z]{2,}) ")


def is_damage(error: ResponseError) -> bool:
    """Whether an error is about the data that a command met, which stays so, and not about the server's state.

    The server's state (OOM, READONLY, MISCONF, NOREPLICAS and the like) is a class of redis-py or a code in capitals;
    Redis 6.2 has that code within a sentence about the script.
    """
    code = str(error).partition(" ")[0]
    if type(error) is not ResponseError or (code.isupper() and code != "WRONGTYPE"):
        return False
    within = _CODE.search(str(error))
    return within is None or within[1] in ("ERR", "WRONGTYPE")


class Scripts:
    """The scripts of the schedule on one connection.

    Each runs alone. What it has written stays if it fails, so none may fail after its first write.

    Args:
        connection: Redis.
    """

    def __init__(self, connection: Redis) -> None:
        self._connection = connection
        self._scripts: dict[str, Script] = {}

    def __call__(self, name: str, keys: list[str], args: list[Any], client: Any = None) -> Any:
        """Run a script, or queue it on a pipeline.

        Args:
            name: File name in `lua/`, without its ending.
            keys: As the script's head says.
            args: As the script's head says.
            client: A pipeline; then the script runs when that is executed.
        """
        script = self._scripts.get(name)
        if script is None:
            script = self._scripts[name] = self._connection.register_script(source(name))
        return script(keys=keys, args=args, client=client)
