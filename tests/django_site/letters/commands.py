"""The site's commands: what takes too long for a page."""

import os

from django.db import connection, transaction
from django.db.models import F

from letters.models import Letter
from rqstack import queue_command


@queue_command(queue="post")
def deliver(letter, stamp):
    """Deliver a letter, with the ORM at hand."""
    with transaction.atomic():
        Letter.objects.filter(pk=letter.pk).update(
            text=f"{letter.text} [{stamp}]", delivered_by=os.getpid(), times=F("times") + 1
        )


@queue_command(queue="post")
def note_connection():
    """Write down which connection to PostgreSQL this job has."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_backend_pid()")
        Letter.objects.create(text=f"connection {cursor.fetchone()[0]}", delivered_by=os.getpid())
