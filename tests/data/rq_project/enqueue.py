"""Enqueues by RQ's own means: `python enqueue.py`."""

import os
from datetime import timedelta

from mailroom.jobs import bounce, note_failure, note_success, send
from redis import Redis
from rq import Callback, Queue

with Redis.from_url(os.environ["REDIS_URL"]) as connection:
    queue = Queue("mail", connection=connection)
    queue.enqueue(send, "ann", on_success=Callback(note_success))
    queue.enqueue(bounce, "bob", on_failure=Callback(note_failure))
    queue.enqueue_in(timedelta(milliseconds=1), send, "carl")
