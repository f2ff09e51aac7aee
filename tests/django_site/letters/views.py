"""The site's pages."""

import os

from django.db import transaction
from django.http import JsonResponse
from django.views.decorators.csrf import csrf_exempt

from letters.commands import deliver
from letters.models import Letter
from rqstack.contrib.django import on_commit


class Regret(Exception):
    """Rolls a transaction back."""


@csrf_exempt
def write(request):
    """POST: keep a letter, and have it delivered in the background. `how` says how the command is called."""
    how = request.POST.get("how", "now")
    letter = Letter(text=request.POST["text"])
    if how == "now":
        letter.save()
        deliver(letter, "direct")
    else:
        try:
            with transaction.atomic():
                letter.save()
                on_commit(deliver, letter, stamp="committed")
                if how == "regret":
                    raise Regret
        except Regret:
            return JsonResponse({"regretted": letter.pk}, status=409)
    return JsonResponse({"id": letter.pk, "pid": os.getpid()}, status=202)


def show(request, number):
    """GET: what became of a letter."""
    letter = Letter.objects.get(pk=number)
    return JsonResponse({"text": letter.text, "delivered_by": letter.delivered_by, "times": letter.times})
