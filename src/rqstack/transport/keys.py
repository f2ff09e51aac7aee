"""The names of all Redis keys: RQ's own, and those that rqstack adds.

Lua scripts write `<prefix>` for the prefix; `rqstack.transport.scripts` fills it in.

rqstack's keys, with the default prefix `rq`:

| key | type | content |
|---|---|---|
| `rqstack:schema` | hash | version of the data, and the oldest that may share it (see transport/schema.py) |
| `rqstack:supervisors` | sorted set | supervisor id, scored by its last heartbeat on Redis's clock |
| `rqstack:supervisors:dead` | sorted set | dead supervisors that are checked once more before they are forgotten |
| `rqstack:supervisor:<id>` | hash | its queues, workers, host and schema version |
| `rqstack:running:<id>` | hash | worker -> the lease of the jobs that it runs (see worker/lua/lease.lua) |
| `rqstack:claim:<owner>:<queue key>` | list | jobs that Redis moved to an idle worker, or to its supervisor |
| `rqstack:releasing` | hash | ended job -> how far its many dependents are released (see enqueue/lua/dependents.lua) |
| `rqstack:crashes:<job id>` | hash | how often a job has killed its process, and in which execution last; for a day |
| `rqstack:metrics` | hash | counts and histograms (see worker/horse/counters.py) |
| `rqstack:metrics:payloads_rejected` | hash | reason -> payloads that were refused |
| `rqstack:cron:next` | sorted set | cron entry -> its next firing, in seconds since the epoch |
| `rqstack:cron:entry:<id>` | hash | what the entry is (`Entry.fields`) |
| `rqstack:cron:job:<id>` | hash | the job that each firing copies, as RQ writes it |
| `rqstack:cron:state:<id>` | hash | last firing that was decided, last job, counts of fired and skipped |
| `rqstack:cron:mark` | string | exists while the declared table is in Redis; gone after a FLUSHALL |
| `rqstack:schedulers` | set | the keys of scheduler processes |
| `rqstack:scheduler:<name>` | hash | hostname, pid, birth, last_heartbeat, schema; expires when the process is dead |
| `rqstack:ratelimit:…` | | rate limits: moving windows of the limits library, and turns (reserve_turn.lua) |
| `rqstack:bulk:<id>` | hash | how far a purge or a requeue has come; gone when it has ended, or after an hour |
| `rqstack:messages:<queue>` | list | message backend: messages that wait |
| `rqstack:messages:<queue>:inbox:<owner>` | list | the message that a consumer's process handles |
| `rqstack:messages:<queue>:leases` | sorted set | owner, scored by the end of its lease on Redis's clock |
| `rqstack:never` | | never there: for scripts in a Redis Cluster (transport/scripts.py), and for worker/unblock.py |

The hash of an RQ job that was enqueued a second time has one more field, `rqstack_call`: see enqueue/any_job.py.
"""

from __future__ import annotations

import os

from rqstack.errors import SettingsError

PREFIX = os.environ.get("RQ_KEY_PREFIX", "rq")
"""RQ's key prefix. As RQ does, it is taken from the process's environment when it is first imported."""

if not PREFIX or not all(char in "_.:{}-" or (char.isascii() and char.isalnum()) for char in PREFIX):
    # RQ's own rule, without its regular expression: `rqstack health` imports this module every few seconds.
    raise SettingsError(f"RQ_KEY_PREFIX: {PREFIX!r} is not allowed. Use letters, digits and _ . : - {{ }} only.")

_tag, _close, _ = PREFIX.partition("{")[2].partition("}")
HASH_TAG = _tag if _close else ""
"""The part of the prefix that decides the slot of all keys in a Redis Cluster; "" if there is none."""

STACK = f"{PREFIX}stack:"
"""The prefix of what rqstack adds."""

# -- RQ's

QUEUES = f"{PREFIX}:queues"
WORKERS = f"{PREFIX}:workers"
SUSPENDED = f"{PREFIX}:suspended"
# Followed by a name or an id:
QUEUE = f"{PREFIX}:queue:"
JOB = f"{PREFIX}:job:"
RESULTS = f"{PREFIX}:results:"
WORKER = f"{PREFIX}:worker:"
WORKER_EXECUTIONS = ":executions"  # after the key of a worker
QUEUE_WORKERS = f"{PREFIX}:workers:"
SCHEDULER_LOCK = f"{PREFIX}:scheduler-lock:"
STARTED = f"{PREFIX}:wip:"
FAILED = f"{PREFIX}:failed:"
SCHEDULED = f"{PREFIX}:scheduled:"
READY = f"{PREFIX}:ready:"
REGISTRIES = {
    "started": STARTED,
    "failed": FAILED,
    "scheduled": SCHEDULED,
    "deferred": f"{PREFIX}:deferred:",
    "finished": f"{PREFIX}:finished:",
    "ready": f"{PREFIX}:ready:",
}
"""The prefix of RQ's registry of each status."""

LIMIT_NAMES = f"{PREFIX}:rl-keys"
"""Set of the names of RQ's rate limits."""

# -- rqstack's

SCHEMA = f"{STACK}schema"
SUPERVISORS = f"{STACK}supervisors"
DEAD_SUPERVISORS = f"{STACK}supervisors:dead"
METRICS = f"{STACK}metrics"
PAYLOADS_REJECTED = f"{STACK}metrics:payloads_rejected"
CRON_NEXT = f"{STACK}cron:next"
CRON_MARK = f"{STACK}cron:mark"
CRON_ENTRY = f"{STACK}cron:entry:"
CRON_JOB = f"{STACK}cron:job:"
CRON_STATE = f"{STACK}cron:state:"
SCHEDULERS = f"{STACK}schedulers"
SCHEDULER = f"{STACK}scheduler:"
RATE_LIMIT = f"{STACK}ratelimit"
MESSAGES = f"{STACK}messages:"
BULK = f"{STACK}bulk:"
NEVER = f"{STACK}never"


def limit_waiting(name: str) -> str:
    """Sorted set of the jobs of all queues that wait for a slot of one of RQ's rate limits."""
    return f"{PREFIX}:rl:{name}:rate_limited"


def supervisor(supervisor_id: str) -> str:
    """Hash of what a supervisor is: its queues, workers and host."""
    return f"{STACK}supervisor:{supervisor_id}"


def running(supervisor_id: str) -> str:
    """Hash of the lease that each worker of a supervisor holds."""
    return f"{STACK}running:{supervisor_id}"


def claim(owner: str, queue_key: str) -> str:
    """List into which Redis moves a job for an idle worker; the owner is the worker or its supervisor."""
    return f"{STACK}claim:{owner}:{queue_key}"


def crashes(job_id: str) -> str:
    """Hash of how often a job has killed its process."""
    return f"{STACK}crashes:{job_id}"
