"""What rq-scheduler's `scheduler.cron(...)` was called with, as declarations."""

from rqstack.scheduling import schedule

schedule("mailroom.jobs.send", "* * * * *", args=("everyone",), queue="mail", name="newsletter")
