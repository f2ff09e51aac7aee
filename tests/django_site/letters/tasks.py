"""A task in the other module that is looked for."""

import os

from letters.models import Letter
from rqstack import task


@task(queue="post")
def count():
    """Write down how many letters there are."""
    Letter.objects.create(text=f"there were {Letter.objects.count()}", delivered_by=os.getpid())
