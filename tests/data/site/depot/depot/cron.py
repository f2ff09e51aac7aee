"""Lines of the cron table."""

from depot.tasks import restock
from rqstack.scheduling import schedule

schedule(restock, every=10, args=("shelf 1",), name="restock often", queue="short-running")
schedule(restock, "0 0 1 1 *", args=("shelf 2",), name="restock yearly", queue="short-running")
