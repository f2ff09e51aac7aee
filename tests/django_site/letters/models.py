"""What the site keeps."""

from django.db import models


class Letter(models.Model):
    """A letter, and what became of it."""

    text = models.TextField()
    delivered_by = models.IntegerField(null=True)
    times = models.IntegerField(default=0)

    class Meta:
        app_label = "letters"
