"""A cron table with something to do each second."""

from rqstack.scheduling import schedule

schedule("periodic.tasks.add", "* * * * * *", args=(1,), name="each second")
schedule("periodic.tasks.add", "* * * * * */2", args=(2,), name="each other second", timezone="Europe/London")
schedule("periodic.tasks.add", every=3, args=(3,), name="each three seconds", queue="short-running")
